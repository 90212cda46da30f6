package access

import (
	"cmp"
	"slices"

	"sallyport.dev/dataplane/policy"
)

// Move is what becomes of what somebody may do, of a limit or of a redaction.
type Move uint8

const (
	// Stays: as it was.
	Stays Move = iota
	// Comes: there was none.
	Comes
	// Goes: there is none any more.
	Goes
	// Widens: more may be had, or less is asked for or taken out.
	Widens
	// Narrows: the other way round.
	Narrows
	// Changes: both, or other conditions decide.
	Changes
)

// moved compares two numbers of which the larger gives more; zero is no bound.
func moved(before, after uint64) Move {
	switch {
	case before == after:
		return Stays
	case after == 0, before != 0 && after > before:
		return Widens
	}
	return Narrows
}

// and is what two moves come to.
func (m Move) and(other Move) Move {
	switch {
	case m == Stays || m == other:
		return other
	case other == Stays:
		return m
	}
	return Changes
}

// order compares two values of which the larger gives more.
func order[T cmp.Ordered](before, after T) Move {
	switch {
	case after > before:
		return Widens
	case after < before:
		return Narrows
	}
	return Stays
}

// compareAccess tells what becomes of access itself, and of what is asked for before a call.
func compareAccess(before, after *policy.Outlook) Move {
	switch {
	case before.Access == policy.Never && after.Access == policy.Never:
		return Stays
	case before.Access == policy.Never:
		return Comes
	case after.Access == policy.Never:
		return Goes
	}
	m := order(before.Access, after.Access)
	if before.Duty != after.Duty {
		return m.and(order(after.Duty, before.Duty))
	}
	m = m.and(order(after.Terms.Confirm, before.Terms.Confirm)).and(compareSteps(before.Terms.Steps, after.Terms.Steps))
	if m == Stays && before.Rules != after.Rules {
		return Changes
	}
	return m
}

// compareSteps compares what must be approved: more is asked where a step comes, or more people must approve the same.
func compareSteps(before, after []policy.Step) Move {
	same := func(a, b policy.Approval) bool {
		return slices.Equal(a.Approvers, b.Approvers) && a.Self == b.Self && a.Wait == b.Wait && a.ValidFor == b.ValidFor
	}
	alike := func(a, b policy.Approval) bool { return same(a, b) && a.Approvals == b.Approvals }
	holds := func(all, some []policy.Step) bool {
		return !slices.ContainsFunc(some, func(one policy.Step) bool {
			return !slices.ContainsFunc(all, func(other policy.Step) bool { return slices.EqualFunc(one, other, alike) })
		})
	}
	switch more, less := holds(after, before), holds(before, after); {
	case more && less:
		return Stays
	case more:
		return Narrows
	case less:
		return Widens
	case len(before) != len(after):
		return Changes
	}
	m := Stays
	for i, step := range before {
		if !slices.EqualFunc(step, after[i], same) {
			return Changes
		}
		for k := range step {
			m = m.and(order(after[i][k].Approvals, step[k].Approvals))
		}
	}
	return m
}
