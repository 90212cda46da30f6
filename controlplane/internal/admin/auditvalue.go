package admin

import (
	"context"
	"strconv"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

func (a *api) GetAuditValue(ctx context.Context, req *connect.Request[adminv1.GetAuditValueRequest]) (*connect.Response[adminv1.GetAuditValueResponse], error) {
	part := "arguments"
	if req.Msg.GetResult() {
		part = "result"
	}
	if a.Trail != nil {
		a.Trail.Note(&auditv1.AuditRecord{
			Kind: auditv1.Kind_KIND_AUDIT_READ, Action: "audit_value_read", Actor: auditActor(ctx),
			Details: []*auditv1.Detail{{Key: "sequence", Value: strconv.FormatUint(req.Msg.GetSequence(), 10)}, {Key: "part", Value: part}},
		})
	}
	value, record, err := a.Audit.Value(ctx, req.Msg.GetSequence(), req.Msg.GetResult())
	if err != nil {
		return nil, err
	}
	payload := record.GetArguments()
	if req.Msg.GetResult() {
		payload = record.GetResult()
	}
	payload = proto.CloneOf(payload)
	payload.Head = nil
	return connect.NewResponse(&adminv1.GetAuditValueResponse{Value: value, Payload: payload}), nil
}
