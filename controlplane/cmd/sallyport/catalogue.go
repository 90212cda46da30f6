package main

import (
	"context"

	"sallyport.dev/controlplane/internal/catalogue"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/discover"
	"sallyport.dev/controlplane/internal/kv"
)

// followCatalogues makes what asks upstreams on a schedule what they offer.
func (p *plane) followCatalogues(ctx context.Context, keeper *credentials.Keeper) (*catalogue.Follower, error) {
	store, err := kv.Open(ctx, p.conn.Conn, kv.Config{Bucket: "SALLYPORT_SHARED", Replicas: p.conn.Replicas()})
	if err != nil {
		return nil, err
	}
	return catalogue.New(catalogue.Config{
		Engine: p.engine, Store: store, Upstreams: discover.Discoverer{}, Credentials: keeper, Trail: p.trail, Name: p.name, Log: p.log,
	}), nil
}
