package core

import (
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// maxRules bounds a grant with its rule sets, so that its event fits the log and its evaluation stays quick.
const (
	maxRules    = 500
	maxRuleSets = 20
)

// Everyone stands for every directory, where a grant is to everyone.
const Everyone = "*"

// Grantee is to whom a grant is: exactly one is set. It is bound to an id for good: a rename keeps it, and a later
// group or person of the same name has nothing of it.
type Grantee struct {
	Group  uuid.UUID
	Person uuid.UUID
	// Everyone is a directory, or all of them.
	Everyone string
}

// grantKey orders grants by to whom they are, then by connector.
type grantKey string

func (g Grantee) key() string {
	switch {
	case g.Group != uuid.Nil:
		return "g" + idKey(g.Group)
	case g.Person != uuid.Nil:
		return "p" + idKey(g.Person)
	}
	return "e" + g.Everyone + "\x00"
}

func (g Grantee) on(connector string) grantKey { return grantKey(g.key() + connector) }

// Grant gives somebody rules on a connector.
type Grant struct {
	To        Grantee
	Connector string
	Rules     []*policyv1.Rule
	// RuleSets are names of rule sets whose rules count beside its own.
	RuleSets []string
	// Until is when the grant ends. Zero: it does not.
	Until time.Time
}

func (g *Grant) key() grantKey { return g.To.on(g.Connector) }

// GrantSpec is a grant as an admin writes it.
type GrantSpec struct {
	To        Grantee
	Connector string
	Rules     []message[*policyv1.Rule]
	RuleSets  []string
	Until     time.Time
}

// NewGrantSpec says which rules a group is to have on a connector.
func NewGrantSpec(group uuid.UUID, connector string, rules []*policyv1.Rule) GrantSpec {
	return NewGrantTo(Grantee{Group: group}, connector, rules)
}

// NewGrantTo says which rules somebody is to have on a connector.
func NewGrantTo(to Grantee, connector string, rules []*policyv1.Rule) GrantSpec {
	return GrantSpec{To: to, Connector: connector, Rules: wrap(rules)}
}

func (c GrantSpec) grant() *Grant {
	return &Grant{To: c.To, Connector: c.Connector, Rules: unwrap(c.Rules), RuleSets: c.RuleSets, Until: c.Until}
}

// ApplyPolicy creates or replaces connectors, rule sets and grants, all or none.
type ApplyPolicy struct {
	Connectors []message[*policyv1.Connector]
	RuleSets   []message[*policyv1.RuleSet]
	Grants     []GrantSpec
	// AuditExporters say where audit is sent.
	AuditExporters []message[*policyv1.AuditExporter]
	// Source names the files that say it; empty: it comes from none. What was changed by another way since they were applied is refused,
	// unless ForceDrift says that they win.
	Source     string
	ForceDrift bool
}

// NewApplyPolicy applies connectors and grants.
func NewApplyPolicy(connectors []*policyv1.Connector, grants []GrantSpec) ApplyPolicy {
	return ApplyPolicy{Connectors: wrap(connectors), Grants: grants}
}

// WithRuleSets applies rule sets too.
func (c ApplyPolicy) WithRuleSets(sets []*policyv1.RuleSet) ApplyPolicy {
	c.RuleSets = wrap(sets)
	return c
}

func (c ApplyPolicy) decide(s *State, env Env) ([]*eventv1.Event, error) {
	a := &applying{state: s, now: env.Now, connectors: map[string]bool{}, given: map[string]bool{}, sets: map[string]*policyv1.RuleSet{}, grants: map[grantKey]bool{}, exporters: map[string]bool{}, checked: map[grantKey]bool{}}
	for _, settings := range unwrap(c.Connectors) {
		if err := a.connector(settings); err != nil {
			return nil, err
		}
	}
	for _, set := range unwrap(c.RuleSets) {
		if err := a.ruleSet(set); err != nil {
			return nil, err
		}
	}
	for _, spec := range c.Grants {
		if err := a.grant(spec.grant()); err != nil {
			return nil, err
		}
	}
	for _, e := range unwrap(c.AuditExporters) {
		if err := a.exporter(e); err != nil {
			return nil, err
		}
	}
	if err := a.others(); err != nil {
		return nil, err
	}
	if err := a.source(c); err != nil {
		return nil, err
	}
	return env.events(a.events...), nil
}

// applying is a policy on its way to events.
type applying struct {
	state      *State
	now        time.Time
	connectors map[string]bool              // that come with the command
	given      map[string]bool              // rule sets that come with it
	sets       map[string]*policyv1.RuleSet // that it changes
	grants     map[grantKey]bool            // that come with it
	exporters  map[string]bool              // that come with it
	checked    map[grantKey]bool            // of these grants, those that change something
	events     []*eventv1.Event
}

func (a *applying) connector(settings *policyv1.Connector) error {
	id := settings.GetId()
	if a.connectors[id] {
		return refuse(InvalidArgument, "connector %q is given twice", id)
	}
	a.connectors[id] = true
	if err := checkAudit(settings); err != nil {
		return err
	}
	var tools []*policyv1.Tool
	if old := a.state.Connector(id); old != nil {
		tools = old.Tools
	}
	if err := checkRedactions(settings, tools, InvalidArgument); err != nil {
		return err
	}
	if old := a.state.Connector(id); old == nil || !equal(old.Settings, settings) {
		a.events = append(a.events, &eventv1.Event{Body: &eventv1.Event_ConnectorSet{ConnectorSet: &eventv1.ConnectorSet{Connector: settings}}})
	}
	return nil
}

// checkAudit refuses settings of what is kept whole where nothing is.
func checkAudit(settings *policyv1.Connector) error {
	if s := settings.GetAudit(); !s.GetWhole() && (s.GetDays() > 0 || s.GetMaxBytes() > 0) {
		return refuseField(InvalidArgument, "audit", "connector %s: audit says days or maxBytes of what is kept whole, and nothing is: add keep: whole to it, or leave them out", settings.GetId())
	}
	return nil
}

// checkRedactions refuses what a connector's tools do not fit.
func checkRedactions(settings *policyv1.Connector, tools []*policyv1.Tool, code Code) error {
	for i, r := range settings.GetRedactions() {
		if err := policy.CheckRedaction(r, tools); err != nil {
			return refuseField(code, "redactions", "redaction %d of connector %s: %v", i+1, settings.GetId(), err)
		}
	}
	return nil
}

// set is a rule set as it is after the command.
func (a *applying) set(name string) *policyv1.RuleSet {
	if set := a.sets[name]; set != nil {
		return set
	}
	return a.state.RuleSet(name)
}

func (a *applying) grant(g *Grant) error {
	s := a.state
	name, err := s.granteeName(g.To)
	if err != nil {
		return err
	}
	if a.grants[g.key()] {
		return refuse(InvalidArgument, "the grant of %s on %q is given twice", name, g.Connector)
	}
	a.grants[g.key()] = true
	if s.Connector(g.Connector) == nil && !a.connectors[g.Connector] {
		return refuse(NotFound, "the grant of %s names connector %q, which does not exist: apply it before or together", name, g.Connector)
	}
	if old := s.Grant(g.To, g.Connector); old != nil && equalRules(old.Rules, g.Rules) && slices.Equal(old.RuleSets, g.RuleSets) && old.Until.Equal(g.Until) {
		return nil // others checks it if a rule set of it changes
	}
	a.checked[g.key()] = true
	if err := a.check(g, name, InvalidArgument); err != nil {
		return err
	}
	if !g.Until.IsZero() && !g.Until.After(a.now) {
		return refuseField(InvalidArgument, "until", "the grant of %s on %s would have ended already", name, g.Connector)
	}
	a.events = append(a.events, &eventv1.Event{Body: &eventv1.Event_GrantApplied{GrantApplied: g.event()}})
	return nil
}

func (g *Grant) event() *eventv1.GrantApplied {
	ev := &eventv1.GrantApplied{ConnectorId: g.Connector, Rules: g.Rules, RuleSets: g.RuleSets}
	ev.GroupId, ev.PersonId, ev.Everyone = g.To.wire()
	if !g.Until.IsZero() {
		ev.Until = timestamppb.New(g.Until)
	}
	return ev
}

func (g Grantee) wire() (group, person, everyone string) {
	switch {
	case g.Group != uuid.Nil:
		return g.Group.String(), "", ""
	case g.Person != uuid.Nil:
		return "", g.Person.String(), ""
	}
	return "", "", g.Everyone
}

// granteeOf reads to whom a grant on the log is.
func granteeOf(group, person, everyone string) (Grantee, error) {
	var to Grantee
	var err error
	switch {
	case everyone != "":
		to.Everyone = everyone
	case person != "":
		to.Person, err = uuid.Parse(person)
	default:
		to.Group, err = uuid.Parse(group)
	}
	return to, err
}

// check refuses a grant whose rules are wrong, or do not fit its connector's tools.
func (a *applying) check(g *Grant, name string, code Code) error {
	if len(g.RuleSets) > maxRuleSets {
		return refuse(code, "the grant of %s on %s refers to more than %d rule sets", name, g.Connector, maxRuleSets)
	}
	var tools []*policyv1.Tool
	if connector := a.state.Connector(g.Connector); connector != nil {
		tools = connector.Tools
	}
	count := len(g.Rules)
	for i, rule := range g.Rules {
		if err := a.state.checkRule(rule, tools); err != nil {
			return refuseField(code, "rules", "rule %d of the grant of %s on %s: %v", i+1, name, g.Connector, err)
		}
	}
	for i, of := range g.RuleSets {
		set := a.set(of)
		if set == nil || slices.Contains(g.RuleSets[:i], of) {
			return refuseField(NotFound, "rule_sets", "the grant of %s on %s refers to rule set %q, which does not exist or is named twice: apply it before or together", name, g.Connector, of)
		}
		for i, rule := range set.GetRules() {
			if err := a.state.checkRule(rule, tools); err != nil {
				return refuseField(code, "rules", "rule %d of rule set %s, which the grant of %s on %s refers to: %v", i+1, of, name, g.Connector, err)
			}
		}
		count += len(set.GetRules())
	}
	if count == 0 || count > maxRules {
		return refuse(code, "the grant of %s on %s needs 1 to %d rules, those of its rule sets included; it has %d", name, g.Connector, maxRules, count)
	}
	return nil
}

// checkRule refuses a rule that is wrong in itself, or does not fit the tools that it matches.
func (s *State) checkRule(rule *policyv1.Rule, tools []*policyv1.Tool) error {
	for _, approver := range rule.GetReview().GetApprovers() {
		if id, err := uuid.Parse(approver); err != nil || s.Group(id) == nil {
			return refuse(NotFound, "there is no group %q whose people could approve", approver)
		}
	}
	return policy.Check(rule, tools)
}

func equalRules(a, b []*policyv1.Rule) bool {
	return slices.EqualFunc(a, b, func(a, b *policyv1.Rule) bool { return equal(a, b) })
}

// RemoveGrant takes somebody's rules on a connector away.
type RemoveGrant struct {
	To        Grantee
	Connector string
}

func (c RemoveGrant) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.Grant(c.To, c.Connector) == nil {
		return nil, refuse(NotFound, "%s has no grant on %q", s.GranteeName(c.To), c.Connector)
	}
	ev := &eventv1.GrantRemoved{ConnectorId: c.Connector}
	ev.GroupId, ev.PersonId, ev.Everyone = c.To.wire()
	return env.events(&eventv1.Event{Body: &eventv1.Event_GrantRemoved{GrantRemoved: ev}}), nil
}

