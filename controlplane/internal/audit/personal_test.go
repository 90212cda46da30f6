package audit

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
	"sallyport.dev/controlplane/internal/vault"
)

// TestWhatConditionsReadIsKeptForItsPersonAlone: whether or not all else is sealed, nobody who reads audit sees it, and an erasure takes it along.
func TestWhatConditionsReadIsKeptForItsPersonAlone(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		nc := natstest.Embedded(t).Conn
		secrets, err := kv.Open(within(t), nc, kv.Config{Bucket: "VAULT"})
		if err != nil {
			t.Fatal(err)
		}
		keys, err := vault.Open(within(t), secrets, vault.Config{Keys: []string{"file:" + filepath.Join(t.TempDir(), "kek.json")}})
		if err != nil {
			t.Fatal(err)
		}
		store, err := Open(within(t), nc, Config{Seals: keys, SealPersonal: sealed, Log: slog.New(slog.DiscardHandler), OpenConditionValues: func(values []byte, about ...string) ([]byte, error) {
			plain, ours := bytes.CutPrefix(values, []byte("to us about "+about[1]+": "))
			if !ours {
				return nil, errors.New("it does not open")
			}
			return plain, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		ann := uuid.New()
		if err := keys.EnsureKeys(within(t), []uuid.UUID{ann}); err != nil {
			t.Fatal(err)
		}
		call := func(number uint64, person uuid.UUID, values string) *auditv1.AuditRecord {
			return &auditv1.AuditRecord{
				Number: number, PersonId: person.String(), CallId: "c", Arguments: &auditv1.Payload{Head: []byte(`{`), Truncated: true}, ConditionValues: []byte(values),
			}
		}
		_, err = store.Append(within(t), "p1", "eu", "g", []*auditv1.AuditRecord{
			call(1, ann, "to us about c: planted"), call(2, ann, "to us about d: planted"), call(3, uuid.New(), "to us about c: planted"),
		})
		if err != nil {
			t.Fatal(err)
		}
		records, _, err := store.Search(within(t), &adminv1.AuditFilter{}, 0, "")
		if err != nil || len(records) != 3 {
			t.Fatalf("%v (%v)", records, err)
		}
		for _, r := range records {
			if r.GetRecord().GetConditionValues() != nil {
				t.Errorf("who searches audit sees %v", r)
			}
		}
		kept := func() (found []string) {
			t.Helper()
			for sequence := uint64(1); sequence <= 3; sequence++ {
				m, err := store.Message(within(t), sequence)
				if err != nil {
					t.Fatal(err)
				}
				if bytes.Contains(m.Data, []byte("planted")) {
					t.Errorf("record %d has it as it is", sequence)
				}
				r := Decode(m.Data, m.Sequence).GetRecord()
				if s := r.GetSealed(); s != nil {
					plain, err := store.Unseal(within(t), r.GetPersonId(), s)
					if err != nil {
						t.Fatal(err)
					}
					r = &auditv1.AuditRecord{PersonId: r.GetPersonId()}
					if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(plain, r); err != nil {
						t.Fatal(err)
					}
				}
				if values := r.GetConditionValues(); values != nil {
					plain, err := store.Unseal(within(t), r.GetPersonId(), values)
					if err != nil {
						t.Fatal(err)
					}
					found = append(found, string(plain))
				}
			}
			return found
		}
		if got := kept(); !slices.Equal(got, []string{"planted"}) {
			t.Errorf("sealed %v: kept are %q", sealed, got)
		}
		if err := keys.DestroyKey(within(t), ann); err != nil {
			t.Fatal(err)
		}
		if got := kept(); slices.Contains(got, "planted") {
			t.Errorf("sealed %v: after an erasure it is %q", sealed, got)
		}
	}
}

func TestWhatIsSealedForAPersonGoesWithThePerson(t *testing.T) {
	t.Run("of the control plane's own", func(t *testing.T) {
		testWhatIsSealed(t, func(s *Store, records []*auditv1.AuditRecord) error {
			_, err := s.Append(within(t), "p1", "eu", "g", records)
			return err
		})
	})
	t.Run("as a proxy sends it", func(t *testing.T) {
		testWhatIsSealed(t, func(s *Store, records []*auditv1.AuditRecord) error {
			var sent [][]byte
			for _, r := range records {
				sent = append(sent, encoded(t, r))
			}
			_, err := s.Take(within(t), "p1", "eu", "g", sent)
			return err
		})
	})
}

func testWhatIsSealed(t *testing.T, send func(*Store, []*auditv1.AuditRecord) error) {
	nc := natstest.Embedded(t).Conn
	secrets, err := kv.Open(within(t), nc, kv.Config{Bucket: "VAULT"})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := vault.Open(within(t), secrets, vault.Config{Keys: []string{"file:" + filepath.Join(t.TempDir(), "kek.json")}})
	if err != nil {
		t.Fatal(err)
	}
	store, err := Open(within(t), nc, Config{Seals: keys, SealPersonal: true})
	if err != nil {
		t.Fatal(err)
	}
	ann, bob := uuid.New(), uuid.New()
	if err := keys.EnsureKeys(within(t), []uuid.UUID{ann, bob}); err != nil {
		t.Fatal(err)
	}
	call := func(number uint64, person string) *auditv1.AuditRecord {
		return &auditv1.AuditRecord{
			Number: number, PersonId: person, Tool: "get_issue", Groups: []string{"okta/Staff"},
			Client:    &auditv1.Client{Id: "code", Address: "192.0.2.7"},
			Arguments: &auditv1.Payload{Head: []byte(`{"of":"planted argument"}`), Size: 25},
			Result:    &auditv1.Payload{Head: []byte(`{"is":"planted result"}`), Size: 23},
		}
	}
	sent := []*auditv1.AuditRecord{call(1, ann.String()), call(2, bob.String()), call(3, ""), call(4, uuid.NewString())}
	// What claims to be sealed already is not believed.
	sent[1].Sealed, sent[1].Erased = []byte("forged"), true
	if err := send(store, sent); err != nil {
		t.Fatal(err)
	}
	found := func() map[uint64]*auditv1.AuditRecord {
		t.Helper()
		records, _, err := store.Search(within(t), &adminv1.AuditFilter{}, 0, "")
		if err != nil {
			t.Fatal(err)
		}
		all := map[uint64]*auditv1.AuditRecord{}
		for _, r := range records {
			all[r.GetRecord().GetNumber()] = r.GetRecord()
		}
		return all
	}
	whole := func(r *auditv1.AuditRecord, person string) {
		t.Helper()
		want := call(r.GetNumber(), person)
		want.Proxy, want.Region, want.SpoolGeneration = "p1", "eu", "g"
		want.Previous, want.PersonalSha256, want.Salt = r.GetPrevious(), r.GetPersonalSha256(), r.GetSalt()
		if !proto.Equal(r, want) {
			t.Fatalf("got %v, want %v", r, want)
		}
	}
	gone := func(r *auditv1.AuditRecord, person uuid.UUID) {
		t.Helper()
		if r.GetPersonId() != person.String() || r.GetTool() != "get_issue" || len(r.GetGroups()) != 1 || r.GetClient().GetId() != "code" {
			t.Fatalf("the facts are gone too: %v", r)
		}
		if !r.GetErased() || r.GetArguments() != nil || r.GetResult() != nil || r.GetClient().GetAddress() != "" || r.GetSealed() != nil {
			t.Fatalf("not erased: %v", r)
		}
	}
	// On the stream lies nothing of a person's; what nobody can be asked to seal is not kept.
	for seq, person := range map[uint64]string{1: ann.String(), 2: bob.String(), 4: ""} {
		m, err := store.at(within(t), seq)
		if err != nil || bytes.Contains(m.Data, []byte("planted")) || bytes.Contains(m.Data, []byte("192.0.2.7")) {
			t.Fatalf("record %d of %q lies open: %q, %v", seq, person, m.Data, err)
		}
	}
	all := found()
	whole(all[1], ann.String())
	whole(all[2], bob.String())
	whole(all[3], "")

	if err := keys.DestroyKey(within(t), ann); err != nil {
		t.Fatal(err)
	}
	// One that was on its way while the person was erased.
	if _, err := store.Append(within(t), "p1", "eu", "g", []*auditv1.AuditRecord{call(5, ann.String())}); err != nil {
		t.Fatal(err)
	}
	all = found()
	gone(all[1], ann)
	gone(all[5], ann)
	whole(all[2], bob.String())

	// Without the setting records are kept as they come, and what was sealed before is opened still.
	open, err := Open(within(t), nc, Config{Seals: keys})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.Append(within(t), "p1", "eu", "g", []*auditv1.AuditRecord{call(6, bob.String())}); err != nil {
		t.Fatal(err)
	}
	if m, err := open.at(within(t), 6); err != nil || !bytes.Contains(m.Data, []byte("planted argument")) {
		t.Fatalf("%v, %v", m, err)
	}
	store = open
	whole(found()[2], bob.String())
	errEnd := errors.New("enough")
	if err := open.Tail(within(t), &adminv1.AuditFilter{}, 1, func(r *adminv1.StoredRecord) error {
		whole(r.GetRecord(), bob.String())
		return errEnd
	}); !errors.Is(err, errEnd) {
		t.Fatal(err)
	}
}
