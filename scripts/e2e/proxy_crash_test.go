package e2e

import (
	"fmt"
	"testing"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	"sallyport.dev/scripts/demo/agent"
)

// TestProxyKilledMidCallLosesNoRecord kills a proxy while calls are in flight: what it wrote before is delivered once
// after the restart, and the calls that were cut are told as such.
func TestProxyKilledMidCallLosesNoRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newProxy(t, w.cp, "us-east")
	w.cp.enforced()
	s := w.session(p, ada)
	const quick, open = 25, 3
	for range quick {
		if err := works(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 2 {
		ended := make(chan agent.Result, open)
		streaming := make([]*agent.Session, open)
		for i := range open {
			streaming[i] = w.session(p, ada)
			go func() {
				ended <- streaming[i].Call(t.Context(), "github__watch_workflow_run", map[string]any{"owner": "acme", "repo": "payments", "run_id": 7, "seconds": 120})
			}()
		}
		for _, one := range streaming {
			select {
			case <-one.Progress():
			case res := <-ended:
				t.Fatalf("the stream ended at once: %s", res.Text)
			case <-time.After(patience):
				t.Fatal("no progress came")
			}
		}
		// One more that is answered just before: its records may still be in the spool alone.
		if err := works(t.Context(), w.session(p, ada)); err != nil {
			t.Fatal(err)
		}
		p.Kill()
		for range open {
			if res := <-ended; res.OK {
				t.Error("a call that was cut was answered as if nothing had happened")
			}
		}
		p.start()
		done, cut := quick+round+1, open*(round+1)
		eventually(t, func() error {
			got, err := w.audit(&adminv1.AuditFilter{Person: ada})
			if err != nil {
				return err
			}
			if err := got.twoPhases(done + cut); err != nil {
				return err
			}
			// The kill may fall between a call's last answer and its second record: that one is told as unknown too.
			o := got.outcomes()
			unknown, ok := o[auditv1.Outcome_OUTCOME_UNKNOWN], o[auditv1.Outcome_OUTCOME_OK]
			if unknown < cut || unknown > cut+round+1 || unknown+ok != done+cut {
				return fmt.Errorf("outcomes: %v", o)
			}
			return nil
		})
	}
	s = w.session(p, ada)
	if err := works(t.Context(), s); err != nil {
		t.Error(err)
	}
}
