package admin

import (
	"context"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

func (a *api) GetAuditCheckpoint(ctx context.Context, _ *connect.Request[adminv1.GetAuditCheckpointRequest]) (*connect.Response[adminv1.GetAuditCheckpointResponse], error) {
	c, err := a.Audit.Checkpoint(ctx, true)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.GetAuditCheckpointResponse{Checkpoint: c, PublicKeys: a.Audit.PublicKeys()}), nil
}

// answerBytes is how much of an export is gathered for one answer.
const answerBytes = 256 << 10

func (a *api) ExportAudit(ctx context.Context, req *connect.Request[adminv1.ExportAuditRequest], stream *connect.ServerStream[adminv1.ExportAuditResponse]) error {
	filter, err := a.reading(ctx, "audit_exported", req.Msg.GetFilter())
	if err != nil {
		return err
	}
	answer, bytes := &adminv1.ExportAuditResponse{}, 0
	err = a.Audit.Export(ctx, timeOf(req.Msg.GetFrom()), timeOf(req.Msg.GetTo()), filter, func(item *auditv1.ExportItem) error {
		answer.Items = append(answer.GetItems(), item)
		if bytes += proto.Size(item); bytes < answerBytes {
			return nil
		}
		full := answer
		answer, bytes = &adminv1.ExportAuditResponse{}, 0
		return stream.Send(full)
	})
	if err != nil {
		return err
	}
	return stream.Send(answer)
}

// timeOf is a time, zero where none is said.
func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}
