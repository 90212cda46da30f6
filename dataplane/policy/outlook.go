package policy

import (
	"bytes"
	"crypto/sha256"
	"slices"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Access is what can be said of a person's calls of one tool before there is a call.
type Access uint8

const (
	// Never: whatever the arguments are.
	Never Access = iota
	// Sometimes: what only a call says decides, by conditions or by how its person signed in.
	Sometimes
	// Always: whatever the arguments are, once what is asked for was done.
	Always
)

// Outlook is what a person may do with one tool, and what that rests on.
type Outlook struct {
	Access Access
	// Reason is why, where it is Never.
	Reason auditv1.Reason
	// Duty is the least that a call is asked for before it is made.
	Duty policyv1.Duty
	// Certain: it is so of each call, whatever its arguments are; Access is not Sometimes, and Duty is what is asked for.
	Certain bool
	// By names the rules that may allow it, or the one that denies it.
	By []string
	// Rules is the same for the same words of all rules that have a say, wherever they stand.
	Rules [16]byte
	// Terms are there where it is not Never.
	Terms Terms
}

// Outlook tells what a request's person may do with its tool at its time, the arguments, the client, the address and approvals
// being unknown. It rests on the same verdict as Decide and List: what is listed is not Never.
func (t *Table) Outlook(r Request) Outlook {
	v, f, out := t.state().before(&r)
	switch {
	case v == nil:
		return out
	case v.open:
		out = v.outlook(&f, &r)
	default:
		out = v.settled(true)
	}
	if out.Access != Never {
		v.bound(&out.Terms, &f, &r)
	}
	return out
}

// Settled is the Outlook, without By, Rules and Terms, where rules say the same whatever is called and whenever. Not so: the call has a say. It
// costs what a verdict does.
func (t *Table) Settled(r Request) (Outlook, bool) {
	v, _, out := t.state().before(&r)
	switch {
	case v == nil:
		return out, true
	case v.open:
		return Outlook{}, false
	}
	return v.settled(false), true
}

// before is the verdict on calls of a request's person and tool, or, without one, what comes of each of them.
func (s *state) before(r *Request) (*verdict, facts, Outlook) {
	never := func(why auditv1.Reason) (*verdict, facts, Outlook) {
		return nil, facts{}, Outlook{Reason: why, Certain: true}
	}
	if s.broken {
		return never(auditv1.Reason_REASON_STALE)
	}
	p, c := s.person(r.Person), s.connector(r.Connector)
	tool := c.tool(r.Tool)
	withheld := tool == nil && c.withheld(r.Tool)
	if tool == nil && !withheld {
		tool = c.unpinned(r.Tool)
	}
	switch {
	case p == nil:
		return never(auditv1.Reason_REASON_PERSON_UNKNOWN)
	case !p.active:
		return never(auditv1.Reason_REASON_PERSON_INACTIVE)
	case s.blocked.stand(r):
		return never(auditv1.Reason_REASON_BLOCKED)
	case withheld && c.offered(r.Region):
		return never(auditv1.Reason_REASON_TOOL_WITHHELD)
	case tool == nil || !c.offered(r.Region):
		return never(auditv1.Reason_REASON_TOOL_UNKNOWN)
	}
	v := s.verdict(p.members, c, tool)
	return v, facts{person: p, groups: v.names, tool: tool, connector: c}, Outlook{}
}

// settled is the outlook where nothing is up to a call.
func (v *verdict) settled(named bool) Outlook {
	out := Outlook{Reason: v.decision.reason, Certain: true}
	if named && v.decision.group != "" {
		out.By = []string{ruleName(v.decision.place, v.decision.set, v.decision.group)}
	}
	if v.decision.reason == auditv1.Reason_REASON_RULE_ALLOWED {
		out.Access, out.Reason, out.Duty = Always, 0, v.decision.duties.least()
		if d := v.decision.duties; named && d != nil {
			out.Terms.Confirm, out.Terms.Steps = d.Confirm, d.Steps
		}
	}
	return out
}

// least is the least that duties come to.
func (d *Duties) least() policyv1.Duty {
	switch {
	case d == nil:
		return policyv1.Duty_DUTY_UNSPECIFIED
	case len(d.Steps) > 0:
		return policyv1.Duty_DUTY_REVIEW
	case d.Confirm != 0:
		return policyv1.Duty_DUTY_CONFIRM
	}
	return policyv1.Duty_DUTY_UNSPECIFIED
}

// outlook is what an open verdict may come to.
func (v *verdict) outlook(f *facts, q *Request) Outlook {
	out := Outlook{Access: Never, Reason: auditv1.Reason_REASON_NOTHING_ALLOWS, Certain: true}
	access := Sometimes
	var asked Duties
	spared := true // no deny may match, and no sign-in is required
	var words [][]byte
	for i := range v.denies {
		switch r := &v.denies[i]; r.without(f, q) {
		case surely, surelyFails:
			return Outlook{Reason: auditv1.Reason_REASON_RULE_DENIED, By: []string{r.name()}, Certain: true}
		case perhaps:
			spared, out.Certain = false, false
			words = append(words, r.words())
		}
	}
	for i := range v.allows {
		r := &v.allows[i]
		is := r.without(f, q)
		if is == surelyNot || is == surelyFails {
			continue
		}
		if len(out.By) == 0 {
			out.Duty = r.duty()
			asked.ask(r)
		}
		out.By = append(out.By, r.name())
		if words = append(words, r.words()); is == surely && r.signIn == nil {
			access = Always
			break
		}
		out.Certain = false
	}
	if len(out.By) == 0 {
		out.Certain = true // whatever denies, nothing allows
		return out
	}
	for i := range v.requires {
		r := &v.requires[i]
		is := r.without(f, q)
		if is != surelyNot && r.signIn != nil { // only a call tells how its person signed in
			spared, out.Certain = false, false
			words = append(words, r.words())
			continue
		}
		switch is {
		case surely, surelyFails:
			out.Duty = max(out.Duty, r.duty())
			asked.ask(r)
			words = append(words, r.words())
		case perhaps:
			out.Certain = false
			words = append(words, r.words())
		}
	}
	if out.Access, out.Reason = access, 0; !spared {
		out.Access = Sometimes
	}
	out.Rules = digestOf(words)
	asked.settle()
	out.Terms.Confirm, out.Terms.Steps = asked.Confirm, asked.Steps
	return out
}

// ask adds what a rule asks for.
func (d *Duties) ask(r *ruleOf) {
	switch r.tier {
	case atOnce:
	case afterReview:
		d.Steps = append(d.Steps, Step{*r.approval})
	case afterClient, afterBrowser:
		d.Confirm = max(d.Confirm, r.assurance)
	}
}

func (r *ruleOf) words() []byte { return r.digest(&connector{}) }

func digestOf(words [][]byte) (out [16]byte) {
	slices.SortFunc(words, bytes.Compare)
	h := sha256.New()
	for _, w := range slices.CompactFunc(words, bytes.Equal) {
		_, _ = h.Write(w) // a hash does not fail
	}
	copy(out[:], h.Sum(nil))
	return out
}
