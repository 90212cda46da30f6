// Package access tells what people may do before anybody does it: who may call a tool, what a person may call, and what a change of
// policy gives to whom and takes from whom.
//
// It asks the table that proxies decide by. People of whom it must say the same are asked about once, so that a million people cost
// about as much as the sets of groups that they are in. It changes nothing, and does no I/O.
package access

import (
	"iter"
	"slices"
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
	attributes map[string]bool // that conditions read
	ids        bool            // and who it is
	looked     map[string]bool // conditions
}

// newScope looks at all grants on connectors, in each of some states.
func newScope(connectors map[string]bool, states ...*core.State) *scope {
	sc := &scope{connectors: connectors, groups: map[uint32]bool{}, own: map[uuid.UUID]bool{}, attributes: map[string]bool{}, looked: map[string]bool{}}
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

// reads notes what a rule's condition reads of people.
func (sc *scope) reads(r *policyv1.Rule) {
	if when := r.GetWhen(); strings.Contains(when, "user") && !sc.looked[when] {
		sc.looked[when] = true
		id, groups := policy.ReadsOfPerson(r)
		sc.ids, sc.allGroups = sc.ids || id, sc.allGroups || groups
		for _, name := range policy.AttributesRead(r) {
			sc.attributes[name] = true
		}
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

// table is what proxies would have on the scope's connectors, with a few people.
func (sc *scope) table(s *core.State, people []*core.User) (*policy.Table, error) {
	b := policy.NewBuilder()
	if err := b.Put(s.EntriesOn(func(id string) bool { return sc.connectors[id] }, sc.group)); err != nil {
		return nil, err
	}
	for _, u := range people {
		entry := s.UserEntry(u)
		wire := entry.GetUser()
		wire.Groups = slices.DeleteFunc(wire.GetGroups(), func(no uint32) bool { return !sc.group(no) }) // others have no say, and part who may the same
		if err := b.Put(one(entry)); err != nil {
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

func firsts(classes []*class) []*core.User {
	people := make([]*core.User, len(classes))
	for i, k := range classes {
		people[i] = k.people[0]
	}
	return people
}
