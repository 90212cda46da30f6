package admin

import (
	"context"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

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

func (a *api) SearchAudit(ctx context.Context, req *connect.Request[adminv1.SearchAuditRequest]) (*connect.Response[adminv1.SearchAuditResponse], error) {
	s := a.Engine.State()
	filter, err := named(s, req.Msg.GetFilter())
	if err != nil {
		return nil, err
	}
	records, next, err := a.Audit.Search(ctx, filter, pageSize(req.Msg.GetPageSize()), req.Msg.GetPageToken())
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		name(s, r)
	}
	return connect.NewResponse(&adminv1.SearchAuditResponse{Records: records, NextPageToken: next}), nil
}

func (a *api) TailAudit(ctx context.Context, req *connect.Request[adminv1.TailAuditRequest], stream *connect.ServerStream[adminv1.TailAuditResponse]) error {
	filter, err := named(a.Engine.State(), req.Msg.GetFilter())
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
