package core

import (
	"iter"
	"slices"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// A rule set is rules under a name. Grants refer to it, so that to change it changes all of them.

func (a *applying) ruleSet(set *policyv1.RuleSet) error {
	name := set.GetName()
	if a.given[name] {
		return refuse(InvalidArgument, "rule set %q is given twice", name)
	}
	if a.given[name] = true; equal(a.state.RuleSet(name), set) {
		return nil
	}
	if n := len(set.GetRules()); name == "" || n == 0 || n > maxRules {
		return refuse(InvalidArgument, "rule set %q needs a name and 1 to %d rules", name, maxRules)
	}
	for i, rule := range set.GetRules() {
		if err := a.state.checkRule(rule, nil); err != nil {
			return refuseField(InvalidArgument, "rules", "rule %d of rule set %s: %v", i+1, name, err)
		}
	}
	a.sets[name] = set
	a.events = append(a.events, &eventv1.Event{Body: &eventv1.Event_RuleSetSet{RuleSetSet: &eventv1.RuleSetSet{RuleSet: set}}})
	return nil
}

// others checks the grants that refer to a rule set that changes, and do not change themselves.
func (a *applying) others() error {
	if len(a.sets) == 0 {
		return nil
	}
	for g := range a.state.Grants() {
		if a.checked[g.key()] || !slices.ContainsFunc(g.RuleSets, func(name string) bool { return a.sets[name] != nil }) {
			continue
		}
		if err := a.check(g, a.state.GranteeName(g.To), FailedPrecondition); err != nil {
			return err
		}
	}
	return nil
}

// RemoveRuleSet takes a rule set away that no grant refers to.
type RemoveRuleSet struct{ Name string }

func (c RemoveRuleSet) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.RuleSet(c.Name) == nil {
		return nil, refuse(NotFound, "there is no rule set %q", c.Name)
	}
	for g := range s.GrantsReferring(c.Name) {
		return nil, refuse(FailedPrecondition, "the grant of %s on %s refers to rule set %s: change it first", s.GranteeName(g.To), g.Connector, c.Name)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_RuleSetRemoved{RuleSetRemoved: &eventv1.RuleSetRemoved{Name: c.Name}}}), nil
}

// RuleSet returns a rule set, or nil.
func (s *State) RuleSet(name string) *policyv1.RuleSet {
	set, _ := s.ruleSets.Get(name)
	return set
}

// RuleSets yields all rule sets, by name.
func (s *State) RuleSets() iter.Seq[*policyv1.RuleSet] {
	return func(yield func(*policyv1.RuleSet) bool) {
		s.ruleSets.Scan(func(_ string, set *policyv1.RuleSet) bool { return yield(set) })
	}
}

// GrantsReferring yields the grants that refer to a rule set. It looks at all grants.
func (s *State) GrantsReferring(name string) iter.Seq[*Grant] {
	return func(yield func(*Grant) bool) {
		for g := range s.Grants() {
			if slices.Contains(g.RuleSets, name) && !yield(g) {
				return
			}
		}
	}
}

// putRuleSet stores a rule set, or takes it away where there is none.
func (s *State) putRuleSet(name string, set *policyv1.RuleSet) {
	old := s.RuleSet(name)
	if set != nil {
		s.countReads(set.GetRules(), 1)
		s.ruleSets.Set(name, set)
	} else {
		s.ruleSets.Delete(name)
	}
	s.countReads(old.GetRules(), -1)
}
