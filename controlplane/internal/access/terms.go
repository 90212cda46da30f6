package access

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// TermChange is what a change of policy does to a limit on somebody's calls of one tool, or to what is taken out of them.
type TermChange struct {
	Redaction     bool
	Move          Move
	Before, After string
	// By names the rules, of those after it unless it goes.
	By []string
}

// compareTerms tells what becomes of limits and redactions, in a fixed order.
func compareTerms(before, after *policy.Terms) []TermChange {
	if len(before.Limits)+len(after.Limits)+len(before.Taken)+len(after.Taken) == 0 { // as of most people
		return nil
	}
	return append(compareLimits(before.Limits, after.Limits), compareTaken(before.Taken, after.Taken)...)
}

// account is what a limit is of. Rules with one account are one limit, of which the least holds.
type account struct {
	result bool // of one result
	budget string
	window int64
	of     string // whose or what has a budget of its own
	maybe  bool
	rule   [32]byte
}

// bound is a limit as all rules together make it.
type bound struct {
	account
	calls, items, bytes uint64
	per                 []policyv1.Per
	by                  []string
}

func least(a *uint64, b uint64) {
	if b != 0 && (*a == 0 || b < *a) {
		*a = b
	}
}

// boundsOf puts limits of one account together.
func boundsOf(limits []policy.Bound) map[account]*bound {
	all := map[account]*bound{}
	add := func(k account, l *policy.Bound, calls, items, bytes uint64) {
		if calls == 0 && items == 0 && bytes == 0 {
			return
		}
		b := all[k]
		if b == nil {
			b = &bound{account: k, per: l.Per}
			all[k] = b
		}
		least(&b.calls, calls)
		least(&b.items, items)
		least(&b.bytes, bytes)
		b.by = append(b.by, l.Limit.By)
	}
	for i := range limits {
		b := &limits[i]
		l := &b.Limit
		_, group, _, _ := l.Subject("", "", "")
		add(account{budget: l.Budget, window: int64(l.Window), of: fmt.Sprint(b.Per, group), maybe: !b.Certain, rule: b.Rule}, b, l.Calls, l.Items, l.Bytes)
		add(account{result: true, maybe: !b.Certain, rule: b.Rule}, b, 0, l.ResultItems, l.ResultBytes)
	}
	return all
}

func (b *bound) text() string {
	l := &policyv1.Limit{ResultItems: b.items, ResultBytes: b.bytes}
	if !b.result {
		l = &policyv1.Limit{Budget: b.budget, Window: durationpb.New(time.Duration(b.window)), Calls: b.calls, Items: b.items, Bytes: b.bytes, Per: b.per}
	}
	return policy.LimitText(l) + some(b.maybe)
}

// some says that what is limited or taken out is so in some calls alone.
func some(maybe bool) string {
	if maybe {
		return ", in some calls"
	}
	return ""
}

// to tells what becomes of a limit that another takes the place of.
func (b *bound) to(after *bound) Move {
	m := moved(b.calls, after.calls).and(moved(b.items, after.items)).and(moved(b.bytes, after.bytes))
	m = m.and(order(after.window, b.window)) // in more time the same is less
	switch {
	case b.maybe && !after.maybe:
		m = m.and(Narrows)
	case !b.maybe && after.maybe:
		m = m.and(Widens)
	case b.rule != after.rule:
		m = m.and(Changes)
	}
	if b.of != after.of {
		m = m.and(Changes)
	}
	return m
}

func compareLimits(before, after []policy.Bound) []TermChange {
	was, is := boundsOf(before), boundsOf(after)
	pairs := map[*bound]*bound{} // by what comes after
	for k, b := range was {
		if a := is[k]; a != nil {
			pairs[a] = b
		}
	}
	// What is left of one budget is taken for the same limit with another window, say.
	left := inOrder(was, func(b *bound) bool { return is[b.account] == nil })
	for _, a := range inOrder(is, func(b *bound) bool { return was[b.account] == nil }) {
		i := slices.IndexFunc(left, func(b *bound) bool { return b.result == a.result && b.budget == a.budget })
		if i >= 0 {
			pairs[a] = left[i]
			left = slices.Delete(left, i, i+1)
		}
	}
	var out []TermChange
	for _, a := range inOrder(is, func(*bound) bool { return true }) {
		b := pairs[a]
		if b == nil {
			out = append(out, TermChange{Move: Comes, After: a.text(), By: a.by})
		} else if m := b.to(a); m != Stays {
			out = append(out, TermChange{Move: m, Before: b.text(), After: a.text(), By: a.by})
		}
	}
	for _, b := range left {
		out = append(out, TermChange{Move: Goes, Before: b.text(), By: b.by})
	}
	return out
}

