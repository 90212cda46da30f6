package admin_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func TestToApplyAnExportChangesNothing(t *testing.T) {
	s, ctx := newSite(t), t.Context()
	ann := s.User("okta", "ann")
	s.Group("okta", "Leads", ann)
	twins := []uuid.UUID{s.Group("okta", "Twins").ID, s.Group("okta", "Twins").ID}
	gone := s.Group("okta", "Gone")
	s.Group("okta", "A/B: yes")
	s.Do(core.CreateServiceAccount{Name: "bot"})
	exports := adminv1connect.NewExportServiceClient(http.DefaultClient, s.server.URL, s.option)
	soon := timestamppb.New(time.Now().Add(time.Hour))

	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		rules := func() []*policyv1.Rule {
			return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *policyv1.Rule {
				return rapid.SampledFrom([]*policyv1.Rule{
					{Allow: []string{"read_*", "*"}}, {Deny: []string{"x"}, When: `user.userName == "a: b"`}, {Allow: []string{"y"}, Until: soon},
					{Allow: []string{"z"}, After: policyv1.Duty_DUTY_REVIEW, Review: &policyv1.Review{Approvers: []string{"okta/Leads", twins[0].String()}, Wait: durationpb.New(time.Second)}},
					{Require: policyv1.Duty_DUTY_SIGN_IN, Tools: []string{"*"}, SignIn: &policyv1.Assurance{MaxAge: durationpb.New(time.Hour)}},
					{Allow: []string{"h"}, Hints: &policyv1.Hints{}, Assurance: policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_CLIENT, After: policyv1.Duty_DUTY_CONFIRM},
				}).Draw(t, "rule")
			}), 1, 4).Draw(t, "rules")
		}
		r := &adminv1.ApplyRequest{
			RuleSets:       []*policyv1.RuleSet{{Name: "shared", Rules: rules()}},
			AuditExporters: []*policyv1.AuditExporter{{Name: "siem", Target: policyv1.ExportTarget_EXPORT_TARGET_FILE, Since: soon}},
		}
		for _, id := range []string{"github", "jira"} {
			r.Connectors = append(r.Connectors, &policyv1.Connector{
				Id: id, Url: "https://up.example/" + id, Title: rapid.SampledFrom([]string{"", "A title: it is"}).Draw(t, "title"), Credentials: 7,
				Consent: rapid.SampledFrom([]*policyv1.Consent{nil, {}, {Roots: true}}).Draw(t, "consent"), Breaker: rapid.SampledFrom([]*policyv1.Breaker{nil, {}, {Failures: 2}}).Draw(t, "breaker"),
				Auth: rapid.SampledFrom([]*policyv1.UpstreamAuth{nil, {}, {Kind: &policyv1.UpstreamAuth_Oauth{Oauth: &policyv1.OAuth{Client: &policyv1.UpstreamClient{}}}}}).Draw(t, "auth"),
			})
		}
		all := []*adminv1.Grant{
			{Group: "okta/Leads"}, {Group: twins[0].String()}, {Group: twins[1].String()}, {Group: "okta/A/B: yes"}, {Person: "ann"}, {Person: "service/bot"}, {Everyone: "okta"}, {Everyone: "*"},
		}
		for _, g := range rapid.SliceOfNDistinct(rapid.SampledFrom(all), 1, len(all), rapid.ID).Draw(t, "grants") {
			g := &adminv1.Grant{Group: g.GetGroup(), Person: g.GetPerson(), Everyone: g.GetEveryone(), Connector: rapid.SampledFrom([]string{"github", "jira"}).Draw(t, "connector"), Rules: rules()}
			if rapid.Bool().Draw(t, "shared") {
				g.RuleSets = []string{"shared"}
			}
			if rapid.Bool().Draw(t, "until") {
				g.Until = soon
			}
			r.Grants = append(r.Grants, g)
		}
		if _, err := s.policy().Apply(ctx, connect.NewRequest(r)); err != nil {
			t.Fatal(err)
		}
		e, err := exports.ExportPolicy(ctx, connect.NewRequest(&adminv1.ExportPolicyRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		before := s.Engine.State().Seq()
		again, err := s.policy().Apply(ctx, connect.NewRequest(&adminv1.ApplyRequest{Connectors: e.Msg.GetConnectors(), RuleSets: e.Msg.GetRuleSets(), AuditExporters: e.Msg.GetAuditExporters(), Grants: e.Msg.GetGrants()}))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range again.Msg.GetChanges() {
			if seen[c.GetKind()]++; c.GetAction() != adminv1.AppliedAction_APPLIED_ACTION_UNCHANGED {
				t.Fatalf("%s %s: %s", c.GetKind(), c.GetName(), c.GetAction())
			}
		}
		if after := s.Engine.State().Seq(); after != before {
			t.Fatalf("the log went from %d to %d", before, after)
		}
	})
	if seen["Grant"] == 0 || seen["Connector"] == 0 || seen["RuleSet"] == 0 {
		t.Errorf("exported were %v", seen)
	}

	s.Do(core.NewApplyPolicy(nil, []core.GrantSpec{core.NewGrantSpec(gone.ID, "github", []*policyv1.Rule{{Allow: []string{"*"}}})}))
	s.Do(core.DeleteGroup{Directory: "okta", ID: gone.ID})
	e, err := exports.ExportPolicy(t.Context(), connect.NewRequest(&adminv1.ExportPolicyRequest{}))
	enginetest.Must(t, err)
	if got := fmt.Sprint(len(e.Msg.GetDangling())); got != "1" || e.Msg.GetDangling()[0].GetGroup() != gone.ID.String() {
		t.Errorf("grants of groups that are gone: %v", e.Msg.GetDangling())
	}
}
