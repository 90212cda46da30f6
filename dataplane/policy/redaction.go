package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Redaction is what is taken out of what audit keeps of a call, and of what its agent gets. It is the table's: do not change it.
type Redaction struct {
	// Arguments and Results are taken out of audit; Agent is taken out of the results that the agent gets. Nil: nothing is.
	Arguments, Results, Agent *Paths
	// Because says by what, in words; Taken does so path by path.
	Because []string
	Taken   []Taken
}

// everythingRedacted stands for a redaction that cannot be read.
var everythingRedacted = &Redaction{Arguments: wholly, Results: wholly, Agent: wholly, Because: []string{"what this build does not know"}, Taken: []Taken{
	{Path: "everything", Certain: true, By: "what this build does not know"},
	{Path: "everything", Result: true, Agent: true, Certain: true, By: "what this build does not know"},
}}

// newRedaction reads a redaction, without its tools.
func newRedaction(wire *policyv1.Redaction) (*Redaction, error) {
	if len(wire.ProtoReflect().GetUnknown()) > 0 {
		return nil, errors.New("the redaction says what this build does not know: upgrade it")
	}
	r := &Redaction{}
	var err error
	if r.Arguments, err = newPaths(wire.GetArguments()); err != nil {
		return nil, fmt.Errorf("redact.arguments: %w", err)
	}
	if r.Results, err = newPaths(wire.GetResults()); err != nil {
		return nil, fmt.Errorf("redact.results: %w", err)
	}
	if wire.GetAgent() {
		r.Agent = r.Results
	}
	switch {
	case r.Arguments == nil && r.Results == nil:
		return nil, errors.New("a redaction names under arguments or results what is taken out")
	case wire.GetAgent() && r.Results == nil:
		return nil, errors.New("agent says that results are redacted for the agent too, and none of them are named")
	}
	return r, nil
}

// CheckRedaction refuses a connector's redaction that is wrong in itself, or names arguments that none of the tools has that it is about.
func CheckRedaction(wire *policyv1.Redaction, tools []*policyv1.Tool) error {
	for _, g := range wire.GetTools() {
		if err := checkGlob(g); err != nil {
			return err
		}
	}
	if _, err := newRedaction(wire); err != nil {
		return err
	}
	return checkArguments(wire, func(t *policyv1.Tool) bool {
		return len(wire.GetTools()) == 0 || matchAny(wire.GetTools(), t.GetName())
	}, tools)
}

// checkArguments refuses paths of arguments that no tool has that a redaction is about: whoever misspells a name would believe that it
// is taken out.
func checkArguments(wire *policyv1.Redaction, about func(*policyv1.Tool) bool, tools []*policyv1.Tool) error {
	for _, text := range wire.GetArguments() {
		p, err := readPath(text)
		if err != nil {
			return err
		}
		found, any := false, false
		for _, t := range tools {
			if t.GetKind() > policyv1.Kind_KIND_TOOL || !about(t) {
				continue
			}
			schema, err := newTool("", t).compiled()
			any = true
			found = found || err != nil || schema.shape.mayHold(p, map[held]bool{})
		}
		if any && !found {
			return fmt.Errorf("no tool that it is about has an argument at %q", clip(text))
		}
	}
	return nil
}

// held is a shape, and how much of a path is left in it.
type held struct {
	shape *shape
	left  int
}

// mayHold tells whether a value of the shape may have something at a path, going by the names that the schema has.
func (s *shape) mayHold(p path, seen map[held]bool) bool {
	if len(p) == 0 || s == nil {
		return true
	}
	if seen[held{s, len(p)}] {
		return false
	}
	seen[held{s, len(p)}] = true
	next := &p[0]
	switch {
	case s.kind == text: // it may be JSON, where a path says so
		return !next.descend
	case s.kind == boolean || s.kind == integer || s.kind == number:
		return false
	case len(s.known) == 0 && s.each == nil: // any object, or any array
		return !s.closed
	}
	below := func(child *shape, name string, index int) bool {
		return next.descend && child.mayHold(p, seen) || next.finds(name, index) && child.mayHold(p[1:], seen)
	}
	for name, child := range s.known {
		if below(child, name, -1) {
			return true
		}
	}
	if s.rest != nil && (next.descend || next.any || len(next.names) > 0) && s.rest.mayHold(p[1:], seen) {
		return true
	}
	return s.each != nil && (next.descend && s.each.mayHold(p, seen) || (next.any || len(next.indexes) > 0) && s.each.mayHold(p[1:], seen))
}

// checkRedact refuses what a rule says of redaction.
func checkRedact(r *policyv1.Rule, tools []*policyv1.Tool) error {
	redacts := r.GetRequire() == policyv1.Duty_DUTY_REDACT
	switch {
	case redacts != (r.GetRedact() != nil):
		return fmt.Errorf("the rule that %s: a rule that requires redact, and no other, says what under redact", said(r))
	case !redacts:
		return nil
	case len(r.GetRedact().GetTools()) > 0:
		return fmt.Errorf("the rule that %s names tools under redact: they stand under tools, beside it", said(r))
	}
	if _, err := newRedaction(r.GetRedact()); err != nil {
		return fmt.Errorf("the rule that %s: %w", said(r), err)
	}
	about := func(t *policyv1.Tool) bool { return matchAny(r.GetTools(), t.GetName()) }
	if err := checkArguments(r.GetRedact(), about, tools); err != nil {
		return fmt.Errorf("the rule that %s: %w", said(r), err)
	}
	return nil
}

