package admin

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Exporters is what the API needs of those who send audit on.
type Exporters interface {
	// Status fills in how an exporter does.
	Status(ctx context.Context, into *adminv1.AuditExporterStatus) error
	// DeadLetters are the records that it put aside, by sequence.
	DeadLetters(ctx context.Context, exporter string) ([]*adminv1.DeadLetter, error)
	// Retry has some of them, or all, sent again, and says how many.
	Retry(ctx context.Context, exporter string, sequences []uint64) (int, error)
}

// ExporterSecrets keeps what exporters show their receivers.
type ExporterSecrets interface {
	PutExporterSecret(ctx context.Context, exporter, value string) (secretID string, err error)
	DestroyExporterSecret(ctx context.Context, secretID string) error
}

// shownDead is how many records that were put aside are listed.
const shownDead = 1000

func (a *api) exporter(name string) (*core.AuditExporter, error) {
	if e := a.Engine.State().AuditExporter(name); e != nil {
		return e, nil
	}
	return nil, &core.Error{Code: core.NotFound, Message: fmt.Sprintf("there is no audit exporter %q: see sallyport audit exporters list", name)}
}

func (a *api) exporterStatus(ctx context.Context, e *core.AuditExporter) (*adminv1.AuditExporterStatus, error) {
	s := &adminv1.AuditExporterStatus{Exporter: e.Settings, SecretSet: e.SecretID != ""}
	return s, a.Exporters.Status(ctx, s)
}

func (a *api) ListAuditExporters(ctx context.Context, _ *connect.Request[adminv1.ListAuditExportersRequest]) (*connect.Response[adminv1.ListAuditExportersResponse], error) {
	res := &adminv1.ListAuditExportersResponse{}
	for e := range a.Engine.State().AuditExporters() {
		s, err := a.exporterStatus(ctx, e)
		if err != nil {
			return nil, err
		}
		res.Exporters = append(res.Exporters, s)
	}
	return connect.NewResponse(res), nil
}

func (a *api) GetAuditExporter(ctx context.Context, req *connect.Request[adminv1.GetAuditExporterRequest]) (*connect.Response[adminv1.GetAuditExporterResponse], error) {
	e, err := a.exporter(req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	s, err := a.exporterStatus(ctx, e)
	if err != nil {
		return nil, err
	}
	dead, err := a.Exporters.DeadLetters(ctx, req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.GetAuditExporterResponse{Status: s, DeadLetters: dead[:min(len(dead), shownDead)]}), nil
}

func (a *api) RemoveAuditExporter(ctx context.Context, req *connect.Request[adminv1.RemoveAuditExporterRequest]) (*connect.Response[adminv1.RemoveAuditExporterResponse], error) {
	e := a.Engine.State().AuditExporter(req.Msg.GetName())
	out, err := a.do(ctx, core.RemoveAuditExporter{Name: req.Msg.GetName()})
	if err != nil {
		return nil, err
	}
	if e != nil {
		a.forgetExporterSecret(ctx, e.SecretID)
	}
	return connect.NewResponse(&adminv1.RemoveAuditExporterResponse{Version: out.Seq}), nil
}

// SetAuditExporterSecret keeps the value first and says so in the log second, as for connectors.
func (a *api) SetAuditExporterSecret(ctx context.Context, req *connect.Request[adminv1.SetAuditExporterSecretRequest]) (*connect.Response[adminv1.SetAuditExporterSecretResponse], error) {
	old, err := a.exporter(req.Msg.GetName())
	if err != nil {
		return nil, err
	}
	secretID, err := a.ExporterSecrets.PutExporterSecret(ctx, req.Msg.GetName(), req.Msg.GetValue())
	if err != nil {
		return nil, fmt.Errorf("keeping an exporter's secret: %w", err)
	}
	out, err := a.do(ctx, core.SetAuditExporterSecret{Name: req.Msg.GetName(), SecretID: secretID})
	if err != nil {
		a.forgetExporterSecret(ctx, secretID)
		return nil, err
	}
	a.forgetExporterSecret(ctx, old.SecretID)
	return connect.NewResponse(&adminv1.SetAuditExporterSecretResponse{Version: out.Seq}), nil
}

// forgetExporterSecret destroys a secret that nothing names any more.
func (a *api) forgetExporterSecret(ctx context.Context, secretID string) {
	if secretID == "" {
		return
	}
	if err := a.ExporterSecrets.DestroyExporterSecret(context.WithoutCancel(ctx), secretID); err != nil {
		a.Log.ErrorContext(ctx, "a secret that is no longer used could not be destroyed", "secret_id", secretID, "error", err)
	}
}

func (a *api) RetryDeadLetters(ctx context.Context, req *connect.Request[adminv1.RetryDeadLettersRequest]) (*connect.Response[adminv1.RetryDeadLettersResponse], error) {
	if _, err := a.exporter(req.Msg.GetName()); err != nil {
		return nil, err
	}
	n, err := a.Exporters.Retry(ctx, req.Msg.GetName(), req.Msg.GetSequences())
	if err != nil {
		return nil, err
	}
	if a.Trail != nil {
		a.Trail.Note(&auditv1.AuditRecord{
			Kind: auditv1.Kind_KIND_AUDIT_READ, Action: "audit_export_retried", Target: "audit-exporter/" + req.Msg.GetName(), Actor: auditActor(ctx),
			Details: []*auditv1.Detail{{Key: "records", Value: fmt.Sprint(n)}},
		})
	}
	return connect.NewResponse(&adminv1.RetryDeadLettersResponse{Retried: uint32(n)}), nil
}
