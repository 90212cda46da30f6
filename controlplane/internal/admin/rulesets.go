package admin

import (
	"context"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

func (a *api) ListRuleSets(_ context.Context, _ *connect.Request[adminv1.ListRuleSetsRequest]) (*connect.Response[adminv1.ListRuleSetsResponse], error) {
	s := a.Engine.State()
	referring := map[string]uint32{}
	for g := range s.Grants() {
		for _, name := range g.RuleSets {
			referring[name]++
		}
	}
	res := &adminv1.ListRuleSetsResponse{}
	for set := range s.RuleSets() {
		res.RuleSets = append(res.RuleSets, &adminv1.RuleSetStatus{
			RuleSet: &policyv1.RuleSet{Name: set.GetName(), Rules: shownRules(s, set.GetRules())}, Grants: referring[set.GetName()],
		})
	}
	return connect.NewResponse(res), nil
}

func (a *api) RemoveRuleSet(ctx context.Context, req *connect.Request[adminv1.RemoveRuleSetRequest]) (*connect.Response[adminv1.RemoveRuleSetResponse], error) {
	out, err := a.do(ctx, core.RemoveRuleSet{Name: req.Msg.GetName()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RemoveRuleSetResponse{Version: out.Seq}), nil
}
