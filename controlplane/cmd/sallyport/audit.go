package main

import (
	"context"
	"sync"

	"sallyport.dev/controlplane/internal/audit"
)

// openAudit opens the audit store and this control plane's way to write records of its own.
func (p *plane) openAudit(ctx context.Context) error {
	key, err := p.vault.AuditKey(ctx)
	if err != nil {
		return err
	}
	config := audit.Config{Replicas: p.conn.Replicas(), Seals: p.vault, SealPersonal: p.sealAudit, Key: key, Log: p.log}
	if p.audit, err = audit.Open(ctx, p.conn.Conn, config); err != nil {
		return err
	}
	p.trail = audit.NewRecorder(p.audit, p.name, "")
	return nil
}

// runAudit begins what audit does on its own. What ends it is called when nobody records any more.
func (p *plane) runAudit(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { p.trail.Run(ctx) })
	return func() { cancel(); running.Wait() }
}
