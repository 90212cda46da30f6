package admin

import (
	"context"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
)

func (a *api) ListProxies(_ context.Context, _ *connect.Request[adminv1.ListProxiesRequest]) (*connect.Response[adminv1.ListProxiesResponse], error) {
	s := a.Engine.State()
	proxies, _, err := a.Fleet.Proxies(s, a.Now())
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	for _, p := range proxies {
		if p.GetVersion() < s.Seq() {
			p.Lag = s.Seq() - p.GetVersion()
		}
	}
	res := &adminv1.ListProxiesResponse{Proxies: proxies, Version: s.Seq()}
	for b := range s.AllBarred() {
		res.Barred = append(res.Barred, &adminv1.BarredProxy{SpiffeId: b.SPIFFEID, Name: b.Name, Region: b.Region, At: timestamppb.New(b.At)})
	}
	return connect.NewResponse(res), nil
}