// inOrder are the limits of whom it holds, in a fixed order.
func inOrder(all map[account]*bound, holds func(*bound) bool) []*bound {
	var out []*bound
	for b := range maps.Values(all) {
		if holds(b) {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b *bound) int {
		return cmp.Or(cmp.Compare(a.text(), b.text()), strings.Compare(string(a.rule[:]), string(b.rule[:])))
	})
	return out
}

// place is where something is taken out.
type place struct {
	result bool
	path   string
}

// taking is how much is taken out at a place: 0 nothing, 1 in some calls, 2 in each.
type taking struct {
	audit, agent uint64
	rules        string // of those that take out in some calls
	by           []string
}

func takingOf(all []policy.Taken) map[place]*taking {
	out := map[place]*taking{}
	for _, t := range all {
		k := place{t.Result, canonical(t.Path)}
		has := out[k]
		if has == nil {
			has = &taking{}
			out[k] = has
		}
		level := uint64(1)
		if t.Certain {
			level = 2
		} else {
			has.rules += string(t.Rule[:])
		}
		if has.audit = max(has.audit, level); t.Agent {
			has.agent = max(has.agent, level)
		}
		has.by = append(has.by, t.By)
	}
	return out
}

// canonical is one way to write a path, of which letter case does not count. A name is short for its descendant path.
func canonical(path string) string {
	path = strings.ToLower(path)
	if name, ok := strings.CutPrefix(path, "$.."); ok && !strings.ContainsAny(name, "$.[]*'\"\\") {
		return name
	}
	return path
}

// to tells what becomes of it.
func (t *taking) to(after *taking) Move {
	if t == nil {
		return Comes
	}
	if after == nil {
		return Goes
	}
	m := order(after.audit, t.audit).and(order(after.agent, t.agent))
	if m == Stays && (t.audit == 1 || t.agent == 1) && t.rules != after.rules {
		return Changes
	}
	return m
}

// text says it, of paths that are alike.
func (t *taking) text(result bool, paths []string) string {
	if t == nil {
		return ""
	}
	text := strings.Join(paths, ", ")
	if !result {
		return text + " of arguments, in audit" + some(t.audit == 1)
	}
	switch t.agent {
	case 0:
		return text + " of results, in audit" + some(t.audit == 1)
	case t.audit:
		return text + " of results, in audit and for the agent" + some(t.agent == 1)
	}
	return text + " of results, in audit, and for the agent" + some(true)
}

func compareTaken(before, after []policy.Taken) []TermChange {
	was, is := takingOf(before), takingOf(after)
	type kind struct {
		result bool
		move   Move
		of, to string // without paths
		by     string
	}
	alike := map[kind][]string{}
	example := map[kind]place{}
	note := func(k place) {
		b, a := was[k], is[k]
		m := b.to(a)
		if m == Stays {
			return
		}
		by := a
		if a == nil {
			by = b
		}
		slices.Sort(by.by)
		one := kind{k.result, m, b.text(k.result, nil), a.text(k.result, nil), strings.Join(slices.Compact(by.by), "\x00")}
		alike[one] = append(alike[one], k.path)
		example[one] = k
	}
	for k := range was {
		note(k)
	}
	for k := range is {
		if was[k] == nil {
			note(k)
		}
	}
	var out []TermChange
	for one, paths := range alike {
		slices.Sort(paths)
		k := example[one]
		out = append(out, TermChange{
			Redaction: true, Move: one.move, Before: was[k].text(k.result, paths), After: is[k].text(k.result, paths), By: strings.Split(one.by, "\x00"),
		})
	}
	slices.SortFunc(out, func(a, b TermChange) int {
		return cmp.Or(cmp.Compare(a.After, b.After), cmp.Compare(a.Before, b.Before))
	})
	return out
}

// TermTexts says limits and redactions in words.
func TermTexts(t policy.Terms) (limits, redactions []string) {
	for _, b := range inOrder(boundsOf(t.Limits), func(*bound) bool { return true }) {
		limits = append(limits, b.text())
	}
	for _, c := range compareTaken(nil, t.Taken) {
		redactions = append(redactions, c.After)
	}
	return limits, redactions
}
