package admin

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/access"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
)

// askedOf is a state that a question is about, with the time of the question.
type askedOf struct {
	state    *core.State
	now      time.Time
	standing *adminv1.Standing // nil: it is the one that stands
	// release says that the answer is made.
	release func()
}

// asOf returns the state that a question is about. Release it.
func (a *api) asOf(ctx context.Context, asked *adminv1.AsOf) (*askedOf, error) {
	if asked.GetAt() == nil {
		return &askedOf{state: a.Engine.State(), now: a.Now(), release: func() {}}, nil
	}
	past, err := a.past(ctx, asked.GetVersion(), asked.GetTime().AsTime())
	if err != nil {
		return nil, err
	}
	of := &askedOf{state: past.State, now: past.Since, standing: &adminv1.Standing{Since: timestamppb.New(past.Since)}, release: past.Release}
	if asked.GetTime() != nil {
		of.now = asked.GetTime().AsTime()
	}
	if !past.Until.IsZero() {
		of.standing.Until = timestamppb.New(past.Until)
	}
	return of, nil
}

func (a *api) past(ctx context.Context, version uint64, at time.Time) (*engine.Past, error) {
	past, err := a.Engine.At(ctx, version, at)
	switch {
	case errors.Is(err, engine.ErrFuture):
		return nil, &core.Error{Code: core.InvalidArgument, Field: "as_of", Message: err.Error()}
	case errors.Is(err, engine.ErrBusy):
		return nil, connect.NewError(connect.CodeResourceExhausted, engine.ErrBusy)
	}
	return past, err
}

// RollbackPolicy makes policy what it was at a version.
func (a *api) RollbackPolicy(ctx context.Context, req *connect.Request[adminv1.RollbackPolicyRequest]) (*connect.Response[adminv1.RollbackPolicyResponse], error) {
	past, err := a.past(ctx, req.Msg.GetVersion(), time.Time{})
	if err != nil {
		return nil, err
	}
	defer past.Release()
	command := core.NewRollbackPolicy(past.State)
	s := a.Engine.State()
	events, err := core.Decide(s, command, a.trial(ctx))
	if err != nil {
		return nil, err
	}
	res := &adminv1.RollbackPolicyResponse{Version: s.Seq()}
	if res.Effects, res.People, err = a.effects(ctx, s, events); err != nil {
		return nil, err
	}
	if !req.Msg.GetDryRun() {
		out, err := a.do(ctx, command)
		if err != nil {
			return nil, err
		}
		events, res.Version = out.Events, out.Seq
	}
	after, err := access.After(s, events)
	if err != nil {
		return nil, err
	}
	for _, ev := range events {
		res.Changes = append(res.Changes, changeOf(s, after, ev))
	}
	return connect.NewResponse(res), nil
}

// changeOf says what an event does to one resource.
func changeOf(before, after *core.State, ev *eventv1.Event) *adminv1.AppliedChange {
	became := func(existed bool) adminv1.AppliedAction {
		if existed {
			return adminv1.AppliedAction_APPLIED_ACTION_UPDATED
		}
		return adminv1.AppliedAction_APPLIED_ACTION_CREATED
	}
	const removed = adminv1.AppliedAction_APPLIED_ACTION_REMOVED
	grant := func(s *core.State, g grantEvent) (name string, existed bool) {
		to := core.Grantee{Everyone: g.GetEveryone()}
		to.Group, _ = uuid.Parse(g.GetGroupId()) // the core wrote it
		to.Person, _ = uuid.Parse(g.GetPersonId())
		return s.GranteeName(to) + " → " + g.GetConnectorId(), before.Grant(to, g.GetConnectorId()) != nil
	}
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_ConnectorSet:
		id := b.ConnectorSet.GetConnector().GetId()
		return &adminv1.AppliedChange{Kind: "Connector", Name: id, Action: became(before.Connector(id) != nil)}
	case *eventv1.Event_CataloguePinned:
		id := b.CataloguePinned.GetConnectorId()
		return &adminv1.AppliedChange{Kind: "Catalogue", Name: id, Action: became(before.Connector(id) != nil && before.Connector(id).Tools != nil)}
	case *eventv1.Event_RuleSetSet:
		name := b.RuleSetSet.GetRuleSet().GetName()
		return &adminv1.AppliedChange{Kind: "RuleSet", Name: name, Action: became(before.RuleSet(name) != nil)}
	case *eventv1.Event_AuditExporterSet:
		name := b.AuditExporterSet.GetExporter().GetName()
		return &adminv1.AppliedChange{Kind: "AuditExporter", Name: name, Action: became(before.AuditExporter(name) != nil)}
	case *eventv1.Event_AuditExporterRemoved:
		return &adminv1.AppliedChange{Kind: "AuditExporter", Name: b.AuditExporterRemoved.GetName(), Action: removed}
	case *eventv1.Event_RuleSetRemoved:
		return &adminv1.AppliedChange{Kind: "RuleSet", Name: b.RuleSetRemoved.GetName(), Action: removed}
	case *eventv1.Event_GrantApplied:
		name, existed := grant(after, b.GrantApplied)
		return &adminv1.AppliedChange{Kind: "Grant", Name: name, Action: became(existed)}
	case *eventv1.Event_GrantRemoved:
		name, _ := grant(before, b.GrantRemoved)
		return &adminv1.AppliedChange{Kind: "Grant", Name: name, Action: removed}
	}
	return &adminv1.AppliedChange{}
}

// grantEvent names a grant on the log.
type grantEvent interface {
	GetGroupId() string
	GetPersonId() string
	GetEveryone() string
	GetConnectorId() string
}
