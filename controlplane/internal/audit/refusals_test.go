package audit

import (
	"slices"
	"testing"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

func TestAFloodOfRefusalsIsBoundedAndSaysHowManyWereLeftOut(t *testing.T) {
	trail := NewRecorder(&Store{}, "cp", "", nil)
	now := time.Unix(1_790_000_000, 0)
	door, other := trail.Refusals(), trail.Refusals()
	door.now = func() time.Time { return now }
	refuse := func() { door.Refuse(&auditv1.AuditRecord{Action: "client_refused"}) }
	for range refusalsAtOnce + 20 {
		refuse()
	}
	if n := len(trail.waiting); n != refusalsAtOnce {
		t.Fatalf("%d are kept, want %d", n, refusalsAtOnce)
	}
	other.Refuse(&auditv1.AuditRecord{Action: "signal_refused"})
	if n := len(trail.waiting); n != refusalsAtOnce+1 {
		t.Error("a flood at one door hides what is refused at another")
	}
	now = now.Add(time.Second)
	refuse()
	refuse()
	leftOut := func(r *auditv1.AuditRecord) string {
		i := slices.IndexFunc(r.GetDetails(), func(d *auditv1.Detail) bool { return d.GetKey() == "left_out" })
		if i < 0 {
			return ""
		}
		return r.GetDetails()[i].GetValue()
	}
	last := trail.waiting[len(trail.waiting)-2:]
	if first, second := leftOut(last[0]), leftOut(last[1]); first != "20" || second != "" {
		t.Errorf("left out: %q, then %q; want 20, once", first, second)
	}
}
