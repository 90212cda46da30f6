package core

import (
	"iter"
	"maps"
	"slices"

	"github.com/tidwall/btree"
)

// pairs is an ordered set of pairs of numbers. The second numbers that go with a first one lie in runs, ascending, each
// under the pair that it begins with. A run never changes once it is stored: a change copies one, so that it costs the
// same in a group of five and in a group of fifty thousand, and ten million pairs take a few bytes each.
type pairs struct{ runs btree.Map[uint64, []uint32] }

// runMost is how long a run may be: a longer one is cut in two.
const runMost = 512

func pair(a, b uint32) uint64 { return uint64(a)<<32 | uint64(b) }

func (p *pairs) fork() pairs { return pairs{*p.runs.Copy()} }

// run returns the run in which b lies if it goes with a: the last one that does not begin after it, or else the first.
// It is empty where nothing goes with a.
func (p *pairs) run(a, b uint32) (run []uint32) {
	take := func(k uint64, r []uint32) bool {
		if k>>32 == uint64(a) {
			run = r
		}
		return false
	}
	if p.runs.Descend(pair(a, b), take); run == nil {
		p.runs.Ascend(pair(a, b), take)
	}
	return run
}

func (p *pairs) has(a, b uint32) bool {
	if p.runs.Len() == 0 { // as of held memberships there mostly are none
		return false
	}
	_, found := slices.BinarySearch(p.run(a, b), b)
	return found
}

// add puts a pair in, and tells whether it is new.
func (p *pairs) add(a, b uint32) bool {
	run := p.run(a, b)
	at, found := slices.BinarySearch(run, b)
	if found {
		return false
	}
	if at == 0 && len(run) > 0 {
		p.runs.Delete(pair(a, run[0]))
	}
	grown := make([]uint32, len(run)+1)
	copy(grown, run[:at])
	grown[at] = b
	copy(grown[at+1:], run[at:])
	p.put(a, grown)
	return true
}

// mergeFrom is how many pairs pay for a pass through mergePart times as many.
const (
	mergeFrom = 8
	mergePart = 64
)

// addAll puts pairs of a in, of which about so many are there, and returns those that are new, ascending. Bs is its own.
func (p *pairs) addAll(a uint32, bs []uint32, there int) (fresh []uint32) {
	slices.Sort(bs)
	bs = slices.Compact(bs)
	if len(bs) < mergeFrom || there > len(bs)*mergePart {
		return slices.DeleteFunc(bs, func(b uint32) bool { return !p.add(a, b) })
	}
	have := p.collect(a)
	all := make([]uint32, 0, len(have)+len(bs))
	for _, b := range bs {
		for len(have) > 0 && have[0] < b {
			all, have = append(all, have[0]), have[1:]
		}
		if len(have) == 0 || have[0] != b {
			all, fresh = append(all, b), append(fresh, b)
		}
	}
	if all = append(all, have...); len(fresh) > 0 {
		for run := p.run(a, 0); len(run) > 0; run = p.run(a, 0) {
			p.runs.Delete(pair(a, run[0]))
		}
		p.put(a, slices.Clip(all))
	}
	return fresh
}

// put stores a run of what goes with a, whose elements nobody else may change.
func (p *pairs) put(a uint32, run []uint32) {
	for len(run) > runMost {
		half := slices.Clone(run[:runMost/2])
		p.runs.Set(pair(a, half[0]), half)
		run = slices.Clone(run[runMost/2:])
	}
	p.runs.Set(pair(a, run[0]), run)
}

// drop takes a pair out, and tells whether it was there.
func (p *pairs) drop(a, b uint32) bool {
	run := p.run(a, b)
	at, found := slices.BinarySearch(run, b)
	if !found {
		return false
	}
	if at == 0 {
		p.runs.Delete(pair(a, b))
	}
	if len(run) > 1 {
		p.put(a, append(append(make([]uint32, 0, len(run)-1), run[:at]...), run[at+1:]...))
	}
	return true
}

// of yields every b of the pairs (a, b), ascending.
func (p *pairs) of(a uint32) iter.Seq[uint32] { return p.after(a, 0) }

// after yields every b > after of the pairs (a, b), ascending. Numbers start at 1.
func (p *pairs) after(a, after uint32) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		first := pair(a, after)
		if after > 0 { // it may lie within a run
			if run := p.run(a, after); len(run) > 0 {
				first = pair(a, run[0])
			}
		}
		p.runs.Ascend(first, func(k uint64, run []uint32) bool {
			if k>>32 != uint64(a) {
				return false
			}
			for _, b := range run {
				if b > after && !yield(b) {
					return false
				}
			}
			return true
		})
	}
}

// all yields every pair, ascending.
func (p *pairs) all() iter.Seq2[uint32, uint32] {
	return func(yield func(a, b uint32) bool) {
		p.runs.Scan(func(k uint64, run []uint32) bool {
			for _, b := range run {
				if !yield(uint32(k>>32), b) {
					return false
				}
			}
			return true
		})
	}
}

// collect returns what of yields. A set must not change while it is walked.
func (p *pairs) collect(a uint32) []uint32 { return slices.Collect(p.of(a)) }

// swapped is the set of pairs (b, a).
func (p *pairs) swapped() pairs {
	byFirst := map[uint32][]uint32{}
	for a, b := range p.all() {
		byFirst[b] = append(byFirst[b], a)
	}
	var out pairs
	for _, b := range slices.Sorted(maps.Keys(byFirst)) {
		out.put(b, slices.Clip(byFirst[b]))
	}
	return out
}
