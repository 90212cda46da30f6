package policy

import (
	"fmt"
	"strconv"
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
	// Arguments that Table.Arguments made for this connector and tool, or NoArguments. Others, such as the
	// zero value that an error of Table.Arguments leaves, are denied unless another reason comes first.
	Arguments Arguments
	// Basis, where it is not zero, stands in place of Arguments: of a call that was allowed before.
	Basis Basis
	Now   time.Time
}

// Decision is a verdict and what it rests on.
type Decision struct {
	Allowed bool
	Reason  auditv1.Reason
	// Group and Rule name the rule that decided, by its grant's group and its place from 1; zero: none did.
	Group string
	Rule  int
	// Failed: the rule is a deny whose condition could not be evaluated.
	Failed bool
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
		d.Reason = auditv1.Reason_REASON_STALE
		return
	}
	p := s.person(r.Person)
	if p == nil {
		d.Reason = auditv1.Reason_REASON_PERSON_UNKNOWN
		return
	}
	c := s.connector(r.Connector)
	tool := c.tool(r.Tool)
	if tool == nil {
		tool = c.unpinned(r.Tool)
	}
	switch {
	case !p.active:
		d.Reason = auditv1.Reason_REASON_PERSON_INACTIVE
	case s.blocked.stand(r):
		d.Reason = auditv1.Reason_REASON_BLOCKED
	case tool == nil || !c.offered(r.Region):
		d.Reason = auditv1.Reason_REASON_TOOL_UNKNOWN
	}
	if d.Reason != 0 {
		d.Groups = s.resolve(p.members).names
		return
	}
	v := s.verdict(p.members, c, tool)
	d.Groups = v.names
	if r.Basis != (Basis{}) {
		d.rule(s.stand(p, c, tool, r.Basis))
		return
	}
	given := tool.kind != policyv1.Kind_KIND_TOOL || r.Arguments.of(r.Connector, r.Tool)
	switch {
	case !given && v.listed():
		d.Reason, d.problem = auditv1.Reason_REASON_ARGUMENTS_INVALID, r.Arguments.failed
	case v.open && given:
		d.rule(v.on(r.Arguments.values))
	default:
		d.rule(v.decision)
	}
}

// unpinned is a resource that no list names, as one made of a template: rules decide by its URI.
func (c *connector) unpinned(label string) *pinnedTool {
	if kind, uri := KindOf(label); kind != policyv1.Kind_KIND_RESOURCE || uri == "" || len(uri) > maxName || dotted(uri) || c == nil || c.catalogue == nil {
		return nil
	}
	return &pinnedTool{connector: c.id, kind: policyv1.Kind_KIND_RESOURCE, name: label, place: -1}
}

func (d *Decision) rule(r ruling) {
	d.Allowed = r.reason == auditv1.Reason_REASON_RULE_ALLOWED
	d.Reason, d.Group, d.Rule, d.Failed = r.reason, r.group, r.place, r.failed
}

// Text says the verdict for people.
func (d Decision) Text() string {
	switch d.Reason {
	case auditv1.Reason_REASON_RULE_ALLOWED:
		return "rule " + strconv.Itoa(d.Rule) + " of " + d.Group + " allows it"
	case auditv1.Reason_REASON_RULE_DENIED:
		if d.Failed {
			return fmt.Sprintf("rule %d of %s denies it: its condition could not be evaluated, which counts as matching", d.Rule, d.Group)
		}
		return fmt.Sprintf("rule %d of %s denies it", d.Rule, d.Group)
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
	case auditv1.Reason_REASON_ARGUMENTS_INVALID:
		if d.problem != nil {
			return d.problem.Error()
		}
		return "the arguments do not fit the tool's schema or cannot be read"
	case auditv1.Reason_REASON_LIMIT_REACHED:
		return "as many calls are in flight as there may be; wait for one to end and try again"
	case auditv1.Reason_REASON_STALE:
		return "the proxy's policy is too old to decide by"
	}
	return ""
}
