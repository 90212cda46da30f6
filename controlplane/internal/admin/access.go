package admin

import (
	"context"
	"fmt"
	"strconv"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/access"
	"sallyport.dev/controlplane/internal/core"
)

// peopleShown is how many people a page holds where the request does not say.
const peopleShown = 1000

// WhoCan lists the people who may call a tool.
func (a *api) WhoCan(ctx context.Context, req *connect.Request[adminv1.WhoCanRequest]) (*connect.Response[adminv1.WhoCanResponse], error) {
	of, err := a.asOf(ctx, req.Msg.GetAsOf())
	if err != nil {
		return nil, err
	}
	defer of.release()
	s := of.state
	var after uint64
	if token := req.Msg.GetPageToken(); token != "" {
		if after, err = strconv.ParseUint(token, 10, 32); err != nil {
			return nil, &core.Error{Code: core.InvalidArgument, Field: "page_token", Message: "it is the next_page_token of another answer"}
		}
	}
	limit := int(req.Msg.GetPageSize())
	if limit == 0 {
		limit = peopleShown
	}
	who, err := access.WhoCan(ctx, s, req.Msg.GetConnector(), req.Msg.GetTool(), of.now, uint32(after), limit)
	if err != nil {
		return nil, err
	}
	res := &adminv1.WhoCanResponse{Version: s.Seq(), Standing: of.standing, Always: uint32(who.Always), Sometimes: uint32(who.Sometimes)}
	for _, one := range who.People {
		res.People = append(res.People, &adminv1.PersonAccess{UserId: one.User.ID.String(), UserName: nameOf(one.User), Outlook: outlook(s, one.Outlook)})
	}
	if who.More {
		res.NextPageToken = fmt.Sprint(who.People[len(who.People)-1].User.No)
	}
	return connect.NewResponse(res), nil
}

// WhatCan lists the tools that a person may call.
func (a *api) WhatCan(ctx context.Context, req *connect.Request[adminv1.WhatCanRequest]) (*connect.Response[adminv1.WhatCanResponse], error) {
	of, err := a.asOf(ctx, req.Msg.GetAsOf())
	if err != nil {
		return nil, err
	}
	defer of.release()
	s := of.state
	u, err := s.FindUser(req.Msg.GetPerson())
	if err != nil {
		return nil, err
	}
	what, err := access.WhatCan(s, u, req.Msg.GetConnector(), of.now)
	if err != nil {
		return nil, err
	}
	res := &adminv1.WhatCanResponse{Version: s.Seq(), Standing: of.standing}
	for _, one := range what {
		res.Tools = append(res.Tools, &adminv1.ToolAccess{Connector: one.Connector, Tool: one.Tool, Outlook: outlook(s, one.Outlook)})
	}
	return connect.NewResponse(res), nil
}

// nameOf is what people call somebody, or the id where nothing is left of the name.
func nameOf(u *core.User) string {
	if u.UserName == "" {
		return u.Directory + "/" + u.ID.String()
	}
	return u.Directory + "/" + u.UserName
}

func outlook(s *core.State, o policy.Outlook) *adminv1.Outlook {
	out := &adminv1.Outlook{Access: adminv1.Access_ACCESS_NEVER, Duty: o.Duty, By: o.By, Asked: asked(s, o.Terms)}
	out.Limits, out.Redactions = access.TermTexts(o.Terms)
	switch o.Access {
	case policy.Always:
		out.Access = adminv1.Access_ACCESS_ALWAYS
	case policy.Sometimes:
		out.Access = adminv1.Access_ACCESS_SOMETIMES
	case policy.Never:
	}
	return out
}
