package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/proof"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
	"sallyport.dev/controlplane/internal/vault"
)

// proved is a store with a vault, whose people's fields are sealed, and two people.
type proved struct {
	*Store
	nc       *nats.Conn
	vault    *vault.Vault
	ann, bob uuid.UUID
	next     map[string]uint64
}

func newProved(t *testing.T) *proved {
	t.Helper()
	nc := natstest.Embedded(t).Conn
	secrets, err := kv.Open(within(t), nc, kv.Config{Bucket: "VAULT"})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := vault.Open(within(t), secrets, vault.Config{Keys: []string{"file:" + filepath.Join(t.TempDir(), "kek.json")}})
	if err != nil {
		t.Fatal(err)
	}
	p := &proved{nc: nc, vault: keys, ann: uuid.New(), bob: uuid.New(), next: map[string]uint64{}}
	if err := keys.EnsureKeys(within(t), []uuid.UUID{p.ann, p.bob}); err != nil {
		t.Fatal(err)
	}
	if p.Store, err = Open(within(t), nc, Config{Seals: keys, SealPersonal: true, Key: testKey(t)}); err != nil {
		t.Fatal(err)
	}
	return p
}

// store stores records of a proxy, and signs what there is then.
func (p *proved) store(t *testing.T, proxy string, count int) {
	t.Helper()
	var records []*auditv1.AuditRecord
	for i := range count {
		p.next[proxy]++
		person := []uuid.UUID{p.ann, p.bob}[i%2]
		records = append(records, &auditv1.AuditRecord{
			Number: p.next[proxy], At: timestamppb.Now(), PersonId: person.String(), Tool: "get_issue", Arguments: &auditv1.Payload{Head: []byte(`{"of":"planted"}`)},
		})
	}
	if _, err := p.Append(within(t), proxy, "eu", "g", records); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Checkpoint(within(t), false); err != nil {
		t.Fatal(err)
	}
}

func (p *proved) exported(t *testing.T, from, to time.Time, filter *adminv1.AuditFilter) []*auditv1.ExportItem {
	t.Helper()
	var items []*auditv1.ExportItem
	if err := p.Export(within(t), from, to, filter, func(i *auditv1.ExportItem) error { items = append(items, i); return nil }); err != nil {
		t.Fatal(err)
	}
	return items
}

// verified checks items as a file does that was written and read.
func verified(v *proof.Verifier, items []*auditv1.ExportItem, from, to time.Time) (proof.Report, error) {
	var file bytes.Buffer
	for _, i := range items {
		if err := proof.Write(&file, i); err != nil {
			return proof.Report{}, err
		}
	}
	err := v.Read(&file)
	if err == nil {
		err = v.Finish(from, to)
	}
	return v.Report, err
}

func clonesOf(items []*auditv1.ExportItem) []*auditv1.ExportItem {
	var all []*auditv1.ExportItem
	for _, i := range items {
		all = append(all, proto.CloneOf(i))
	}
	return all
}

