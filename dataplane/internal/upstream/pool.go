package upstream

import (
	"context"
	"fmt"
	"sync"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
)

// Pool holds the upstreams of a proxy.
type Pool struct {
	config Config
	info   []byte // clientInfo

	mu        sync.RWMutex
	upstreams map[string]*Upstream

	// Cancellations and goodbyes go out in the background: a few at a time, and not kept waiting for.
	background sync.WaitGroup
	slots      chan struct{}
}

// NewPool makes an empty pool. Close it.
func NewPool(config Config) *Pool {
	config = config.orDefaults()
	return &Pool{
		config: config, info: mcp.Server{Name: config.Client.Name, Title: config.Client.Title, Version: config.Client.Version}.Info(),
		upstreams: map[string]*Upstream{}, slots: make(chan struct{}, 64),
	}
}

// Upstream returns the upstream of the target's connector. One whose target differs from before starts anew: its calls go
// on where they are, its sessions are ended.
func (p *Pool) Upstream(target Target) (*Upstream, error) {
	p.mu.RLock()
	u := p.upstreams[target.Connector]
	p.mu.RUnlock()
	if u != nil && u.given == target {
		return u, nil
	}
	return p.replace(target)
}

func (p *Pool) replace(target Target) (*Upstream, error) {
	fresh, err := newUpstream(p, target)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	old := p.upstreams[target.Connector]
	if old != nil && old.given == target {
		p.mu.Unlock()
		return old, nil
	}
	p.upstreams[target.Connector] = fresh
	p.mu.Unlock()
	if old != nil {
		old.retire()
	}
	return fresh, nil
}

// Remove retires the upstream of a connector that is no more.
func (p *Pool) Remove(connector string) {
	p.mu.Lock()
	old := p.upstreams[connector]
	delete(p.upstreams, connector)
	p.mu.Unlock()
	if old != nil {
		old.retire()
	}
}

// Sweep ends sessions that idled for too long. Call it every few minutes.
func (p *Pool) Sweep() {
	p.mu.RLock()
	defer p.mu.RUnlock()
	now := p.config.Now()
	for _, u := range p.upstreams {
		u.sweep(now)
	}
}

// Close ends all sessions and idle connections, and waits for what goes on in the background until ctx ends. Calls in
// flight end with their own contexts, which the caller ends first.
func (p *Pool) Close(ctx context.Context) error {
	p.mu.Lock()
	upstreams := p.upstreams
	p.upstreams = map[string]*Upstream{}
	p.mu.Unlock()
	for _, u := range upstreams {
		u.retire()
	}
	done := make(chan struct{})
	go func() { // ends with the last of them, of which each has its own time limit
		p.background.Wait()
		close(done)
	}()
	select {
	case <-done:
		for _, u := range upstreams {
			u.wire.close()
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("closing upstreams: %w", ctx.Err())
	}
}

// courtesy bounds what is done in the background.
const courtesy = 2 * time.Second

// later runs work in the background with a time limit. Under a flood of such work, it is left out: an upstream that is not told
// of a cancellation sees its connection close all the same.
func (p *Pool) later(work func(ctx context.Context)) {
	select {
	case p.slots <- struct{}{}:
	default:
		return
	}
	p.background.Go(func() {
		defer func() { <-p.slots }()
		ctx, cancel := context.WithTimeout(context.Background(), courtesy)
		defer cancel()
		work(ctx)
	})
}