// and is what both take out.
func (r *Redaction) and(other *Redaction) *Redaction {
	switch {
	case r == nil:
		return other
	case other == nil:
		return r
	}
	return &Redaction{
		Arguments: r.Arguments.and(other.Arguments), Results: r.Results.and(other.Results), Agent: r.Agent.and(other.Agent),
		Because: slices.Concat(r.Because, other.Because), Taken: slices.Concat(r.Taken, other.Taken),
	}
}

// describe says by what something is taken out.
func (r *Redaction) describe(by string, wire *policyv1.Redaction) {
	r.Because, r.Taken = []string{described(by, wire)}, nil
	for _, path := range wire.GetArguments() {
		r.Taken = append(r.Taken, Taken{Path: path, Certain: true, By: by})
	}
	for _, path := range wire.GetResults() {
		r.Taken = append(r.Taken, Taken{Path: path, Result: true, Agent: wire.GetAgent(), Certain: true, By: by})
	}
}

// described says a redaction in words.
func described(by string, wire *policyv1.Redaction) string {
	var parts []string
	if names := wire.GetArguments(); len(names) > 0 {
		parts = append(parts, strings.Join(names, ", ")+" of arguments, in audit")
	}
	if names := wire.GetResults(); len(names) > 0 {
		where := ", in audit"
		if wire.GetAgent() {
			where = ", in audit and for the agent"
		}
		parts = append(parts, strings.Join(names, ", ")+" of results"+where)
	}
	return by + ": " + strings.Join(parts, "; ")
}

// connectorRedaction is one of a connector's.
type connectorRedaction struct {
	globs globs
	what  *Redaction
}

// newConnectorRedactions reads a connector's redactions. One that cannot be read takes everything out.
func newConnectorRedactions(settings *policyv1.Connector) []connectorRedaction {
	var all []connectorRedaction
	for _, wire := range settings.GetRedactions() {
		out := connectorRedaction{globs: everything, what: everythingRedacted}
		if r, err := newRedaction(wire); err == nil {
			r.describe("connector "+settings.GetId(), wire)
			out.what = r
			if len(wire.GetTools()) > 0 {
				out.globs = newGlobs(wire.GetTools())
			}
		}
		all = append(all, out)
	}
	return all
}

// redaction is what a connector takes out of calls under a label, whoever makes them.
func (c *connector) redaction(label string) *Redaction {
	if c == nil {
		return nil
	}
	var out *Redaction
	for i := range c.redactions {
		if r := &c.redactions[i]; r.globs.match(label) {
			out = out.and(r.what)
		}
	}
	return out
}

// Redaction is what is taken out of a call, whatever its verdict is.
func (t *Table) Redaction(r Request) *Redaction {
	s := t.state()
	if s.broken { // what is to be taken out is not known
		return everythingRedacted
	}
	p, c := s.person(r.Person), s.connector(r.Connector)
	tool := c.tool(r.Tool)
	if tool == nil {
		tool = c.unpinned(r.Tool)
	}
	return s.redaction(p, c, tool, &r)
}

// redaction is made from nothing: a verdict remembers what is certain of it.
func (s *state) redaction(p *person, c *connector, tool *pinnedTool, r *Request) *Redaction {
	out := c.redaction(r.Tool)
	if p == nil || c == nil {
		return out
	}
	set := s.resolve(p.members)
	f := facts{args: r.Arguments.values, person: p, groups: set.names, tool: tool, connector: c}
	for rule := range rulesOf(set, c) {
		if rule.redaction == nil || !rule.globs.match(r.Tool) || tool != nil && !rule.covers(tool) {
			continue
		}
		if tool == nil || rule.counts(&f, r) {
			out = out.and(rule.taken())
		}
	}
	return out
}

// taken is what a rule takes out, with its name.
func (r *ruleOf) taken() *Redaction {
	out := *r.redaction
	out.describe(strings.TrimSuffix(r.name(), ","), r.wire.GetRedact())
	return &out
}

// counts tells whether a rule counts that redacts or limits. What cannot be told counts.
func (r *rule) counts(f *facts, q *Request) bool {
	if q.Basis == (Basis{}) && (f.tool.kind != policyv1.Kind_KIND_TOOL || q.Arguments.of(q.Connector, q.Tool)) {
		matched, err := r.matches(f, q)
		return matched || err != nil
	}
	return r.without(f, q) != surelyNot
}

// redacting is what a verdict remembers of redaction: what is certain to be taken out, and rules that may take out more.
type redacting struct {
	certain *Redaction
	maybe   []ruleOf
}

// newRedacting collects it.
func newRedacting(set *groupSet, c *connector, tool *pinnedTool) *redacting {
	var out redacting
	out.certain = c.redaction(tool.name)
	for r := range rulesOf(set, c) {
		if r.redaction == nil || !r.covers(tool) {
			continue
		}
		switch always, never := r.certain(); {
		case never:
		case always:
			out.certain = out.certain.and(r.taken())
		default:
			out.maybe = append(out.maybe, r)
		}
	}
	if out.certain == nil && out.maybe == nil {
		return nil
	}
	return &out
}

// of is what is taken out of a request.
func (r *redacting) of(f *facts, q *Request) *Redaction {
	if r == nil {
		return nil
	}
	out := r.certain
	for i := range r.maybe {
		if rule := &r.maybe[i]; rule.counts(f, q) {
			out = out.and(rule.taken())
		}
	}
	return out
}
