package admin

import (
	"context"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
)

// Doctor looks whether a directory's provider and Sallyport fit together.
type Doctor interface {
	Diagnose(ctx context.Context, directory string, provider adminv1.Provider) (*adminv1.DiagnoseDirectoryResponse, error)
}

func (a *api) DiagnoseDirectory(ctx context.Context, req *connect.Request[adminv1.DiagnoseDirectoryRequest]) (*connect.Response[adminv1.DiagnoseDirectoryResponse], error) {
	res, err := a.Doctor.Diagnose(ctx, req.Msg.GetDirectoryId(), req.Msg.GetProvider())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}
