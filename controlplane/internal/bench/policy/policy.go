// Package policy measures what admins ask before and after a change of policy: what a plan would change, who can use a tool, and the
// recorded calls decided again. Each stands beside what its answer cannot do without, in the same run.
//
// It is called by ./scripts/bench and is no part of what runs in production.
package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/access"
	"sallyport.dev/controlplane/internal/core"
)

// Figures are the parts of `bench policy`, which several programs measure: this one plan, who_can, backtest and reporting.
var Figures = []string{"decide", "plan", "who_can", "backtest", "reporting"}

// rounds is how often each is measured: the median counts.
const rounds = 3

// figure is one line of output.
type figure struct {
	Name      string  `json:"name"`
	Value     float64 `json:"value"`
	Unit      string  `json:"unit"`
	Reference float64 `json:"reference"`
	Ratio     float64 `json:"ratio"`
	// Scale is what part of the sizes that the name speaks of was measured; 0: it speaks of none.
	Scale float64 `json:"scale,omitempty"`
	Load  string  `json:"load"`
}

// Run prints the figures that are asked for, at a part of the sizes that they name.
func Run(ctx context.Context, out, progress io.Writer, only []string, scale float64) error {
	say := func(f figure) error {
		f.Ratio = f.Value / f.Reference
		return json.NewEncoder(out).Encode(f)
	}
	if slices.Contains(only, "plan") || slices.Contains(only, "who_can") {
		users := int(scale * 1_000_000)
		_, _ = fmt.Fprintf(progress, "· folding %d people, %d memberships and 100 connectors\n", users, users*groupsOf) // nobody may be reading
		w, err := newWorld(users)
		if err != nil {
			return fmt.Errorf("making the load: %w", err)
		}
		load := fmt.Sprintf("%d people in %d groups of %d, %d of which, and everyone, have grants on a connector of %d tools; conditions read arguments and departments; median of %d; reference: to go through the people and the groups of each",
			users, len(w.groups), perGroup, len(w.groups)/grantedOf, tools, rounds)
		walk, err := median(ctx, w.walk)
		if err != nil {
			return err
		}
		for _, asked := range []struct {
			name string
			run  func(context.Context) error
		}{{"plan", w.plan}, {"who_can", w.whoCan}} {
			if !slices.Contains(only, asked.name) {
				continue
			}
			took, err := median(ctx, asked.run)
			if err != nil {
				return fmt.Errorf("measuring %s: %w", asked.name, err)
			}
			if err := say(figure{Name: "policy_" + asked.name + "_1m", Value: took, Unit: "s", Reference: walk, Scale: scale, Load: load}); err != nil {
				return err
			}
		}
	}
	if slices.Contains(only, "backtest") {
		if err := measureBacktest(ctx, scale, say); err != nil {
			return err
		}
	}
	if slices.Contains(only, "reporting") {
		note := func(text string) { _, _ = fmt.Fprintf(progress, "· %s\n", text) } // nobody may be reading
		return measureReporting(ctx, int(scale*1_000_000), scale, note, say)
	}
	return nil
}

// median is how long a run takes, in seconds.
func median(ctx context.Context, run func(context.Context) error) (float64, error) {
	var all []float64
	for range rounds {
		began := time.Now()
		if err := run(ctx); err != nil {
			return 0, err
		}
		all = append(all, time.Since(began).Seconds())
	}
	slices.Sort(all)
	return all[rounds/2], nil
}

// walk goes through all people and the groups of each.
func (w *world) walk(context.Context) error {
	memberships := 0
	for u := range w.state.AllUsersAfter("", 0) {
		for range w.state.CountedGroups(u) {
			memberships++
		}
	}
	if memberships < len(w.people) {
		return fmt.Errorf("%d memberships of %d people are few", memberships, len(w.people))
	}
	return nil
}

// plan decides the change of the grant to everyone, which concerns all, and compares what they may do.
func (w *world) plan(ctx context.Context) error {
	rules := everyonesRules()
	rules[0] = &policyv1.Rule{Allow: []string{"tool_0", "tool_6"}}
	command := core.NewApplyPolicy(nil, []core.GrantSpec{core.NewGrantTo(core.Grantee{Everyone: directory}, connector, rules)})
	events, err := core.Decide(w.state, command, core.Env{Now: time.Now(), NewID: newID})
	if err != nil {
		return err
	}
	after, err := access.After(w.state, events)
	if err != nil {
		return err
	}
	affected, err := access.Compare(ctx, w.state, after, events, time.Now())
	if err != nil {
		return err
	}
	people := 0
	for _, a := range affected {
		people += len(a.People)
	}
	if people < len(w.people)*9/10 {
		return fmt.Errorf("the change concerns %d people of %d", people, len(w.people))
	}
	return nil
}

// whoCan asks for a tool that everyone may have, by a condition on who they are.
func (w *world) whoCan(ctx context.Context) error {
	who, err := access.WhoCan(ctx, w.state, connector, "tool_3", time.Now(), 0, 1000)
	if err != nil {
		return err
	}
	if n := who.Always + who.Sometimes; n < len(w.people)/departments/2 {
		return fmt.Errorf("%d people of %d can", n, len(w.people))
	}
	return nil
}
