package policy

import (
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"
)

// memberSet is a set of groups of which people are direct members: one for all who are in the same.
type memberSet struct {
	// near are verdicts of the first few tools that were asked for: most verdicts take two reads from here.
	near [4]atomic.Pointer[verdict]
	// resolved is what the set comes to, as of some state's groups; nil: it was not needed yet, or forgotten.
	resolved atomic.Pointer[groupSet]
	groups   string // numbers, four bytes each, ascending
	users    int    // how many are in it; Apply's alone
}

// groupSet is a set of groups with all groups that contain them, and the verdicts that were found for it.
type groupSet struct {
	at uint64 // the state's groupsAt
	// names are those of the groups that count, nested ones included, sorted; groups ascend by number.
	names  []string
	groups []*group
	of     *memberSet
	// bytes is about what it holds; the memory's lock guards it.
	bytes int

	mu sync.Mutex // held to add to accesses
	// accesses are by connector, in open addressing by its number. Readers take no lock: places are filled,
	// never emptied, and a larger table replaces a full one.
	accesses atomic.Pointer[[]atomic.Pointer[access]]
	count    int
}

// resolve returns what a set of groups comes to.
func (s *state) resolve(m *memberSet) *groupSet {
	if g := m.resolved.Load(); g != nil && g.at == s.groupsAt {
		return g
	}
	return s.newSet(m)
}

// forget drops what was found for a set, so that it is found anew when it is needed.
func (m *memberSet) forget(set *groupSet) {
	m.resolved.CompareAndSwap(set, nil)
	for i := range m.near {
		if v := m.near[i].Load(); v != nil && v.set == set {
			m.near[i].CompareAndSwap(v, nil)
		}
	}
}

// newSet walks from direct groups to all that contain them. A cycle is walked once. Two readers may do so
// at a time: both find the same, and one of the two is kept.
func (s *state) newSet(m *memberSet) *groupSet {
	out := &groupSet{of: m, at: s.groupsAt}
	seen := map[uint32]bool{}
	var todo []uint32
	for i := 0; i < len(m.groups); i += 4 {
		todo = append(todo, binary.BigEndian.Uint32([]byte(m.groups[i:i+4])))
	}
	for len(todo) > 0 {
		number := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		g := s.group(number)
		if seen[number] || g == nil {
			continue
		}
		seen[number] = true
		out.groups = append(out.groups, g)
		if !g.implied {
			out.names = append(out.names, g.name)
		}
		todo = append(todo, g.parents...)
	}
	slices.SortFunc(out.groups, func(a, b *group) int { return int(int64(a.number) - int64(b.number)) })
	slices.Sort(out.names)
	m.resolved.Store(out)
	s.memory.hold(out, 256+24*len(out.groups))
	return out
}

// on returns what the set may do on a connector.
func (s *state) on(set *groupSet, c *connector) *access {
	if a := set.find(c.number); a != nil && a.at == c.at {
		return a
	}
	a := &access{connector: c.number, at: c.at, tools: make([]atomic.Pointer[verdict], len(c.catalogue.tools))}
	set.keep(a)
	s.memory.hold(set, 64+16*len(a.tools))
	return a
}

func (g *groupSet) find(connector uint32) *access {
	table := g.accesses.Load()
	if table == nil {
		return nil
	}
	for i := hashPlace(connector, len(*table)); ; i = (i + 1) & (len(*table) - 1) {
		if a := (*table)[i].Load(); a == nil || a.connector == connector {
			return a
		}
	}
}

// keep holds an access, in place of the one to the same connector.
func (g *groupSet) keep(a *access) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var table []atomic.Pointer[access]
	if have := g.accesses.Load(); have != nil {
		table = *have
	}
	if 2*(g.count+1) > len(table) {
		larger := make([]atomic.Pointer[access], max(2, 2*len(table)))
		for i := range table {
			if old := table[i].Load(); old != nil {
				fill(larger, old)
			}
		}
		table = larger
	}
	if fill(table, a) {
		g.count++
	}
	g.accesses.Store(&table)
}

func hashPlace(number uint32, size int) int { return int(number*0x9E3779B1>>7) & (size - 1) }

// fill puts an access into a table that has room for it, and tells whether it took another place.
func fill(table []atomic.Pointer[access], a *access) bool {
	for i := hashPlace(a.connector, len(table)); ; i = (i + 1) & (len(table) - 1) {
		have := table[i].Load()
		if have == nil || have.connector == a.connector {
			table[i].Store(a)
			return have == nil
		}
	}
}

// rememberedBytes bounds what a table remembers of verdicts, about.
const rememberedBytes = 128 << 20

// memory bounds what is remembered: the sets that were resolved first are forgotten first, and resolved
// anew when they are needed again.
type memory struct {
	mu    sync.Mutex
	bytes int
	sets  []*groupSet // oldest first
}

// hold counts what a set holds from now on, and forgets others where that is too much.
func (m *memory) hold(set *groupSet, bytes int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if set.bytes == 0 {
		m.sets = append(m.sets, set)
	}
	set.bytes += bytes
	m.bytes += bytes
	for m.bytes > rememberedBytes && len(m.sets) > 1 {
		oldest := m.sets[0]
		m.sets[0] = nil
		m.sets = m.sets[1:]
		m.bytes -= oldest.bytes
		oldest.bytes = 0
		oldest.of.forget(oldest)
	}
}