func TestAnExportVerifiesAndNothingInItCanBeChanged(t *testing.T) {
	p := newProved(t)
	p.store(t, "p", 5)
	p.store(t, "q", 4)
	middle := time.Now()
	p.store(t, "p", 6)
	p.store(t, "q", 3)
	items := p.exported(t, time.Time{}, time.Time{}, nil)
	report, err := verified(&proof.Verifier{}, items, time.Time{}, time.Now().Add(-time.Millisecond*0))
	if err == nil {
		t.Fatal("an export covers a time after its last checkpoint")
	}
	if report, err = verified(&proof.Verifier{}, items, time.Time{}, middle); err != nil || report.Records != 18 || report.Heads != 4 || report.Checkpoints < 5 || report.Tail != 0 {
		t.Fatalf("%+v, %v", report, err)
	}
	if _, err := p.Checkpoint(within(t), true); err != nil {
		t.Fatal(err)
	}
	kept, err := p.Checkpoint(within(t), false)
	if err != nil {
		t.Fatal(err)
	}
	// A part, and one person's, prove themselves too.
	part := p.exported(t, middle, time.Time{}, nil)
	if report, err := verified(&proof.Verifier{Witness: kept}, part, middle, time.Time{}); err != nil || report.Records != 9 {
		t.Fatalf("%+v, %v", report, err)
	}
	ann := p.exported(t, time.Time{}, time.Time{}, &adminv1.AuditFilter{Person: p.ann.String()})
	if report, err := verified(&proof.Verifier{}, ann, time.Time{}, middle); err != nil || report.Records != 10 || report.DigestsOnly != 8 {
		t.Fatalf("%+v, %v", report, err)
	}

	places := func(items []*auditv1.ExportItem) (all []int) {
		for i, item := range items {
			if item.GetRecord() != nil {
				all = append(all, i)
			}
		}
		return all
	}
	last := len(items) - 1
	wrong := 0
	refuse := func(what string, items []*auditv1.ExportItem) {
		t.Helper()
		wrong++
		if report, err := verified(&proof.Verifier{}, items, time.Time{}, middle); err == nil {
			t.Errorf("%s: verified, %+v", what, report)
		}
	}
	end := func(items []*auditv1.ExportItem, delta int) []*auditv1.ExportItem {
		e := items[len(items)-1].GetEnd()
		e.Records = uint64(int(e.GetRecords()) + delta)
		return items
	}
	for _, i := range places(items) {
		for at := range items[i].GetRecord().GetCore() {
			if at%7 == 0 {
				c := clonesOf(items)
				c[i].GetRecord().Core[at] ^= 1
				refuse("a byte was changed", c)
			}
		}
		c := clonesOf(items)
		c[i].GetRecord().Personal[3] ^= 1
		refuse("what it says of its person was changed", c)
		refuse("a record was removed", end(slices.Delete(clonesOf(items), i, i+1), -1))
		forged := proto.CloneOf(items[i])
		forged.GetRecord().Sequence += 100
		refuse("a record was put in", end(slices.Insert(clonesOf(items), last-1, forged), 1))
		if i > 1 && items[i-1].GetRecord() != nil {
			c := clonesOf(items)
			c[i], c[i-1] = c[i-1], c[i]
			refuse("two were exchanged", c)
			c = clonesOf(items)
			a, b := c[i].GetRecord(), c[i-1].GetRecord()
			a.Sequence, b.Sequence = b.GetSequence(), a.GetSequence()
			c[i], c[i-1] = c[i-1], c[i]
			refuse("two were exchanged, and renumbered", c)
		}
		refuse("the tail was cut off", clonesOf(items)[:i+1])
		kept := end(append(clonesOf(items)[:i], proto.CloneOf(items[last])), -countFrom(items, i))
		if _, err := verified(&proof.Verifier{}, kept, time.Time{}, time.Now()); err == nil {
			t.Error("a tail is missing, and the time that was asked for is covered")
		}
	}
	// Another's key, and another's history under the same key.
	other := testKey(t).Public().(ed25519.PublicKey)
	if _, err := verified(&proof.Verifier{Keys: proof.Keys{proof.KeyID(other): other}}, items, time.Time{}, time.Time{}); err == nil {
		t.Error("an export that was signed by another verified")
	}
	lied := proto.CloneOf(kept)
	lied.Root[0] ^= 1
	if _, err := verified(&proof.Verifier{Witness: lied}, p.exported(t, time.Time{}, time.Time{}, nil), time.Time{}, time.Time{}); err == nil || !strings.Contains(err.Error(), "another history") {
		t.Errorf("another history than the one that was kept: %v", err)
	}
	t.Logf("%d falsifications, each found", wrong)
}

func countFrom(items []*auditv1.ExportItem, from int) (n int) {
	for _, i := range items[from:] {
		if i.GetRecord() != nil {
			n++
		}
	}
	return n
}

func TestTheChainHoldsAfterAnErasure(t *testing.T) {
	p := newProved(t)
	p.store(t, "p", 10)
	if err := p.vault.DestroyKey(within(t), p.ann); err != nil {
		t.Fatal(err)
	}
	p.store(t, "p", 4)
	items := p.exported(t, time.Time{}, time.Time{}, nil)
	for _, i := range items {
		r := &auditv1.AuditRecord{}
		if i.GetRecord() == nil {
			continue
		}
		if err := proto.Unmarshal(i.GetRecord().GetCore(), r); err != nil {
			t.Fatal(err)
		}
		if gone := len(i.GetRecord().GetPersonal()) == 0; gone != (r.GetPersonId() == p.ann.String()) {
			t.Fatalf("of %s the fields are gone: %v", r.GetPersonId(), gone)
		}
	}
	if report, err := verified(&proof.Verifier{}, items, time.Time{}, time.Time{}); err != nil || report.Erased != 7 || report.Records != 14 {
		t.Fatalf("%+v, %v", report, err)
	}
}

func TestWhatIsDoneToTheStreamIsFound(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, p *proved) error{
		"a record was deleted": func(t *testing.T, p *proved) error { return p.stream.SecureDeleteMsg(within(t), 3) },
		"the tail was deleted": func(t *testing.T, p *proved) error {
			return errors.Join(p.stream.DeleteMsg(within(t), 10), p.stream.DeleteMsg(within(t), 9))
		},
		"the first was deleted": func(t *testing.T, p *proved) error { return p.stream.DeleteMsg(within(t), 1) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newProved(t)
			p.store(t, "p", 10)
			if err := harm(t, p); err != nil {
				t.Fatal(err)
			}
			if report, err := verified(&proof.Verifier{}, p.exported(t, time.Time{}, time.Time{}, nil), time.Time{}, time.Time{}); err == nil {
				t.Fatalf("verified: %+v", report)
			}
		})
	}
}

func TestTwoControlPlanesSignOneHistory(t *testing.T) {
	p := newProved(t)
	other, err := Open(within(t), p.nc, Config{Seals: p.vault, SealPersonal: true, Key: p.key})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(within(t))
	done := make(chan struct{}, 2)
	for _, s := range []*Store{p.Store, other} {
		go func() { s.RunCheckpoints(ctx, time.Millisecond); done <- struct{}{} }()
	}
	for range 10 {
		p.store(t, "p", 7)
	}
	cancel()
	<-done
	<-done
	if report, err := verified(&proof.Verifier{}, p.exported(t, time.Time{}, time.Time{}, nil), time.Time{}, time.Time{}); err != nil || report.Records != 70 {
		t.Fatalf("%+v, %v", report, err)
	}
}
