package admin

import (
	"context"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Apply binds each grant to whoever has its name now, and changes all or nothing.
func (a *api) Apply(ctx context.Context, req *connect.Request[adminv1.ApplyRequest]) (*connect.Response[adminv1.ApplyResponse], error) {
	s := a.Engine.State()
	command, err := policyOf(s, req.Msg)
	if err != nil {
		return nil, err
	}
	if req.Msg.GetDryRun() {
		events, err := core.Decide(s, command, core.Env{Now: a.Now(), NewID: func() uuid.UUID { return uuid.Nil }, Actor: callerOf(ctx).actor()})
		if err != nil {
			return nil, err
		}
		return connect.NewResponse(&adminv1.ApplyResponse{Version: s.Seq(), Changes: applied(s, command, events)}), nil
	}
	out, err := a.do(ctx, command)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.ApplyResponse{Version: out.Seq, Changes: applied(s, command, out.Events)}), nil
}

// policyOf reads what an admin wrote: names become the ids of those who have them now.
func policyOf(s *core.State, req *adminv1.ApplyRequest) (core.ApplyPolicy, error) {
	var specs []core.GrantSpec
	for _, g := range req.GetGrants() {
		to, err := granteeOf(s, g)
		if err != nil {
			return core.ApplyPolicy{}, err
		}
		rules, err := rulesOf(s, g.GetRules())
		if err != nil {
			return core.ApplyPolicy{}, err
		}
		spec := core.NewGrantTo(to, g.GetConnector(), rules)
		if spec.RuleSets = g.GetRuleSets(); g.GetUntil() != nil {
			spec.Until = g.GetUntil().AsTime()
		}
		specs = append(specs, spec)
	}
	var sets []*policyv1.RuleSet
	for _, set := range req.GetRuleSets() {
		rules, err := rulesOf(s, set.GetRules())
		if err != nil {
			return core.ApplyPolicy{}, err
		}
		sets = append(sets, &policyv1.RuleSet{Name: set.GetName(), Rules: rules})
	}
	connectors := make([]*policyv1.Connector, len(req.GetConnectors()))
	for i, c := range req.GetConnectors() {
		connectors[i] = tidied(c)
	}
	connectors, err := askedAs(s, connectors)
	if err != nil {
		return core.ApplyPolicy{}, err
	}
	command := core.NewApplyPolicy(connectors, specs).WithRuleSets(sets).WithAuditExporters(req.GetAuditExporters())
	command.Source, command.ForceDrift = req.GetSource(), req.GetForceDrift()
	return command, nil
}

// tidied is a connector with one way to say what says nothing, so that the same settings are the same however they were written.
func tidied(c *policyv1.Connector) *policyv1.Connector {
	c = proto.CloneOf(c)
	c.Credentials = 0 // output
	if proto.Equal(c.GetConsent(), &policyv1.Consent{}) {
		c.Consent = nil
	}
	if c.GetAuth().GetKind() == nil {
		c.Auth = nil
	}
	if proto.Equal(c.GetCatalogue(), &policyv1.CatalogueSettings{}) {
		c.Catalogue = nil
	}
	return c
}

// grantee is how a request says to whom a grant is.
type grantee interface {
	GetGroup() string
	GetPerson() string
	GetEveryone() string
}

func granteeOf(s *core.State, g grantee) (core.Grantee, error) {
	switch {
	case g.GetEveryone() != "":
		return core.Grantee{Everyone: g.GetEveryone()}, nil
	case g.GetPerson() != "":
		u, err := s.FindUser(g.GetPerson())
		if err != nil {
			return core.Grantee{}, err
		}
		return core.Grantee{Person: u.ID}, nil
	}
	group, err := s.FindGroup(g.GetGroup())
	if err != nil {
		return core.Grantee{}, err
	}
	return core.Grantee{Group: group.ID}, nil
}

// rulesOf binds who may approve to groups' ids.
func rulesOf(s *core.State, rules []*policyv1.Rule) ([]*policyv1.Rule, error) {
	out := make([]*policyv1.Rule, len(rules))
	for i, r := range rules {
		out[i] = proto.CloneOf(r)
		out[i].RuleSet = "" // output
		for n, name := range r.GetReview().GetApprovers() {
			if _, err := uuid.Parse(name); err == nil {
				continue // an id, of which the core says whether there is one
			}
			group, err := s.FindGroup(name)
			if err != nil {
				return nil, err
			}
			out[i].Review.Approvers[n] = group.ID.String()
		}
	}
	return out, nil
}

