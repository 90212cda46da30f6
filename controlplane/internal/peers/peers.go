// Package peers lets the control planes of one log elect an active writer and reach it: by a lease in
// key-value, and by request and reply over NATS.
//
// It carries bytes and knows nothing of commands. A wrong belief about who writes does no harm: the
// position at which the engine writes is the fence.
package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"sallyport.dev/controlplane/internal/kv"
)

// DefaultTTL is how long a silent writer keeps its lease.
const DefaultTTL = 1500 * time.Millisecond

// subject is where a control plane is reached; it takes no part in any stream.
func subject(id string) string { return "sallyport.peer." + id }

// Peers is one control plane's connection to the others.
type Peers struct {
	NC    *nats.Conn
	Store *kv.Store
	// ID is this control plane's, new at each start.
	ID string
	// TTL is that of the writer's lease. Default DefaultTTL.
	TTL time.Duration
	Log *slog.Logger
}

// Campaign tries to become the active writer until ctx ends, and calls fn at each change of who is.
func (p *Peers) Campaign(ctx context.Context, fn func(holder string, mine bool)) {
	ttl := p.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	p.Store.Campaign(ctx, "writer", p.ID, ttl, p.Log, func(l kv.Leadership) { fn(l.Holder, l.Mine) })
}

// Request sends a request to a peer and returns its answer.
func (p *Peers) Request(ctx context.Context, peer string, data []byte) ([]byte, error) {
	if most := p.NC.MaxPayload(); int64(len(data)) > most {
		return nil, fmt.Errorf("the command has %d bytes, the NATS cluster takes %d: raise its max_payload to 8 MB", len(data), most)
	}
	m, err := p.NC.RequestWithContext(ctx, subject(peer), data)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}

// Serve answers the requests of peers, each in a goroutine of its own, until ctx ends; then it waits for them.
func (p *Peers) Serve(ctx context.Context, answer func(ctx context.Context, data []byte) []byte) error {
	var running sync.WaitGroup
	sub, err := p.NC.Subscribe(subject(p.ID), func(m *nats.Msg) {
		running.Go(func() {
			if err := m.Respond(answer(ctx, m.Data)); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
				p.Log.Debug("an answer to another control plane was lost; it asks again", "error", err)
			}
		})
	})
	if err != nil {
		return fmt.Errorf("listening to other control planes: %w", err)
	}
	<-ctx.Done()
	err = sub.Unsubscribe()
	running.Wait()
	if errors.Is(err, nats.ErrConnectionClosed) {
		return nil
	}
	return err
}
