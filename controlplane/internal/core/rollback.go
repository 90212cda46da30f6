package core

import (
	"slices"
	"time"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// RollbackPolicy makes connectors' settings, catalogues, rule sets and grants what they were. It touches neither people nor blocks, and
// no secret: a connector that was retired since comes back without its own. A connector that came since stays, without grants. A grant
// whose group or person is gone does not come back.
type RollbackPolicy struct {
	// To is the version whose policy this was.
	To         uint64
	Connectors []message[*policyv1.Connector]
	Pins       []PinCatalogue
	RuleSets   []message[*policyv1.RuleSet]
	Grants     []GrantSpec
}

// NewRollbackPolicy takes the policy of a state that was.
func NewRollbackPolicy(past *State) RollbackPolicy {
	c := RollbackPolicy{To: past.Seq(), RuleSets: wrap(slices.Collect(past.RuleSets()))}
	for connector := range past.Connectors() {
		c.Connectors = append(c.Connectors, message[*policyv1.Connector]{connector.Settings})
		if connector.Tools != nil {
			c.Pins = append(c.Pins, NewPinCatalogue(connector.Settings.GetId(), connector.Tools))
		}
	}
	for g := range past.Grants() {
		spec := NewGrantTo(g.To, g.Connector, g.Rules)
		spec.RuleSets, spec.Until = g.RuleSets, g.Until
		c.Grants = append(c.Grants, spec)
	}
	return c
}

func (c RollbackPolicy) decide(s *State, env Env) ([]*eventv1.Event, error) {
	r := &rollback{state: s, tools: map[string][]*policyv1.Tool{}, sets: map[string]*policyv1.RuleSet{}, grants: map[grantKey]bool{}}
	for _, settings := range unwrap(c.Connectors) {
		if old := s.Connector(settings.GetId()); old == nil || !equal(old.Settings, settings) {
			r.add(&eventv1.Event{Body: &eventv1.Event_ConnectorSet{ConnectorSet: &eventv1.ConnectorSet{Connector: settings}}})
		}
	}
	for _, pin := range c.Pins {
		if err := r.pin(pin); err != nil {
			return nil, err
		}
	}
	for _, set := range unwrap(c.RuleSets) {
		if r.sets[set.GetName()] = set; !equal(s.RuleSet(set.GetName()), set) {
			r.add(&eventv1.Event{Body: &eventv1.Event_RuleSetSet{RuleSetSet: &eventv1.RuleSetSet{RuleSet: set}}})
		}
	}
	for _, spec := range c.Grants {
		if err := r.grant(spec.grant(), env.Now); err != nil {
			return nil, err
		}
	}
	for g := range s.Grants() {
		if !r.grants[g.key()] {
			ev := &eventv1.GrantRemoved{ConnectorId: g.Connector}
			ev.GroupId, ev.PersonId, ev.Everyone = g.To.wire()
			r.add(&eventv1.Event{Body: &eventv1.Event_GrantRemoved{GrantRemoved: ev}})
		}
	}
	for set := range s.RuleSets() {
		if r.sets[set.GetName()] == nil {
			r.add(&eventv1.Event{Body: &eventv1.Event_RuleSetRemoved{RuleSetRemoved: &eventv1.RuleSetRemoved{Name: set.GetName()}}})
		}
	}
	return env.events(r.events...), nil
}

// rollback is a policy on its way back.
type rollback struct {
	state  *State
	tools  map[string][]*policyv1.Tool
	sets   map[string]*policyv1.RuleSet
	grants map[grantKey]bool // that stand after it
	events []*eventv1.Event
}

func (r *rollback) add(ev *eventv1.Event) { r.events = append(r.events, ev) }

func (r *rollback) pin(pin PinCatalogue) error {
	tools := sortedTools(unwrap(pin.Tools))
	if err := checkTools(tools); err != nil {
		return err
	}
	r.tools[pin.Connector] = tools
	if old := r.state.Connector(pin.Connector); old == nil || old.Tools == nil || old.Digest != DigestTools(tools) {
		r.add(&eventv1.Event{Body: &eventv1.Event_CataloguePinned{CataloguePinned: &eventv1.CataloguePinned{ConnectorId: pin.Connector, Tools: tools}}})
	}
	return nil
}

// grant brings a grant back, checked again as this build checks rules: an older one may have let through what is refused now.
func (r *rollback) grant(g *Grant, now time.Time) error {
	if r.state.Dangling(g.To) || !g.Until.IsZero() && !g.Until.After(now) {
		return nil
	}
	tools, pinned := r.tools[g.Connector]
	if c := r.state.Connector(g.Connector); !pinned && c != nil {
		tools = c.Tools // it had none then, and what is pinned stays
	}
	rules := slices.Clone(g.Rules)
	for _, name := range g.RuleSets {
		rules = append(rules, r.sets[name].GetRules()...)
	}
	for _, rule := range rules {
		if err := policy.Check(rule, tools); err != nil {
			return refuse(FailedPrecondition, "a rule of the grant of %s on %s, as it was, is refused now: %v", r.state.GranteeName(g.To), g.Connector, err)
		}
	}
	r.grants[g.key()] = true
	old := r.state.Grant(g.To, g.Connector)
	if old == nil || !equalRules(old.Rules, g.Rules) || !slices.Equal(old.RuleSets, g.RuleSets) || !old.Until.Equal(g.Until) {
		r.add(&eventv1.Event{Body: &eventv1.Event_GrantApplied{GrantApplied: g.event()}})
	}
	return nil
}
