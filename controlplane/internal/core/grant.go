package core

import (
	"iter"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// maxRules bounds a grant, so that its event fits the log and its evaluation stays quick.
const maxRules = 500

// grantKey orders grants by group, then by connector.
type grantKey string

func newGrantKey(group uuid.UUID, connector string) grantKey {
	return grantKey(idKey(group) + connector)
}

// Grant gives a group rules on a connector. It is bound to the group's id for good: a rename keeps
// it, and a later group of the same name has nothing of it.
type Grant struct {
	GroupID   uuid.UUID
	Connector string
	Rules     []*policyv1.Rule
}

func (g *Grant) key() grantKey { return newGrantKey(g.GroupID, g.Connector) }

// GrantSpec is a grant as an admin writes it.
type GrantSpec struct {
	GroupID   uuid.UUID
	Connector string
	Rules     []message[*policyv1.Rule]
}

// NewGrantSpec says which rules a group is to have on a connector.
func NewGrantSpec(group uuid.UUID, connector string, rules []*policyv1.Rule) GrantSpec {
	return GrantSpec{GroupID: group, Connector: connector, Rules: wrap(rules)}
}

// ApplyPolicy creates or replaces connectors and grants, all or none.
type ApplyPolicy struct {
	Connectors []message[*policyv1.Connector]
	Grants     []GrantSpec
}

// NewApplyPolicy applies connectors and grants.
func NewApplyPolicy(connectors []*policyv1.Connector, grants []GrantSpec) ApplyPolicy {
	return ApplyPolicy{Connectors: wrap(connectors), Grants: grants}
}

func (c ApplyPolicy) decide(s *State, env Env) ([]*eventv1.Event, error) {
	var events []*eventv1.Event
	connectors := map[string]bool{}
	for _, settings := range unwrap(c.Connectors) {
		id := settings.GetId()
		if connectors[id] {
			return nil, refuse(InvalidArgument, "connector %q is given twice", id)
		}
		connectors[id] = true
		if old := s.Connector(id); old != nil && equal(old.Settings, settings) {
			continue
		}
		events = append(events, &eventv1.Event{Body: &eventv1.Event_ConnectorSet{ConnectorSet: &eventv1.ConnectorSet{Connector: settings}}})
	}
	grants := map[grantKey]bool{}
	for _, spec := range c.Grants {
		key := newGrantKey(spec.GroupID, spec.Connector)
		if grants[key] {
			return nil, refuse(InvalidArgument, "the grant of group %s on %q is given twice", spec.GroupID, spec.Connector)
		}
		grants[key] = true
		ev, err := s.decideGrant(spec, connectors[spec.Connector])
		if err != nil {
			return nil, err
		}
		if ev != nil {
			events = append(events, ev)
		}
	}
	return env.events(events...), nil
}

// decideGrant checks one grant; created tells that its connector comes with the same command.
func (s *State) decideGrant(spec GrantSpec, created bool) (*eventv1.Event, error) {
	group := s.Group(spec.GroupID)
	if group == nil {
		return nil, refuse(NotFound, "there is no group %s: let the directory push it first", spec.GroupID)
	}
	connector := s.Connector(spec.Connector)
	if connector == nil && !created {
		return nil, refuse(NotFound, "the grant of %s names connector %q, which does not exist: apply it before or together", group.Name(), spec.Connector)
	}
	rules := unwrap(spec.Rules)
	if len(rules) == 0 || len(rules) > maxRules {
		return nil, refuse(InvalidArgument, "the grant of %s on %s needs 1 to %d rules", group.Name(), spec.Connector, maxRules)
	}
	var tools []*policyv1.Tool
	if connector != nil {
		tools = connector.Tools
	}
	for i, rule := range rules {
		if err := policy.Check(rule, tools); err != nil {
			return nil, refuseField(InvalidArgument, "rules", "rule %d of the grant of %s on %s: %v", i+1, group.Name(), spec.Connector, err)
		}
	}
	if old := s.Grant(spec.GroupID, spec.Connector); old != nil && equalRules(old.Rules, rules) {
		return nil, nil
	}
	return &eventv1.Event{Body: &eventv1.Event_GrantApplied{GrantApplied: &eventv1.GrantApplied{
		GroupId: group.ID.String(), ConnectorId: spec.Connector, Rules: rules,
	}}}, nil
}

func equalRules(a, b []*policyv1.Rule) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// RemoveGrant takes a group's rules on a connector away.
type RemoveGrant struct {
	GroupID   uuid.UUID
	Connector string
}

func (c RemoveGrant) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.Grant(c.GroupID, c.Connector) == nil {
		return nil, refuse(NotFound, "group %s has no grant on %q", c.GroupID, c.Connector)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_GrantRemoved{GrantRemoved: &eventv1.GrantRemoved{
		GroupId: c.GroupID.String(), ConnectorId: c.Connector,
	}}}), nil
}

// Grant returns a group's grant on a connector, or nil.
func (s *State) Grant(group uuid.UUID, connector string) *Grant {
	g, _ := s.grants.Get(newGrantKey(group, connector))
	return g
}

// Grants yields all grants, by group, then by connector. Dangling ones are among them.
func (s *State) Grants() iter.Seq[*Grant] {
	return func(yield func(*Grant) bool) {
		s.grants.Scan(func(_ grantKey, g *Grant) bool { return yield(g) })
	}
}

// GrantsOf yields a group's grants, by connector.
func (s *State) GrantsOf(group uuid.UUID) iter.Seq[*Grant] {
	return func(yield func(*Grant) bool) {
		s.grants.Ascend(newGrantKey(group, ""), func(_ grantKey, g *Grant) bool { return g.GroupID == group && yield(g) })
	}
}

// GrantsOn yields the grants on a connector. It looks at all grants.
func (s *State) GrantsOn(connector string) iter.Seq[*Grant] {
	return func(yield func(*Grant) bool) {
		for g := range s.Grants() {
			if g.Connector == connector && !yield(g) {
				return
			}
		}
	}
}

// GrantGroupName is the name of the group that a grant is bound to, or its id where the group is gone.
func (s *State) GrantGroupName(g *Grant) string {
	if group := s.Group(g.GroupID); group != nil {
		return group.Name()
	}
	return g.GroupID.String()
}
