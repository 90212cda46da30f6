package admin

import (
	"context"
	"strconv"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Budgets is what the API needs of those who keep budgets.
type Budgets interface {
	// Show calls fn with what is used of a budget in windows that are not over, of one person, by id, or of everybody.
	Show(ctx context.Context, budget, person string, fn func(*adminv1.BudgetUse)) error
	// Reset ends such windows, and says how many.
	Reset(ctx context.Context, budget, person string) (windows int, err error)
}

func (a *api) ListLimits(_ context.Context, _ *connect.Request[adminv1.ListLimitsRequest]) (*connect.Response[adminv1.ListLimitsResponse], error) {
	s := a.Engine.State()
	res := &adminv1.ListLimitsResponse{}
	for g := range s.Grants() {
		add := func(rules []*policyv1.Rule) {
			for _, r := range rules {
				if r.GetLimit() != nil {
					res.Limits = append(res.Limits, &adminv1.LimitRule{Grantee: s.GranteeName(g.To), Connector: g.Connector, Tools: r.GetTools(), Limit: r.GetLimit()})
				}
			}
		}
		add(g.Rules)
		for _, name := range g.RuleSets {
			add(s.RuleSet(name).GetRules())
		}
	}
	return connect.NewResponse(res), nil
}

func (a *api) GetBudget(ctx context.Context, req *connect.Request[adminv1.GetBudgetRequest]) (*connect.Response[adminv1.GetBudgetResponse], error) {
	s := a.Engine.State()
	person, err := personID(s, req.Msg.GetPerson())
	if err != nil {
		return nil, err
	}
	res := &adminv1.GetBudgetResponse{}
	err = a.Budgets.Show(ctx, req.Msg.GetBudget(), person, func(use *adminv1.BudgetUse) {
		if id, err := uuid.Parse(use.GetSubject().GetPerson()); err == nil {
			if u := s.User(id); u != nil {
				use.PersonName = u.UserName
			}
		}
		res.Uses = append(res.Uses, use)
	})
	return connect.NewResponse(res), err
}

func (a *api) ResetBudget(ctx context.Context, req *connect.Request[adminv1.ResetBudgetRequest]) (*connect.Response[adminv1.ResetBudgetResponse], error) {
	person, err := personID(a.Engine.State(), req.Msg.GetPerson())
	if err != nil {
		return nil, err
	}
	windows, err := a.Budgets.Reset(ctx, req.Msg.GetBudget(), person)
	if err != nil {
		return nil, err
	}
	if a.Trail != nil {
		a.Trail.Note(&auditv1.AuditRecord{
			Kind: auditv1.Kind_KIND_CHANGE, Action: "budget_reset", Target: "budget/" + req.Msg.GetBudget(), PersonId: person, Actor: auditActor(ctx),
			Details: []*auditv1.Detail{{Key: "windows", Value: strconv.Itoa(windows)}},
		})
	}
	return connect.NewResponse(&adminv1.ResetBudgetResponse{Windows: uint32(windows)}), nil //nolint:gosec // as many as people at most
}

// personID is the id of a person who is named; empty where nobody is.
func personID(s *core.State, name string) (string, error) {
	if name == "" {
		return "", nil
	}
	u, err := s.FindUser(name)
	if err != nil {
		return "", err
	}
	return u.ID.String(), nil
}
