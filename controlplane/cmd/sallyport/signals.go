package main

import (
	"context"
	"net/http"
	"time"

	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signals"
)

// withSignals is the SCIM listener's handler, which takes what identity providers say outside SCIM too.
func (p *plane) withSignals(ctx context.Context, scim http.Handler) (http.Handler, error) {
	store, err := kv.Open(ctx, p.conn.Conn, kv.Config{Bucket: "SALLYPORT_SIGNIN", Replicas: p.conn.Replicas()})
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/", scim)
	mux.Handle("/signals/", signals.New(signals.Config{Engine: p.engine, Store: store, Audit: p.trail.Refusals(), Now: time.Now, Note: p.lately.Note, Log: p.log}).Handler())
	return mux, nil
}
