package policy

import (
	"slices"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Tool is a tool as it is listed, or a prompt, a resource or a template.
type Tool struct {
	Connector string
	// Name is the server's own.
	Name string
	// Definition is the pinned one, JSON. It is the table's: do not change it.
	Definition []byte

	pinned *pinnedTool
}

// List returns the tools that a request's person may use of its connector with some arguments, ascending by name: all
// but those that a deny is certain to match, or no allow can match, and those that a block stands against. Without a
// connector: of all of them, ascending by connector, without those that share their name at the endpoint of all
// connectors with another. What else a request says (tool, arguments, approvals) is not looked at.
func (t *Table) List(r Request) []Tool { return t.Offers(policyv1.Kind_KIND_TOOL, r) }

// Offers returns what of a kind a request's person may use, as List does.
func (t *Table) Offers(kind policyv1.Kind, r Request) []Tool {
	s := t.state()
	if r.Connector != "" {
		return s.list(nil, &r, kind, false)
	}
	var all []Tool
	for _, id := range s.connectorIDs() {
		r.Connector = id
		all = s.list(all, &r, kind, false)
	}
	return s.onlyShown(all)
}

// onlyShown leaves out what shares its name with another.
func (s *state) onlyShown(all []Tool) []Tool {
	if s.collisions == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(t Tool) bool { return !s.shown(t.pinned) })
}

// Connectors returns the ids of the connectors of which List would show something, ascending.
func (t *Table) Connectors(r Request) []string {
	s := t.state()
	var ids []string
	for _, id := range s.connectorIDs() {
		if r.Connector = id; len(s.list(nil, &r, policyv1.Kind_KIND_TOOL, true)) > 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// Definition returns a tool's pinned definition, JSON, or nil. It is the table's: do not change it.
func (t *Table) Definition(connector, tool string) []byte {
	if p := t.state().connector(connector).tool(tool); p != nil {
		return p.definition
	}
	return nil
}

// list appends what a connector offers of a kind, or one of it where that is enough.
func (s *state) list(tools []Tool, r *Request, kind policyv1.Kind, one bool) []Tool {
	p, c := s.person(r.Person), s.connector(r.Connector)
	if s.broken || p == nil || !p.active || !c.offered(r.Region) {
		return tools
	}
	f := facts{person: p, connector: c}
	for _, tool := range c.catalogue.of(kind) {
		v := s.verdict(p.members, c, tool)
		if f.tool, f.groups = tool, v.names; !v.listed(&f, r) {
			continue
		}
		if r.Tool = tool.name; s.blocked.stand(r) {
			continue
		}
		_, name := KindOf(tool.name)
		tools = append(tools, Tool{Connector: c.id, Name: name, Definition: tool.definition, pinned: tool})
		if one {
			break
		}
	}
	return tools
}

// ListKey is the same for all lists that are: of people in the same groups, while nothing changed that they rest on. It is compared
// with keys of the same table only.
type ListKey struct {
	members                *memberSet
	groupsAt, connectorsAt uint64
	end                    int64 // of a rule, at which the list may change
}

// ListKey returns the key of a person's lists at a time. Not ok: there is none, since blocks stand, which may be against one person
// alone, or rules have conditions on the person or the request.
func (t *Table) ListKey(person uuid.UUID, now time.Time) (ListKey, bool) {
	s := t.state()
	p := s.person(person)
	if s.broken || p == nil || !p.active || s.blocks.size > 0 || s.personal > 0 {
		return ListKey{}, false
	}
	return ListKey{p.members, s.groupsAt, s.connectorsAt, s.clock.next(now)}, true
}
