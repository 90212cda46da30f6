package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Ledger keeps what is known of each proxy where every control plane sees it.
type Ledger interface {
	// Put stores a value under a key, whatever was there.
	Put(ctx context.Context, key string, value []byte) error
	// Watch calls fn with every value that is there, then with each change, until ctx ends.
	Watch(ctx context.Context, fn func(key string, value []byte)) error
}

// Standing is what is known of one proxy.
type Standing struct {
	Name   string `json:"name"`
	Region string `json:"region"`
	// Version is what the proxy acknowledged that it enforces.
	Version        uint64    `json:"version"`
	AcknowledgedAt time.Time `json:"acknowledged_at"`
	// LeaseUntil is when the proxy stops to serve unless it hears from a control plane.
	LeaseUntil time.Time `json:"lease_until"`
	// ServedBy is the control plane to which a stream is open; empty: none.
	ServedBy string `json:"served_by,omitempty"`
	Build    string `json:"build,omitempty"`
	// Resyncs counts full snapshots that were needed because a digest differed.
	Resyncs uint64 `json:"resyncs,omitempty"`
	// TokenID tells a proxy from a later one of the same name.
	TokenID string `json:"token_id"`
}

// Live tells whether the proxy may still be serving.
func (s Standing) Live(now time.Time) bool { return now.Before(s.LeaseUntil) }

// flushEvery is how often what changed is written: a few times a second, however many acknowledgements came.
const flushEvery = 250 * time.Millisecond

// Roster knows of every proxy what it enforces and until when, those of other control planes included.
type Roster struct {
	ledger Ledger
	log    *slog.Logger

	mu      sync.Mutex
	all     map[string]Standing // by name, as seen in the ledger or here, whichever is newer
	dirty   map[string]bool
	changed chan struct{} // closed at each change
	kick    chan struct{}
}

// NewRoster returns a roster. Run must be running for it to be shared.
func NewRoster(ledger Ledger, log *slog.Logger) *Roster {
	return &Roster{ledger: ledger, log: log, all: map[string]Standing{}, dirty: map[string]bool{}, changed: make(chan struct{}), kick: make(chan struct{}, 1)}
}

// Run shares what changes with the other control planes until ctx ends.
func (r *Roster) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() { watched <- r.ledger.Watch(ctx, r.hear) }()
	for {
		select {
		case err := <-watched:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("following the proxies' standing: %w", err)
		case <-ctx.Done():
			if err := <-watched; err != nil {
				r.log.Debug("following the proxies' standing did not end well", "error", err)
			}
			return nil
		case <-r.kick:
		}
		r.flush(ctx)
		select { // a few times a second
		case <-ctx.Done():
		case <-time.After(flushEvery):
		}
	}
}

// hear takes what another control plane, or this one before, wrote. Of two standings of one proxy the
// further one counts; the lease that ends later counts in any case.
func (r *Roster) hear(_ string, value []byte) {
	var heard Standing
	if err := json.Unmarshal(value, &heard); err != nil {
		r.log.Warn("a proxy's standing could not be read", "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.all[heard.Name]
	if ok && r.dirty[heard.Name] && known.TokenID == heard.TokenID {
		return // what is known here is newer and about to be written
	}
	if ok && known.TokenID == heard.TokenID && heard.LeaseUntil.Before(known.LeaseUntil) {
		heard.LeaseUntil = known.LeaseUntil
	}
	r.all[heard.Name] = heard
	r.announce()
}

func (r *Roster) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Roster) flush(ctx context.Context) {
	r.mu.Lock()
	var out []Standing
	for name := range r.dirty {
		out = append(out, r.all[name])
	}
	clear(r.dirty)
	r.mu.Unlock()
	for _, s := range out {
		value, err := json.Marshal(s)
		if err == nil {
			err = r.ledger.Put(ctx, "proxy."+s.Name, value)
		}
		if err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "a proxy's standing could not be shared; it is tried again", "proxy", s.Name, "error", err)
			r.change(s.Name, func(*Standing) {})
		}
	}
}

func (r *Roster) update(token *core.Token, change func(*Standing)) {
	r.change(token.Name, func(s *Standing) {
		if s.TokenID != token.ID.String() {
			*s = Standing{TokenID: token.ID.String()}
		}
		s.Name, s.Region = token.Name, token.Region
		change(s)
	})
}

func (r *Roster) change(name string, change func(*Standing)) {
	r.mu.Lock()
	s := r.all[name]
	change(&s)
	r.all[name] = s
	r.dirty[name] = true
	r.announce()
	r.mu.Unlock()
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Connected says that a proxy opened a stream to a control plane.
func (r *Roster) Connected(token *core.Token, build, controlPlane string, _ time.Time) {
	r.update(token, func(s *Standing) { s.ServedBy, s.Build = controlPlane, build })
}

// Disconnected says that the stream ended. The lease goes on.
func (r *Roster) Disconnected(token *core.Token, controlPlane string) {
	r.update(token, func(s *Standing) {
		if s.ServedBy == controlPlane {
			s.ServedBy = ""
		}
	})
}

// Acknowledged says that a proxy enforces a version.
func (r *Roster) Acknowledged(token *core.Token, version uint64, now time.Time) {
	r.update(token, func(s *Standing) {
		if version > s.Version {
			s.Version, s.AcknowledgedAt = version, now
		}
	})
}

// Resynced counts a digest that differed.
func (r *Roster) Resynced(token *core.Token) {
	r.update(token, func(s *Standing) { s.Resyncs++ })
}

// Leased says until when a proxy may serve.
func (r *Roster) Leased(token *core.Token, until time.Time) {
	r.update(token, func(s *Standing) {
		if until.After(s.LeaseUntil) {
			s.LeaseUntil = until
		}
	})
}

// Standings returns what is known of each proxy that has a token, by name, and a channel that is closed
// when any of it changes. A proxy that never connected has a zero version and no lease.
func (r *Roster) Standings(state *core.State) ([]Standing, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Standing
	for t := range state.Tokens() {
		if t.Kind != eventv1.TokenKind_TOKEN_KIND_PROXY {
			continue
		}
		s := r.all[t.Name]
		if s.TokenID != t.ID.String() {
			s = Standing{TokenID: t.ID.String()}
		}
		s.Name, s.Region = t.Name, t.Region
		all = append(all, s)
	}
	return all, r.changed
}
