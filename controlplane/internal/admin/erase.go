package admin

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/core"
)

func (a *api) EraseUser(ctx context.Context, req *connect.Request[adminv1.EraseUserRequest]) (*connect.Response[adminv1.EraseUserResponse], error) {
	u, err := a.Engine.State().FindUser(req.Msg.GetUser())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.EraseUser{ID: u.ID})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.EraseUserResponse{UserId: u.ID.String(), Version: out.Seq}), nil
}

func (a *api) ListErasures(_ context.Context, _ *connect.Request[adminv1.ListErasuresRequest]) (*connect.Response[adminv1.ListErasuresResponse], error) {
	s := a.Engine.State()
	res := &adminv1.ListErasuresResponse{Version: s.Seq()}
	for e := range s.Erasures() {
		res.Erasures = append(res.Erasures, &adminv1.Erasure{UserId: e.ID.String(), RemovedAt: timestamppb.New(e.At), Version: e.Seq})
	}
	return connect.NewResponse(res), nil
}
