package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/proof"
)

func silent(*auditv1.Removal) error { return nil }

// removed removes what was stored before a time.
func (p *proved) removed(t *testing.T, before time.Time) *auditv1.Removal {
	t.Helper()
	r, held, err := p.Remove(within(t), before, nil, silent)
	if err != nil || len(held) > 0 {
		t.Fatalf("held by %v, %v", held, err)
	}
	return r
}

func (p *proved) first(t *testing.T) uint64 {
	t.Helper()
	info, err := p.info(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return info.State.FirstSeq
}

// TestWhatIsLeftAfterARemovalVerifiesAndProxiesGoOn removes all that some proxies ever stored, and more of others.
func TestWhatIsLeftAfterARemovalVerifiesAndProxiesGoOn(t *testing.T) {
	p := newProved(t)
	changes := p.Changes("epoch", "eu")
	if err := changes.Append(within(t), []*auditv1.AuditRecord{{Version: 3}, {Version: 5}}); err != nil {
		t.Fatal(err)
	}
	p.store(t, "quiet", 20)
	p.store(t, "busy", 20)
	before, err := p.Checkpoint(within(t), true)
	if err != nil {
		t.Fatal(err)
	}
	middle := time.Now()
	p.store(t, "busy", 20)

	r := p.removed(t, middle)
	if r.GetSequence() != 42 || r.GetSize() != 42 || p.first(t) != 43 {
		t.Fatalf("removed %v, the stream begins at %d", r, p.first(t))
	}
	if again := p.removed(t, middle); again != nil {
		t.Fatalf("removed again: %v", again)
	}
	items := p.exported(t, time.Time{}, time.Time{}, nil)
	report, err := verified(&proof.Verifier{}, items, time.Time{}, time.Time{})
	if err != nil || report.Records != 20 || report.Removed != 42 || !report.RemovedBefore.Equal(middle) {
		t.Fatalf("%+v, %v", report, err)
	}
	if _, err := verified(&proof.Verifier{}, items, middle.Add(-time.Hour), time.Time{}); err == nil || !strings.Contains(err.Error(), "their time was over") {
		t.Errorf("the time before the removal: %v", err)
	}
	if _, err := verified(&proof.Verifier{Witness: before}, items, time.Time{}, time.Time{}); err != nil {
		t.Errorf("the checkpoint at which it was cut: %v", err)
	}
	old := proto.CloneOf(before)
	old.Size = 22
	if _, err := verified(&proof.Verifier{Witness: old}, items, time.Time{}, time.Time{}); err == nil || !strings.Contains(err.Error(), "says nothing of these") {
		t.Errorf("a checkpoint of what was removed: %v", err)
	}
	for name, change := range map[string]func(*auditv1.ExportHeader){
		"more was removed than was signed":   func(h *auditv1.ExportHeader) { h.Removed.Size++ },
		"later":                              func(h *auditv1.ExportHeader) { h.Removed.Before.Seconds++ },
		"by another":                         func(h *auditv1.ExportHeader) { h.Removed.Signature = "k " + strings.Repeat("A", 86) + "==" },
		"a checkpoint that is not the cut's": func(h *auditv1.ExportHeader) { h.Before = nil },
	} {
		forged := clonesOf(items)
		change(forged[0].GetHeader())
		if _, err := verified(&proof.Verifier{}, forged, time.Time{}, time.Time{}); err == nil {
			t.Errorf("%s: it verifies", name)
		}
	}

	// Each goes on where it stood, at a control plane that knows nothing of it, and does not store twice.
	other, err := Open(within(t), p.nc, Config{Seals: p.vault, SealPersonal: true, Key: p.key})
	if err != nil {
		t.Fatal(err)
	}
	mine := p.Store
	p.Store = other
	if got, err := p.Append(within(t), "quiet", "eu", "g", run(15, 20)); err != nil || got != 20 {
		t.Fatalf("what was removed is sent again: acknowledged %d, %v", got, err)
	}
	p.store(t, "quiet", 3)
	p.Store = mine
	p.store(t, "quiet", 3) // it remembers what was removed
	if version, err := other.Changes("epoch", "eu").Version(within(t)); err != nil || version != 5 {
		t.Fatalf("changes are told up to %d, %v", version, err)
	}
	if err := changes.Append(within(t), []*auditv1.AuditRecord{{Version: 5}, {Version: 6}}); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Append(within(t), "quiet", "eu", "younger", run(1, 2)); err != nil || got != 2 {
		t.Fatalf("a generation after it: %d, %v", got, err)
	}
	report, err = verified(&proof.Verifier{}, p.exported(t, time.Time{}, time.Time{}, nil), time.Time{}, time.Time{})
	if err != nil || report.Records != 20+6+1+2 {
		t.Fatalf("%+v, %v", report, err)
	}
	records, _, err := p.Search(within(t), &adminv1.AuditFilter{Proxy: "quiet"}, 0, "")
	if err != nil || len(records) != 8 || records[7].GetRecord().GetPrevious() == nil {
		t.Fatalf("quiet has %d records, %v", len(records), err)
	}
	if err := p.Tail(within(t), &adminv1.AuditFilter{}, 10, func(*adminv1.StoredRecord) error { return nil }); err == nil || !strings.Contains(err.Error(), "their time was over") {
		t.Errorf("a tail that begins among what was removed: %v", err)
	}

	// A second one, after which nothing is left, and then something again.
	p.removed(t, time.Now())
	if last, err := p.Last(within(t)); err != nil || last != p.first(t)-1 {
		t.Fatalf("the end is %d, %v", last, err)
	}
	if _, err := p.Checkpoint(within(t), true); err != nil {
		t.Fatalf("signing nothing: %v", err)
	}
	p.store(t, "busy", 5)
	if report, err = verified(&proof.Verifier{}, p.exported(t, time.Time{}, time.Time{}, nil), time.Time{}, time.Time{}); err != nil || report.Records != 5 || report.Removed != 71 {
		t.Fatalf("%+v, %v", report, err)
	}
}

// TestWhatIsRemovedWithoutASignatureIsFound plays somebody who may purge and has no key.
func TestWhatIsRemovedWithoutASignatureIsFound(t *testing.T) {
	p := newProved(t)
	p.store(t, "p1", 20)
	middle := time.Now()
	p.store(t, "p1", 20)
	p.store(t, "p1", 20)
	p.removed(t, middle)
	if err := p.stream.Purge(within(t), jetstream.WithPurgeSequence(41)); err != nil {
		t.Fatal(err)
	}
	if _, err := verified(&proof.Verifier{}, p.exported(t, time.Time{}, time.Time{}, nil), time.Time{}, time.Time{}); err == nil {
		t.Error("it verifies")
	}
}

// TestNothingIsRemovedThatAnExporterOrTheIndexLacks, nor before audit was told of it.
func TestNothingIsRemovedThatAnExporterOrTheIndexLacks(t *testing.T) {
	p := newProved(t)
	d, err := p.Deliver(within(t), DeliveryConfig{Name: "siem", Made: "1", Beginning: true})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		p.store(t, "p1", 10)
	}
	acknowledge := func(n int) {
		t.Helper()
		for range n {
			got, err := d.Fetch(within(t), 1, 5*time.Second)
			if err != nil || len(got) != 1 {
				t.Fatalf("%d records, %v", len(got), err)
			}
			if err := got[0].m.DoubleAck(within(t)); err != nil {
				t.Fatal(err)
			}
		}
	}
	acknowledge(25)
	r, held, err := p.Remove(within(t), time.Now(), map[string]uint64{"the index": 35}, silent)
	if err != nil || r.GetSequence() != 20 || fmt.Sprint(held) != "[{exporter siem 25} {the index 35}]" {
		t.Fatalf("removed up to %d, held by %v, %v", r.GetSequence(), held, err)
	}
	acknowledge(25)
	failed := errors.New("audit takes nothing")
	if _, _, err := p.Remove(within(t), time.Now(), map[string]uint64{"the index": 50}, func(*auditv1.Removal) error { return failed }); !errors.Is(err, failed) || p.first(t) != 21 {
		t.Fatalf("before it was told the stream begins at %d, %v", p.first(t), err)
	}
	// The next one ends what was signed.
	if r := p.removed(t, time.Now()); r != nil || p.first(t) != 51 {
		t.Fatalf("removed %v, the stream begins at %d", r, p.first(t))
	}
}

func TestTwoControlPlanesRemoveTheSameOnce(t *testing.T) {
	p := newProved(t)
	for range 5 {
		p.store(t, "p1", 10)
	}
	other, err := Open(within(t), p.nc, Config{Seals: p.vault, SealPersonal: true, Key: p.key})
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	results := make(chan *auditv1.Removal, 2)
	for _, s := range []*Store{p.Store, other} {
		go func() {
			r, _, _ := s.Remove(context.WithoutCancel(t.Context()), before, nil, silent) // one of them fails, or finds nothing to do
			results <- r
		}()
	}
	if a, b := <-results, <-results; (a == nil) == (b == nil) {
		t.Errorf("one removed %v, the other %v", a, b)
	}
	if report, err := verified(&proof.Verifier{}, p.exported(t, time.Time{}, time.Time{}, nil), time.Time{}, time.Time{}); err != nil || report.Removed != 50 {
		t.Errorf("%+v, %v", report, err)
	}
}
