package policy

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
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

	mu sync.Mutex
	// access is what the grants come to on each connector; replaced when one is added.
	access atomic.Pointer[map[string]*access]
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
	s.access.Store(&map[string]*access{})
	return s
}

// access is what a set of groups may do on a connector, by tool.
type access struct {
	tools map[string]*toolAccess
	// listed are the tools that are listed, ascending by name.
	listed []*pinnedTool
}

// toolAccess is what rules say of one tool: a verdict that holds whatever the arguments, or the conditions
// that decide, in order.
type toolAccess struct {
	tool   *pinnedTool
	denies []ruleRef // conditional, save that an unconditional one stands alone
	allows []ruleRef // conditional ones before the first unconditional one, and that one
}

// ruleRef is a rule with its place.
type ruleRef struct {
	*rule
	group string
	index int // from 1
}

// on returns what the set may do on a connector. The table's lock is held.
func (t *Table) on(s *groupSet, id string) *access {
	if a := (*s.access.Load())[id]; a != nil {
		return a
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	have := *s.access.Load()
	if a := have[id]; a != nil {
		return a
	}
	a := t.newAccess(s, id)
	more := make(map[string]*access, len(have)+1)
	for k, v := range have {
		more[k] = v
	}
	more[id] = a
	s.access.Store(&more)
	return a
}

func (t *Table) newAccess(s *groupSet, id string) *access {
	a := &access{tools: map[string]*toolAccess{}}
	c := t.catalogues[id]
	if c == nil || t.connectors[id] == nil {
		return a
	}
	rules := t.rulesOf(s, id)
	for _, tool := range c.tools {
		ta := &toolAccess{tool: tool}
		for _, r := range rules {
			if matchAny(r.globs, tool.name) {
				ta.add(r)
			}
		}
		if len(ta.denies) == 0 && len(ta.allows) == 0 {
			continue // nothing is said of it: denied by default
		}
		a.tools[tool.name] = ta
		if ta.maybe() {
			a.listed = append(a.listed, tool)
		}
	}
	return a
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
			all = append(all, ruleRef{rule: r, group: t.groups[no].name, index: i + 1})
		}
	}
	return all
}

// add puts a matching rule where it counts. A deny without a condition makes every other rule idle; after
// an allow without one no other allow is looked at.
func (ta *toolAccess) add(r ruleRef) {
	switch {
	case r.deny && r.when == nil:
		ta.denies = []ruleRef{r}
	case r.deny && (len(ta.denies) == 0 || ta.denies[0].when != nil):
		ta.denies = append(ta.denies, r)
	case !r.deny && r.when == nil:
		ta.allows = []ruleRef{r}
	case !r.deny && (len(ta.allows) == 0 || ta.allows[0].when != nil):
		ta.allows = append(ta.allows, r)
	}
}

// maybe tells whether some arguments are allowed, as far as can be told without them.
func (ta *toolAccess) maybe() bool {
	return len(ta.allows) > 0 && (len(ta.denies) == 0 || ta.denies[0].when != nil)
}
