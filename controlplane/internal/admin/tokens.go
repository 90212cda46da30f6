package admin

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
)

func (a *api) CreateToken(ctx context.Context, req *connect.Request[adminv1.CreateTokenRequest]) (*connect.Response[adminv1.CreateTokenResponse], error) {
	kind := eventv1.TokenKind(req.Msg.GetKind()) // the two enums have the same numbers: a test says so
	id, token, sum, err := bearer.New(kind)
	if err != nil {
		return nil, fmt.Errorf("making a token: %w", err)
	}
	var expires time.Time
	if ttl := req.Msg.GetTtl(); ttl != nil {
		expires = a.Now().Add(ttl.AsDuration())
	}
	out, err := a.do(ctx, core.IssueToken{
		ID: id, Kind: kind, SHA256: sum[:], Name: req.Msg.GetName(), Directory: req.Msg.GetDirectoryId(), Region: req.Msg.GetRegion(), ExpiresAt: expires,
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.CreateTokenResponse{Id: id.String(), Token: token, Version: out.Seq}), nil
}

func (a *api) ListTokens(_ context.Context, _ *connect.Request[adminv1.ListTokensRequest]) (*connect.Response[adminv1.ListTokensResponse], error) {
	res := &adminv1.ListTokensResponse{}
	for t := range a.Engine.State().Tokens() {
		out := &adminv1.Token{
			Id: t.ID.String(), Kind: adminv1.TokenKind(t.Kind), Name: t.Name, DirectoryId: t.Directory, Region: t.Region,
			CreatedAt: timestamppb.New(t.CreatedAt),
		}
		if !t.ExpiresAt.IsZero() {
			out.ExpiresAt = timestamppb.New(t.ExpiresAt)
		}
		res.Tokens = append(res.Tokens, out)
	}
	return connect.NewResponse(res), nil
}

func (a *api) RevokeToken(ctx context.Context, req *connect.Request[adminv1.RevokeTokenRequest]) (*connect.Response[adminv1.RevokeTokenResponse], error) {
	id, err := uuid.Parse(req.Msg.GetId())
	if err != nil {
		return nil, &core.Error{Code: core.InvalidArgument, Field: "id", Message: "a token's id is a UUID"}
	}
	out, err := a.do(ctx, core.RevokeToken{ID: id})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RevokeTokenResponse{Version: out.Seq}), nil
}
