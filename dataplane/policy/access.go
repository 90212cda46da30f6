package policy

import (
	"slices"
	"strconv"
	"sync/atomic"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
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
	// open: conditions, or the time, have a say. Otherwise decision holds whatever is asked.
	open     bool
	decision ruling
	set      *groupSet
	names    []string   // the set's
	redacted *redacting // nil: nothing is taken out
	limited  *limiting  // nil: nothing is limited
	// denies are tried first, then allows, of which the most permissive come first, then what is required beside.
	denies   []ruleOf
	allows   []ruleOf
	requires []ruleOf
}

// ruling is a verdict with the rule that it rests on, if any.
type ruling struct {
	reason auditv1.Reason
	failed bool
	place  int
	group  string
	set    string
	duties *Duties // nil: nothing need be done before
	signIn *SignIn // of a reason that asks for one
}

// ruleOf is a rule with its group's name.
type ruleOf struct {
	*rule
	group string
	// How permissive an allow is, and how sure a confirmation must be.
	tier      tier
	assurance policyv1.ConfirmationAssurance
}

// tier is what an allow asks for: less comes first.
type tier uint8

const (
	atOnce tier = iota
	afterClient
	afterBrowser
	afterReview
)

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
		s.memory.hold(set, 216+40*(len(v.denies)+len(v.allows)+len(v.requires)))
	}
	if held == nil || held.at != c.at || held.groupsAt != s.groupsAt { // the first that asks keeps the place while it can
		near.Store(v)
	}
	return v
}

// newVerdict collects the rules that match a tool. A deny that is certain to match makes all others idle;
// behind an allow that is certain to match none is looked at that asks for more.
func newVerdict(set *groupSet, c *connector, tool *pinnedTool) *verdict {
	v := &verdict{tool: tool.number, at: c.at, groupsAt: set.at, decision: nothingAllows, set: set, names: set.names, redacted: newRedacting(set, c, tool), limited: newLimiting(set, c, tool)}
	for r := range rulesOf(set, c) {
		if !r.covers(tool) {
			continue
		}
		always, never := r.certain()
		r.weigh(tool)
		switch {
		case never, r.effect == redacts, r.effect == meters:
		case r.effect == denies && always:
			v.decision, v.denies, v.allows, v.requires = r.ruling(auditv1.Reason_REASON_RULE_DENIED), nil, nil, nil
			return v
		case r.effect == denies:
			v.denies = append(v.denies, r)
		case r.effect == requires:
			v.requires = append(v.requires, r)
		default:
			v.allows = append(v.allows, r)
		}
	}
	v.trim()
	if len(v.allows) == 0 && len(v.denies) == 0 {
		v.requires = nil
		return v
	}
	if v.constant() {
		v.decision = v.on(&facts{}, &Request{})
		v.allows, v.requires = nil, nil
		return v
	}
	v.open = true
	return v
}

// trim orders allows and drops those that cannot count.
func (v *verdict) trim() {
	slices.SortStableFunc(v.allows, func(a, b ruleOf) int { return int(a.tier) - int(b.tier) })
	for _, r := range v.allows {
		always, _ := r.certain()
		switch {
		case !always:
			continue
		case r.tier == afterReview: // others that do are alternatives to it
			return
		}
		less := slices.IndexFunc(v.allows, func(other ruleOf) bool { return other.tier == r.tier })
		v.allows = append(v.allows[:less], r)
		return
	}
}

// constant tells whether all rules that are left are certain to match.
func (v *verdict) constant() bool {
	for _, r := range slices.Concat(v.denies, v.allows, v.requires) {
		if always, _ := r.certain(); !always {
			return false
		}
	}
	return true
}

// listed tells whether some arguments may be allowed, as far as can be told without them and without approvals: not
// if a deny is certain to match, or each allow certain not to.
func (v *verdict) listed(f *facts, q *Request) bool {
	if !v.open {
		return v.decision.reason == auditv1.Reason_REASON_RULE_ALLOWED
	}
	for i := range v.denies {
		if is := v.denies[i].without(f, q); is == surely || is == surelyFails {
			return false
		}
	}
	for i := range v.allows {
		if is := v.allows[i].without(f, q); is == surely || is == perhaps {
			return true
		}
	}
	return false
}

