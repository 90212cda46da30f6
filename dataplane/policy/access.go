package policy

import (
	"sync/atomic"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// access is what a set of groups may do on a connector, as of the connector's number `at`.
type access struct {
	connector uint32
	at        uint64
	// tools are verdicts in the order of the catalogue's tools, found when they are first asked for.
	tools []atomic.Pointer[verdict]
}

// verdict is what the rules of a set of groups say of one tool: constant, or up to conditions.
type verdict struct {
	// The verdict holds for the tool of this number, while the connector and the groups are at these.
	tool         uint32
	at, groupsAt uint64
	// open: conditions have a say. Otherwise decision holds whatever the arguments.
	open     bool
	decision ruling
	set      *groupSet
	names    []string // the set's
	// denies are tried first, then allows. The last of allows may be without a condition.
	denies []ruleOf
	allows []ruleOf
}

// ruling is a verdict with the rule that it rests on, if any.
type ruling struct {
	reason auditv1.Reason
	failed bool
	place  int
	group  string
}

// ruleOf is a rule with its group's name.
type ruleOf struct {
	*rule
	group string
}

var nothingAllows = ruling{reason: auditv1.Reason_REASON_NOTHING_ALLOWS}

// verdict returns what rules say of a connector's tool to those who are in a set of groups.
func (s *state) verdict(m *memberSet, c *connector, tool *pinnedTool) *verdict {
	if tool.place < 0 { // there is no end of URIs: these verdicts are not remembered
		return newVerdict(s.resolve(m), c, tool)
	}
	near := &m.near[tool.number%uint32(len(m.near))]
	held := near.Load()
	if held != nil && held.tool == tool.number && held.at == c.at && held.groupsAt == s.groupsAt {
		return held
	}
	set := s.resolve(m)
	a := s.on(set, c)
	v := a.tools[tool.place].Load()
	if v == nil {
		v = newVerdict(set, c, tool)
		a.tools[tool.place].Store(v)
		s.memory.hold(set, 176+32*(len(v.denies)+len(v.allows)))
	}
	if held == nil || held.at != c.at || held.groupsAt != s.groupsAt { // the first that asks keeps the place while it can
		near.Store(v)
	}
	return v
}

// newVerdict collects the rules that match a tool. A deny that is certain to match makes all others idle;
// behind an allow that is certain to match no other allow is looked at.
func newVerdict(set *groupSet, c *connector, tool *pinnedTool) *verdict {
	v := &verdict{tool: tool.number, at: c.at, groupsAt: set.at, decision: nothingAllows, set: set, names: set.names}
	certain := false
	for r := range rulesOf(set, c) {
		if !r.globs.match(tool.name) {
			continue
		}
		switch always, never := r.certain(); {
		case never:
		case r.deny && always:
			v.decision, v.denies, v.allows = r.ruling(auditv1.Reason_REASON_RULE_DENIED), nil, nil
			return v
		case r.deny:
			v.denies = append(v.denies, r)
		case certain:
		case always:
			v.allows, certain = []ruleOf{r}, true
		default:
			v.allows = append(v.allows, r)
		}
	}
	switch {
	case len(v.allows) == 0 && len(v.denies) == 0:
	case certain && len(v.denies) == 0:
		v.decision, v.allows = v.allows[0].ruling(auditv1.Reason_REASON_RULE_ALLOWED), nil
	default:
		v.open = true
	}
	return v
}

// listed tells whether some arguments may be allowed, as far as can be told without them.
func (v *verdict) listed() bool {
	if v.open {
		return len(v.allows) > 0
	}
	return v.decision.reason == auditv1.Reason_REASON_RULE_ALLOWED
}

// on decides an open verdict on arguments.
func (v *verdict) on(a values) ruling {
	for i := range v.denies {
		r := &v.denies[i]
		if matched, err := r.matches(a); matched || err != nil { // a deny that cannot be evaluated counts
			out := r.ruling(auditv1.Reason_REASON_RULE_DENIED)
			out.failed = err != nil
			return out
		}
	}
	for i := range v.allows {
		r := &v.allows[i]
		if matched, err := r.matches(a); matched && err == nil {
			return r.ruling(auditv1.Reason_REASON_RULE_ALLOWED)
		}
	}
	return nothingAllows
}

func (r *ruleOf) ruling(reason auditv1.Reason) ruling {
	return ruling{reason: reason, place: r.place, group: r.group}
}

func (r *rule) matches(a values) (bool, error) {
	if r.when == nil {
		return true, nil
	}
	return r.when.holds(a)
}

// certain tells whether a rule matches, or does not, whatever the arguments.
func (r *rule) certain() (always, never bool) {
	if r.when == nil {
		return true, false
	}
	return r.when.certain()
}

// rulesOf goes through the rules of all groups of a set on a connector: by group, in their order.
func rulesOf(set *groupSet, c *connector) func(func(ruleOf) bool) {
	return func(yield func(ruleOf) bool) {
		for _, of := range set.groups {
			g := c.grant(of.number)
			if g == nil {
				continue
			}
			for _, r := range g.rules {
				if !yield(ruleOf{r, of.name}) {
					return
				}
			}
		}
	}
}
