package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go/jetstream"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
	"sallyport.dev/controlplane/internal/vault"
)

// valueSite is a store whose connector "crm" has values kept whole, for a person.
type valueSite struct {
	*Store
	js     jetstream.JetStream
	keys   *vault.Vault
	person uuid.UUID
}

const valueBytes = 64 << 10

func openValues(t *testing.T) *valueSite {
	nc := natstest.Embedded(t).Conn
	secrets, err := kv.Open(within(t), nc, kv.Config{Bucket: "VAULT"})
	if err != nil {
		t.Fatal(err)
	}
	w := &valueSite{person: uuid.New()}
	if w.keys, err = vault.Open(within(t), secrets, vault.Config{Keys: []string{"file:" + filepath.Join(t.TempDir(), "kek.json")}}); err != nil {
		t.Fatal(err)
	}
	if err := w.keys.EnsureKeys(within(t), []uuid.UUID{w.person}); err != nil {
		t.Fatal(err)
	}
	values := func(connector string) *policyv1.AuditSettings {
		if connector != "crm" {
			return nil
		}
		return &policyv1.AuditSettings{Whole: true, MaxBytes: valueBytes, Days: 7}
	}
	if w.Store, err = Open(within(t), nc, Config{Seals: w.keys, Values: values}); err != nil {
		t.Fatal(err)
	}
	if w.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return w
}

// withValue is a call's record whose result came whole.
func (w *valueSite) withValue(number uint64, value string) *auditv1.AuditRecord {
	sum := sha256.Sum256([]byte(value))
	return &auditv1.AuditRecord{
		Number: number, PersonId: w.person.String(), Connector: "crm", Tool: "query", Phase: auditv1.Phase_PHASE_COMPLETED,
		Result: &auditv1.Payload{Head: []byte(value[:4096]), Size: uint64(len(value)), Sha256: sum[:], Truncated: true, Whole: []byte(value)},
	}
}

func (w *valueSite) append(t *testing.T, records ...*auditv1.AuditRecord) {
	t.Helper()
	var sent [][]byte
	for _, r := range records {
		sent = append(sent, encoded(t, r))
	}
	if _, err := w.Take(within(t), "p1", "eu", "g", sent); err != nil {
		t.Fatal(err)
	}
}

// objects counts what lies in the stores of values.
func (w *valueSite) objects(t *testing.T) (n int) {
	t.Helper()
	for store := range w.js.ObjectStores(within(t)).Status() {
		objects, err := w.js.ObjectStore(within(t), store.Bucket())
		if err != nil {
			t.Fatal(err)
		}
		all, err := objects.List(within(t))
		if err != nil && !errors.Is(err, jetstream.ErrNoObjectsFound) {
			t.Fatal(err)
		}
		n += len(all)
	}
	return n
}

func TestAWholeValueIsKeptSealedAndGoesWithItsPerson(t *testing.T) {
	w := openValues(t)
	value := strings.Repeat("planted value ", 2000)
	w.append(t, w.withValue(1, value))
	// What was not heard of is sent again, and not kept twice.
	w.append(t, w.withValue(1, value), w.withValue(2, value[:5000]))
	if n := w.objects(t); n != 2 {
		t.Fatalf("%d values are kept, want 2", n)
	}
	got, record, err := w.Value(within(t), 1, true)
	if err != nil || string(got) != value {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if p := record.GetResult(); !strings.HasPrefix(p.GetObject(), "7/") || p.GetWhole() != nil || p.GetNotKept() != "" {
		t.Fatalf("the record says %v", p)
	}
	m, err := w.Message(within(t), 1)
	if err != nil || len(m.Data) > 8192 {
		t.Fatalf("the record has %d bytes on the stream, %v", len(m.Data), err)
	}
	store, err := w.js.ObjectStore(within(t), valuesPrefix+"7")
	if err != nil {
		t.Fatal(err)
	}
	status, err := store.Status(within(t))
	if err != nil || status.TTL() != 7*24*time.Hour {
		t.Fatalf("values are kept for %v, %v", status.TTL(), err)
	}
	_, name, _ := strings.Cut(record.GetResult().GetObject(), "/")
	lies, err := store.GetBytes(within(t), name)
	if err != nil || bytes.Contains(lies, []byte("planted")) {
		t.Fatalf("it lies there in the clear, or not at all: %v", err)
	}
	// Another's bytes in its place are not given out.
	other, err := w.keys.Seal(within(t), w.person, []byte("another value"))
	if err != nil {
		t.Fatal(err)
	}
	_, name2, _ := strings.Cut(w.resultOf(t, 2).GetObject(), "/")
	if _, err := store.PutBytes(within(t), name2, other); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, w, 2, "was changed there")
	if err := w.keys.DestroyKey(within(t), w.person); err != nil {
		t.Fatal(err)
	}
	wantRefused(t, w, 1, "erased")
	if err := store.Delete(within(t), name); err != nil { // as when its time is over
		t.Fatal(err)
	}
	wantRefused(t, w, 1, "there no more")
}

