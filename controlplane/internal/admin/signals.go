package admin

import (
	"context"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/core"
)

func (a *api) SetSignals(ctx context.Context, req *connect.Request[adminv1.SetSignalsRequest]) (*connect.Response[adminv1.SetSignalsResponse], error) {
	out, err := a.do(ctx, core.NewSetSignals(req.Msg.GetDirectoryId(), req.Msg.GetSignals()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.SetSignalsResponse{Version: out.Seq}), nil
}
