package main

import (
	"context"
	"time"

	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/limits"
)

// openLimits opens where all control planes keep what is used of budgets.
func (p *plane) openLimits(ctx context.Context) error {
	store, err := kv.Open(ctx, p.conn.Conn, kv.Config{Bucket: "SALLYPORT_LIMITS", Replicas: p.conn.Replicas()})
	if err != nil {
		return err
	}
	p.limits = &limits.Ledger{Store: store, Now: time.Now}
	return nil
}
