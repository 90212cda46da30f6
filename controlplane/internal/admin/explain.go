package admin

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// Explain compiles what a proxy would be sent of this person and decides by the code that proxies run.
func (a *api) Explain(ctx context.Context, req *connect.Request[adminv1.ExplainRequest]) (*connect.Response[adminv1.ExplainResponse], error) {
	of, err := a.asOf(ctx, req.Msg.GetAsOf())
	if err != nil {
		return nil, err
	}
	defer of.release()
	s := of.state
	u, err := s.FindUser(req.Msg.GetPerson())
	if err != nil {
		return nil, err
	}
	table, err := policy.Compile(s.Seq(), s.EntriesFor(u, req.Msg.GetRegion()))
	if err != nil {
		return nil, fmt.Errorf("compiling one person's table: %w", err)
	}
	decision, e := explained(table, u.ID, req.Msg, of.now)
	res := &adminv1.ExplainResponse{Version: s.Seq(), Standing: of.standing, Decision: decision}
	res.Groups = groupsThatCount(s, u, e.Groups)
	for _, ref := range res.Groups {
		if id, err := uuid.Parse(ref.GetId()); err == nil {
			path := &adminv1.GroupPath{}
			for _, g := range s.GroupPath(u, s.Group(id)) {
				path.Groups = append(path.Groups, groupRef(g))
			}
			res.Paths = append(res.Paths, path)
		}
	}
	for _, l := range e.Limits {
		res.Limits = append(res.Limits, l.Because)
	}
	if e.Redaction != nil {
		res.Redactions = e.Redaction.Because
	}
	for _, t := range e.Rules {
		res.Rules = append(res.Rules, ruleTrace(t))
	}
	return connect.NewResponse(res), nil
}

// callAsked is a call that somebody asks about.
type callAsked interface {
	GetConnector() string
	GetTool() string
	GetArguments() []byte
	GetRegion() string
	GetClient() string
	GetAddress() string
	GetAcr() string
	GetAmr() []string
	GetAuthTime() *timestamppb.Timestamp
	GetAt() *timestamppb.Timestamp
}

// explained decides a call, made now unless it says when, and says what became of each rule.
func explained(table *policy.Table, person uuid.UUID, call callAsked, now time.Time) (*auditv1.Decision, policy.Explanation) {
	decision := &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED}
	arguments, _ := table.Arguments(call.GetConnector(), call.GetTool(), call.GetArguments()) // what is wrong with them goes into the verdict
	e := table.Explain(requestOf(person, call, arguments, now))
	if e.Allowed {
		decision.Verdict = auditv1.Verdict_VERDICT_ALLOWED
	}
	decision.Reason, decision.Group, decision.Rule, decision.Text = e.Reason, e.Group, uint32(e.Rule), e.Text()
	decision.RuleSet = e.RuleSet
	return decision, e
}

// requestOf is the request that an explanation is of.
func requestOf(person uuid.UUID, req callAsked, arguments policy.Arguments, now time.Time) policy.Request {
	from := &policy.Origin{Address: req.GetAddress(), ACR: req.GetAcr(), AMR: req.GetAmr()}
	if req.GetAuthTime() != nil {
		from.AuthTime = req.GetAuthTime().AsTime()
	}
	r := policy.Request{
		Person: person, Connector: req.GetConnector(), Tool: req.GetTool(), Client: req.GetClient(), Region: req.GetRegion(), From: from,
		Arguments: arguments, Now: now,
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
