package admin

import (
	"context"
	"strings"
	"time"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// AuditConsumers makes other systems' own ways to read the audit stream.
type AuditConsumers interface {
	// Create makes one whose credentials are good for so long; zero: as long as is usual.
	Create(ctx context.Context, c *adminv1.AuditConsumer, lifetime time.Duration) (*adminv1.CreateAuditConsumerResponse, error)
	List(ctx context.Context) ([]*adminv1.AuditConsumer, error)
	Delete(ctx context.Context, name string) error
}

func (a *api) CreateAuditConsumer(ctx context.Context, req *connect.Request[adminv1.CreateAuditConsumerRequest]) (*connect.Response[adminv1.CreateAuditConsumerResponse], error) {
	made, err := a.AuditConsumers.Create(ctx, req.Msg.GetConsumer(), req.Msg.GetLifetime().AsDuration())
	if err != nil {
		return nil, err
	}
	a.noteConsumer(ctx, "audit_consumer_created", made.GetConsumer())
	return connect.NewResponse(made), nil
}

func (a *api) ListAuditConsumers(ctx context.Context, _ *connect.Request[adminv1.ListAuditConsumersRequest]) (*connect.Response[adminv1.ListAuditConsumersResponse], error) {
	all, err := a.AuditConsumers.List(ctx)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.ListAuditConsumersResponse{Consumers: all}), nil
}

func (a *api) DeleteAuditConsumer(ctx context.Context, req *connect.Request[adminv1.DeleteAuditConsumerRequest]) (*connect.Response[adminv1.DeleteAuditConsumerResponse], error) {
	if err := a.AuditConsumers.Delete(ctx, req.Msg.GetName()); err != nil {
		return nil, err
	}
	a.noteConsumer(ctx, "audit_consumer_deleted", &adminv1.AuditConsumer{Name: req.Msg.GetName()})
	return connect.NewResponse(&adminv1.DeleteAuditConsumerResponse{}), nil
}

// noteConsumer records who may read audit by themselves, or may not any more.
func (a *api) noteConsumer(ctx context.Context, action string, c *adminv1.AuditConsumer) {
	if a.Trail == nil {
		return
	}
	r := &auditv1.AuditRecord{Kind: auditv1.Kind_KIND_AUDIT_READ, Action: action, Target: "audit-consumer/" + c.GetName(), Actor: auditActor(ctx)}
	if len(c.GetSubjects()) > 0 {
		r.Details = append(r.Details, &auditv1.Detail{Key: "subjects", Value: strings.Join(c.GetSubjects(), " ")})
	}
	if c.GetExpires() != nil {
		r.Details = append(r.Details, &auditv1.Detail{Key: "expires", Value: c.GetExpires().AsTime().Format(time.RFC3339)})
	}
	a.Trail.Note(r)
}