// Grant returns somebody's grant on a connector, or nil.
func (s *State) Grant(to Grantee, connector string) *Grant {
	g, _ := s.grants.Get(to.on(connector))
	return g
}

// Grants yields all grants: those to everyone, to groups, to single people. Dangling ones are among them.
func (s *State) Grants() iter.Seq[*Grant] {
	return func(yield func(*Grant) bool) {
		s.grants.Scan(func(_ grantKey, g *Grant) bool { return yield(g) })
	}
}

// GrantsOf yields somebody's grants, by connector: not those of the groups that a person is in.
func (s *State) GrantsOf(to Grantee) iter.Seq[*Grant] {
	return func(yield func(*Grant) bool) {
		s.grants.Ascend(to.on(""), func(_ grantKey, g *Grant) bool { return g.To == to && yield(g) })
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

// Dangling tells whether the group or person of a grant is gone: it gives nothing.
func (s *State) Dangling(to Grantee) bool {
	return to.Group != uuid.Nil && s.Group(to.Group) == nil || to.Person != uuid.Nil && s.User(to.Person) == nil
}

// GranteeName is what people call whom a grant is to, or the id where the group or person is gone.
func (s *State) GranteeName(to Grantee) string {
	name, err := s.granteeName(to)
	if err != nil {
		group, person, _ := to.wire()
		return group + person
	}
	return name
}

// granteeName refuses somebody who does not exist.
func (s *State) granteeName(to Grantee) (string, error) {
	switch {
	case to.Group != uuid.Nil && to.Person == uuid.Nil && to.Everyone == "":
		if g := s.Group(to.Group); g != nil {
			return g.Name(), nil
		}
		return "", refuse(NotFound, "there is no group %s: let the directory push it first", to.Group)
	case to.Person != uuid.Nil && to.Group == uuid.Nil && to.Everyone == "":
		if u := s.User(to.Person); u != nil {
			return u.Directory + "/" + u.UserName, nil
		}
		return "", refuse(NotFound, "there is no user %s: let the directory provision them first", to.Person)
	case to.Everyone == Everyone && to.Person == uuid.Nil && to.Group == uuid.Nil:
		return "everyone", nil
	case to.Everyone != "" && to.Person == uuid.Nil && to.Group == uuid.Nil:
		if s.Directory(to.Everyone) != nil {
			return "everyone of " + to.Everyone, nil
		}
		return "", refuse(NotFound, "there is no directory %q whose people could be meant by everyone; %q stands for all of them", to.Everyone, Everyone)
	}
	return "", refuse(InvalidArgument, "a grant is to exactly one of a group, a person and everyone")
}

// wireRules are a grant's rules as proxies get them: those of its rule sets among them, and its end on each.
func (s *State) wireRules(g *Grant) []*policyv1.Rule {
	if len(g.RuleSets) == 0 && g.Until.IsZero() {
		return g.Rules
	}
	var all []*policyv1.Rule
	add := func(rules []*policyv1.Rule, set string) {
		for _, r := range rules {
			r = proto.CloneOf(r)
			r.RuleSet = set
			if !g.Until.IsZero() && (r.GetUntil() == nil || r.GetUntil().AsTime().After(g.Until)) {
				r.Until = timestamppb.New(g.Until)
			}
			all = append(all, r)
		}
	}
	add(g.Rules, "")
	for _, name := range g.RuleSets {
		add(s.RuleSet(name).GetRules(), name)
	}
	return all
}

// putGrant stores a grant, or takes it away where there is none, and counts which attributes of people are read.
func (s *State) putGrant(key grantKey, g *Grant) {
	old, _ := s.grants.Get(key)
	if g != nil {
		s.countReads(g.Rules, 1)
		s.grants.Set(key, g)
	} else {
		s.grants.Delete(key)
	}
	if old != nil {
		s.countReads(old.Rules, -1)
	}
}

func (s *State) applyGrant(b *eventv1.GrantApplied) error {
	to, err := granteeOf(b.GetGroupId(), b.GetPersonId(), b.GetEveryone())
	if err != nil {
		return err
	}
	g := &Grant{To: to, Connector: b.GetConnectorId(), Rules: b.GetRules(), RuleSets: b.GetRuleSets()}
	if b.GetUntil() != nil {
		g.Until = b.GetUntil().AsTime()
	}
	s.putGrant(g.key(), g)
	return nil
}

func (s *State) applyGrantRemoved(b *eventv1.GrantRemoved) error {
	to, err := granteeOf(b.GetGroupId(), b.GetPersonId(), b.GetEveryone())
	if err != nil {
		return err
	}
	s.putGrant(to.on(b.GetConnectorId()), nil)
	return nil
}
