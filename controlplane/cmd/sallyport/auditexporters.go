package main

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/audit/export"
	"sallyport.dev/controlplane/internal/kv"
)

// openExporters makes what sends audit on.
func (p *plane) openExporters(ctx context.Context) error {
	store, err := kv.Open(ctx, p.conn.Conn, kv.Config{Bucket: "SALLYPORT_EXPORTERS", Replicas: p.conn.Replicas()})
	if err != nil {
		return err
	}
	p.exporters = export.New(export.Config{
		Audit: p.audit, Store: store, Secrets: p.vault, State: func() export.State { return p.engine.State() }, Name: p.name, Folder: p.auditing.exportDir, Log: p.log,
	})
	p.openReaders(store)
	return nil
}

// metrics serves what Prometheus reads.
func (p *plane) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(p.exporters)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

// exporting is what the admin API asks of the exporters.
type exporting struct{ *export.Runner }

// Status fills in how an exporter does.
func (e exporting) Status(ctx context.Context, into *adminv1.AuditExporterStatus) error {
	s, err := e.Runner.Status(ctx, into.GetExporter().GetName())
	if err != nil {
		return err
	}
	into.Health, into.Lag, into.Sent, into.LastSent, into.Error = s.Health, s.Lag, s.Sent, timestampOf(s.LastSent), s.Error
	into.FailingSince, into.DeadLetters, into.ControlPlane = timestampOf(s.FailingSince), uint32(s.Dead), s.ControlPlane
	return nil
}

// DeadLetters are the records that an exporter put aside.
func (e exporting) DeadLetters(ctx context.Context, exporter string) ([]*adminv1.DeadLetter, error) {
	dead, err := e.Runner.DeadLetters(ctx, exporter)
	if err != nil {
		return nil, err
	}
	all := make([]*adminv1.DeadLetter, len(dead))
	for i, d := range dead {
		all[i] = &adminv1.DeadLetter{Sequence: d.Sequence, At: timestamppb.New(d.At), Tries: uint32(d.Tries), Reason: d.Reason, Retrying: d.Retry}
	}
	return all, nil
}

// timestampOf is a time on the wire: nothing for none.
func timestampOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
