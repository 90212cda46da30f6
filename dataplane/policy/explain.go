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
	// RuleSet is where the rule stands, if not in the grant itself: Index is its place there.
	RuleSet string
	// OtherTool: the rule is about others. OtherHints: about tools with other annotations. Ended: it is over.
	OtherTool, OtherHints, Ended bool
	Matched                      bool
	// TooWeak: it matches, but the person did not sign in as it asks.
	TooWeak bool
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
	tool := c.tool(r.Tool)
	if tool == nil {
		tool = c.unpinned(r.Tool)
	}
	set := s.resolve(p.members)
	f := facts{args: r.Arguments.values, person: p, groups: set.names, tool: tool, connector: c}
	for rule := range rulesOf(set, c) {
		trace := Trace{Group: rule.group, Index: rule.place, RuleSet: rule.wire.GetRuleSet(), Rule: rule.wire}
		switch {
		case tool == nil || !rule.globs.match(r.Tool):
			trace.OtherTool = true
		case !rule.covers(tool):
			trace.OtherHints = true
		case rule.ended(r.Now):
			trace.Ended = true
		default:
			trace.Matched, trace.Err = rule.matches(&f, &r)
			trace.TooWeak = trace.Matched && rule.signIn != nil && !rule.signIn.met(&r)
		}
		out.Rules = append(out.Rules, trace)
	}
	return out
}
