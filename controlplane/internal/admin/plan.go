package admin

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/access"
	"sallyport.dev/controlplane/internal/core"
)

// peopleNamed is how many of those to whom the same happens a plan names.
const peopleNamed = 20

// PlanPolicy decides a policy without writing it, and compares what people may do.
func (a *api) PlanPolicy(ctx context.Context, req *connect.Request[adminv1.PlanPolicyRequest]) (*connect.Response[adminv1.PlanPolicyResponse], error) {
	s := a.Engine.State()
	command, events, err := a.planned(ctx, s, req.Msg.GetPolicy())
	if err != nil {
		return nil, err
	}
	res := &adminv1.PlanPolicyResponse{Version: s.Seq(), Changes: applied(s, command, events)}
	if res.Effects, res.People, err = a.effects(ctx, s, events); err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// planned decides what Apply would write.
func (a *api) planned(ctx context.Context, s *core.State, req *adminv1.ApplyRequest) (core.ApplyPolicy, []*eventv1.Event, error) {
	command, err := policyOf(s, req)
	if err != nil {
		return command, nil, err
	}
	events, err := core.Decide(s, command, a.trial(ctx))
	return command, events, err
}

// trial is what a command is decided with that is not written.
func (a *api) trial(ctx context.Context) core.Env {
	return core.Env{Now: a.Now(), NewID: func() uuid.UUID { return uuid.Nil }, Actor: callerOf(ctx).actor()}
}

// effects tells what events would do to what people may do, and to how many.
func (a *api) effects(ctx context.Context, s *core.State, events []*eventv1.Event) ([]*adminv1.AccessEffect, uint32, error) {
	after, err := access.After(s, events)
	if err != nil {
		return nil, 0, fmt.Errorf("folding what is planned: %w", err)
	}
	affected, err := access.Compare(ctx, s, after, events, a.Now())
	if err != nil {
		return nil, 0, err
	}
	var all []*adminv1.AccessEffect
	people := uint32(0)
	for _, one := range affected {
		people += uint32(len(one.People))
		e := &adminv1.AccessEffect{Count: uint32(len(one.People))}
		for _, u := range one.People[:min(peopleNamed, len(one.People))] {
			e.People = append(e.People, nameOf(u))
		}
		for _, c := range one.Changes {
			e.Tools = append(e.Tools, &adminv1.ToolEffect{
				Connector: c.Connector, Tool: c.Tool, Before: outlook(s, c.Before), After: outlook(after, c.After), Effect: effectOf(c.Move), Terms: termEffects(c.Terms),
			})
		}
		all = append(all, e)
	}
	return all, people, nil
}

// TestPolicy decides calls as they would be after a policy was applied.
func (a *api) TestPolicy(ctx context.Context, req *connect.Request[adminv1.TestPolicyRequest]) (*connect.Response[adminv1.TestPolicyResponse], error) {
	s := a.Engine.State()
	res := &adminv1.TestPolicyResponse{Version: s.Seq()}
	if req.Msg.GetPolicy() != nil {
		_, events, err := a.planned(ctx, s, req.Msg.GetPolicy())
		if err != nil {
			return nil, err
		}
		if s, err = access.After(s, events); err != nil {
			return nil, fmt.Errorf("folding what is tested: %w", err)
		}
	}
	for i, test := range req.Msg.GetTests() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		result, err := a.test(s, test)
		if err != nil {
			return nil, &core.Error{Code: core.InvalidArgument, Field: "tests", Message: fmt.Sprintf("test %d %q: %v", i+1, test.GetName(), err)}
		}
		res.Results = append(res.Results, result)
	}
	return connect.NewResponse(res), nil
}

func (a *api) test(s *core.State, test *adminv1.PolicyTest) (*adminv1.PolicyTestResult, error) {
	table, person, err := a.tested(s, test)
	if err != nil {
		return nil, err
	}
	decision, _ := explained(table, person, test, a.Now())
	out := &adminv1.PolicyTestResult{Name: test.GetName(), Decision: decision, Got: adminv1.Expectation_EXPECTATION_DENIED}
	switch {
	case decision.GetVerdict() == auditv1.Verdict_VERDICT_ALLOWED:
		out.Got = adminv1.Expectation_EXPECTATION_ALLOWED
	case decision.GetReason() == auditv1.Reason_REASON_CONFIRM_REQUIRED:
		out.Got = adminv1.Expectation_EXPECTATION_CONFIRM
	case decision.GetReason() == auditv1.Reason_REASON_REVIEW_REQUIRED:
		out.Got = adminv1.Expectation_EXPECTATION_REVIEW
	}
	out.Passed = out.Got == test.GetExpect()
	return out, nil
}

// tested is what proxies would have of a test's person.
func (a *api) tested(s *core.State, test *adminv1.PolicyTest) (*policy.Table, uuid.UUID, error) {
	if name := test.GetPerson(); name != "" {
		if len(test.GetGroups()) > 0 || test.GetDirectory() != "" || len(test.GetAttributes()) > 0 {
			return nil, uuid.Nil, fmt.Errorf("person %q has groups, a directory and attributes already: leave them out, or the person", name)
		}
		u, err := s.FindUser(name)
		if err != nil {
			return nil, uuid.Nil, err
		}
		table, err := policy.Compile(s.Seq(), s.EntriesFor(u, test.GetRegion()))
		return table, u.ID, err
	}
	directory := test.GetDirectory()
	var groups []*core.Group
	for _, name := range test.GetGroups() {
		g, err := s.FindGroup(name)
		if err != nil {
			return nil, uuid.Nil, err
		}
		if directory != "" && directory != g.Directory {
			return nil, uuid.Nil, fmt.Errorf("group %q is of directory %s, and the person of %s: nobody is in groups of another directory", name, g.Directory, directory)
		}
		directory = g.Directory
		groups = append(groups, g)
	}
	if s.Directory(directory) == nil {
		return nil, uuid.Nil, fmt.Errorf("there is no directory %q: say who calls by person, groups or directory", directory)
	}
	nobody := uuid.Max
	table, err := policy.Compile(s.Seq(), s.EntriesOfNobody(nobody, directory, groups, test.GetAttributes()))
	return table, nobody, err
}
