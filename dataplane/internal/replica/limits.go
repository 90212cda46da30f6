package replica

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

// LeaseBudget asks for a share of a budget. It is tried once.
func (c *Client) LeaseBudget(ctx context.Context, r *fleetv1.LeaseBudgetRequest) (*fleetv1.LeaseBudgetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.peer().limits.LeaseBudget(ctx, connect.NewRequest(r))
	if err != nil {
		if ctx.Err() == nil {
			c.failed(err)
		}
		return nil, fmt.Errorf("asking for a share of a budget: %w", err)
	}
	return resp.Msg, nil
}
