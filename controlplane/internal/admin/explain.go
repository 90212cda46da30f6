package admin

import (
	"context"
	"fmt"
	"slices"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// Explain compiles what a proxy would be sent of this person and decides by the code that proxies run.
func (a *api) Explain(_ context.Context, req *connect.Request[adminv1.ExplainRequest]) (*connect.Response[adminv1.ExplainResponse], error) {
	s := a.Engine.State()
	u, err := s.FindUser(req.Msg.GetPerson())
	if err != nil {
		return nil, err
	}
	table, err := policy.Compile(s.Seq(), s.EntriesFor(u, req.Msg.GetRegion()))
	if err != nil {
		return nil, fmt.Errorf("compiling one person's table: %w", err)
	}
	res := &adminv1.ExplainResponse{Version: s.Seq(), Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED}}
	arguments, err := table.Arguments(req.Msg.GetConnector(), req.Msg.GetTool(), req.Msg.GetArguments())
	if err != nil {
		res.Decision.Reason = auditv1.Reason_REASON_ARGUMENTS_INVALID
		res.Decision.Text = err.Error()
		return connect.NewResponse(res), nil //nolint:nilerr // arguments that are refused are a verdict, not a failure
	}
	e := table.Explain(a.asked(u, req.Msg, arguments))
	if e.Allowed {
		res.Decision.Verdict = auditv1.Verdict_VERDICT_ALLOWED
	}
	res.Decision.Reason, res.Decision.Group, res.Decision.Rule, res.Decision.Text = e.Reason, e.Group, uint32(e.Rule), e.Text()
	res.Decision.RuleSet = e.RuleSet
	res.Groups = groupsThatCount(s, u, e.Groups)
	for _, t := range e.Rules {
		res.Rules = append(res.Rules, ruleTrace(t))
	}
	return connect.NewResponse(res), nil
}

// asked is the request that an explanation is of.
func (a *api) asked(u *core.User, req *adminv1.ExplainRequest, arguments policy.Arguments) policy.Request {
	from := &policy.Origin{Address: req.GetAddress(), ACR: req.GetAcr(), AMR: req.GetAmr()}
	if req.GetAuthTime() != nil {
		from.AuthTime = req.GetAuthTime().AsTime()
	}
	r := policy.Request{
		Person: u.ID, Connector: req.GetConnector(), Tool: req.GetTool(), Client: req.GetClient(), Region: req.GetRegion(), From: from,
		Arguments: arguments, Now: a.Now(),
	}
	if req.GetAt() != nil {
		r.Now = req.GetAt().AsTime()
	}
	return r
}

// groupsThatCount names the groups of a verdict with their ids.
func groupsThatCount(s *core.State, u *core.User, names []string) []*adminv1.GroupRef {
	var refs []*adminv1.GroupRef
	for e := range s.EntriesFor(u, "") {
		if g := e.GetGroup(); g != nil && slices.Contains(names, g.GetName()) {
			if group := s.GroupByNumber(g.GetNumber()); group != nil {
				refs = append(refs, groupRef(group))
			}
		}
	}
	return refs
}

func ruleTrace(t policy.Trace) *adminv1.RuleTrace {
	out := &adminv1.RuleTrace{
		Group: t.Group, Rule: uint32(t.Index), RuleSet: t.RuleSet, Effect: "allow", Tools: t.Rule.GetAllow(), When: t.Rule.GetWhen(), Duty: t.Rule.GetAfter(),
	}
	switch {
	case len(t.Rule.GetDeny()) > 0:
		out.Effect, out.Tools = "deny", t.Rule.GetDeny()
	case t.Rule.GetRequire() != 0:
		out.Effect, out.Tools, out.Duty = "require", t.Rule.GetTools(), t.Rule.GetRequire()
	}
	switch {
	case t.OtherTool:
		out.Result = adminv1.RuleResult_RULE_RESULT_OTHER_TOOL
	case t.OtherHints:
		out.Result = adminv1.RuleResult_RULE_RESULT_OTHER_HINTS
	case t.Ended:
		out.Result = adminv1.RuleResult_RULE_RESULT_ENDED
	case t.Err != nil:
		out.Result, out.Text = adminv1.RuleResult_RULE_RESULT_CONDITION_FAILED, t.Err.Error()
	case t.TooWeak:
		out.Result, out.Text = adminv1.RuleResult_RULE_RESULT_SIGN_IN_TOO_WEAK, "it asks for a sign-in "+policy.SignInOf(t.Rule.GetSignIn()).String()
	case t.Matched:
		out.Result = adminv1.RuleResult_RULE_RESULT_MATCHED
	default:
		out.Result = adminv1.RuleResult_RULE_RESULT_CONDITION_FALSE
	}
	return out
}
