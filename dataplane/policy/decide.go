package policy

import (
	"strings"
	"time"

	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Request is what is asked. Time comes in with it: a table has no clock.
type Request struct {
	Person    uuid.UUID
	Client    string
	Connector string
	// Tool is the tool's name, or the Label of a prompt or of a resource.
	Tool string
	// Region of the proxy that asks. Empty: any, and no block on a region stands against it.
	Region string
	// From is where the request comes from. Nil: it is not there yet, which lists take for whatever it may be; a condition
	// that is decided finds nothing in it.
	From *Origin
	// Arguments that Table.Arguments made for this connector and tool, or NoArguments. Others, such as the
	// zero value that an error of Table.Arguments leaves, are denied unless another reason comes first.
	Arguments Arguments
	// Basis, where it is not zero, stands in place of Arguments: of a call that was allowed before.
	Basis Basis
	Now   time.Time
	// Confirmed is how sure it is that the person said yes to this very call. Zero: they were not asked.
	Confirmed policyv1.ConfirmationAssurance
	// Reviewed is what was approved of this very call: Duties.Review of then. Empty: nothing.
	Reviewed string
}

// Origin is where a request comes from, and how its person was authenticated: the claims acr, amr and auth_time of the token.
type Origin struct {
	Address  string
	ACR      string
	AMR      []string
	AuthTime time.Time // zero: the token does not say
	// At is when the request came, up to which a sign-in's age counts. Zero: now.
	At time.Time
}

// Decision is a verdict and what it rests on.
type Decision struct {
	Allowed bool
	Reason  auditv1.Reason
	// Group and Rule name the rule that decided, by its grant's group and its place from 1; zero: none did.
	Group string
	Rule  int
	// RuleSet is where the rule stands, if not in the grant itself.
	RuleSet string
	// Failed: the rule is a deny whose condition could not be evaluated.
	Failed bool
	// Duties are what the rules ask for before the call, whether or not it was done; nil: nothing. They are the table's: do not
	// change them. Where the reason is that something is required, one of them was not done.
	Duties *Duties
	// SignIn is how the person must sign in for it to be allowed, where that is the reason.
	SignIn *SignIn
	// Redaction is what is taken out of what audit keeps of the call, whatever the verdict, and of what the agent gets; nil: nothing.
	Redaction *Redaction
	// Missed: a condition was to read what is not known of Recalled arguments, so that this is no verdict.
	Missed bool
	// Changed: the tool is withheld since its upstream changed it, and not since it offers it no more.
	Changed bool
	// Limits are those against which the call counts, where it is allowed; nil: none. They are the table's: do not change them.
	Limits []*Limit
	// Version is that of the table.
	Version uint64
	// Groups are the names of all groups that counted, sorted. The slice is the table's: do not change it.
	Groups []string

	problem error // what was wrong with the arguments
}

// Decide makes the verdict. It takes no lock, and allocates nothing unless a condition is evaluated or the
// person's set of groups is met for the first time. The first of these that holds is the reason: the table
// is stale; the person is unknown, then inactive; a block stands; the tool is not offered; the rules deny
// whatever the arguments; the arguments were not read; a deny; an allow; nothing allows.
func (t *Table) Decide(r Request) (d Decision) {
	t.state().decide(&r, &d)
	return d
}

func (s *state) decide(r *Request, d *Decision) {
	d.Version = s.version
	if s.broken {
		d.Reason, d.Redaction = auditv1.Reason_REASON_STALE, everythingRedacted
		return
	}
	p := s.person(r.Person)
	if p == nil {
		d.Reason, d.Redaction = auditv1.Reason_REASON_PERSON_UNKNOWN, s.connector(r.Connector).redaction(r.Tool)
		return
	}
	c := s.connector(r.Connector)
	tool := c.tool(r.Tool)
	withheld := tool == nil && c.withheld(r.Tool)
	if tool == nil && !withheld {
		tool = c.unpinned(r.Tool)
	}
	switch {
	case !p.active:
		d.Reason = auditv1.Reason_REASON_PERSON_INACTIVE
	case s.blocked.stand(r):
		d.Reason = auditv1.Reason_REASON_BLOCKED
	case withheld && c.offered(r.Region):
		d.Reason, d.Changed = auditv1.Reason_REASON_TOOL_WITHHELD, c.catalogue.withheld[r.Tool]
	case tool == nil || !c.offered(r.Region):
		d.Reason = auditv1.Reason_REASON_TOOL_UNKNOWN
	}
	if d.Reason != 0 {
		d.Groups, d.Redaction = s.resolve(p.members).names, s.redaction(p, c, tool, r)
		return
	}
	v := s.verdict(p.members, c, tool)
	d.Groups = v.names
	f := facts{args: r.Arguments.values, known: r.Arguments.known, person: p, groups: v.names, tool: tool, connector: c}
	if v.redacted != nil {
		d.Redaction = v.redacted.of(&f, r)
	}
	if v.limited != nil {
		d.Limits = v.limited.of(&f, r)
	}
	if r.Basis != (Basis{}) {
		ruling := s.stand(f, *r)
		d.rule(&ruling, r)
		return
	}
	given := tool.kind != policyv1.Kind_KIND_TOOL || r.Arguments.of(r.Connector, r.Tool)
	if given && !v.open {
		d.rule(&v.decision, r)
		return
	}
	switch {
	case given:
		f.missed = false
		ruling := v.on(&f, r)
		d.rule(&ruling, r)
		d.Missed = f.missed
	case v.listed(&f, r):
		d.Reason, d.problem = auditv1.Reason_REASON_ARGUMENTS_INVALID, r.Arguments.failed
	default:
		d.rule(&v.decision, r)
	}
}

// unpinned is a resource that no list names, as one made of a template: rules decide by its URI.
func (c *connector) unpinned(label string) *pinnedTool {
	if kind, uri := KindOf(label); kind != policyv1.Kind_KIND_RESOURCE || uri == "" || len(uri) > maxName || dotted(uri) || c == nil || c.catalogue == nil {
		return nil
	}
	return &pinnedTool{connector: c.id, kind: policyv1.Kind_KIND_RESOURCE, name: label, place: -1}
}

// rule makes a ruling the decision on a request: an allow holds if what it asks for was done.
func (d *Decision) rule(by *ruling, r *Request) {
	d.Allowed = by.reason == auditv1.Reason_REASON_RULE_ALLOWED
	d.Reason, d.Group, d.Rule, d.RuleSet, d.Failed, d.Duties = by.reason, by.group, by.place, by.set, by.failed, by.duties
	d.SignIn = by.signIn
	switch {
	case !d.Allowed || by.duties == nil:
	case !by.duties.confirmed(r.Confirmed):
		d.Allowed, d.Reason = false, auditv1.Reason_REASON_CONFIRM_REQUIRED
	case by.duties.Review() != "" && r.Reviewed != by.duties.Review():
		d.Allowed, d.Reason = false, auditv1.Reason_REASON_REVIEW_REQUIRED
	}
}

// Text says the verdict for people.
func (d Decision) Text() string {
	switch d.Reason {
	case auditv1.Reason_REASON_RULE_ALLOWED:
		return ruleName(d.Rule, d.RuleSet, d.Group) + " allows it"
	case auditv1.Reason_REASON_RULE_DENIED:
		if d.Failed {
			return ruleName(d.Rule, d.RuleSet, d.Group) + " denies it: its condition could not be evaluated, which counts as matching"
		}
		return ruleName(d.Rule, d.RuleSet, d.Group) + " denies it"
	case auditv1.Reason_REASON_CONFIRM_REQUIRED:
		return "it is allowed once the person has confirmed this very call, as is asked for by " + d.Duties.because()
	case auditv1.Reason_REASON_REVIEW_REQUIRED:
		return "it is allowed once this very call has been approved, as is asked for by " + d.Duties.because()
	case auditv1.Reason_REASON_SIGN_IN_REQUIRED:
		return "it is allowed once the person has signed in " + d.SignIn.String() + ", as is asked for by " + strings.TrimSuffix(ruleName(d.Rule, d.RuleSet, d.Group), ",")
	case auditv1.Reason_REASON_NOTHING_ALLOWS:
		return "no rule allows it"
	case auditv1.Reason_REASON_BLOCKED:
		return "a block stands"
	case auditv1.Reason_REASON_PERSON_UNKNOWN:
		return "the person is not provisioned"
	case auditv1.Reason_REASON_PERSON_INACTIVE:
		return "the person is deactivated"
	case auditv1.Reason_REASON_TOOL_UNKNOWN:
		return "it is not offered here"
	case auditv1.Reason_REASON_TOOL_WITHHELD:
		if d.Changed {
			return "its server changed its definition, which an administrator has not approved yet"
		}
		return "its server does not offer it any more"
	case auditv1.Reason_REASON_ARGUMENTS_INVALID:
		if d.problem != nil {
			return d.problem.Error()
		}
		return "the arguments do not fit the tool's schema or cannot be read"
	case auditv1.Reason_REASON_LIMIT_REACHED:
		return "as many calls are in flight as there may be; wait for one to end and try again"
	case auditv1.Reason_REASON_BUDGET_SPENT:
		return "a budget has not enough left"
	case auditv1.Reason_REASON_BUDGET_UNAVAILABLE:
		return "what is left of a budget cannot be asked for now"
	case auditv1.Reason_REASON_STALE:
		return "the proxy's policy is too old to decide by"
	}
	return ""
}
