package admin

import (
	"context"
	"net/http"
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

// advice is what an admin can do about a refusal.
func advice(r activity.Refusal) string {
	byType := map[string]string{
		"uniqueness":    "Somebody else of the directory has that userName or externalId: match the directory's person to it, or change one of the two.",
		"mutability":    "The directory maps an attribute that is the server's or must not be removed: take it out of the mapping.",
		"invalidValue":  "A value is missing or not of its attribute's type, or a member is not provisioned: look at the attribute mappings, and provision people before groups.",
		"invalidFilter": "The directory asks by a filter that cannot be read: look at its matching attribute.",
		"invalidPath":   "The directory changes an attribute that is not here: look at its attribute mappings.",
		"noTarget":      "The directory changes part of something that is not there: push the person or group again as a whole.",
		"invalidSyntax": "The request is no SCIM 2.0: see that the directory's app is one for SCIM 2.0.",
		"tooMany":       "The request asks for too much at once: make the directory's batches smaller.",
		"invalidVers":   "The directory speaks an older SCIM: set its base URL to one that ends in /scim/v2.",
	}
	if text, known := byType[r.Type]; known {
		return text
	}
	switch r.Status {
	case http.StatusUnauthorized:
		return "The token is unknown, revoked or has expired: make one with sallyport tokens create scim, and enter it at the directory."
	case http.StatusNotFound:
		return "It is not here, or is another directory's: let the directory forget its link and match again."
	case http.StatusPreconditionFailed:
		return "It was changed by somebody else in between: the directory reads it again by itself."
	case http.StatusRequestEntityTooLarge:
		return "The request is too large: make the directory's batches smaller."
	case http.StatusTooManyRequests:
		return "The directory sent more than --scim-rate allows and comes again by itself: raise it if this goes on."
	case http.StatusServiceUnavailable:
		return "Changes could not be made durable: look at the control plane's /readyz and its log."
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return "The directory uses what this server does not have: see docs/scim.md."
	}
	return "See docs/scim.md for what the status means."
}
