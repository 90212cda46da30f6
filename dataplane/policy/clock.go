package policy

import (
	"maps"
	"slices"
	"time"
)

// clock is when time alone changes verdicts, beside blocks' ends.
type clock struct {
	ends []int64 // of rules, Unix nanoseconds, ascending, each once
	// How many rules have a condition that reads the time, by how finely it does.
	seconds, minutes int
}

// timed notes that a rule is there, or, with -1, that it is not any more.
func (e *edit) timed(r *rule, more int) {
	if r.until != 0 {
		e.table.shared.ends[r.until] += more
		if e.table.shared.ends[r.until] == 0 {
			delete(e.table.shared.ends, r.until)
		}
		e.endsChanged = true
	}
	if r.when == nil {
		return
	}
	if r.when.mayMention("user") || r.when.mayMention("request") {
		e.state.personal += more
	}
	if !r.when.mayMention("request") {
		return
	}
	switch r.when.compiled().tick {
	case time.Second:
		e.state.clock.seconds += more
	case time.Minute:
		e.state.clock.minutes += more
	}
}

// settle makes the clock's ends what they are after an edit.
func (e *edit) settle() {
	if e.endsChanged {
		e.state.clock.ends = slices.Sorted(maps.Keys(e.table.shared.ends))
	}
}

// next is the first end after a time; zero: there is none.
func (c *clock) next(now time.Time) int64 {
	i, found := slices.BinarySearch(c.ends, now.UnixNano())
	if found {
		i++
	}
	if i == len(c.ends) {
		return 0
	}
	return c.ends[i]
}

// NextBoundary is the next time after now at which time alone may change a verdict: a block's or a rule's end, or the next second
// or minute where conditions read the time. Not ok: there is none.
func (t *Table) NextBoundary(now time.Time) (at time.Time, ok bool) {
	s := t.state()
	sooner := func(t time.Time) {
		if !ok || t.Before(at) {
			at, ok = t, true
		}
	}
	s.blocks.each(func(b *block) bool {
		if !b.until.IsZero() && b.stands(now) {
			sooner(b.until)
		}
		return true
	})
	if end := s.clock.next(now); end != 0 {
		sooner(time.Unix(0, end))
	}
	switch {
	case s.clock.seconds > 0:
		sooner(now.Truncate(time.Second).Add(time.Second))
	case s.clock.minutes > 0:
		sooner(now.Truncate(time.Minute).Add(time.Minute))
	}
	return at, ok
}
