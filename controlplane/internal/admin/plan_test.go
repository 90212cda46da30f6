package admin_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// planned is a site with ada among the Leads, who are Engineers, and bob among the Engineers, on one connector.
func planned(t *testing.T) *site {
	t.Helper()
	s := newSite(t)
	leads := s.Group("okta", "Leads", s.User("okta", "ada"))
	out := s.Do(core.CreateGroup{Directory: "okta", DisplayName: "Engineers", Users: []uuid.UUID{s.User("okta", "bob").ID}, Groups: []uuid.UUID{leads.ID}})
	engineers := uuid.MustParse(out.Events[0].GetGroupCreated().GetGroupId())
	s.User("okta", "cy")
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github"}}, nil))
	schema := `,"inputSchema":{"type":"object","properties":{"branch":{"type":"string"}}}}`
	s.Do(core.NewPinCatalogue("github", []*policyv1.Tool{{Name: "push", Definition: []byte(`{"name":"push"` + schema)}, {Name: "read", Definition: []byte(`{"name":"read"` + schema)}}))
	s.Do(core.NewApplyPolicy(nil, []core.GrantSpec{
		core.NewGrantSpec(engineers, "github", []*policyv1.Rule{{Allow: []string{"read"}}}),
		core.NewGrantSpec(leads.ID, "github", []*policyv1.Rule{{Allow: []string{"push"}, When: `has(args.branch) && args.branch.startsWith("agent/")`}}),
	}))
	return s
}

func (s *site) plans() adminv1connect.PlanServiceClient {
	return adminv1connect.NewPlanServiceClient(http.DefaultClient, s.server.URL, s.option)
}

func (s *site) access() adminv1connect.AccessServiceClient {
	return adminv1connect.NewAccessServiceClient(http.DefaultClient, s.server.URL, s.option)
}

func grants(all ...*adminv1.Grant) *adminv1.ApplyRequest { return &adminv1.ApplyRequest{Grants: all} }

func grantTo(group string, rules ...*policyv1.Rule) *adminv1.Grant {
	return &adminv1.Grant{Group: group, Connector: "github", Rules: rules}
}

func TestWhoCanAndWhatCanAgree(t *testing.T) {
	s := planned(t)
	who, err := s.access().WhoCan(t.Context(), connect.NewRequest(&adminv1.WhoCanRequest{Connector: "github", Tool: "read"}))
	enginetest.Must(t, err)
	if got := who.Msg.GetPeople(); who.Msg.GetAlways() != 2 || len(got) != 2 || got[0].GetUserName() != "okta/ada" || got[1].GetUserName() != "okta/bob" {
		t.Errorf("read: %v", who.Msg)
	}
	who, err = s.access().WhoCan(t.Context(), connect.NewRequest(&adminv1.WhoCanRequest{Connector: "github", Tool: "push"}))
	enginetest.Must(t, err)
	if got := who.Msg.GetPeople(); who.Msg.GetSometimes() != 1 || len(got) != 1 || got[0].GetOutlook().GetAccess() != adminv1.Access_ACCESS_SOMETIMES || got[0].GetOutlook().GetBy()[0] != "rule 1 of okta/Leads" {
		t.Errorf("push: %v", who.Msg)
	}
	what, err := s.access().WhatCan(t.Context(), connect.NewRequest(&adminv1.WhatCanRequest{Person: "ada"}))
	enginetest.Must(t, err)
	if got := what.Msg.GetTools(); len(got) != 2 || got[0].GetTool() != "push" || got[1].GetOutlook().GetAccess() != adminv1.Access_ACCESS_ALWAYS {
		t.Errorf("ada: %v", got)
	}
	_, err = s.access().WhoCan(t.Context(), connect.NewRequest(&adminv1.WhoCanRequest{Connector: "github", Tool: "nothing"}))
	code(t, "a tool that is not there", err, connect.CodeNotFound)
}

func TestExplainNamesTheGroupsBetween(t *testing.T) {
	s := planned(t)
	res, err := s.policy().Explain(t.Context(), connect.NewRequest(&adminv1.ExplainRequest{Person: "ada", Connector: "github", Tool: "read"}))
	enginetest.Must(t, err)
	var paths []string
	for _, p := range res.Msg.GetPaths() {
		var names []string
		for _, g := range p.GetGroups() {
			names = append(names, g.GetName())
		}
		paths = append(paths, strings.Join(names, " in "))
	}
	if got := fmt.Sprint(paths); got != "[okta/Leads okta/Leads in okta/Engineers]" {
		t.Errorf("paths: %s", got)
	}
}