// on decides an open verdict. A deny and a require that cannot be evaluated count as matching, an allow does not.
func (v *verdict) on(f *facts, q *Request) ruling {
	for i := range v.denies {
		r := &v.denies[i]
		if matched, err := r.matches(f, q); matched || err != nil {
			out := r.ruling(auditv1.Reason_REASON_RULE_DENIED)
			out.failed = err != nil
			return out
		}
	}
	var by *ruleOf   // the first of the most permissive allows that match
	var weak *ruleOf // the first that would, had the person signed in so
	var step Step
	for i := range v.allows {
		r := &v.allows[i]
		if by != nil && (r.tier > by.tier || r.tier != afterReview) {
			break
		}
		if matched, err := r.matches(f, q); !matched || err != nil {
			continue
		}
		if r.signIn != nil && !r.signIn.met(q) {
			weak = firstOf(weak, r)
			continue
		}
		by = firstOf(by, r)
		if r.tier == afterReview {
			step = append(step, *r.approval)
		}
	}
	if asks := v.signIn(f, q, by, weak); asks != nil {
		return *asks
	}
	if by == nil {
		return nothingAllows
	}
	out := by.ruling(auditv1.Reason_REASON_RULE_ALLOWED)
	switch {
	case step != nil:
		out.duty(by).Steps = append(out.duties.Steps, step)
	case by.tier != atOnce:
		out.duty(by).Confirm = by.assurance
	}
	for i := range v.requires {
		r := &v.requires[i]
		if matched, err := r.matches(f, q); !matched && err == nil || r.signIn != nil {
			continue
		}
		out.duty(r).ask(r)
	}
	if out.duties != nil {
		out.duties.settle()
	}
	return out
}

// signIn is the ruling that the person must sign in before a call is allowed, or nil: rules that require it are not content with how
// they did, or none but such rules allow. What it asks for is as all of them do, so that one sign-in is enough.
func (v *verdict) signIn(f *facts, q *Request, by, weak *ruleOf) *ruling {
	if by == nil && weak == nil {
		return nil
	}
	first := weak
	if by != nil {
		first = nil
	}
	var asked *SignIn
	for i := range v.requires {
		r := &v.requires[i]
		if r.signIn == nil {
			continue
		}
		if matched, err := r.matches(f, q); !matched && err == nil {
			continue
		}
		asked = asked.And(r.signIn)
		if !r.signIn.met(q) {
			first = firstOf(first, r)
		}
	}
	if first == nil {
		return nil
	}
	if by == nil {
		by = weak
	}
	out := first.ruling(auditv1.Reason_REASON_SIGN_IN_REQUIRED)
	out.signIn = by.signIn.And(asked)
	return &out
}

func firstOf(r, other *ruleOf) *ruleOf {
	if r == nil {
		return other
	}
	return r
}

// duty notes that a rule asks for something.
func (r *ruling) duty(by *ruleOf) *Duties {
	if r.duties == nil {
		r.duties = &Duties{}
	}
	r.duties.Because = append(r.duties.Because, by.name())
	return r.duties
}

func (r *ruleOf) ruling(reason auditv1.Reason) ruling {
	return ruling{reason: reason, place: r.place, group: r.group, set: r.wire.GetRuleSet()}
}

// name says which rule it is, for people.
func (r *ruleOf) name() string { return ruleName(r.place, r.wire.GetRuleSet(), r.group) }

func ruleName(place int, set, group string) string {
	if set != "" {
		return "rule " + strconv.Itoa(place) + " of rule set " + set + ", by " + group + ","
	}
	return "rule " + strconv.Itoa(place) + " of " + group
}

// covers tells whether a rule is about a tool. What cannot be told counts for a rule that takes away, not for one that gives.
func (r *rule) covers(tool *pinnedTool) bool {
	if !r.globs.match(tool.name) {
		return false
	}
	matched, known := fits(r.wire.GetHints(), tool)
	return matched || !known && r.effect != allows
}

// weigh says what a rule asks for of calls of a tool.
func (r *ruleOf) weigh(tool *pinnedTool) {
	switch r.duty() {
	case policyv1.Duty_DUTY_CONFIRM:
		r.assurance, r.tier = assuranceOf(r.wire.GetAssurance(), tool), afterClient
		if r.assurance == policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER {
			r.tier = afterBrowser
		}
	case policyv1.Duty_DUTY_REVIEW:
		r.tier = afterReview
	}
}

func (r *rule) matches(f *facts, q *Request) (bool, error) {
	if r.until != 0 && r.ended(q.Now) {
		return false, nil
	}
	if r.when == nil {
		return true, nil
	}
	return r.when.holds(f, q)
}

// without says whether a rule matches whatever the arguments are; of a request that is not there yet, whatever it is.
func (r *rule) without(f *facts, q *Request) outcome {
	if r.until != 0 && r.ended(q.Now) {
		return surelyNot
	}
	if r.when == nil {
		return surely
	}
	unknown := argsRoot
	if q.From == nil {
		unknown |= requestRoot
	}
	return r.when.without(f, q, unknown)
}

// certain tells whether a rule matches, or does not, whatever is asked and whenever.
func (r *rule) certain() (always, never bool) {
	if r.when != nil {
		always, never = r.when.certain()
	} else {
		always = true
	}
	return always && r.until == 0 && r.signIn == nil, never
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
				if !yield(ruleOf{rule: r, group: of.name}) {
					return
				}
			}
		}
	}
}
