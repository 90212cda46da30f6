package policy

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// setCache holds what each distinct set of direct groups comes to. When a rule changes the whole cache is
// replaced: what a person holds of the old one is then not used any more.
type setCache struct {
	mu   sync.Mutex
	sets map[string]*groupSet
}

func newSetCache() *setCache { return &setCache{sets: map[string]*groupSet{}} }

// groupSet is a set of groups with all groups that contain them, and what their grants come to.
type groupSet struct {
	cache *setCache
	// groups are all that count, nested ones included, by number; names are theirs, sorted.
	groups []uint32
	names  []string

	// access is what the grants come to on each connector, by its offer's number, found when it is first needed.
	access []atomic.Pointer[access]
}

type setPointer struct{ atomic.Pointer[groupSet] }

// resolve returns what a person's groups come to. The table's lock is held.
func (t *Table) resolve(p *person) *groupSet {
	cache := t.sets.Load()
	if s := p.set.Load(); s != nil && s.cache == cache {
		return s
	}
	key := make([]byte, 0, 4*len(p.groups))
	for _, g := range p.groups {
		key = binary.BigEndian.AppendUint32(key, g)
	}
	cache.mu.Lock()
	s := cache.sets[string(key)]
	if s == nil {
		s = t.newSet(cache, p.groups)
		cache.sets[string(key)] = s
	}
	cache.mu.Unlock()
	p.set.Store(s)
	return s
}

// newSet walks from direct groups to all that contain them. A cycle is walked once.
func (t *Table) newSet(cache *setCache, direct []uint32) *groupSet {
	s := &groupSet{cache: cache}
	seen := map[uint32]bool{}
	todo := slices.Clone(direct)
	for len(todo) > 0 {
		no := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		g := t.groups[no]
		if seen[no] || g == nil {
			continue
		}
		seen[no] = true
		s.groups = append(s.groups, no)
		s.names = append(s.names, g.name)
		todo = append(todo, g.parents...)
	}
	slices.Sort(s.groups)
	slices.Sort(s.names)
	s.access = make([]atomic.Pointer[access], len(t.offers))
	return s
}

// access is what a set of groups may do on a connector.
type access struct {
	// tools are in the order of the catalogue's.
	tools []toolAccess
	// listed are the tools that are listed, ascending by name.
	listed []*pinnedTool
}

// toolAccess is what rules say of one tool: a verdict that holds whatever the arguments, or the conditions
// that decide, in order. What a verdict needs lies together: it is read at every call.
type toolAccess struct {
	// always: no condition has a say, and the verdict is the one that follows.
	always  bool
	allowed bool
	reason  auditv1.Reason
	index   int32
	group   string

	rules *matching
}

// matching are the rules that match a tool.
type matching struct {
	denies []ruleRef // conditional, save that an unconditional one stands alone
	allows []ruleRef // conditional ones before the first unconditional one, and that one
}

// ruleRef is a rule with its place.
type ruleRef struct {
	*rule
	group string
	index int32 // from 1
}

// on returns what the set may do on a connector. The table's lock is held.
func (t *Table) on(s *groupSet, o *offer) *access {
	if a := s.access[o.no].Load(); a != nil {
		return a
	}
	a := t.newAccess(s, o) // two that find it at once find the same
	s.access[o.no].Store(a)
	return a
}

func (t *Table) newAccess(s *groupSet, o *offer) *access {
	a := &access{}
	if o.catalogue == nil || o.connector == nil {
		return a
	}
	a.tools = make([]toolAccess, len(o.catalogue.tools))
	rules := t.rulesOf(s, o.connector.settings.GetId())
	for i, tool := range o.catalogue.tools {
		m := &matching{}
		for _, r := range rules {
			if matchAny(r.globs, tool.name) {
				m.add(r)
			}
		}
		a.tools[i] = m.settle()
		if m.maybe() {
			a.listed = append(a.listed, tool)
		}
	}
	return a
}

// settle finds the verdict of a tool of which no condition decides.
func (m *matching) settle() toolAccess {
	switch {
	case len(m.denies) > 0 && m.denies[0].when == nil:
		return toolAccess{always: true, reason: auditv1.Reason_REASON_RULE_DENIED, group: m.denies[0].group, index: m.denies[0].index}
	case len(m.denies) > 0:
	case len(m.allows) == 0:
		return toolAccess{always: true, reason: auditv1.Reason_REASON_NOTHING_ALLOWS}
	case m.allows[0].when == nil:
		return toolAccess{always: true, allowed: true, reason: auditv1.Reason_REASON_RULE_ALLOWED, group: m.allows[0].group, index: m.allows[0].index}
	}
	return toolAccess{rules: m}
}

// rulesOf lists the rules of all groups of a set on a connector, by group, in their order.
func (t *Table) rulesOf(s *groupSet, id string) []ruleRef {
	var all []ruleRef
	for _, no := range s.groups {
		g := t.grants[grantKey{no, id}]
		if g == nil {
			continue
		}
		for i, r := range g.rules {
			all = append(all, ruleRef{rule: r, group: t.groups[no].name, index: int32(i + 1)})
		}
	}
	return all
}

// add puts a matching rule where it counts. A deny without a condition makes every other rule idle; after
// an allow without one no other allow is looked at.
func (m *matching) add(r ruleRef) {
	switch {
	case r.deny && r.when == nil:
		m.denies = []ruleRef{r}
	case r.deny && (len(m.denies) == 0 || m.denies[0].when != nil):
		m.denies = append(m.denies, r)
	case !r.deny && r.when == nil:
		m.allows = []ruleRef{r}
	case !r.deny && (len(m.allows) == 0 || m.allows[0].when != nil):
		m.allows = append(m.allows, r)
	}
}

// maybe tells whether some arguments are allowed, as far as can be told without them.
func (m *matching) maybe() bool {
	return len(m.allows) > 0 && (len(m.denies) == 0 || m.denies[0].when != nil)
}
