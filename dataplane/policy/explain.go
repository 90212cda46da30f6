package policy

import policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

// Explanation is a verdict with all that was looked at.
type Explanation struct {
	Decision
	// Rules are those of all the person's groups on the connector, by group, in their order. They are there
	// whatever the reason, so that it can be seen what would hold without a block, say.
	Rules []Trace
}

// Trace is what became of one rule.
type Trace struct {
	Group string
	Index int // from 1
	Rule  *policyv1.Rule
	// OtherTool: the rule is about others.
	OtherTool bool
	Matched   bool
	// Err is why the condition could not be evaluated.
	Err error
}

// Explain makes the verdict as Decide does, of one state of the table, and says what became of every rule.
func (t *Table) Explain(r Request) Explanation {
	s := t.state()
	var out Explanation
	s.decide(&r, &out.Decision)
	p, c := s.person(r.Person), s.connector(r.Connector)
	if p == nil || c == nil {
		return out
	}
	for rule := range rulesOf(s.resolve(p.members), c) {
		trace := Trace{Group: rule.group, Index: rule.place, Rule: rule.wire, OtherTool: !rule.globs.match(r.Tool)}
		if !trace.OtherTool {
			trace.Matched, trace.Err = rule.matches(r.Arguments.values)
		}
		out.Rules = append(out.Rules, trace)
	}
	return out
}
