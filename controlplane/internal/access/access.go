// Package access tells what people may do before anybody does it: who may call a tool, what a person may call, and what a change of
// policy gives to whom and takes from whom.
//
// It asks the table that proxies decide by. People of whom it must say the same are asked about once, so that a million people cost
// about as much as the sets of groups that they are in. It changes nothing, and does no I/O.
package access

import (
	"context"
	"encoding/binary"
	"iter"
	"strings"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// scope is what tells people apart where some connectors alone are asked about.
type scope struct {
	connectors map[string]bool
	groups     map[uint32]bool // that grants concern, by nesting too
	allGroups  bool            // conditions read their names
	own        map[uuid.UUID]bool
	attributes bool // conditions read them
	ids        bool // and who it is
}

// newScope looks at all grants on connectors, in each of some states.
func newScope(connectors map[string]bool, states ...*core.State) *scope {
	sc := &scope{connectors: connectors, groups: map[uint32]bool{}, own: map[uuid.UUID]bool{}}
	for _, s := range states {
		for g := range s.Grants() {
			if connectors[g.Connector] && !s.Dangling(g.To) {
				sc.grant(s, g)
			}
		}
		for b := range s.Blocks() {
			if id, err := uuid.Parse(b.GetPersonId()); err == nil {
				sc.own[id] = true
			}
		}
	}
	return sc
}

func (sc *scope) grant(s *core.State, g *core.Grant) {
	switch {
	case g.To.Group != uuid.Nil:
		below(s, s.Group(g.To.Group), sc.groups)
	case g.To.Person != uuid.Nil:
		sc.own[g.To.Person] = true
	}
	for r := range s.RulesOf(g) {
		sc.reads(r)
	}
}

// reads notes what a rule's condition may read of people; rather too much than too little.
func (sc *scope) reads(r *policyv1.Rule) {
	if when := r.GetWhen(); strings.Contains(when, "user") {
		sc.attributes = true
		sc.allGroups = sc.allGroups || strings.Contains(when, "groups")
		sc.ids = sc.ids || strings.Contains(when, "id")
	}
}

// below notes a group and all groups that are in it.
func below(s *core.State, g *core.Group, seen map[uint32]bool) {
	if g == nil || seen[g.No] {
		return
	}
	seen[g.No] = true
	for child := range s.MemberGroups(g) {
		below(s, child, seen)
	}
}

func (sc *scope) group(no uint32) bool { return sc.allGroups || sc.groups[no] }

// key is the same for people of whom the same holds in a state.
func (sc *scope) key(s *core.State, u *core.User, key []byte) []byte {
	key = append(key, u.Directory...)
	key = append(key, 0, flag(u.Active)|flag(u.Service())<<1)
	for no := range s.CountedGroups(u) {
		if sc.group(no) {
			key = binary.BigEndian.AppendUint32(key, no)
		}
	}
	if sc.ids || sc.own[u.ID] {
		key = append(key, u.ID[:]...)
	}
	if sc.attributes {
		key = append(key, s.AttributesOf(u)...)
	}
	return append(key, 0xff)
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// table is what proxies would have on the scope's connectors, with a few people.
func (sc *scope) table(s *core.State, people []*core.User) (*policy.Table, error) {
	b := policy.NewBuilder()
	if err := b.Put(s.EntriesOn(func(id string) bool { return sc.connectors[id] }, sc.group)); err != nil {
		return nil, err
	}
	for _, u := range people {
		if err := b.Put(one(s.UserEntry(u))); err != nil {
			return nil, err
		}
	}
	return b.Table(s.Seq()), nil
}

func one[E any](e E) iter.Seq[E] { return func(yield func(E) bool) { yield(e) } }

// concerned are people whom grants may concern.
type concerned struct {
	all         bool
	directories map[string]bool
	marks       []uint64 // by people's numbers
}

func newConcerned(last uint32) *concerned {
	return &concerned{directories: map[string]bool{}, marks: make([]uint64, last/64+1)}
}

func (c *concerned) mark(no uint32) {
	if int(no/64) < len(c.marks) {
		c.marks[no/64] |= 1 << (no % 64)
	}
}

// grant adds those to whom a grant is.
func (c *concerned) grant(s *core.State, to core.Grantee) {
	switch {
	case to.Everyone == core.Everyone:
		c.all = true
	case to.Everyone != "":
		c.directories[to.Everyone] = true
	case to.Person != uuid.Nil:
		if u := s.User(to.Person); u != nil {
			c.mark(u.No)
		}
	default:
		groups := map[uint32]bool{}
		below(s, s.Group(to.Group), groups)
		for no := range groups {
			for member := range s.MemberNumbers(s.GroupByNumber(no)) {
				c.mark(member)
			}
		}
	}
}

func (c *concerned) is(u *core.User) bool {
	return c.all || c.directories[u.Directory] || int(u.No/64) < len(c.marks) && c.marks[u.No/64]&(1<<(u.No%64)) != 0
}

// class is people of whom the same holds.
type class struct{ people []*core.User }

// classes sorts the active people among those who are concerned, in the order of their creation.
func (c *concerned) classes(ctx context.Context, sc *scope, states ...*core.State) ([]*class, error) {
	var all []*class
	found := map[string]*class{}
	var key []byte
	n := 0
	for u := range states[0].AllUsersAfter("", 0) {
		if n++; n%10_000 == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !u.Active || !c.is(u) {
			continue
		}
		key = key[:0]
		for _, s := range states {
			key = sc.key(s, u, key)
			if !sc.attributes {
				break // a change of policy moves nobody
			}
		}
		k := found[string(key)]
		if k == nil {
			k = &class{}
			found[string(key)] = k
			all = append(all, k)
		}
		k.people = append(k.people, u)
	}
	return all, nil
}

func firsts(classes []*class) []*core.User {
	people := make([]*core.User, len(classes))
	for i, k := range classes {
		people[i] = k.people[0]
	}
	return people
}