// shownRules are rules as an admin would write them: approvers by name.
func shownRules(s *core.State, rules []*policyv1.Rule) []*policyv1.Rule {
	out := make([]*policyv1.Rule, len(rules))
	for i, r := range rules {
		if out[i] = r; r.GetReview() == nil {
			continue
		}
		out[i] = proto.CloneOf(r)
		for n, approver := range r.GetReview().GetApprovers() {
			if id, err := uuid.Parse(approver); err == nil {
				out[i].Review.Approvers[n] = groupNamed(s, id)
			}
		}
	}
	return out
}

// applied says what became of each resource, from the events and the state before them.
func applied(before *core.State, c core.ApplyPolicy, events []*eventv1.Event) []*adminv1.AppliedChange {
	changed := map[string]bool{}
	for _, ev := range events {
		if c := ev.GetConnectorSet(); c != nil {
			changed["connector "+c.GetConnector().GetId()] = true
		}
		if e := ev.GetAuditExporterSet(); e != nil {
			changed["exporter "+e.GetExporter().GetName()] = true
		}
		if set := ev.GetRuleSetSet(); set != nil {
			changed["set "+set.GetRuleSet().GetName()] = true
		}
		if g := ev.GetGrantApplied(); g != nil {
			changed["grant "+g.GetGroupId()+g.GetPersonId()+g.GetEveryone()+"/"+g.GetConnectorId()] = true
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
	for _, m := range c.Connectors {
		id := m.M.GetId()
		all = append(all, &adminv1.AppliedChange{Kind: "Connector", Name: id, Action: action("connector "+id, before.Connector(id) != nil)})
	}
	for _, m := range c.RuleSets {
		name := m.M.GetName()
		all = append(all, &adminv1.AppliedChange{Kind: "RuleSet", Name: name, Action: action("set "+name, before.RuleSet(name) != nil)})
	}
	for _, m := range c.AuditExporters {
		name := m.M.GetName()
		all = append(all, &adminv1.AppliedChange{Kind: "AuditExporter", Name: name, Action: action("exporter "+name, before.AuditExporter(name) != nil)})
	}
	for _, g := range c.Grants {
		id := g.To.Everyone
		switch {
		case g.To.Group != uuid.Nil:
			id = g.To.Group.String()
		case g.To.Person != uuid.Nil:
			id = g.To.Person.String()
		}
		all = append(all, &adminv1.AppliedChange{
			Kind: "Grant", Name: before.GranteeName(g.To) + " → " + g.Connector,
			Action: action("grant "+id+"/"+g.Connector, before.Grant(g.To, g.Connector) != nil),
		})
	}
	return all
}

func (a *api) ListGrants(_ context.Context, _ *connect.Request[adminv1.ListGrantsRequest]) (*connect.Response[adminv1.ListGrantsResponse], error) {
	s := a.Engine.State()
	res := &adminv1.ListGrantsResponse{}
	for g := range s.Grants() {
		res.Grants = append(res.Grants, shownGrant(s, g))
	}
	return connect.NewResponse(res), nil
}

func shownGrant(s *core.State, g *core.Grant) *adminv1.Grant {
	out := &adminv1.Grant{Connector: g.Connector, Rules: shownRules(s, g.Rules), RuleSets: g.RuleSets, Dangling: s.Dangling(g.To)}
	if !g.Until.IsZero() {
		out.Until = timestamppb.New(g.Until)
	}
	switch {
	case g.To.Group != uuid.Nil:
		out.Group, out.GroupId = s.GranteeName(g.To), g.To.Group.String()
	case g.To.Person != uuid.Nil:
		out.Person, out.PersonId = s.GranteeName(g.To), g.To.Person.String()
	default:
		out.Everyone = g.To.Everyone
	}
	return out
}

func (a *api) RemoveGrant(ctx context.Context, req *connect.Request[adminv1.RemoveGrantRequest]) (*connect.Response[adminv1.RemoveGrantResponse], error) {
	var to core.Grantee
	var err error
	// Of a dangling grant only the id is known.
	if id, bad := uuid.Parse(req.Msg.GetGroup() + req.Msg.GetPerson()); bad == nil && req.Msg.GetGroup() != "" {
		to.Group = id
	} else if bad == nil {
		to.Person = id
	} else if to, err = granteeOf(a.Engine.State(), req.Msg); err != nil {
		return nil, err
	}
	out, err := a.do(ctx, core.RemoveGrant{To: to, Connector: req.Msg.GetConnector()})
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
