package core

import (
	"testing"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func allows(when string, globs ...string) []*policyv1.Rule {
	return []*policyv1.Rule{{Allow: globs, When: when}}
}

// rulesServed are the rules that proxies have of a grant.
func rulesServed(s *State, to Grantee) []*policyv1.Rule {
	for e := range s.Entries("") {
		switch g := e.GetValue().(type) {
		case *fleetv1.Entry_Grant:
			if group := s.Group(to.Group); group != nil && g.Grant.GetGroup() == group.No {
				return g.Grant.GetRules()
			}
		case *fleetv1.Entry_PrincipalGrant:
			key := g.PrincipalGrant.GetKey()
			if to.Everyone != "" && key.GetEveryone() == to.Everyone || to.Person != uuid.Nil && string(key.GetPerson()) == string(to.Person[:]) {
				return g.PrincipalGrant.GetRules()
			}
		}
	}
	return nil
}

func TestToChangeARuleSetChangesAllGrantsThatReferToIt(t *testing.T) {
	w := newWorld(t)
	g, u := w.group("Engineers"), w.user("ann")
	tos := []Grantee{{Group: g.ID}, {Person: u.ID}, {Everyone: "okta"}}
	var specs []GrantSpec
	for _, to := range tos {
		spec := NewGrantTo(to, "github", nil)
		spec.RuleSets = []string{"readers"}
		specs = append(specs, spec)
	}
	w.refused(NewApplyPolicy([]*policyv1.Connector{github()}, specs), NotFound) // there is no such rule set yet
	w.must(NewApplyPolicy([]*policyv1.Connector{github()}, specs).WithRuleSets([]*policyv1.RuleSet{{Name: "readers", Rules: allows("", "read_*")}}))
	w.must(NewPinCatalogue("github", []*policyv1.Tool{tool("push", `"branch":{"type":"string"}`)}))
	change := func(rules []*policyv1.Rule) ApplyPolicy {
		return NewApplyPolicy(nil, nil).WithRuleSets([]*policyv1.RuleSet{{Name: "readers", Rules: rules}})
	}
	want(t, "events", kinds(w.must(change(allows("", "list_*")))), []string{"RuleSetSet"})
	for _, to := range tos {
		rules := rulesServed(w.state, to)
		if len(rules) != 1 || rules[0].GetAllow()[0] != "list_*" || rules[0].GetRuleSet() != "readers" {
			t.Errorf("%s has %v", w.state.GranteeName(to), rules)
		}
	}
	w.refused(change(allows(`args.branch == "x"`, "push")), FailedPrecondition) // it may be omitted, by the tool of a grant that refers to the set
	w.refused(RemoveRuleSet{Name: "readers"}, FailedPrecondition)
	for _, to := range tos {
		w.must(RemoveGrant{To: to, Connector: "github"})
	}
	w.must(RemoveRuleSet{Name: "readers"})
}

func TestRulesNameApproversThatExist(t *testing.T) {
	w := newWorld(t)
	g := w.group("Engineers")
	w.must(NewApplyPolicy([]*policyv1.Connector{github()}, nil))
	apply := func(rules ...*policyv1.Rule) ApplyPolicy {
		return NewApplyPolicy(nil, []GrantSpec{NewGrantTo(Grantee{Group: g.ID}, "github", rules)})
	}
	review := func(groups ...string) *policyv1.Review { return &policyv1.Review{Approvers: groups} }
	w.must(apply(&policyv1.Rule{Allow: []string{"push"}, After: policyv1.Duty_DUTY_CONFIRM}, &policyv1.Rule{Require: policyv1.Duty_DUTY_REVIEW, Tools: []string{"push"}, Review: review(g.ID.String())}))
	w.refused(apply(&policyv1.Rule{Allow: []string{"push"}, After: policyv1.Duty_DUTY_REVIEW}), InvalidArgument)
	w.refused(apply(&policyv1.Rule{Allow: []string{"push"}, After: policyv1.Duty_DUTY_REVIEW, Review: review(uuid.NewString())}), InvalidArgument)
}

func TestAGrantIsToSomebodyWhoExistsAndToNobodyElse(t *testing.T) {
	w := newWorld(t)
	g, u := w.group("Engineers"), w.user("ann")
	apply := func(to Grantee) ApplyPolicy {
		return NewApplyPolicy([]*policyv1.Connector{github()}, []GrantSpec{NewGrantTo(to, "github", allows("", "*"))})
	}
	w.refused(apply(Grantee{}), InvalidArgument)
	w.refused(apply(Grantee{Group: g.ID, Person: u.ID}), InvalidArgument)
	w.refused(apply(Grantee{Person: uuid.New()}), NotFound)
	w.refused(apply(Grantee{Everyone: "nowhere"}), NotFound)
	w.must(apply(Grantee{Person: u.ID}))
	w.must(DeleteUser{Directory: "okta", ID: u.ID})
	if !w.state.Dangling(Grantee{Person: u.ID}) || rulesServed(w.state, Grantee{Person: u.ID}) != nil {
		t.Fatal("the grant of somebody who is gone gives something")
	}
	again := w.user("ann")
	if again.ID == u.ID || rulesServed(w.state, Grantee{Person: again.ID}) != nil {
		t.Fatal("somebody else of that name has it")
	}
}

func TestAGrantsEndIsOnEachOfItsRules(t *testing.T) {
	w := newWorld(t)
	g := w.group("Engineers")
	spec := NewGrantSpec(g.ID, "github", allows("", "*"))
	spec.Until = w.now
	w.refused(NewApplyPolicy([]*policyv1.Connector{github()}, []GrantSpec{spec}), InvalidArgument)
	spec.Until = w.now.Add(time.Hour)
	apply := NewApplyPolicy([]*policyv1.Connector{github()}, []GrantSpec{spec})
	w.must(apply)
	if rules := rulesServed(w.state, Grantee{Group: g.ID}); !rules[0].GetUntil().AsTime().Equal(spec.Until) {
		t.Fatalf("served %v", rules)
	}
	w.now = w.now.Add(2 * time.Hour)
	if events := w.must(apply); len(events) != 0 { // files that were applied stay good
		t.Fatalf("got %v", kinds(events))
	}
}

func TestProxiesHoldThoseAttributesThatRulesReadAndNoOthers(t *testing.T) {
	w := newWorld(t)
	g := w.group("Engineers")
	const attributes = `{"title":"Boss","urn:ietf:params:scim:schemas:extension:enterprise:2.0:User":{"Department":"Sales","manager":{"value":"m1"}},
		"roles":[{"value":"admin"},{"value":"dev"}],"addresses":[{"country":"DE"},{"country":"FR","primary":true}],"urn:example:User":{"level":3,"secret":"s"}}`
	w.must(CreateUser{Directory: "okta", Profile: Profile{UserName: "ann", ExternalID: "00u1", Email: "ann@example.com", Attributes: []byte(attributes)}, Active: true})
	sent := func() string { return string(w.state.AttributesOf(w.state.UserByName("okta", "ann"))) }
	grant := func(when string) {
		prev, from := w.state, len(w.log)
		w.must(NewApplyPolicy([]*policyv1.Connector{github()}, []GrantSpec{NewGrantSpec(g.ID, "github", allows(when, "*"))}))
		changed := false
		for _, c := range Changes(prev, w.state, w.log[from:], "") {
			changed = changed || c.New.GetUser() != nil
		}
		want(t, "people's entries change with "+when, changed, string(prev.AttributesOf(w.state.UserByName("okta", "ann"))) != sent())
	}
	for _, c := range [][2]string{
		{`args.user == "x"`, ``},
		{`has(user.department) && user.department == "Sales"`, `{"department":"Sales"}`},
		{`has(user.division)`, ``},
		{`has(user.manager) && has(user.country) && has(user.roles) && "dev" in user.roles`, `{"country":"FR","manager":"m1","roles":["admin","dev"]}`},
		{`"urn:example:User:level" in user.custom`, `{"custom":{"urn:example:User:level":3}}`},
		{`user.userName == "ann" && has(user.email)`, `{"email":"ann@example.com","userName":"ann"}`},
		{``, ``},
	} {
		if c[0] == `args.user == "x"` {
			c[0] = `has(args.user)`
		}
		grant(c[0])
		want(t, "sent for "+c[0], sent(), c[1])
	}
}
