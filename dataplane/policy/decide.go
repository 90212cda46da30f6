package policy

import (
	"fmt"
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
	Tool      string
	Region    string
	Arguments Arguments
	Now       time.Time
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
	// Groups are the names of all groups that counted. The slice is the table's: do not change it.
	Groups []string
}

func (d *Decision) because(reason auditv1.Reason) Decision {
	d.Reason = reason
	return *d
}

// Decide makes the verdict. It allocates nothing unless a condition is evaluated.
func (t *Table) Decide(r Request) Decision {
	d := Decision{}
	if t == nil {
		return d.because(auditv1.Reason_REASON_STALE)
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	d.Version = t.version
	p := t.users[r.Person]
	switch {
	case t.broken:
		return d.because(auditv1.Reason_REASON_STALE)
	case p == nil:
		return d.because(auditv1.Reason_REASON_PERSON_UNKNOWN)
	}
	set := t.resolve(p)
	d.Groups = set.names
	switch {
	case !p.active:
		return d.because(auditv1.Reason_REASON_PERSON_INACTIVE)
	case t.blocked.stand(&r, p):
		return d.because(auditv1.Reason_REASON_BLOCKED)
	}
	o := t.offers[r.Connector]
	if o == nil || o.connector == nil || o.catalogue == nil {
		return d.because(auditv1.Reason_REASON_TOOL_UNKNOWN)
	}
	place, known := o.catalogue.place[r.Tool]
	if !known {
		return d.because(auditv1.Reason_REASON_TOOL_UNKNOWN)
	}
	return t.on(set, o).tools[place].decide(&d, r.Arguments)
}

func (ta *toolAccess) decide(d *Decision, a Arguments) Decision {
	if ta.always {
		d.Allowed, d.Group, d.Rule = ta.allowed, ta.group, int(ta.index)
		return d.because(ta.reason)
	}
	for i := range ta.rules.denies {
		rule := &ta.rules.denies[i]
		matched, err := rule.matches(a)
		if matched || err != nil { // a deny that cannot be evaluated counts
			d.Group, d.Rule, d.Failed = rule.group, int(rule.index), err != nil
			return d.because(auditv1.Reason_REASON_RULE_DENIED)
		}
	}
	for i := range ta.rules.allows {
		rule := &ta.rules.allows[i]
		if matched, err := rule.matches(a); matched && err == nil {
			d.Allowed, d.Group, d.Rule = true, rule.group, int(rule.index)
			return d.because(auditv1.Reason_REASON_RULE_ALLOWED)
		}
	}
	return d.because(auditv1.Reason_REASON_NOTHING_ALLOWS)
}

func (r *ruleRef) matches(a Arguments) (bool, error) {
	if r.when == nil {
		return true, nil
	}
	return r.when.holds(a)
}

// Text says the verdict for people.
func (d Decision) Text() string {
	switch d.Reason {
	case auditv1.Reason_REASON_RULE_ALLOWED:
		return fmt.Sprintf("rule %d of %s allows it", d.Rule, d.Group)
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
		return "there is no such tool here"
	case auditv1.Reason_REASON_STALE:
		return "the proxy's policy is too old to decide by"
	}
	return ""
}

// Arguments reads a call's arguments strictly and holds them against the tool's pinned schema. An unknown
// connector or tool has no schema: the arguments are then nothing, and Decide says that it is unknown.
func (t *Table) Arguments(connector, tool string, raw []byte) (Arguments, error) {
	p := t.pinned(connector, tool)
	if p == nil {
		return Arguments{}, nil
	}
	return p.arguments(raw)
}

// Definition returns a tool's pinned definition, JSON, or nil. It is the table's: do not change it.
func (t *Table) Definition(connector, tool string) []byte {
	if p := t.pinned(connector, tool); p != nil {
		return p.definition
	}
	return nil
}

func (t *Table) pinned(connector, tool string) *pinnedTool {
	if t == nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	o := t.offers[connector]
	if o == nil || o.catalogue == nil {
		return nil
	}
	if place, known := o.catalogue.place[tool]; known {
		return o.catalogue.tools[place]
	}
	return nil
}

// Tool is a tool as it is listed.
type Tool struct {
	Connector string
	Name      string
	// Definition is the pinned one, JSON. It is the table's: do not change it.
	Definition []byte
}

// List returns the tools of a connector that a person may use with some arguments, ascending by name.
func (t *Table) List(person uuid.UUID, client, connector, region string, now time.Time) []Tool {
	if t == nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.list(nil, person, client, connector, region, now)
}

func (t *Table) list(tools []Tool, person uuid.UUID, client, connector, region string, now time.Time) []Tool {
	p, o := t.users[person], t.offers[connector]
	if p == nil || !p.active || o == nil || t.broken {
		return tools
	}
	r := Request{Person: person, Client: client, Connector: connector, Region: region, Now: now}
	for _, tool := range t.on(t.resolve(p), o).listed {
		if r.Tool = tool.name; !t.blocked.stand(&r, p) {
			tools = append(tools, Tool{Connector: connector, Name: tool.name, Definition: tool.definition})
		}
	}
	return tools
}

// ListAll returns the tools of all connectors that a person may use with some arguments, ascending by
// connector, then by name.
func (t *Table) ListAll(person uuid.UUID, client, region string, now time.Time) []Tool {
	if t == nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	var tools []Tool
	for _, id := range sortedKeys(t.offers) {
		tools = t.list(tools, person, client, id, region, now)
	}
	return tools
}

// Explanation is a verdict with all that was looked at.
type Explanation struct {
	Decision
	Rules []Trace
}

// Trace is what became of one rule.
type Trace struct {
	Group string
	Index int
	Rule  *policyv1.Rule
	// OtherTool: the rule is about other tools.
	OtherTool bool
	Matched   bool
	// Err is why the condition could not be evaluated.
	Err error
}

// Explain makes the verdict as Decide does and says what became of every rule of the person's groups.
func (t *Table) Explain(r Request) Explanation {
	out := Explanation{Decision: t.Decide(r)}
	if t == nil {
		return out
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := t.users[r.Person]
	if p == nil {
		return out
	}
	for _, rule := range t.rulesOf(t.resolve(p), r.Connector) {
		trace := Trace{Group: rule.group, Index: int(rule.index), Rule: rule.wire, OtherTool: !matchAny(rule.globs, r.Tool)}
		if !trace.OtherTool {
			trace.Matched, trace.Err = rule.matches(r.Arguments)
		}
		out.Rules = append(out.Rules, trace)
	}
	return out
}
