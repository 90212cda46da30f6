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

// List returns the tools of a connector that a person may use with some arguments, ascending by name: all
// but those that a deny is certain to match, or no allow can match, and those that a block stands against.
func (t *Table) List(person uuid.UUID, client, connector, region string, now time.Time) []Tool {
	s := t.state()
	return s.list(nil, &Request{Person: person, Client: client, Connector: connector, Region: region, Now: now}, policyv1.Kind_KIND_TOOL, false)
}

// Offers returns what else than tools a person may use of a connector, as List does. Without a connector: of all of them,
// ascending by connector.
func (t *Table) Offers(kind policyv1.Kind, person uuid.UUID, client, connector, region string, now time.Time) []Tool {
	s := t.state()
	ids := []string{connector}
	if connector == "" {
		ids = s.connectorIDs()
	}
	var all []Tool
	for _, id := range ids {
		all = s.list(all, &Request{Person: person, Client: client, Connector: id, Region: region, Now: now}, kind, false)
	}
	if connector == "" {
		all = s.onlyShown(all)
	}
	return all
}

// ListAll returns the tools of all connectors that a person may use with some arguments, ascending by
// connector, then by name, without those that share their name at the endpoint of all connectors with another.
func (t *Table) ListAll(person uuid.UUID, client, region string, now time.Time) []Tool {
	s := t.state()
	var tools []Tool
	for _, id := range s.connectorIDs() {
		tools = s.list(tools, &Request{Person: person, Client: client, Connector: id, Region: region, Now: now}, policyv1.Kind_KIND_TOOL, false)
	}
	return s.onlyShown(tools)
}

// onlyShown leaves out what shares its name with another.
func (s *state) onlyShown(all []Tool) []Tool {
	if s.collisions == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(t Tool) bool { return !s.shown(t.pinned) })
}

// Connectors returns the ids of the connectors of which List would show something, ascending.
func (t *Table) Connectors(person uuid.UUID, client, region string, now time.Time) []string {
	s := t.state()
	var ids []string
	for _, id := range s.connectorIDs() {
		if len(s.list(nil, &Request{Person: person, Client: client, Connector: id, Region: region, Now: now}, policyv1.Kind_KIND_TOOL, true)) > 0 {
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
	for _, tool := range c.catalogue.of(kind) {
		if !s.verdict(p.members, c, tool).listed() {
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
}

// ListKey returns the key of a person's lists. Not ok: there is none, since blocks stand, which may be against one person alone.
func (t *Table) ListKey(person uuid.UUID) (ListKey, bool) {
	s := t.state()
	p := s.person(person)
	if s.broken || p == nil || !p.active || s.blocks.size > 0 {
		return ListKey{}, false
	}
	return ListKey{p.members, s.groupsAt, s.connectorsAt}, true
}
