package core

import (
	"slices"
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func TestRollbackMakesPolicyWhatItWasAndNothingElse(t *testing.T) {
	w := newWorld(t)
	ann := w.user("ann")
	engineers, gone := w.group("Engineers", ann), w.group("Gone")
	allow := func(globs ...string) []*policyv1.Rule { return []*policyv1.Rule{{Allow: globs}} }
	w.must(NewApplyPolicy([]*policyv1.Connector{github()}, []GrantSpec{
		NewGrantSpec(engineers.ID, "github", allow("read")), NewGrantSpec(gone.ID, "github", allow("read")),
	}).WithRuleSets([]*policyv1.RuleSet{{Name: "reads", Rules: allow("read")}}))
	w.must(NewPinCatalogue("github", []*policyv1.Tool{tool("read", "")}))
	past := w.state

	w.must(NewPinCatalogue("github", []*policyv1.Tool{tool("read", ""), tool("push", "")}))
	jira := &policyv1.Connector{Id: "jira", Url: "https://mcp.example/jira"}
	w.must(NewApplyPolicy([]*policyv1.Connector{jira}, []GrantSpec{
		NewGrantSpec(engineers.ID, "github", allow("*")), NewGrantSpec(engineers.ID, "jira", allow("*")),
	}).WithRuleSets([]*policyv1.RuleSet{{Name: "writes", Rules: allow("push")}}))
	w.must(RemoveRuleSet{Name: "reads"})
	w.must(DeleteGroup{Directory: "okta", ID: gone.ID})
	bob := w.user("bob")
	w.must(NewPlaceBlock(&policyv1.Block{Reason: "r", Target: &policyv1.Block_PersonId{PersonId: ann.ID.String()}}))

	data, err := EncodeCommand(NewRollbackPolicy(past)) // as another control plane gets it
	if err != nil {
		t.Fatal(err)
	}
	c, err := DecodeCommand(data)
	if err != nil {
		t.Fatal(err)
	}
	w.must(c)
	s := w.state
	if got := s.Connector("github"); got.Digest != past.Connector("github").Digest {
		t.Error("the catalogue is not what it was")
	}
	if got := s.Grant(Grantee{Group: engineers.ID}, "github"); got == nil || !equalRules(got.Rules, allow("read")) {
		t.Errorf("the grant is %v", got)
	}
	if s.Grant(Grantee{Group: engineers.ID}, "jira") != nil || s.Grant(Grantee{Group: gone.ID}, "github") != nil {
		t.Error("grants stand that should not: of a connector that came since, or of a group that is gone")
	}
	if s.RuleSet("writes") != nil || s.RuleSet("reads") == nil {
		t.Error("rule sets are not what they were")
	}
	if s.User(bob.ID) == nil || s.Connector("jira") == nil || len(slices.Collect(s.Blocks())) != 1 {
		t.Error("a rollback of policy took a person, a connector or a block away")
	}
	if events := w.must(c); len(events) != 0 {
		t.Errorf("again it becomes %v", kinds(events))
	}
}
