package admin

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/core"
)

// named turns a person's name in a filter into an id. An id of somebody who is gone stays as it is:
// records outlive people.
func named(s *core.State, filter *adminv1.AuditFilter) (*adminv1.AuditFilter, error) {
	if filter.GetPerson() == "" {
		return filter, nil
	}
	if _, err := uuid.Parse(filter.GetPerson()); err == nil {
		return filter, nil
	}
	u, err := s.FindUser(filter.GetPerson())
	if err != nil {
		return nil, err
	}
	filter = proto.CloneOf(filter)
	filter.Person = u.ID.String()
	return filter, nil
}

// name says who a record is about, as they are called now.
func name(s *core.State, r *adminv1.StoredRecord) {
	if id, err := uuid.Parse(r.GetRecord().GetPersonId()); err == nil {
		if u := s.User(id); u != nil {
			r.PersonName = u.UserName
		}
	}
}

// Trail takes the control plane's own audit records.
type Trail interface {
	// Note takes a record and does not wait until it is stored.
	Note(r *auditv1.AuditRecord)
}

// AuditIndex keeps an index of audit.
type AuditIndex interface {
	// Position is the sequence up to which the stream is indexed.
	Position(ctx context.Context) (uint64, error)
	// Rebuild builds the index again, and tells how far it is.
	Rebuild(ctx context.Context, tell func(done, of uint64) error) error
}

// reading names the person of a filter, and records that audit is read.
func (a *api) reading(ctx context.Context, action string, filter *adminv1.AuditFilter) (*adminv1.AuditFilter, error) {
	filter, err := named(a.Engine.State(), filter)
	if err == nil {
		a.note(ctx, action, filter)
	}
	return filter, err
}

// note records that audit is read. The filter is in it, save for what is looked for in people's values.
func (a *api) note(ctx context.Context, action string, filter *adminv1.AuditFilter) {
	if a.Trail == nil {
		return
	}
	rec := &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_AUDIT_READ, Action: action,
		Actor: auditActor(ctx),
	}
	facts := proto.CloneOf(filter)
	if facts != nil {
		facts.Text, facts.Arguments = "", nil
		if said, err := protojson.Marshal(facts); err == nil && len(said) > 2 {
			rec.Details = []*auditv1.Detail{{Key: "filter", Value: string(said)}}
		}
	}
	a.Trail.Note(rec)
}

func (a *api) SearchAudit(ctx context.Context, req *connect.Request[adminv1.SearchAuditRequest]) (*connect.Response[adminv1.SearchAuditResponse], error) {
	filter, err := a.reading(ctx, "audit_searched", req.Msg.GetFilter())
	if err != nil {
		return nil, err
	}
	records, next, err := a.Audit.Search(ctx, filter, pageSize(req.Msg.GetPageSize()), req.Msg.GetPageToken())
	if err != nil {
		return nil, err
	}
	s := a.Engine.State()
	for _, r := range records {
		name(s, r)
	}
	return connect.NewResponse(&adminv1.SearchAuditResponse{Records: records, NextPageToken: next}), nil
}

func (a *api) CountAudit(ctx context.Context, req *connect.Request[adminv1.CountAuditRequest]) (*connect.Response[adminv1.CountAuditResponse], error) {
	filter, err := a.reading(ctx, "audit_counted", req.Msg.GetFilter())
	if err != nil {
		return nil, err
	}
	asked := proto.CloneOf(req.Msg)
	asked.Filter = filter
	counted, err := a.Audit.Count(ctx, asked)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(counted), nil
}

func (a *api) TailAudit(ctx context.Context, req *connect.Request[adminv1.TailAuditRequest], stream *connect.ServerStream[adminv1.TailAuditResponse]) error {
	filter, err := a.reading(ctx, "audit_followed", req.Msg.GetFilter())
	if err != nil {
		return err
	}
	// The headers go out at once, so that a client knows that it follows before there is a record.
	if err := stream.Send(nil); err != nil {
		return err
	}
	return a.Audit.Tail(ctx, filter, req.Msg.GetAfterSequence(), func(r *adminv1.StoredRecord) error {
		name(a.Engine.State(), r)
		return stream.Send(&adminv1.TailAuditResponse{Record: r})
	})
}

func (a *api) GetAuditIndex(ctx context.Context, _ *connect.Request[adminv1.GetAuditIndexRequest]) (*connect.Response[adminv1.GetAuditIndexResponse], error) {
	last, err := a.Audit.Last(ctx)
	if err != nil {
		return nil, err
	}
	res := &adminv1.GetAuditIndexResponse{Configured: a.AuditIndex != nil, Last: last}
	if a.AuditIndex != nil {
		if res.Indexed, err = a.AuditIndex.Position(ctx); err != nil {
			a.Log.WarnContext(ctx, "the audit index cannot be asked", "error", err)
			res.Error = "PostgreSQL does not answer; the control plane's log says why"
		}
	}
	return connect.NewResponse(res), nil
}

func (a *api) RebuildAuditIndex(ctx context.Context, _ *connect.Request[adminv1.RebuildAuditIndexRequest], stream *connect.ServerStream[adminv1.RebuildAuditIndexResponse]) error {
	if a.AuditIndex == nil {
		return connect.NewError(connect.CodeFailedPrecondition, errors.New("there is no index: start the control plane with --postgres-url"))
	}
	return a.AuditIndex.Rebuild(ctx, func(done, of uint64) error {
		return stream.Send(&adminv1.RebuildAuditIndexResponse{Indexed: done, Last: of})
	})
}
