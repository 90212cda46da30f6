package admin

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
)

// invitedFor is how long an invitation is good, where an admin does not say.
const invitedFor = time.Hour

// InviteProxy makes an invitation. Its token opens nothing but the door to join, once.
func (a *api) InviteProxy(ctx context.Context, req *connect.Request[adminv1.InviteProxyRequest]) (*connect.Response[adminv1.InviteProxyResponse], error) {
	id, token, sum, err := bearer.New(eventv1.TokenKind_TOKEN_KIND_PROXY)
	if err != nil {
		return nil, fmt.Errorf("making an invitation: %w", err)
	}
	ttl := invitedFor
	if req.Msg.GetTtl() != nil {
		ttl = req.Msg.GetTtl().AsDuration()
	}
	expires := a.Now().Add(ttl)
	out, err := a.do(ctx, core.IssueToken{
		ID: id, Kind: eventv1.TokenKind_TOKEN_KIND_PROXY, SHA256: sum[:], Name: req.Msg.GetName(), Region: req.Msg.GetRegion(), ExpiresAt: expires,
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.InviteProxyResponse{Id: id.String(), Token: a.Invitation(token), ExpiresAt: timestamppb.New(expires), Version: out.Seq}), nil
}

// RevokeProxy expels a proxy.
func (a *api) RevokeProxy(ctx context.Context, req *connect.Request[adminv1.RevokeProxyRequest]) (*connect.Response[adminv1.RevokeProxyResponse], error) {
	token := a.Engine.State().ProxyToken(req.Msg.GetName())
	if token == nil {
		return nil, &core.Error{Code: core.NotFound, Message: fmt.Sprintf("there is no proxy %q: see sallyport proxies", req.Msg.GetName())}
	}
	out, err := a.do(ctx, core.RevokeToken{ID: token.ID})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RevokeProxyResponse{Version: out.Seq}), nil
}

// ReadmitProxy lets a SPIFFE id join again.
func (a *api) ReadmitProxy(ctx context.Context, req *connect.Request[adminv1.ReadmitProxyRequest]) (*connect.Response[adminv1.ReadmitProxyResponse], error) {
	out, err := a.do(ctx, core.ReadmitProxy{SPIFFEID: req.Msg.GetSpiffeId()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.ReadmitProxyResponse{Version: out.Seq}), nil
}
