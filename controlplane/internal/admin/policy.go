package admin

import (
	"context"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Apply binds each grant to the group that has its name now, and changes all or nothing.
func (a *api) Apply(ctx context.Context, req *connect.Request[adminv1.ApplyRequest]) (*connect.Response[adminv1.ApplyResponse], error) {
	s := a.Engine.State()
	var specs []core.GrantSpec
	for _, g := range req.Msg.GetGrants() {
		group, err := s.FindGroup(g.GetGroup())
		if err != nil {
			return nil, err
		}
		specs = append(specs, core.NewGrantSpec(group.ID, g.GetConnector(), g.GetRules()))
	}
	command := core.NewApplyPolicy(req.Msg.GetConnectors(), specs)
	if req.Msg.GetDryRun() {
		events, err := core.Decide(s, command, core.Env{Now: a.Now(), NewID: func() uuid.UUID { return uuid.Nil }, Actor: callerOf(ctx).actor()})
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(&adminv1.ApplyResponse{Version: s.Seq(), Changes: applied(s, req.Msg, events)}), nil
	}
	out, err := a.do(ctx, command)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.ApplyResponse{Version: out.Seq, Changes: applied(s, req.Msg, out.Events)}), nil
}

// applied says what became of each resource, from the events and the state before them.
func applied(before *core.State, req *adminv1.ApplyRequest, events []*eventv1.Event) []*adminv1.AppliedChange {
	changed := map[string]bool{}
	for _, ev := range events {
		if c := ev.GetConnectorSet(); c != nil {
			changed[c.GetConnector().GetId()] = true
		}
		if g := ev.GetGrantApplied(); g != nil {
			changed[g.GetGroupId()+"/"+g.GetConnectorId()] = true
		}
	}
	action := func(key string, existed bool) adminv1.AppliedAction {
		switch {
		case !changed[key]:
			return adminv1.AppliedAction_APPLIED_ACTION_UNCHANGED
		case existed:
			return adminv1.AppliedAction_APPLIED_ACTION_UPDATED
		}
		return adminv1.AppliedAction_APPLIED_ACTION_CREATED
	}
	var all []*adminv1.AppliedChange
	for _, c := range req.GetConnectors() {
		all = append(all, &adminv1.AppliedChange{Kind: "Connector", Name: c.GetId(), Action: action(c.GetId(), before.Connector(c.GetId()) != nil)})
	}
	for _, g := range req.GetGrants() {
		group, err := before.FindGroup(g.GetGroup())
		if err != nil {
			continue // it was there when the command was made
		}
		all = append(all, &adminv1.AppliedChange{
			Kind: "Grant", Name: group.Name() + " → " + g.GetConnector(),
			Action: action(group.ID.String()+"/"+g.GetConnector(), before.Grant(group.ID, g.GetConnector()) != nil),
		})
	}
	return all
}

func (a *api) ListGrants(_ context.Context, _ *connect.Request[adminv1.ListGrantsRequest]) (*connect.Response[adminv1.ListGrantsResponse], error) {
	s := a.Engine.State()
	res := &adminv1.ListGrantsResponse{}
	for g := range s.Grants() {
		res.Grants = append(res.Grants, &adminv1.Grant{
			Group: s.GrantGroupName(g), Connector: g.Connector, Rules: g.Rules, GroupId: g.GroupID.String(), Dangling: s.Group(g.GroupID) == nil,
		})
	}
	return connect.NewResponse(res), nil
}

func (a *api) RemoveGrant(ctx context.Context, req *connect.Request[adminv1.RemoveGrantRequest]) (*connect.Response[adminv1.RemoveGrantResponse], error) {
	id, err := uuid.Parse(req.Msg.GetGroup()) // a dangling grant has only its group's id
	if err != nil {
		group, err := a.Engine.State().FindGroup(req.Msg.GetGroup())
		if err != nil {
			return nil, err
		}
		id = group.ID
	}
	out, err := a.do(ctx, core.RemoveGrant{GroupID: id, Connector: req.Msg.GetConnector()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RemoveGrantResponse{Version: out.Seq}), nil
}

func (a *api) PlaceBlock(ctx context.Context, req *connect.Request[adminv1.PlaceBlockRequest]) (*connect.Response[adminv1.PlaceBlockResponse], error) {
	block := proto.CloneOf(req.Msg.GetBlock())
	if target, ok := block.GetTarget().(*policyv1.Block_PersonId); ok {
		u, err := a.Engine.State().FindUser(target.PersonId)
		if err != nil {
			return nil, err
		}
		block.Target = &policyv1.Block_PersonId{PersonId: u.ID.String()}
	}
	out, err := a.do(ctx, core.NewPlaceBlock(block))
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.PlaceBlockResponse{Id: out.Events[0].GetBlockPlaced().GetBlock().GetId(), Version: out.Seq}), nil
}

func (a *api) LiftBlock(ctx context.Context, req *connect.Request[adminv1.LiftBlockRequest]) (*connect.Response[adminv1.LiftBlockResponse], error) {
	id, err := uuid.Parse(req.Msg.GetId())
	if err != nil {
		return nil, &core.Error{Code: core.InvalidArgument, Field: "id", Message: "a block's id is a UUID"}
	}
	out, err := a.do(ctx, core.LiftBlock{ID: id})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.LiftBlockResponse{Version: out.Seq}), nil
}

func (a *api) ListBlocks(_ context.Context, _ *connect.Request[adminv1.ListBlocksRequest]) (*connect.Response[adminv1.ListBlocksResponse], error) {
	res := &adminv1.ListBlocksResponse{}
	for b := range a.Engine.State().Blocks() {
		res.Blocks = append(res.Blocks, b)
	}
	return connect.NewResponse(res), nil
}
