package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Limit is how much may be called and had, by one rule. It is the table's: do not change it.
type Limit struct {
	// Budget is empty where only single results are limited.
	Budget string
	Window time.Duration
	// Calls, Items and Bytes are totals of a window; ResultItems and ResultBytes are of one result. Zero: however many.
	Calls, Items, Bytes, ResultItems, ResultBytes uint64

	person, tool, connector, grantee bool
	group                            string
	// By names the rule, and Because says what it limits, in words.
	By, Because string
}

// maxWindow bounds a window, minWindow is the shortest.
const (
	minWindow = time.Second
	maxWindow = 31 * 24 * time.Hour
)

// checkLimit refuses what a rule says of limits.
func checkLimit(r *policyv1.Rule) error {
	l := r.GetLimit()
	switch totals := l.GetCalls() > 0 || l.GetItems() > 0 || l.GetBytes() > 0; {
	case (r.GetRequire() == policyv1.Duty_DUTY_LIMIT) != (l != nil):
		return fmt.Errorf("the rule that %s: a rule that requires limit, and no other, says how much under limit", said(r))
	case l == nil:
		return nil
	case !totals && l.GetResultItems() == 0 && l.GetResultBytes() == 0:
		return fmt.Errorf("the rule that %s limits nothing: it says calls, items, bytes, resultItems or resultBytes", said(r))
	case totals && (l.GetBudget() == "" || l.GetWindow() == nil):
		return fmt.Errorf("the rule that %s limits a total: it names the budget and its window", said(r))
	case !totals && (l.GetBudget() != "" || l.GetWindow() != nil || len(l.GetPer()) > 0):
		return fmt.Errorf("the rule that %s limits single results only: budget, window and per are for totals", said(r))
	case totals && (l.GetWindow().AsDuration() < minWindow || l.GetWindow().AsDuration() > maxWindow):
		return fmt.Errorf("the rule that %s: a window is %s to %s long", said(r), minWindow, maxWindow)
	case l.GetResultItems() > 0 && l.GetItems() > 0 && l.GetResultItems() > l.GetItems(), l.GetResultBytes() > 0 && l.GetBytes() > 0 && l.GetResultBytes() > l.GetBytes():
		return fmt.Errorf("the rule that %s: one result may be larger than all of a window together", said(r))
	case slices.Contains(l.GetPer(), policyv1.Per_PER_EVERYONE) && len(l.GetPer()) > 1, len(slices.Compact(slices.Sorted(slices.Values(l.GetPer())))) != len(l.GetPer()):
		return fmt.Errorf("the rule that %s: per names each once, and everyone alone", said(r))
	case len(l.ProtoReflect().GetUnknown()) > 0, slices.ContainsFunc(l.GetPer(), func(p policyv1.Per) bool { return p <= 0 || p > policyv1.Per_PER_EVERYONE }):
		return fmt.Errorf("the rule that %s limits what this build does not know: upgrade it", said(r))
	}
	return nil
}

// limit is what a rule limits to somebody.
func (r *ruleOf) limit() *Limit {
	l, by := r.wire.GetLimit(), strings.TrimSuffix(r.name(), ",")
	out := &Limit{
		Budget: l.GetBudget(), Window: l.GetWindow().AsDuration(), Calls: l.GetCalls(), Items: l.GetItems(), Bytes: l.GetBytes(), ResultItems: l.GetResultItems(), ResultBytes: l.GetResultBytes(),
		person: len(l.GetPer()) == 0, By: by, Because: by + ": " + LimitText(l),
	}
	for _, per := range l.GetPer() {
		switch per {
		case policyv1.Per_PER_PERSON:
			out.person = true
		case policyv1.Per_PER_GROUP:
			out.grantee, out.group = true, r.group
		case policyv1.Per_PER_TOOL:
			out.tool = true
		case policyv1.Per_PER_CONNECTOR:
			out.connector = true
		}
	}
	return out
}

// Subject is who or what has a budget of its own: of the parts that have no say, nothing.
func (l *Limit) Subject(person, connector, tool string) (ofPerson, ofGroup, ofTool, ofConnector string) {
	if l.person {
		ofPerson = person
	}
	if l.grantee {
		ofGroup = l.group
	}
	if l.tool {
		ofTool = tool
		ofConnector = connector // a tool's name says nothing without it
	}
	if l.connector {
		ofConnector = connector
	}
	return ofPerson, ofGroup, ofTool, ofConnector
}

// Sized tells whether what results come to counts.
func (l *Limit) Sized() bool {
	return l.Items > 0 || l.Bytes > 0 || l.ResultItems > 0 || l.ResultBytes > 0
}

// LimitText says a limit in words.
func LimitText(l *policyv1.Limit) string {
	var parts []string
	for _, one := range []struct {
		n    uint64
		unit string
	}{{l.GetCalls(), "calls"}, {l.GetItems(), "items"}, {l.GetBytes(), "bytes"}} {
		if one.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", one.n, one.unit))
		}
	}
	text := ""
	if len(parts) > 0 {
		text = strings.Join(parts, ", ") + " in " + l.GetWindow().AsDuration().String() + " of budget " + l.GetBudget() + ", per "
		per := make([]string, 0, len(l.GetPer()))
		for _, p := range l.GetPer() {
			per = append(per, strings.ToLower(strings.TrimPrefix(p.String(), "PER_")))
		}
		if len(per) == 0 {
			per = []string{"person"}
		}
		text += strings.Join(per, " and ")
	}
	for _, one := range []struct {
		n    uint64
		unit string
	}{{l.GetResultItems(), "items"}, {l.GetResultBytes(), "bytes"}} {
		if one.n > 0 {
			if text != "" {
				text += "; "
			}
			text += fmt.Sprintf("at most %d %s in one result", one.n, one.unit)
		}
	}
	return text
}

// limiting is what a verdict remembers of limits: what is certain to count, and rules that may count too.
type limiting struct {
	certain []*Limit
	maybe   []ruleOf
}

func newLimiting(set *groupSet, c *connector, tool *pinnedTool) *limiting {
	var out limiting
	for r := range rulesOf(set, c) {
		if r.effect != meters || !r.covers(tool) {
			continue
		}
		switch always, never := r.certain(); {
		case never:
		case always:
			out.certain = append(out.certain, r.limit())
		default:
			out.maybe = append(out.maybe, r)
		}
	}
	if out.certain == nil && out.maybe == nil {
		return nil
	}
	return &out
}

// of are the limits of a request.
func (l *limiting) of(f *facts, q *Request) []*Limit {
	out := l.certain
	for i := range l.maybe {
		if r := &l.maybe[i]; r.counts(f, q) {
			out = append(slices.Clip(out), r.limit())
		}
	}
	return out
}