func TestAPlanSaysWhoGainsAndLosesWhatAndChangesNothing(t *testing.T) {
	s := planned(t)
	before := s.Engine.State()
	plan := func(r *adminv1.ApplyRequest) *adminv1.PlanPolicyResponse {
		t.Helper()
		res, err := s.plans().PlanPolicy(t.Context(), connect.NewRequest(&adminv1.PlanPolicyRequest{Policy: r}))
		enginetest.Must(t, err)
		return res.Msg
	}
	shown := func(r *adminv1.PlanPolicyResponse) string {
		var all []string
		for _, e := range r.GetEffects() {
			for _, tool := range e.GetTools() {
				all = append(all, fmt.Sprintf("%d %v %v %s", e.GetCount(), e.GetPeople(), strings.TrimPrefix(tool.GetEffect().String(), "EFFECT_"), tool.GetTool()))
			}
		}
		return strings.Join(all, ", ")
	}
	allow := func(globs ...string) *policyv1.Rule { return &policyv1.Rule{Allow: globs} }
	for name, c := range map[string]struct {
		policy *adminv1.ApplyRequest
		want   string
	}{
		"nothing":          {grants(grantTo("okta/Engineers", allow("read"))), ""},
		"a tool more":      {grants(grantTo("okta/Engineers", allow("read", "push"))), "1 [okta/ada] WIDENS push, 1 [okta/bob] GAINS push"},
		"a tool less":      {grants(grantTo("okta/Engineers", allow("other"))), "2 [okta/ada okta/bob] LOSES read"},
		"another word":     {grants(grantTo("okta/Leads", &policyv1.Rule{Allow: []string{"push"}, When: `has(args.branch) && args.branch == "dev"`})), "1 [okta/ada] CHANGES push"},
		"what others give": {grants(grantTo("okta/Leads", &policyv1.Rule{Allow: []string{"push"}, When: `has(args.branch) && args.branch.startsWith("agent/")`}, allow("read"))), ""},
		"to one person":    {grants(&adminv1.Grant{Person: "cy", Connector: "github", Rules: []*policyv1.Rule{allow("*")}}), "1 [okta/cy] GAINS push, 1 [okta/cy] GAINS read"},
	} {
		r := plan(c.policy)
		if got := shown(r); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if s.Engine.State() != before {
		t.Error("a plan changed something")
	}
	_, err := s.plans().PlanPolicy(t.Context(), connect.NewRequest(&adminv1.PlanPolicyRequest{Policy: grants(grantTo("okta/Nobody", allow("read")))}))
	code(t, "a plan that apply would refuse", err, connect.CodeNotFound)
}

func TestAPlanSaysWhatBecomesOfLimitsRedactionsAndWhatIsAskedFor(t *testing.T) {
	s := planned(t)
	limit := func(l *policyv1.Limit, when string) *policyv1.Rule {
		l.Budget, l.Window = "crm", durationpb.New(time.Hour)
		return &policyv1.Rule{Require: policyv1.Duty_DUTY_LIMIT, Tools: []string{"read"}, Limit: l, When: when}
	}
	redact := func(agent bool, results ...string) *policyv1.Rule {
		return &policyv1.Rule{Require: policyv1.Duty_DUTY_REDACT, Tools: []string{"read"}, Redact: &policyv1.Redaction{Results: results, Agent: agent}}
	}
	group := "okta/Leads"
	review := func(n uint32) *policyv1.Rule {
		return &policyv1.Rule{Require: policyv1.Duty_DUTY_REVIEW, Tools: []string{"read"}, Review: &policyv1.Review{Approvers: []string{group}, Approvals: n}}
	}
	allow := func(after policyv1.Duty, assurance policyv1.ConfirmationAssurance) *policyv1.Rule {
		return &policyv1.Rule{Allow: []string{"read"}, After: after, Assurance: assurance}
	}
	read := allow(0, 0)
	const client, browser = policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_CLIENT, policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER
	hour := " in 1h0m0s of budget crm, per person"
	for _, c := range []struct {
		name          string
		before, after []*policyv1.Rule
		want          string
	}{
		{"a limit comes", []*policyv1.Rule{read}, []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10}, "")}, "LIMIT COMES > 10 calls" + hour},
		{"a limit goes", []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10}, "")}, []*policyv1.Rule{read}, "LIMIT GOES 10 calls" + hour + " >"},
		{"a limit widens", []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10}, "")}, []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 20}, "")}, "LIMIT WIDENS 10 calls" + hour + " > 20 calls" + hour},
		{"a limit narrows", []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10}, "")}, []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10, Items: 5}, "")}, "LIMIT NARROWS 10 calls" + hour + " > 10 calls, 5 items" + hour},
		{"a limit that does both", []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10}, "")}, []*policyv1.Rule{read, limit(&policyv1.Limit{Items: 5}, "")}, "LIMIT CHANGES 10 calls" + hour + " > 5 items" + hour},
		{"a limit of others", []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10}, "")}, []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10, Per: []policyv1.Per{policyv1.Per_PER_EVERYONE}}, "")}, "LIMIT CHANGES 10 calls" + hour + " > 10 calls in 1h0m0s of budget crm, per everyone"},
		{"a limit that counts in some calls", []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10}, "")}, []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10}, `has(args.branch) && args.branch == "x"`)}, "LIMIT WIDENS 10 calls" + hour + " > 10 calls" + hour + ", in some calls"},
		{"a looser limit beside a stricter one", []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10}, "")}, []*policyv1.Rule{read, limit(&policyv1.Limit{Calls: 10}, ""), limit(&policyv1.Limit{Calls: 20}, "")}, ""},
		{"a redaction comes", []*policyv1.Rule{read}, []*policyv1.Rule{read, redact(false, "ssn", "card")}, "REDACTION COMES > card, ssn of results, in audit"},
		{"a redaction goes", []*policyv1.Rule{read, redact(true, "ssn")}, []*policyv1.Rule{read}, "REDACTION GOES ssn of results, in audit and for the agent >"},
		{"a redaction for the agent too", []*policyv1.Rule{read, redact(false, "ssn")}, []*policyv1.Rule{read, redact(true, "ssn")}, "REDACTION NARROWS ssn of results, in audit > ssn of results, in audit and for the agent"},
		{"a redaction by another rule", []*policyv1.Rule{read, redact(true, "ssn")}, []*policyv1.Rule{redact(true, "$..SSN"), read}, ""},
		{"a confirmation comes", []*policyv1.Rule{read}, []*policyv1.Rule{allow(policyv1.Duty_DUTY_CONFIRM, client)}, "NARROWS  > confirm in the client"},
		{"a confirmation is to be surer", []*policyv1.Rule{allow(policyv1.Duty_DUTY_CONFIRM, client)}, []*policyv1.Rule{allow(policyv1.Duty_DUTY_CONFIRM, browser)}, "NARROWS confirm in the client > confirm in the browser"},
		{"a review in place of a confirmation", []*policyv1.Rule{allow(policyv1.Duty_DUTY_CONFIRM, client)}, []*policyv1.Rule{read, review(1)}, "NARROWS confirm in the client > review by okta/Leads"},
		{"a review by fewer", []*policyv1.Rule{read, review(2)}, []*policyv1.Rule{read, review(1)}, "WIDENS review by 2 of okta/Leads > review by okta/Leads"},
	} {
		_, err := s.policy().Apply(t.Context(), connect.NewRequest(grants(grantTo("okta/Engineers", c.before...))))
		enginetest.Must(t, err)
		res, err := s.plans().PlanPolicy(t.Context(), connect.NewRequest(&adminv1.PlanPolicyRequest{Policy: grants(grantTo("okta/Engineers", c.after...))}))
		enginetest.Must(t, err)
		var got []string
		for _, e := range res.Msg.GetEffects() {
			for _, tool := range e.GetTools() {
				if tool.GetEffect() != 0 {
					got = append(got, fmt.Sprintf("%s %s > %s", strings.TrimPrefix(tool.GetEffect().String(), "EFFECT_"), tool.GetBefore().GetAsked(), tool.GetAfter().GetAsked()))
				}
				for _, term := range tool.GetTerms() {
					text := fmt.Sprintf("%s %s %s > %s", strings.TrimPrefix(term.GetTerm().String(), "TERM_"), strings.TrimPrefix(term.GetChange().String(), "TERM_CHANGE_"), term.GetBefore(), term.GetAfter())
					got = append(got, strings.TrimSpace(strings.ReplaceAll(text, "  ", " ")))
				}
			}
			if e.GetCount() != 2 {
				t.Errorf("%s: of %d people", c.name, e.GetCount())
			}
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestAPlanAndApplyRefuseDriftUnlessTold(t *testing.T) {
	s := planned(t)
	files := grants(grantTo("okta/Engineers", &policyv1.Rule{Allow: []string{"read"}}))
	files.Source = "files"
	_, err := s.policy().Apply(t.Context(), connect.NewRequest(files))
	enginetest.Must(t, err)
	_, err = s.policy().RemoveGrant(t.Context(), connect.NewRequest(&adminv1.RemoveGrantRequest{Group: "okta/Engineers", Connector: "github"}))
	enginetest.Must(t, err)
	_, err = s.plans().PlanPolicy(t.Context(), connect.NewRequest(&adminv1.PlanPolicyRequest{Policy: files}))
	code(t, "a plan after the grant was removed", err, connect.CodeFailedPrecondition)
	_, err = s.policy().Apply(t.Context(), connect.NewRequest(files))
	code(t, "apply after the grant was removed", err, connect.CodeFailedPrecondition)
	files.ForceDrift = true
	plan, err := s.plans().PlanPolicy(t.Context(), connect.NewRequest(&adminv1.PlanPolicyRequest{Policy: files}))
	enginetest.Must(t, err)
	if plan.Msg.GetPeople() != 2 || s.Engine.State().Seq() != plan.Msg.GetVersion() {
		t.Errorf("a plan that is forced: %v", plan.Msg)
	}
	_, err = s.policy().Apply(t.Context(), connect.NewRequest(files))
	enginetest.Must(t, err)
}

func TestPolicyIsTestedBeforeItIsApplied(t *testing.T) {
	s := planned(t)
	allowed, denied := adminv1.Expectation_EXPECTATION_ALLOWED, adminv1.Expectation_EXPECTATION_DENIED
	tests := []*adminv1.PolicyTest{
		{Name: "a lead pushes to an agent's branch", Person: "ada", Connector: "github", Tool: "push", Arguments: []byte(`{"branch":"agent/x"}`), Expect: allowed},
		{Name: "not to main", Person: "ada", Connector: "github", Tool: "push", Arguments: []byte(`{"branch":"main"}`), Expect: denied},
		{Name: "whoever will be an engineer", Groups: []string{"okta/Engineers"}, Connector: "github", Tool: "read", Expect: allowed},
		{Name: "a stranger", Directory: "okta", Connector: "github", Tool: "read", Expect: denied},
		{Name: "arguments that do not fit", Person: "ada", Connector: "github", Tool: "push", Arguments: []byte(`{"branch":1}`), Expect: denied},
	}
	run := func(policy *adminv1.ApplyRequest) (failed []string) {
		t.Helper()
		res, err := s.plans().TestPolicy(t.Context(), connect.NewRequest(&adminv1.TestPolicyRequest{Policy: policy, Tests: tests}))
		enginetest.Must(t, err)
		for _, r := range res.Msg.GetResults() {
			if !r.GetPassed() {
				failed = append(failed, r.GetName())
			}
		}
		return failed
	}
	if got := run(nil); len(got) != 0 {
		t.Errorf("under the policy that stands these failed: %v", got)
	}
	if got := run(grants(grantTo("okta/Engineers", &policyv1.Rule{Deny: []string{"*"}}))); fmt.Sprint(got) != "[a lead pushes to an agent's branch whoever will be an engineer]" {
		t.Errorf("under a policy that denies all these failed: %v", got)
	}
	tests = []*adminv1.PolicyTest{{Groups: []string{"okta/Engineers"}, Person: "ada", Connector: "github", Tool: "read", Expect: allowed}}
	_, err := s.plans().TestPolicy(t.Context(), connect.NewRequest(&adminv1.TestPolicyRequest{Tests: tests}))
	code(t, "a person and groups", err, connect.CodeInvalidArgument)
}
