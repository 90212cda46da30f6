package okta

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// GroupKind says what a group is for. Okta warns against one group for both.
type GroupKind string

// The kinds of groups.
const (
	// Plain groups are known to the org alone.
	Plain GroupKind = "plain"
	// Assignment groups give their members the SCIM app; the group itself is not pushed.
	Assignment GroupKind = "assignment"
	// Pushed groups are pushed with those members who hold the app.
	Pushed GroupKind = "pushed"
)

// CreateGroup adds a group; a pushed one is created at the SCIM server, empty.
func (o *Org) CreateGroup(ctx context.Context, name string, kind GroupKind) (Push, error) {
	if strings.TrimSpace(name) == "" {
		return Push{}, errors.New("a group needs a name")
	}
	if !slices.Contains([]GroupKind{Plain, Assignment, Pushed}, kind) {
		return Push{}, fmt.Errorf("group kind %q is none of plain, assignment, pushed", kind)
	}
	return o.change(func(s *session) error {
		o.mu.Lock()
		if o.groups[fold(name)] != nil {
			o.mu.Unlock()
			return fmt.Errorf("a group %q exists", name)
		}
		g := &group{
			id:      identifier("00g", fold(name)),
			name:    name,
			assigns: kind == Assignment,
			pushed:  kind == Pushed,
			members: map[string]*person{},
			sent:    map[string]bool{},
		}
		o.groups[fold(name)] = g
		o.mu.Unlock()
		if !g.pushed {
			return nil
		}
		return s.createGroup(ctx, g)
	})
}

// RenameGroup changes a group's name; a pushed one is renamed at the SCIM server.
func (o *Org) RenameGroup(ctx context.Context, name, to string) (Push, error) {
	return o.change(func(s *session) error {
		o.mu.Lock()
		g := o.groups[fold(name)]
		if g == nil || (o.groups[fold(to)] != nil && o.groups[fold(to)] != g) {
			o.mu.Unlock()
			if g == nil {
				return notFound("group", name)
			}
			return fmt.Errorf("a group %q exists", to)
		}
		delete(o.groups, fold(g.name))
		g.name = to
		o.groups[fold(to)] = g
		o.mu.Unlock()
		return s.assertGroupName(ctx, g)
	})
}

// AddToGroup adds people to a group. Members of an assignment group are provisioned; those of a pushed group are pushed.
func (o *Org) AddToGroup(ctx context.Context, name string, logins ...string) (Push, error) {
	return o.ChangeGroup(ctx, name, logins, nil)
}

// RemoveFromGroup removes people from a group. Leaving the last assignment group deactivates a person at the app.
func (o *Org) RemoveFromGroup(ctx context.Context, name string, logins ...string) (Push, error) {
	return o.ChangeGroup(ctx, name, nil, logins)
}

// ChangeGroup adds and removes people in one step, which a pushed group sends as one PATCH.
func (o *Org) ChangeGroup(ctx context.Context, name string, add, remove []string) (Push, error) {
	return o.change(func(s *session) error {
		g, added, removed, err := o.applyMembers(name, add, remove)
		if err != nil {
			return err
		}
		if g.pushed {
			if err := s.pushMembers(ctx, g); err != nil {
				return err
			}
		}
		if !g.assigns {
			return nil
		}
		for _, u := range added {
			if err := s.assign(ctx, u); err != nil {
				return fmt.Errorf("assign %s: %w", u.profile.Login, err)
			}
		}
		for _, u := range removed {
			if err := s.unassign(ctx, u); err != nil {
				return fmt.Errorf("unassign %s: %w", u.profile.Login, err)
			}
		}
		return nil
	})
}

// PushGroup is Okta's "Push now": the name and the whole list of members, by replace.
func (o *Org) PushGroup(ctx context.Context, name string) (Push, error) {
	return o.change(func(s *session) error {
		o.mu.Lock()
		g := o.groups[fold(name)]
		o.mu.Unlock()
		if g == nil {
			return notFound("group", name)
		}
		if !g.pushed {
			return fmt.Errorf("group %q is not a pushed group", name)
		}
		return s.replaceMembers(ctx, g)
	})
}

// UnlinkGroup stops pushing a group and deletes it at the SCIM server, as an admin may choose when unlinking.
func (o *Org) UnlinkGroup(ctx context.Context, name string) (Push, error) {
	return o.change(func(s *session) error {
		o.mu.Lock()
		g := o.groups[fold(name)]
		o.mu.Unlock()
		if g == nil {
			return notFound("group", name)
		}
		return s.deleteGroup(ctx, g)
	})
}

// Groups returns all groups, by name.
func (o *Org) Groups() []Group {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]Group, 0, len(o.groups))
	for _, g := range o.groups {
		out = append(out, g.view())
	}
	slices.SortFunc(out, func(a, b Group) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// applyMembers changes the org's own state: all names are known, or nothing changes.
func (o *Org) applyMembers(name string, add, remove []string) (g *group, added, removed []*person, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g = o.groups[fold(name)]
	if g == nil {
		return nil, nil, nil, notFound("group", name)
	}
	find := func(logins []string) ([]*person, error) {
		var out []*person
		for _, login := range logins {
			u := o.logins[fold(login)]
			if u == nil {
				return nil, notFound("person", login)
			}
			out = append(out, u)
		}
		return out, nil
	}
	if added, err = find(add); err != nil {
		return nil, nil, nil, err
	}
	if removed, err = find(remove); err != nil {
		return nil, nil, nil, err
	}
	for _, u := range removed {
		delete(g.members, u.id)
	}
	for _, u := range added {
		g.members[u.id] = u
	}
	return g, added, removed, nil
}

// pushedGroupsOf returns the pushed groups that hold a person, by name.
func (o *Org) pushedGroupsOf(u *person) []*group {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []*group
	for _, g := range o.groups {
		if g.pushed && g.members[u.id] != nil {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b *group) int { return strings.Compare(a.name, b.name) })
	return out
}
