package fleet

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

// Budgets keeps what is used of budgets.
type Budgets interface {
	// Lease notes what a proxy spent of a budget, and grants it a share of what is left.
	Lease(ctx context.Context, proxy string, r *fleetv1.LeaseBudgetRequest) (*fleetv1.LeaseBudgetResponse, error)
}

// LeaseBudget grants a proxy a share. Limit and window are as the proxy's policy has them: it enforces no other policy than the one
// that it was sent.
func (s *Server) LeaseBudget(ctx context.Context, req *connect.Request[fleetv1.LeaseBudgetRequest]) (*connect.Response[fleetv1.LeaseBudgetResponse], error) {
	token, err := s.proxy(ctx)
	if err != nil {
		return nil, err
	}
	if s.config.Budgets == nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("this control plane keeps no budgets"))
	}
	of := req.Msg.GetSubject()
	if of.GetPerson() != "" {
		id, err := uuid.Parse(of.GetPerson())
		if err != nil || s.config.Engine.State().User(id) == nil {
			return nil, connect.NewError(connect.CodeNotFound, errors.New("there is no such person"))
		}
	}
	if of.GetConnector() != "" && s.config.Engine.State().Connector(of.GetConnector()) == nil {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("there is no such connector"))
	}
	res, err := s.config.Budgets.Lease(ctx, token.ID.String(), req.Msg)
	if err != nil {
		if ctx.Err() == nil {
			s.config.Log.ErrorContext(ctx, "a share of a budget could not be granted", "budget", req.Msg.GetBudget(), "error", err)
		}
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("no share can be granted now: try again"))
	}
	return connect.NewResponse(res), nil
}
