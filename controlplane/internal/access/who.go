package access

import (
	"context"
	"fmt"
	"slices"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// Who is a person with what they may do.
type Who struct {
	User    *core.User
	Outlook policy.Outlook
}

// Answer is who may call a tool.
type Answer struct {
	// People are some of them, in the order of their creation; More: there are others after the last.
	People []Who
	More   bool
	// Always and Sometimes count all of them.
	Always, Sometimes int
}

// WhoCan tells who may call a tool at a time: at most limit people, with numbers above after.
func WhoCan(ctx context.Context, s *core.State, connector, tool string, now time.Time, after uint32, limit int) (*Answer, error) {
	c := s.Connector(connector)
	if c == nil {
		return nil, &core.Error{Code: core.NotFound, Field: "connector", Message: fmt.Sprintf("there is no connector %q: see sallyport connectors list", connector)}
	}
	if kind, _ := policy.KindOf(tool); !pinned(c, tool) && kind != policyv1.Kind_KIND_RESOURCE {
		return nil, &core.Error{Code: core.NotFound, Field: "tool", Message: fmt.Sprintf("no tool %q of %s is pinned: see sallyport connectors show %s", tool, connector, connector)}
	}
	sc := newScope(map[string]bool{connector: true}, s)
	may := newConcerned(s.LastNumber())
	for g := range s.GrantsOn(connector) {
		may.grant(s, g.To)
	}
	classes, err := may.classes(ctx, sc, s)
	if err != nil {
		return nil, err
	}
	table, err := sc.table(s, firsts(classes))
	if err != nil {
		return nil, fmt.Errorf("compiling a table: %w", err)
	}
	outlooks := make([]policy.Outlook, len(classes))
	err = onAll(ctx, len(classes), func(i int) {
		outlooks[i] = table.Outlook(policy.Request{Person: classes[i].people[0].ID, Connector: connector, Tool: tool, Now: now})
	})
	if err != nil {
		return nil, err
	}
	out := &Answer{}
	for i, k := range classes {
		o := outlooks[i]
		switch o.Access {
		case policy.Never:
			continue
		case policy.Always:
			out.Always += len(k.people)
		case policy.Sometimes:
			out.Sometimes += len(k.people)
		}
		from, _ := slices.BinarySearchFunc(k.people, after+1, func(u *core.User, no uint32) int { return int(int64(u.No) - int64(no)) })
		for _, u := range k.people[from:min(len(k.people), from+limit+1)] {
			out.People = append(out.People, Who{u, o})
		}
	}
	slices.SortFunc(out.People, func(a, b Who) int { return int(int64(a.User.No) - int64(b.User.No)) })
	if out.More = len(out.People) > limit; out.More {
		out.People = out.People[:limit]
	}
	return out, nil
}

func pinned(c *core.Connector, label string) bool {
	for l := range labels(c) {
		if l == label {
			return true
		}
	}
	return false
}

// labels are what a connector's catalogue pins.
func labels(c *core.Connector) func(func(string) bool) {
	return func(yield func(string) bool) {
		if c == nil {
			return
		}
		for _, t := range c.Tools {
			if !yield(policy.Label(t.GetKind(), t.GetName())) {
				return
			}
		}
	}
}

// What is a tool with what a person may do with it.
type What struct {
	Connector, Tool string
	Outlook         policy.Outlook
}

// WhatCan tells what a person may call at a time, of one connector or of all.
func WhatCan(s *core.State, u *core.User, connector string, now time.Time) ([]What, error) {
	if connector != "" && s.Connector(connector) == nil {
		return nil, &core.Error{Code: core.NotFound, Field: "connector", Message: fmt.Sprintf("there is no connector %q: see sallyport connectors list", connector)}
	}
	table, err := policy.Compile(s.Seq(), s.EntriesFor(u, ""))
	if err != nil {
		return nil, fmt.Errorf("compiling one person's table: %w", err)
	}
	var all []What
	for c := range s.Connectors() {
		id := c.Settings.GetId()
		if connector != "" && id != connector {
			continue
		}
		for label := range labels(c) {
			o := table.Outlook(policy.Request{Person: u.ID, Connector: id, Tool: label, Now: now})
			if o.Access != policy.Never {
				all = append(all, What{id, label, o})
			}
		}
	}
	return all, nil
}
