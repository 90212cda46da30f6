package admin

import (
	"context"
	"strconv"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/core"
)

// defaultPage is how many resources a list answers with where the request does not say.
const defaultPage = 100

func (a *api) SetDirectory(ctx context.Context, req *connect.Request[adminv1.SetDirectoryRequest]) (*connect.Response[adminv1.SetDirectoryResponse], error) {
	out, err := a.do(ctx, core.NewSetDirectory(req.Msg.GetDirectory()))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.SetDirectoryResponse{Version: out.Seq}), nil
}

func (a *api) ListDirectories(_ context.Context, _ *connect.Request[adminv1.ListDirectoriesRequest]) (*connect.Response[adminv1.ListDirectoriesResponse], error) {
	res := &adminv1.ListDirectoriesResponse{}
	for d := range a.Engine.State().Directories() {
		res.Directories = append(res.Directories, d)
	}
	return connect.NewResponse(res), nil
}

// place is where a page begins: after the number of a user or group, in a directory.
func readPlace(token string) (uint32, error) {
	if token == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(token, 10, 32)
	if err != nil {
		return 0, &core.Error{Code: core.InvalidArgument, Field: "page_token", Message: "page_token is not one that this server gave"}
	}
	return uint32(n), nil
}

func pageSize(asked uint32) int {
	if asked == 0 {
		return defaultPage
	}
	return int(asked)
}

// directoriesOf is the one directory that a request names, or all.
func directoriesOf(s *core.State, id string) ([]string, error) {
	if id != "" {
		if s.Directory(id) == nil {
			return nil, &core.Error{Code: core.NotFound, Message: "there is no directory " + strconv.Quote(id)}
		}
		return []string{id}, nil
	}
	var all []string
	for d := range s.Directories() {
		all = append(all, d.GetId())
	}
	return all, nil
}

func (a *api) ListUsers(_ context.Context, req *connect.Request[adminv1.ListUsersRequest]) (*connect.Response[adminv1.ListUsersResponse], error) {
	s := a.Engine.State()
	after, err := readPlace(req.Msg.GetPageToken())
	if err != nil {
		return nil, err
	}
	if _, err := directoriesOf(s, req.Msg.GetDirectoryId()); err != nil {
		return nil, err
	}
	res, size := &adminv1.ListUsersResponse{}, pageSize(req.Msg.GetPageSize())
	for u := range s.AllUsersAfter(req.Msg.GetDirectoryId(), after) {
		if len(res.Users) == size {
			res.NextPageToken = strconv.FormatUint(uint64(after), 10)
			break
		}
		res.Users = append(res.Users, wireUser(s, u))
		after = u.No
	}
	return connect.NewResponse(res), nil
}

func (a *api) GetUser(_ context.Context, req *connect.Request[adminv1.GetUserRequest]) (*connect.Response[adminv1.GetUserResponse], error) {
	s := a.Engine.State()
	u, err := s.FindUser(req.Msg.GetUser())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.GetUserResponse{User: wireUser(s, u)}), nil
}

func (a *api) RevokeSessions(ctx context.Context, req *connect.Request[adminv1.RevokeSessionsRequest]) (*connect.Response[adminv1.RevokeSessionsResponse], error) {
	u, err := a.Engine.State().FindUser(req.Msg.GetUser())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.RevokeSessions{ID: u.ID})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RevokeSessionsResponse{Version: out.Seq}), nil
}

func (a *api) ConfirmMemberships(ctx context.Context, req *connect.Request[adminv1.ConfirmMembershipsRequest]) (*connect.Response[adminv1.ConfirmMembershipsResponse], error) {
	u, err := a.Engine.State().FindUser(req.Msg.GetUser())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.ConfirmMemberships{ID: u.ID})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.ConfirmMembershipsResponse{Version: out.Seq}), nil
}

func (a *api) RebindUser(ctx context.Context, req *connect.Request[adminv1.RebindUserRequest]) (*connect.Response[adminv1.RebindUserResponse], error) {
	u, err := a.Engine.State().FindUser(req.Msg.GetUser())
	if err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.RebindSubject{ID: u.ID})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RebindUserResponse{Version: out.Seq}), nil
}

func (a *api) ListGroups(_ context.Context, req *connect.Request[adminv1.ListGroupsRequest]) (*connect.Response[adminv1.ListGroupsResponse], error) {
	s := a.Engine.State()
	after, err := readPlace(req.Msg.GetPageToken())
	if err != nil {
		return nil, err
	}
	if _, err := directoriesOf(s, req.Msg.GetDirectoryId()); err != nil {
		return nil, err
	}
	res, size := &adminv1.ListGroupsResponse{}, pageSize(req.Msg.GetPageSize())
	for g := range s.AllGroupsAfter(req.Msg.GetDirectoryId(), after) {
		if len(res.Groups) == size {
			res.NextPageToken = strconv.FormatUint(uint64(after), 10)
			break
		}
		res.Groups = append(res.Groups, wireGroup(g))
		after = g.No
	}
	return connect.NewResponse(res), nil
}

func (a *api) GetGroup(_ context.Context, req *connect.Request[adminv1.GetGroupRequest]) (*connect.Response[adminv1.GetGroupResponse], error) {
	s := a.Engine.State()
	g, err := s.FindGroup(req.Msg.GetGroup())
	if err != nil {
		return nil, err
	}
	after, err := readPlace(req.Msg.GetPageToken())
	if err != nil {
		return nil, err
	}
	res, size := &adminv1.GetGroupResponse{Group: wireGroup(g)}, pageSize(req.Msg.GetPageSize())
	for u := range s.Members(g, after) {
		if len(res.Members) == size {
			res.NextPageToken = strconv.FormatUint(uint64(after), 10)
			break
		}
		res.Members = append(res.Members, wireUser(s, u))
		after = u.No
	}
	for child := range s.MemberGroups(g) {
		res.MemberGroups = append(res.MemberGroups, groupRef(child))
	}
	return connect.NewResponse(res), nil
}

func wireUser(s *core.State, u *core.User) *adminv1.User {
	out := &adminv1.User{
		Id: u.ID.String(), DirectoryId: u.Directory, UserName: u.UserName, ExternalId: u.ExternalID, DisplayName: u.DisplayName,
		Email: u.Email, Active: u.Active, Generation: u.Generation, Subject: s.Subject(u), ServiceAccount: u.Service(),
		CreatedAt: timestamppb.New(u.CreatedAt.Time()), UpdatedAt: timestamppb.New(u.UpdatedAt.Time()),
	}
	held := map[uint32]bool{}
	for g := range s.HeldGroupsOf(u) {
		held[g.No] = true
		out.HeldGroups = append(out.HeldGroups, groupRef(g))
	}
	for g := range s.GroupsOf(u) {
		if !held[g.No] {
			out.Groups = append(out.Groups, groupRef(g))
		}
	}
	return out
}

func groupRef(g *core.Group) *adminv1.GroupRef {
	return &adminv1.GroupRef{Id: g.ID.String(), Name: g.Name()}
}

func wireGroup(g *core.Group) *adminv1.Group {
	return &adminv1.Group{
		Id: g.ID.String(), DirectoryId: g.Directory, DisplayName: g.DisplayName, ExternalId: g.ExternalID,
		MemberCount: uint32(g.MemberCount), CreatedAt: timestamppb.New(g.CreatedAt.Time()), UpdatedAt: timestamppb.New(g.UpdatedAt.Time()),
	}
}
