package admin

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
)

func (a *api) CreateToken(ctx context.Context, req *connect.Request[adminv1.CreateTokenRequest]) (*connect.Response[adminv1.CreateTokenResponse], error) {
	kind := eventv1.TokenKind(req.Msg.GetKind()) // the two enums have the same numbers: a test says so
	if kind == eventv1.TokenKind_TOKEN_KIND_PROXY {
		return nil, &core.Error{Code: core.InvalidArgument, Message: "a proxy joins with an invitation: sallyport proxies invite NAME --region REGION"}
	}
	id, token, sum, err := bearer.New(kind)
	if err != nil {
		return nil, fmt.Errorf("making a token: %w", err)
	}
	out, err := a.do(ctx, core.IssueToken{
		ID: id, Kind: kind, SHA256: sum[:], Name: req.Msg.GetName(), Directory: req.Msg.GetDirectoryId(), Region: req.Msg.GetRegion(), Role: req.Msg.GetRole(),
		ExpiresAt: a.ends(kind, req.Msg.GetTtl()),
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.CreateTokenResponse{Id: id.String(), Token: token, Version: out.Seq}), nil
}

// defaultAdminTTL is how long an admin token is valid of which nothing else was said.
const defaultAdminTTL = 90 * 24 * time.Hour

// ends is when a token that is made now expires: zero for never.
func (a *api) ends(kind eventv1.TokenKind, ttl *durationpb.Duration) time.Time {
	switch {
	case ttl != nil:
		return a.Now().Add(ttl.AsDuration())
	case kind == eventv1.TokenKind_TOKEN_KIND_ADMIN:
		return a.Now().Add(defaultAdminTTL)
	}
	return time.Time{}
}

// defaultOverlap is how long a token that is rotated goes on.
const defaultOverlap = 24 * time.Hour

func (a *api) RotateToken(ctx context.Context, req *connect.Request[adminv1.RotateTokenRequest]) (*connect.Response[adminv1.RotateTokenResponse], error) {
	old, err := tokenID(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	record := a.Engine.State().Token(old)
	if record == nil {
		return nil, &core.Error{Code: core.NotFound, Field: "id", Message: "there is no token " + old.String()}
	}
	id, token, sum, err := bearer.New(record.Kind)
	if err != nil {
		return nil, fmt.Errorf("making a token: %w", err)
	}
	overlap := defaultOverlap
	if o := req.Msg.GetOverlap(); o != nil {
		overlap = o.AsDuration()
	}
	out, err := a.do(ctx, core.RotateToken{Old: old, ID: id, SHA256: sum[:], OldExpiresAt: a.Now().Add(overlap), ExpiresAt: a.ends(record.Kind, req.Msg.GetTtl())})
	if err != nil {
		return nil, err
	}
	res := &adminv1.RotateTokenResponse{Id: id.String(), Token: token, Version: out.Seq}
	if t := out.State.Token(old); t != nil { // it may have been revoked since
		res.OldExpiresAt = moment(t.ExpiresAt)
	}
	return connect.NewResponse(res), nil
}

func (a *api) ListTokens(ctx context.Context, _ *connect.Request[adminv1.ListTokensRequest]) (*connect.Response[adminv1.ListTokensResponse], error) {
	s := a.Engine.State()
	lately := map[string]*activity.Directory{}
	for d := range s.Directories() {
		var err error
		if lately[d.GetId()], err = a.Activity.Of(ctx, d.GetId()); err != nil {
			return nil, err
		}
	}
	res := &adminv1.ListTokensResponse{}
	for t := range s.Tokens() {
		var used time.Time
		if d := lately[t.Directory]; d != nil {
			used = d.Tokens[t.ID]
		}
		res.Tokens = append(res.Tokens, wireToken(t, used))
	}
	return connect.NewResponse(res), nil
}

func wireToken(t *core.Token, used time.Time) *adminv1.Token {
	return &adminv1.Token{
		Id: t.ID.String(), Kind: adminv1.TokenKind(t.Kind), Name: t.Name, DirectoryId: t.Directory, Region: t.Region,
		CreatedAt: moment(t.CreatedAt), ExpiresAt: moment(t.ExpiresAt), LastUsedAt: moment(used), Role: t.Role,
	}
}

func tokenID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil {
		return uuid.Nil, &core.Error{Code: core.InvalidArgument, Field: "id", Message: "a token's id is a UUID"}
	}
	return id, nil
}

func (a *api) RevokeToken(ctx context.Context, req *connect.Request[adminv1.RevokeTokenRequest]) (*connect.Response[adminv1.RevokeTokenResponse], error) {
	id, err := tokenID(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.RevokeToken{ID: id})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RevokeTokenResponse{Version: out.Seq}), nil
}
