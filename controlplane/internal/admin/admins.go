package admin

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
)

// mostAdmins is how many people of a group with a role are listed.
const mostAdmins = 100

func (a *api) WhoAmI(ctx context.Context, _ *connect.Request[adminv1.WhoAmIRequest]) (*connect.Response[adminv1.WhoAmIResponse], error) {
	c := callerOf(ctx)
	if c.user != nil {
		return connect.NewResponse(&adminv1.WhoAmIResponse{UserId: c.user.ID.String(), Name: c.user.Directory + "/" + c.user.UserName, Role: c.role, ExpiresAt: moment(c.expires)}), nil
	}
	return connect.NewResponse(&adminv1.WhoAmIResponse{
		TokenKind: adminv1.TokenKind(c.token.Kind), TokenId: c.token.ID.String(), Name: c.token.Name, Role: c.role, ExpiresAt: moment(c.expires),
	}), nil
}

func (a *api) BecomeFirstOwner(ctx context.Context, req *connect.Request[adminv1.BecomeFirstOwnerRequest]) (*connect.Response[adminv1.BecomeFirstOwnerResponse], error) {
	id, token, sum, err := bearer.New(eventv1.TokenKind_TOKEN_KIND_ADMIN)
	if err != nil {
		return nil, fmt.Errorf("making a token: %w", err)
	}
	expires := a.ends(eventv1.TokenKind_TOKEN_KIND_ADMIN, req.Msg.GetTtl())
	out, err := a.do(ctx, core.BecomeFirstOwner{Bootstrap: callerOf(ctx).token.ID, ID: id, SHA256: sum[:], Name: req.Msg.GetName(), ExpiresAt: expires})
	if err != nil {
		return nil, err
	}
	a.Log.InfoContext(ctx, "the first owner's token was made; the bootstrap token is over", "token", id)
	return connect.NewResponse(&adminv1.BecomeFirstOwnerResponse{Id: id.String(), Token: token, Version: out.Seq, ExpiresAt: moment(expires)}), nil
}

func (a *api) ListAdmins(context.Context, *connect.Request[adminv1.ListAdminsRequest]) (*connect.Response[adminv1.ListAdminsResponse], error) {
	s, now := a.Engine.State(), a.Now()
	res := &adminv1.ListAdminsResponse{DirectoryId: s.AdminDirectory()}
	for g, role := range s.GroupRoles() {
		gives := &adminv1.GroupRole{Group: groupRef(g), Role: role}
		for u := range s.PeopleOf(g) {
			if gives.People++; gives.People <= mostAdmins {
				gives.Users = append(gives.Users, wireUser(s, u))
			}
		}
		res.Groups = append(res.Groups, gives)
	}
	for t := range s.Tokens() {
		if slices.Contains(doors, t.Kind) && (t.ExpiresAt.IsZero() || now.Before(t.ExpiresAt)) {
			res.Tokens = append(res.Tokens, wireToken(t, time.Time{}))
		}
	}
	for _, use := range slices.Backward(s.BreakGlassUses()) {
		res.BreakGlassUses = append(res.BreakGlassUses, &adminv1.BreakGlassUse{At: moment(use.At), TokenId: use.Token.String(), OpenedId: use.Opened.String(), Reason: use.Reason})
	}
	return connect.NewResponse(res), nil
}

func (a *api) NameAdminDirectory(ctx context.Context, req *connect.Request[adminv1.NameAdminDirectoryRequest]) (*connect.Response[adminv1.NameAdminDirectoryResponse], error) {
	out, err := a.do(ctx, core.NameAdminDirectory{Directory: req.Msg.GetDirectoryId()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.NameAdminDirectoryResponse{Version: out.Seq}), nil
}

func (a *api) SetGroupRole(ctx context.Context, req *connect.Request[adminv1.SetGroupRoleRequest]) (*connect.Response[adminv1.SetGroupRoleResponse], error) {
	g, err := a.Engine.State().FindGroup(req.Msg.GetGroup())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.SetGroupRole{Group: g.ID, Role: req.Msg.GetRole()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.SetGroupRoleResponse{GroupId: g.ID.String(), Version: out.Seq}), nil
}
