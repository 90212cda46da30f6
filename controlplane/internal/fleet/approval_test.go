package fleet_test

import (
	"context"
	"testing"

	"connectrpc.com/connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// people keeps what it is to ask.
type people struct{ confirm, review *policy.Duties }

func (p *people) Confirm(_ context.Context, _ *core.User, _ *core.Token, d *policy.Duties, _ *fleetv1.ConfirmRequest) (*fleetv1.ConfirmResponse, error) {
	p.confirm = d
	return &fleetv1.ConfirmResponse{State: fleetv1.AnswerState_ANSWER_STATE_PENDING}, nil
}

func (p *people) Redeem(_ context.Context, u *core.User, _ *core.Token, r *fleetv1.RedeemRequest) (bool, error) {
	return u.Generation == r.GetGeneration(), nil
}

func (p *people) Review(_ context.Context, _ *core.User, _ *core.Token, d *policy.Duties, _ *fleetv1.ReviewRequest) (*fleetv1.ReviewResponse, error) {
	p.review = d
	return &fleetv1.ReviewResponse{State: fleetv1.AnswerState_ANSWER_STATE_PENDING}, nil
}

func TestPeopleAreAskedForLivePersonsAndForWhatRulesSayAlone(t *testing.T) {
	asked := &people{}
	s := newSite(t, config{approvals: asked})
	i := newIssuer(t)
	s.Do(core.NewSetDirectory(&policyv1.Directory{Id: "okta", Issuers: []*policyv1.Issuer{{Url: i.url, Audience: "api://sallyport"}}}))
	ada, lead := s.User("okta", "ada"), s.User("okta", "lead")
	group, leads := s.Group("okta", "Engineers", ada), s.Group("okta", "Leads", lead)
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://up.example"}}, []core.GrantSpec{core.NewGrantSpec(group.ID, "github", []*policyv1.Rule{
		{Allow: []string{"free", "push"}}, {Require: policyv1.Duty_DUTY_CONFIRM, Tools: []string{"push"}, When: `args.branch == "main"`},
		{Allow: []string{"hook"}, After: policyv1.Duty_DUTY_REVIEW, Review: &policyv1.Review{Approvers: []string{leads.ID.String()}}},
	})}))
	var tools []*policyv1.Tool
	for _, name := range []string{"free", "hook", "other", "push"} {
		tools = append(tools, &policyv1.Tool{Name: name, Definition: []byte(`{"name":"` + name + `","inputSchema":{"type":"object","properties":{"branch":{"type":"string"}},"required":["branch"]}}`)})
	}
	s.Do(core.NewPinCatalogue("github", tools))
	client := fleetv1connect.NewApprovalServiceClient(enginetest.H2C(t), s.server.URL)
	call := func(token, tool, arguments string) *fleetv1.AskedCall {
		return &fleetv1.AskedCall{AccessToken: token, Connector: "github", Tool: tool, Method: "tools/call", Arguments: []byte(arguments)}
	}
	confirm := func(bearer string, c *fleetv1.AskedCall) (fleetv1.AnswerState, error) {
		req := connect.NewRequest(&fleetv1.ConfirmRequest{Call: c})
		req.Header().Set("Authorization", "Bearer "+bearer)
		res, err := client.Confirm(t.Context(), req)
		if err != nil {
			return 0, err
		}
		return res.Msg.GetState(), nil
	}
	good := i.sign(i.key, nil)
	if got, err := confirm(s.token, call(good, "push", `{"branch":"main"}`)); err != nil || got != fleetv1.AnswerState_ANSWER_STATE_PENDING || asked.confirm.Confirm != policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER {
		t.Errorf("push to main: %v %v, asked %+v", got, err, asked.confirm)
	}
	asked.confirm = nil
	for tool, arguments := range map[string]string{"push": `{"branch":"dev"}`, "free": `{"branch":"main"}`} {
		if got, err := confirm(s.token, call(good, tool, arguments)); err != nil || got != fleetv1.AnswerState_ANSWER_STATE_NOT_NEEDED || asked.confirm != nil {
			t.Errorf("%s %s: %v %v", tool, arguments, got, err)
		}
	}
	for name, want := range map[string]struct {
		bearer string
		call   *fleetv1.AskedCall
		code   connect.Code
	}{
		"no proxy":                  {"x", call(good, "push", `{"branch":"main"}`), connect.CodeUnauthenticated},
		"a forged token":            {s.token, call(good+"x", "push", `{"branch":"main"}`), connect.CodePermissionDenied},
		"what no rule allows":       {s.token, call(good, "other", `{"branch":"main"}`), connect.CodePermissionDenied},
		"arguments that do not fit": {s.token, call(good, "push", `{}`), connect.CodeInvalidArgument},
	} {
		if _, err := confirm(want.bearer, want.call); connect.CodeOf(err) != want.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	req := connect.NewRequest(&fleetv1.ReviewRequest{Call: call(good, "hook", `{"branch":"x"}`)})
	req.Header().Set("Authorization", "Bearer "+s.token)
	if _, err := client.Review(t.Context(), req); err != nil || len(asked.review.Steps) != 1 || asked.review.Steps[0][0].Approvers[0] != leads.ID.String() {
		t.Errorf("the review: %v, asked %+v", err, asked.review)
	}
	s.Do(core.UpdateUser{Directory: "okta", ID: ada.ID, Profile: core.Profile{UserName: "ada", ExternalID: "ext-ada"}})
	if _, err := confirm(s.token, call(good, "push", `{"branch":"main"}`)); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("for somebody who was deactivated: %v", err)
	}
}
