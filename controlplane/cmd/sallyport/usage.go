package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/usage"
)

// openUsage makes what remembers who used the gateway.
func (p *plane) openUsage(shared *kv.Store) {
	p.usage = &usage.Recorder{Store: shared, Records: stored{p.audit}, Name: p.name, Now: time.Now, Log: p.log}
}

// stored reads records of the audit stream.
type stored struct{ *audit.Store }

// Records calls fn with each record after a sequence, up to another.
func (s stored) Records(ctx context.Context, after, upTo uint64, fn func(*auditv1.AuditRecord) error) error {
	if after >= upTo {
		return nil
	}
	return s.Read(ctx, after, func(m audit.Message) error {
		rec := &auditv1.AuditRecord{}
		if err := proto.Unmarshal(m.Data, rec); err != nil {
			return fmt.Errorf("reading audit at %d: %w", m.Sequence, err)
		}
		if err := fn(rec); err != nil {
			return err
		}
		if m.Sequence >= upTo {
			return audit.ErrStop
		}
		return nil
	})
}
