package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/scripts/demo/agent"
)

// TestABudgetIsOneOverRegionsAndDeathsOfTheControlPlane: what a person's agents call at two proxies counts together, a control plane
// that died counts on where it was, and an admin sees what is used and begins anew.
func TestABudgetIsOneOverRegionsAndDeathsOfTheControlPlane(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	east, west := newProxy(t, w.cp, "us-east"), newProxy(t, w.cp, "eu-west")
	w.cp.enforced()
	const calls = 40
	w.cp.apply(fmt.Sprintf("kind: Grant\ngroup: corp/Staff\nconnector: github\nrules:\n  - allow: [\"*\"]\n  - require: limit\n    tools: [\"*\"]\n    limit: {budget: code, window: 1h, calls: %d}\n", calls))
	w.cp.enforced()
	adas := []*agent.Session{w.session(east, ada), w.session(west, ada)}
	bobs := w.session(west, bob)
	made := 0
	// each calls once at both proxies, and returns what the last that was refused was told.
	each := func() (refusal string) {
		for _, s := range adas {
			if err := works(t.Context(), s); err != nil {
				refusal = err.Error()
			} else {
				made++
			}
		}
		return refusal
	}
	for range 3 {
		if told := each(); told != "" {
			t.Fatalf("after %d calls of %d: %s", made, calls, told)
		}
	}
	w.cp.Kill()
	var told string
	for range calls { // what is leased is had, and nothing else
		told = each()
	}
	if made >= calls || !strings.Contains(told, "cannot be asked for") {
		t.Errorf("while the control plane is away, %d calls of %d are made, and then: %s", made, calls, told)
	}
	w.cp.start()
	eventually(t, func() error {
		if told := each(); made < calls {
			return fmt.Errorf("%d calls of %d were made: %s", made, calls, told)
		}
		return nil
	})
	if told := each(); made != calls || !strings.Contains(told, "come back") {
		t.Errorf("%d calls are made where %d may be; what is left is told: %s", made, calls, told)
	}
	if err := works(t.Context(), bobs); err != nil {
		t.Errorf("another person has a budget of their own: %v", err)
	}

	if out, err := w.cp.Run(t.Context(), "limits", "list"); err != nil || !strings.Contains(string(out), "code") || !strings.Contains(string(out), "corp/Staff") {
		t.Errorf("limits list: %v: %s", err, out)
	}
	out, err := w.cp.Run(t.Context(), "limits", "show", "code", "--person", ada, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var shown struct {
		Uses []struct {
			PersonName  string `json:"person_name"`
			Used, Limit struct{ Calls string }
		}
	}
	if err := json.Unmarshal(out, &shown); err != nil || len(shown.Uses) != 1 || shown.Uses[0].PersonName != ada || shown.Uses[0].Limit.Calls != fmt.Sprint(calls) {
		t.Errorf("limits show: %v: %s", err, out)
	}
	w.cp.must("limits", "reset", "code", "--person", ada)
	eventually(t, func() error { return works(t.Context(), adas[0]) })
	eventually(t, func() error {
		records, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Person: ada})
		if err != nil {
			return err
		}
		for _, r := range records {
			if r.GetRecord().GetAction() == "budget_reset" && r.GetRecord().GetTarget() == "budget/code" && r.GetRecord().GetActor().GetId() != "" {
				return nil
			}
		}
		return fmt.Errorf("of %d records none says that the budget was reset", len(records))
	})
}
