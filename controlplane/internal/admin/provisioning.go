package admin

import (
	"context"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/core"
)

// Activity is what the API needs to know of what directories did.
type Activity interface {
	// Of returns what is remembered of a directory, or of requests that no token opened the door for: "".
	Of(ctx context.Context, directory string) (*activity.Directory, error)
}

// namesShown is how many people of each kind a status names.
const namesShown = 100

func (a *api) GetProvisioningStatus(ctx context.Context, req *connect.Request[adminv1.GetProvisioningStatusRequest]) (*connect.Response[adminv1.GetProvisioningStatusResponse], error) {
	s := a.Engine.State()
	var ids []string
	if id := req.Msg.GetDirectoryId(); id != "" {
		if s.Directory(id) == nil {
			return nil, &core.Error{Code: core.NotFound, Field: "directory_id", Message: "there is no directory " + id}
		}
		ids = []string{id}
	} else {
		for d := range s.Directories() {
			ids = append(ids, d.GetId())
		}
		ids = append(ids, "")
	}
	res := &adminv1.GetProvisioningStatusResponse{}
	for _, id := range ids {
		lately, err := a.Activity.Of(ctx, id)
		if err != nil {
			return nil, err
		}
		if id != "" || lately.Requests > 0 {
			res.Directories = append(res.Directories, status(s, id, lately))
		}
	}
	return connect.NewResponse(res), nil
}

func status(s *core.State, directory string, lately *activity.Directory) *adminv1.ProvisioningStatus {
	out := &adminv1.ProvisioningStatus{
		DirectoryId: directory, Users: uint32(s.UserCount(directory)), Groups: uint32(s.GroupCount(directory)),
		LastRequestAt: moment(lately.LastRequest), Requests: lately.Requests, Refused: lately.Refused,
	}
	for u := range s.Users(directory, 0) {
		if u.Active {
			out.ActiveUsers++
		}
	}
	for g := range s.Groups(directory, 0) {
		out.Memberships += uint32(g.MemberCount)
	}
	for t := range s.Tokens() {
		if t.Kind == eventv1.TokenKind_TOKEN_KIND_SCIM && t.Directory == directory {
			out.Tokens = append(out.Tokens, wireToken(t, lately.Tokens[t.ID]))
		}
	}
	for u := range s.Waiting(directory) {
		if out.Waiting++; out.Waiting <= namesShown {
			out.WaitingUsers = append(out.WaitingUsers, wireUser(s, u))
		}
	}
	for _, alarm := range slices.Backward(lately.Alarms) {
		out.Alarms = append(out.Alarms, &adminv1.DirectoryAlarm{At: moment(alarm.At), What: alarm.What, People: uint32(alarm.People), Of: uint32(alarm.Of), Percent: uint32(alarm.Percent)})
	}
	for u := range s.Renamed(directory) {
		if out.Renamed++; out.Renamed <= namesShown {
			out.RenamedUsers = append(out.RenamedUsers, wireUser(s, u))
		}
	}
	for _, r := range slices.Backward(lately.Refusals) {
		out.Refusals = append(out.Refusals, &adminv1.Refusal{
			At: moment(r.At), Method: r.Method, Resource: r.Resource, Status: uint32(r.Status), ScimType: r.Type, Advice: advice(r),
		})
	}
	return out
}

func moment(at time.Time) *timestamppb.Timestamp {
	if at.IsZero() {
		return nil
	}
	return timestamppb.New(at)
}
