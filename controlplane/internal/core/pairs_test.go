package core

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestPairsAreASetInOrder: whatever is added and dropped, also in long runs, the set is what a slow one is, and what was
// forked from it stays as it was.
func TestPairsAreASetInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var p pairs
		slow := map[[2]uint32]bool{}
		next := rapid.Uint32Range(1, 2000)
		check := func(p *pairs, slow map[[2]uint32]bool) {
			var want [][2]uint32
			for k := range slow {
				want = append(want, k)
			}
			slices.SortFunc(want, func(a, b [2]uint32) int { return slices.Compare(a[:], b[:]) })
			var got [][2]uint32
			for a, b := range p.all() {
				got = append(got, [2]uint32{a, b})
			}
			if !slices.Equal(got, want) {
				t.Fatalf("got %v, want %v", got, want)
			}
			for a := uint32(1); a < 4; a++ {
				after := next.Draw(t, "after")
				var list []uint32
				for _, k := range want {
					if k[0] == a && k[1] > after {
						list = append(list, k[1])
					}
				}
				if got := slices.Collect(p.after(a, after)); !slices.Equal(got, list) {
					t.Fatalf("after (%d, %d): %v, want %v", a, after, got, list)
				}
			}
			back := p.swapped()
			again := back.swapped()
			if !slices.Equal(collectAll(&again), collectAll(p)) {
				t.Fatal("swapped twice it is another set")
			}
		}
		for range rapid.IntRange(1, 8).Draw(t, "steps") {
			a, from, n, in := rapid.Uint32Range(1, 3).Draw(t, "a"), next.Draw(t, "from"), rapid.Uint32Range(1, 1500).Draw(t, "n"), rapid.IntRange(0, 2).Draw(t, "in") > 0
			stride := rapid.Uint32Range(1, 7).Draw(t, "stride")
			forked := p.fork()
			kept := collectAll(&p)
			if in && rapid.Bool().Draw(t, "at once") {
				var all, want []uint32
				for i := range n {
					b := (from+i*stride)%2000 + 1
					if all = append(all, b); !slow[[2]uint32{a, b}] {
						want = append(want, b)
					}
					slow[[2]uint32{a, b}] = true
				}
				slices.Sort(want)
				if got := forked.addAll(a, all, len(forked.collect(a))); !slices.Equal(got, slices.Compact(want)) {
					t.Fatalf("new are %v, want %v", got, want)
				}
				n = 0
			}
			for i := range n {
				b := (from+i*stride)%2000 + 1
				key := [2]uint32{a, b}
				var changed bool
				if in {
					changed = forked.add(a, b)
				} else {
					changed = forked.drop(a, b)
				}
				if changed == (slow[key] == in) || forked.has(a, b) != in {
					t.Fatalf("(%d, %d): changed %v, it was there: %v", a, b, changed, slow[key])
				}
				if slow[key] = true; !in {
					delete(slow, key)
				}
			}
			if !slices.Equal(collectAll(&p), kept) {
				t.Fatal("a change of a fork changed its origin")
			}
			p = forked
			check(&p, slow)
		}
	})
}

func collectAll(p *pairs) (all []uint64) {
	for a, b := range p.all() {
		all = append(all, pair(a, b))
	}
	return all
}