func (w *valueSite) resultOf(t *testing.T, sequence uint64) *auditv1.Payload {
	t.Helper()
	m, err := w.Message(within(t), sequence)
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.Record(within(t), m, true)
	if err != nil {
		t.Fatal(err)
	}
	return r.GetResult()
}

func wantRefused(t *testing.T, w *valueSite, sequence uint64, why string) {
	t.Helper()
	var refusal *core.Error
	if value, _, err := w.Value(within(t), sequence, true); !errors.As(err, &refusal) || !strings.Contains(refusal.Message, why) || value != nil {
		t.Errorf("record %d: %q, %v, want a refusal that says %q", sequence, value, err, why)
	}
}

// TestWhatAProxySendsThatIsNotToBeKeptIsNotKept plays a proxy that was broken into.
func TestWhatAProxySendsThatIsNotToBeKeptIsNotKept(t *testing.T) {
	w := openValues(t)
	value := strings.Repeat("x", 10_000)
	for i, c := range []struct {
		name   string
		change func(*auditv1.AuditRecord)
		why    string
	}{
		{"other bytes than the digest says", func(r *auditv1.AuditRecord) { r.Result.Whole[9999] = 'y' }, "another size or digest"},
		{"another size", func(r *auditv1.AuditRecord) { r.Result.Size++ }, "another size or digest"},
		{"no digest", func(r *auditv1.AuditRecord) { r.Result.Sha256 = nil }, "another size or digest"},
		{"too many bytes", func(r *auditv1.AuditRecord) {
			big := bytes.Repeat([]byte("x"), valueBytes+1)
			sum := sha256.Sum256(big)
			r.Result.Whole, r.Result.Size, r.Result.Sha256 = big, uint64(len(big)), sum[:]
		}, "larger than the connector keeps"},
		{"a person whom nobody knows", func(r *auditv1.AuditRecord) { r.PersonId = uuid.NewString() }, "erased, or is nobody"},
		{"nobody", func(r *auditv1.AuditRecord) { r.PersonId = "" }, "erased, or is nobody"},
		{"a connector that does not ask for it", func(r *auditv1.AuditRecord) { r.Connector = "wiki" }, "does not ask for it"},
		{"a place of its own choice", func(r *auditv1.AuditRecord) { r.Result.Whole, r.Result.Object = nil, "7/another's" }, "did not ask for it then"},
		{"words without end", func(r *auditv1.AuditRecord) {
			r.Result.Whole, r.Result.NotKept = nil, strings.Repeat("\x1b[31m", 10_000)
		}, "kept whole: [31m[31m"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.withValue(uint64(i)+1, value)
			c.change(r)
			w.append(t, r)
			wantRefused(t, w, uint64(i)+1, c.why)
			if p := w.resultOf(t, uint64(i)+1); len(p.GetNotKept()) > maxWords || p.GetWhole() != nil {
				t.Errorf("the record says %v", p)
			}
		})
	}
	if n := w.objects(t); n != 0 {
		t.Errorf("%d values are kept", n)
	}
}

// TestARecordIsStoredThoughItsValueCannotBe has the store of values refuse.
func TestARecordIsStoredThoughItsValueCannotBe(t *testing.T) {
	w := openValues(t)
	if _, err := w.js.CreateObjectStore(within(t), jetstream.ObjectStoreConfig{Bucket: valuesPrefix + "7", MaxBytes: 1024}); err != nil {
		t.Fatal(err)
	}
	w.append(t, w.withValue(1, strings.Repeat("x", 10_000)))
	wantRefused(t, w, 1, "could not store it")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.keepValues(ended, "p1", "g", []*auditv1.AuditRecord{w.withValue(2, strings.Repeat("x", 10_000))}); err != nil {
		t.Fatal(err)
	}
}
