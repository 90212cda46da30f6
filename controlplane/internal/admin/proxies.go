package admin

import (
	"context"
	"time"

	"connectrpc.com/connect"
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
	return connect.NewResponse(&adminv1.ListProxiesResponse{Proxies: proxies, Version: s.Seq()}), nil
}

// leasePoll is how often a waiting receipt looks whether a lease ran out: that is no event.
const leasePoll = time.Second

// GetReceipt waits, where asked to, until each proxy enforces the version or its lease has run out.
func (a *api) GetReceipt(ctx context.Context, req *connect.Request[adminv1.GetReceiptRequest]) (*connect.Response[adminv1.GetReceiptResponse], error) {
	for {
		proxies, changed, err := a.Fleet.Proxies(a.Engine.State(), a.Now())
		if err != nil && !req.Msg.GetWait() {
			return nil, connect.NewError(connect.CodeUnavailable, err)
		}
		if err == nil {
			receipt := a.receipt(req.Msg.GetVersion(), proxies)
			if receipt.GetEnforcedEverywhere() || !req.Msg.GetWait() {
				return connect.NewResponse(receipt), nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, connect.NewError(connect.CodeDeadlineExceeded, ctx.Err())
		case <-changed:
		case <-time.After(leasePoll):
		}
	}
}

func (a *api) receipt(version uint64, proxies []*adminv1.Proxy) *adminv1.GetReceiptResponse {
	res := &adminv1.GetReceiptResponse{Version: version, EnforcedEverywhere: true}
	now := a.Now()
	for _, p := range proxies {
		out := &adminv1.ProxyReceipt{Proxy: p.GetName(), Region: p.GetRegion(), Enforced: p.GetVersion() >= version}
		out.LeaseExpired = p.GetLeaseUntil() == nil || !now.Before(p.GetLeaseUntil().AsTime())
		if out.GetEnforced() {
			out.EnforcedAt = p.GetAcknowledgedAt()
		}
		if !out.GetEnforced() && !out.GetLeaseExpired() {
			res.EnforcedEverywhere = false
		}
		res.Proxies = append(res.Proxies, out)
	}
	return res
}
