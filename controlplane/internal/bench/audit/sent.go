package audit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/audit/export"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/vault"
)

// exporting is a state with one exporter, which has no secret.
type exporting struct{ exporter *core.AuditExporter }

func (e exporting) AuditExporters() iter.Seq[*core.AuditExporter] {
	return slices.Values([]*core.AuditExporter{e.exporter})
}

func (exporting) User(uuid.UUID) *core.User { return nil }

func (exporting) ExporterSecret(context.Context, string, string) (vault.Secret, error) {
	return vault.Secret{}, errors.New("there is none")
}

// sent measures an exporter that writes what is stored to files, each batch synced, beside a durable consumer that fetches and acknowledges the same and does
// nothing with it.
func (b *bench) sent(conn *natsconn.Conn, dir string) error {
	last, err := b.store.Last(b.ctx)
	if err != nil {
		return err
	}
	b.note("sending %d records on to files", last)
	idle, err := b.store.Deliver(b.ctx, audit.DeliveryConfig{Name: "idle", Beginning: true})
	if err != nil {
		return err
	}
	began := time.Now()
	for got := uint64(0); got < last; {
		batch, err := idle.Fetch(b.ctx, 1000, 10*time.Second)
		if err != nil {
			return err
		}
		for _, d := range batch {
			if err := d.Ack(); err != nil {
				return err
			}
		}
		got += uint64(len(batch))
	}
	raw := float64(last) / time.Since(began).Seconds()
	if err := b.store.EndDelivery(b.ctx, "idle"); err != nil {
		return err
	}

	store, err := kv.Open(b.ctx, conn.Conn, kv.Config{Bucket: "SALLYPORT_EXPORTERS"})
	if err != nil {
		return err
	}
	state := exporting{&core.AuditExporter{Made: 1, Settings: &policyv1.AuditExporter{Name: "files", Target: policyv1.ExportTarget_EXPORT_TARGET_FILE, FromBeginning: true, Personal: true}}}
	runner := export.New(export.Config{Audit: b.store, Store: store, Secrets: state, State: func() export.State { return state }, Name: "bench", Folder: dir, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan struct{})
	go func() { defer close(done); runner.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for begun := false; ; {
		lag, err := b.store.Deliveries(ctx)
		if err != nil {
			return err
		}
		left, there := lag["files"]
		if there && !begun { // from when its consumer is there
			begun, began = true, time.Now()
		}
		if there && left == 0 {
			break
		}
		if time.Since(began) > 10*time.Minute {
			return fmt.Errorf("the exporter does not come to an end: %d are left", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return b.say(figure{
		Name: "audit_sent", Value: float64(last) / time.Since(began).Seconds(), Unit: "records/s", Reference: raw,
		Load: fmt.Sprintf("an exporter writes %d records to files as JSON Lines, each batch synced; beside it a durable consumer that fetches and acknowledges the same alone", last),
	})
}
