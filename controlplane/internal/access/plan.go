package access

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// Change is what a change of policy does to what somebody may do with one tool.
type Change struct {
	Connector, Tool string
	Before, After   policy.Outlook
	// Move is what becomes of access itself, and of what is asked for before a call. Comes and Goes: some call may be allowed, and none
	// was, or the other way round.
	Move Move
	// Terms are what becomes of limits and redactions.
	Terms []TermChange
}

// Affected are people to whom a change of policy does the same, in the order of their creation.
type Affected struct {
	People  []*core.User
	Changes []Change
}

// After is the state that events would lead to.
func After(s *core.State, events []*eventv1.Event) (*core.State, error) {
	after := s.Fork()
	for i, ev := range events {
		if err := after.Apply(core.Record{Seq: s.Seq() + uint64(i) + 1, Event: ev}); err != nil {
			return nil, err
		}
	}
	return after, nil
}

// Compare tells whose access is another after events, which change policy alone.
func Compare(ctx context.Context, before, after *core.State, events []*eventv1.Event, now time.Time) ([]*Affected, error) {
	t := &touched{states: []*core.State{before, after}, connectors: map[string]bool{}, people: newConcerned(before.LastNumber())}
	for _, ev := range events {
		t.event(ev)
	}
	if len(t.connectors) == 0 {
		return nil, nil
	}
	sc := newScope(t.connectors, before, after)
	classes, err := t.people.classes(ctx, sc, before)
	if err != nil {
		return nil, err
	}
	people := firsts(classes)
	was, err := sc.table(before, people)
	if err != nil {
		return nil, fmt.Errorf("compiling the table before: %w", err)
	}
	is, err := sc.table(after, people)
	if err != nil {
		return nil, fmt.Errorf("compiling the table after: %w", err)
	}
	tools := t.tools()
	changes := make([][]Change, len(classes))
	err = onAll(ctx, len(classes), func(i int) {
		for _, tool := range tools {
			r := policy.Request{Person: people[i].ID, Connector: tool.GetConnector(), Tool: tool.GetTool(), Now: now}
			b, a := was.Outlook(r), is.Outlook(r)
			c := Change{Connector: tool.GetConnector(), Tool: tool.GetTool(), Before: b, After: a, Move: compareAccess(&b, &a)}
			if a.Access != policy.Never {
				c.Terms = compareTerms(&b.Terms, &a.Terms)
			}
			if c.Move != Stays || len(c.Terms) > 0 {
				changes[i] = append(changes[i], c)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	var all []*Affected
	same := map[string]*Affected{}
	for i, k := range classes {
		if len(changes[i]) == 0 {
			continue
		}
		key := keyOf(changes[i])
		if same[key] == nil {
			same[key] = &Affected{Changes: changes[i]}
			all = append(all, same[key])
		}
		same[key].People = append(same[key].People, k.people...)
	}
	for _, a := range all {
		slices.SortFunc(a.People, func(a, b *core.User) int { return int(int64(a.No) - int64(b.No)) })
	}
	return all, nil
}

// keyOf is the same for the same changes, whichever groups they come by.
func keyOf(changes []Change) string {
	var b strings.Builder
	for _, c := range changes {
		fmt.Fprintf(&b, "%s\x00%s\x00", c.Connector, c.Tool)
		for _, o := range []*policy.Outlook{&c.Before, &c.After} {
			fmt.Fprintf(&b, "%d%d%x%s\x00", o.Access, o.Duty, o.Rules, o.Terms.Key())
		}
	}
	return b.String()
}

// touched is what events may change.
type touched struct {
	states     []*core.State
	connectors map[string]bool
	people     *concerned
}

func (t *touched) event(ev *eventv1.Event) {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_GrantApplied:
		t.grant(b.GrantApplied.GetConnectorId())
	case *eventv1.Event_GrantRemoved:
		t.grant(b.GrantRemoved.GetConnectorId())
	case *eventv1.Event_ConnectorSet:
		t.connector(b.ConnectorSet.GetConnector().GetId())
	case *eventv1.Event_CataloguePinned:
		t.connector(b.CataloguePinned.GetConnectorId())
	case *eventv1.Event_ConnectorRetired:
		t.connector(b.ConnectorRetired.GetConnectorId())
	case *eventv1.Event_RuleSetSet:
		t.ruleSet(b.RuleSetSet.GetRuleSet().GetName())
	case *eventv1.Event_RuleSetRemoved:
		t.ruleSet(b.RuleSetRemoved.GetName())
	}
}

// grant marks those of whom a grant on a connector is not what it was.
func (t *touched) grant(connector string) {
	t.connectors[connector] = true
	for i, s := range t.states {
		other := t.states[1-i]
		for g := range s.GrantsOn(connector) {
			if other.Grant(g.To, connector) != g {
				t.people.grant(s, g.To)
			}
		}
	}
}

func (t *touched) connector(id string) {
	t.connectors[id] = true
	for _, s := range t.states {
		for g := range s.GrantsOn(id) {
			t.people.grant(s, g.To)
		}
	}
}

func (t *touched) ruleSet(name string) {
	for _, s := range t.states {
		for g := range s.GrantsReferring(name) {
			t.connectors[g.Connector] = true
			t.people.grant(s, g.To)
		}
	}
}

// tools are all that is pinned on what is touched, before or after, in order.
func (t *touched) tools() []*policyv1.ConnectorTool {
	var all []*policyv1.ConnectorTool
	seen := map[[2]string]bool{}
	for _, s := range t.states {
		for c := range s.Connectors() {
			id := c.Settings.GetId()
			if !t.connectors[id] {
				continue
			}
			for label := range labels(c) {
				if key := [2]string{id, label}; !seen[key] {
					seen[key] = true
					all = append(all, &policyv1.ConnectorTool{Connector: id, Tool: label})
				}
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *policyv1.ConnectorTool) int {
		return strings.Compare(a.GetConnector()+"\x00"+a.GetTool(), b.GetConnector()+"\x00"+b.GetTool())
	})
	return all
}
