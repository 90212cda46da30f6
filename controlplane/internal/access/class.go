package access

import (
	"context"
	"encoding/binary"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"sallyport.dev/controlplane/internal/core"
)

// class is people of whom the same holds.
type class struct{ people []*core.User }

// classes sorts the active people among those who are concerned, in the order of their creation. A change of policy moves nobody, so
// that one state tells who is in which groups.
func (c *concerned) classes(ctx context.Context, sc *scope, s *core.State) ([]*class, error) {
	sorter := &sorter{concerned: c, scope: sc, names: slices.Sorted(maps.Keys(sc.attributes)), together: sc.together(s)}
	// Each part of the people is sorted by itself, on all processors.
	parts := make([]sorted, runtime.GOMAXPROCS(0))
	each := s.LastNumber()/uint32(len(parts)) + 1
	err := onAll(ctx, len(parts), func(i int) { parts[i] = sorter.sort(ctx, s, uint32(i)*each, uint32(i+1)*each) })
	if err != nil {
		return nil, err
	}
	all, found := parts[0].classes, parts[0].found
	for _, part := range parts[1:] {
		for _, k := range part.keys {
			if have := found[k]; have != nil {
				have.people = append(have.people, part.found[k].people...)
				continue
			}
			found[k] = part.found[k]
			all = append(all, part.found[k])
		}
	}
	return all, nil
}

// sorter sorts people into classes.
type sorter struct {
	*concerned
	*scope
	names    []string // of the attributes that tell people apart
	together []uint32 // by people's numbers
}

// sorted is a part of the people in classes, in the order of the first of each.
type sorted struct {
	keys    []string
	classes []*class
	found   map[string]*class
}

// sort sorts people with numbers above one, up to another.
func (c *sorter) sort(ctx context.Context, s *core.State, after, last uint32) sorted {
	out := sorted{found: map[string]*class{}}
	var key []byte
	n := 0
	for u := range s.AllUsersAfter("", after) {
		if n++; u.No > last || n%10_000 == 0 && ctx.Err() != nil {
			break
		}
		if !u.Active || !c.is(u) {
			continue
		}
		key = c.key(key[:0], u)
		k := out.found[string(key)]
		if k == nil {
			k = &class{}
			text := string(key)
			out.keys, out.classes, out.found[text] = append(out.keys, text), append(out.classes, k), k
		}
		k.people = append(k.people, u)
	}
	return out
}

// key is the same for people of whom the same holds.
func (c *sorter) key(key []byte, u *core.User) []byte {
	key = binary.BigEndian.AppendUint32(key, c.together[u.No])
	key = append(key, flag(u.Service()))
	key = binary.AppendUvarint(key, uint64(len(u.Directory)))
	key = append(key, u.Directory...)
	if c.ids || c.own[u.ID] {
		key = append(key, u.ID[:]...)
	}
	return core.AppendAttributes(key, u, c.names)
}

// together gives people numbers, by their own: two have the same if they are in the same groups of the scope. It goes through the members
// of those groups, and not through the groups of all people: each group parts those who are in it from those who are not and had the
// same number.
func (sc *scope) together(s *core.State) []uint32 {
	numbers := make([]uint32, s.LastNumber()+1)
	last := uint32(0)
	moved := map[uint32]uint32{}
	for g := range s.AllGroupsAfter("", 0) {
		if !sc.group(g.No) {
			continue
		}
		clear(moved)
		for no := range s.CountedNumbers(g) {
			number, known := moved[numbers[no]]
			if !known {
				last++
				number = last
				moved[numbers[no]] = number
			}
			numbers[no] = number
		}
	}
	return numbers
}

// onAll calls a function for each of so many, on all processors.
func onAll(ctx context.Context, n int, do func(i int)) error {
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		running.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				do(i)
			}
		})
	}
	running.Wait()
	return context.Cause(ctx)
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}
