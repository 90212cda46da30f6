package fleet

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// Approvals asks people for the yes that rules want. What it returns as an error is connect's where the proxy is to know it.
type Approvals interface {
	// Confirm asks a person to confirm a call of their agent, or says how that stands, and waits for it if asked to.
	Confirm(ctx context.Context, user *core.User, proxy *core.Token, duties *policy.Duties, r *fleetv1.ConfirmRequest) (*fleetv1.ConfirmResponse, error)
	// Redeem uses up what a person said in their client. False: it was used before, or is void.
	Redeem(ctx context.Context, user *core.User, proxy *core.Token, r *fleetv1.RedeemRequest) (bool, error)
	// Review asks approvers about a call, or says how that stands, and waits for it if asked to.
	Review(ctx context.Context, user *core.User, proxy *core.Token, duties *policy.Duties, r *fleetv1.ReviewRequest) (*fleetv1.ReviewResponse, error)
}

// Confirm asks for the person's own yes.
func (s *Server) Confirm(ctx context.Context, req *connect.Request[fleetv1.ConfirmRequest]) (*connect.Response[fleetv1.ConfirmResponse], error) {
	user, proxy, duties, err := s.asked(ctx, req.Msg.GetCall())
	if err != nil {
		return nil, err
	}
	if duties == nil || duties.Confirm == 0 {
		return connect.NewResponse(&fleetv1.ConfirmResponse{State: fleetv1.AnswerState_ANSWER_STATE_NOT_NEEDED}), nil
	}
	res, err := s.config.Approvals.Confirm(ctx, user, proxy, duties, req.Msg)
	return connect.NewResponse(res), s.failed(ctx, err)
}

// Redeem uses up a yes that the person gave in their client.
func (s *Server) Redeem(ctx context.Context, req *connect.Request[fleetv1.RedeemRequest]) (*connect.Response[fleetv1.RedeemResponse], error) {
	token, _, user, err := s.whose(ctx, req.Msg.GetAccessToken(), req.Msg.GetConnector(), req.Msg.GetResource())
	if err != nil {
		return nil, err
	}
	redeemed, err := s.config.Approvals.Redeem(ctx, user, token, req.Msg)
	return connect.NewResponse(&fleetv1.RedeemResponse{Redeemed: redeemed}), s.failed(ctx, err)
}

// Review asks for the approvers' yes.
func (s *Server) Review(ctx context.Context, req *connect.Request[fleetv1.ReviewRequest]) (*connect.Response[fleetv1.ReviewResponse], error) {
	user, proxy, duties, err := s.asked(ctx, req.Msg.GetCall())
	if err != nil {
		return nil, err
	}
	if duties.Review() == "" {
		return connect.NewResponse(&fleetv1.ReviewResponse{State: fleetv1.AnswerState_ANSWER_STATE_NOT_NEEDED}), nil
	}
	res, err := s.config.Approvals.Review(ctx, user, proxy, duties, req.Msg)
	return connect.NewResponse(res), s.failed(ctx, err)
}

// failed hides what a proxy need not know.
func (s *Server) failed(ctx context.Context, err error) error {
	var said *connect.Error
	if err == nil || errors.As(err, &said) {
		return err
	}
	if ctx.Err() == nil {
		s.config.Log.ErrorContext(ctx, "people could not be asked for their yes", "error", err)
	}
	return connect.NewError(connect.CodeUnavailable, errors.New("people cannot be asked now: try again"))
}

// whose says for whom a proxy asks, by the fenced state.
func (s *Server) whose(ctx context.Context, accessToken, connector, resource string) (*core.Token, *core.State, *core.User, error) {
	token, err := s.proxy(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	if s.config.Approvals == nil {
		return nil, nil, nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("this control plane asks nobody"))
	}
	state, err := s.config.Engine.Fence(ctx)
	if err != nil {
		return nil, nil, nil, connect.NewError(connect.CodeUnavailable, errors.New("the control plane cannot prove that it is current: try again"))
	}
	if state.Token(token.ID) == nil { // revoked, which the state that let it in did not hold yet
		return nil, nil, nil, errNoProxy()
	}
	user, _, err := s.verify(ctx, state, accessToken, connector, resource)
	if err != nil {
		return nil, nil, nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	if !s.limits.take(token.ID, user.ID, s.config.Now()) {
		return nil, nil, nil, connect.NewError(connect.CodeResourceExhausted, errors.New("too much is asked for: try again shortly"))
	}
	return token, state, user, nil
}

// asked says who asks for which call, and what rules want before it: by the code that proxies run, over what they would be sent of this
// person. A call that no yes would let through is asked for from nobody.
func (s *Server) asked(ctx context.Context, c *fleetv1.AskedCall) (*core.User, *core.Token, *policy.Duties, error) {
	token, state, user, err := s.whose(ctx, c.GetAccessToken(), c.GetConnector(), c.GetResource())
	if err != nil {
		return nil, nil, nil, err
	}
	table, err := policy.Compile(state.Seq(), state.EntriesFor(user, token.Region))
	if err != nil {
		return nil, nil, nil, s.failed(ctx, err)
	}
	from := policy.Origin{Address: c.GetAddress(), ACR: c.GetAcr(), AMR: c.GetAmr(), At: s.config.Now()}
	if c.GetAuthTime() != nil {
		from.AuthTime = c.GetAuthTime().AsTime()
	}
	ask := policy.Request{
		Person: user.ID, Client: c.GetClientId(), Connector: c.GetConnector(), Tool: c.GetTool(), Region: token.Region, From: &from, Now: s.config.Now().Truncate(time.Millisecond),
	}
	if ask.Arguments, err = table.Arguments(ask.Connector, ask.Tool, c.GetArguments()); err != nil {
		return nil, nil, nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	d := table.Decide(ask)
	if !d.Allowed && d.Reason != auditv1.Reason_REASON_CONFIRM_REQUIRED && d.Reason != auditv1.Reason_REASON_REVIEW_REQUIRED {
		return nil, nil, nil, connect.NewError(connect.CodePermissionDenied, errors.New("the policy does not allow this call, whoever says yes to it"))
	}
	return user, token, d.Duties, nil
}
