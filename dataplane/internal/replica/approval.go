package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"
)

var (
	// ErrApprovalDenied says that the control plane asks nobody for this call.
	ErrApprovalDenied = errors.New("the control plane asks nobody for this call")
	// ErrApprovalUnavailable says that nobody can be asked now.
	ErrApprovalUnavailable = errors.New("nobody can be asked now")
)

// Confirm asks for the person's own yes, or how it stands.
func (c *Client) Confirm(ctx context.Context, r *fleetv1.ConfirmRequest) (*fleetv1.ConfirmResponse, error) {
	return approval(ctx, c, fleetv1connect.ApprovalServiceClient.Confirm, r, r.GetWait().AsDuration())
}

// Redeem uses up a yes that the person gave in their client. It is tried once: what became of one whose answer is lost is not known.
func (c *Client) Redeem(ctx context.Context, r *fleetv1.RedeemRequest) (bool, error) {
	resp, err := approval(ctx, c, fleetv1connect.ApprovalServiceClient.Redeem, r, 0)
	return resp.GetRedeemed(), err
}

// Review asks for the approvers' yes, or how it stands.
func (c *Client) Review(ctx context.Context, r *fleetv1.ReviewRequest) (*fleetv1.ReviewResponse, error) {
	return approval(ctx, c, fleetv1connect.ApprovalServiceClient.Review, r, r.GetWait().AsDuration())
}

func approval[Req, Res any](ctx context.Context, c *Client, ask func(fleetv1connect.ApprovalServiceClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), r *Req, wait time.Duration) (*Res, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+wait)
	defer cancel()
	resp, err := ask(c.peer().approvals, ctx, connect.NewRequest(r))
	switch {
	case err == nil:
		return resp.Msg, nil
	case denied(err):
		return nil, fmt.Errorf("%w: %s", ErrApprovalDenied, message(err))
	case ctx.Err() == nil:
		c.failed(err)
	}
	return nil, fmt.Errorf("%w: %s", ErrApprovalUnavailable, connect.CodeOf(err))
}
