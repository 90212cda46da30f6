package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Ledger keeps what is known of each proxy where every control plane sees it, durably.
type Ledger interface {
	// Update replaces the value of a key, nil where there is none, by what change makes of it, and returns
	// the new revision. It asks again where another came first.
	Update(ctx context.Context, key string, change func(value []byte) ([]byte, error)) (revision uint64, err error)
	// Watch calls fn with every value that is there, then synced, then fn with each change, until ctx ends.
	Watch(ctx context.Context, synced func(), fn func(key string, value []byte, revision uint64)) error
}

// Standing is what is known of one proxy.
type Standing struct {
	// TokenID tells a proxy from a later one of the same name.
	TokenID string `json:"token_id"`
	Name    string `json:"name"`
	Region  string `json:"region"`
	// Version is what the proxy acknowledged that it enforces.
	Version        uint64    `json:"version"`
	AcknowledgedAt time.Time `json:"acknowledged_at"`
	// LeaseUntil is when the proxy has stopped to serve at the latest, unless it hears from a control plane.
	LeaseUntil time.Time `json:"lease_until,omitzero"`
	// ServedBy is the control plane to which a stream is open; empty: none.
	ServedBy string `json:"served_by,omitempty"`
	Build    string `json:"build,omitempty"`
	// PeerURL is where other proxies of the region reach it; empty: they do not.
	PeerURL string `json:"peer_url,omitempty"`
	// Troubles are what the proxy said is wrong there: fleetv1.Troubles, base64.
	Troubles string `json:"troubles,omitempty"`
	// Resyncs counts full snapshots that were needed because a digest differed.
	Resyncs uint64 `json:"resyncs,omitempty"`
	// Issuer is the authority of the fleet that made the proxy's certificate, and Trusts those that it believes, in hexadecimal digits, ascending;
	// empty: it did not say.
	Issuer string `json:"issuer,omitempty"`
	Trusts string `json:"trusts,omitempty"`
	// SPIFFEID is that by which the proxy joined; empty: by an invitation. Not kept: the log says it.
	SPIFFEID string `json:"-"`
	// Revoked: its token is no longer valid, while its lease may still run. Not kept: the log says it.
	Revoked bool `json:"-"`
}

// Live tells whether the proxy may still be serving.
func (s Standing) Live(now time.Time) bool { return now.Before(s.LeaseUntil) }

// flushEvery is how often what changed is written: a few times a second, however many acknowledgements came.
const flushEvery = 250 * time.Millisecond

// ErrUnheard: what other control planes, or this one before, knew of the proxies was not read yet.
var ErrUnheard = errors.New("the proxies' standing was not read from the store yet: try again")

// Roster knows of every proxy what it enforces and until when, those of other control planes included. No
// proxy is ever given a lease that is not in the ledger first, so that a control plane that starts, or
// serves others, knows of all that may be running.
type Roster struct {
	ledger Ledger
	log    *slog.Logger

	mu      sync.Mutex
	all     map[string]*entry // by token id
	heard   bool              // all that the ledger held was read
	changed chan struct{}     // closed at each change
	kick    chan struct{}
	peers   map[peersOf]regionPeers
}

// entry is a standing as it is known here: what the ledger said last, and on it what is yet to be written.
type entry struct {
	id string
	Standing
	writing  sync.Mutex // held while the ledger is updated
	written  Standing
	revision uint64
	pending  []func(*Standing) // each gives the same if it is made twice
}

// NewRoster returns a roster. Run must be running for it to know and share anything.
func NewRoster(ledger Ledger, log *slog.Logger) *Roster {
	return &Roster{ledger: ledger, log: log, all: map[string]*entry{}, peers: map[peersOf]regionPeers{}, changed: make(chan struct{}), kick: make(chan struct{}, 1)}
}

// Run hears from the other control planes, and shares what changes, until ctx ends.
func (r *Roster) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan error, 1)
	go func() { watched <- r.ledger.Watch(ctx, r.synced, r.hear) }()
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

func (r *Roster) synced() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = true
	r.announce()
}

// hear takes what a control plane wrote, this one included.
func (r *Roster) hear(key string, value []byte, revision uint64) {
	var heard Standing
	if err := json.Unmarshal(value, &heard); err != nil {
		r.log.Warn("a proxy's standing could not be read", "key", key, "error", err)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(r.entry(heard.TokenID), heard, revision)
}

// take has a standing that the ledger holds replace what was known. The caller holds mu.
func (r *Roster) take(e *entry, s Standing, revision uint64) {
	if revision <= e.revision {
		return
	}
	e.written, e.revision = s, revision
	for _, change := range e.pending {
		change(&s)
	}
	if s != e.Standing {
		e.Standing = s
		r.announce()
	}
}

// entry returns what is known under a token's id. The caller holds mu.
func (r *Roster) entry(id string) *entry {
	e := r.all[id]
	if e == nil {
		e = &entry{id: id, Standing: Standing{TokenID: id}}
		r.all[id] = e
	}
	return e
}

func (r *Roster) announce() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// flush writes what changed. What cannot be written now is written with what changes next.
func (r *Roster) flush(ctx context.Context) {
	r.mu.Lock()
	var due []*entry
	for _, e := range r.all {
		if len(e.pending) > 0 {
			due = append(due, e)
		}
	}
	r.mu.Unlock()
	for _, e := range due {
		if err := r.write(ctx, e); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "a proxy's standing could not be shared; it is tried again", "token", e.id, "error", err)
			r.wake()
		}
	}
}

// write makes an entry's pending changes in the ledger.
func (r *Roster) write(ctx context.Context, e *entry) error {
	e.writing.Lock()
	defer e.writing.Unlock()
	r.mu.Lock()
	changes := slices.Clip(e.pending)
	r.mu.Unlock()
	if len(changes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	var s Standing
	revision, err := r.ledger.Update(ctx, keyPrefix+e.id, func(value []byte) ([]byte, error) {
		s = Standing{}
		if value != nil {
			if err := json.Unmarshal(value, &s); err != nil {
				return nil, fmt.Errorf("reading a proxy's standing: %w", err)
			}
		}
		for _, change := range changes {
			change(&s)
		}
		return json.Marshal(s)
	})
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.pending = e.pending[len(changes):]
	r.take(e, s, revision)
	return nil
}

// keyPrefix is where standings lie in the ledger, by token id.
const keyPrefix = "proxy."

// writeWithin bounds one write: a stream waits for it.
const writeWithin = 3 * time.Second

// change changes what is known of a proxy, here at once and in the ledger soon. The change must give the
// same if it is made twice.
func (r *Roster) change(token *core.Token, change func(*Standing)) *entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entry(token.ID.String())
	s := e.Standing
	whole := func(s *Standing) {
		s.TokenID, s.Name, s.Region = token.ID.String(), token.Name, token.Region
		change(s)
	}
	if whole(&s); s == e.Standing {
		return e
	}
	e.Standing, e.pending = s, append(e.pending, whole)
	r.announce()
	r.wake()
	return e
}

func (r *Roster) wake() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// Connected says that a proxy opened a stream to a control plane.
func (r *Roster) Connected(token *core.Token, hello *fleetv1.Hello, controlPlane string) {
	r.change(token, func(s *Standing) {
		s.ServedBy, s.Build, s.PeerURL, s.Troubles = controlPlane, hello.GetBuild(), hello.GetPeerUrl(), ""
	})
}

// peersFor is how long a region's peers are taken to be the same.
const peersFor = time.Second

// peersOf are a region's proxies that know each other: by SPIFFE ids, or by the fleet's authority.
type peersOf struct {
	region   string
	bySPIFFE bool
}

// regionPeers are a region's peers as of a time.
type regionPeers struct {
	at    time.Time
	peers *fleetv1.Peers
	told  string
}

// Peers returns the proxies of a proxy's region that may be serving and that it can reach, and a text that differs where they do.
func (r *Roster) Peers(state *core.State, of *core.Token, now time.Time) (peers *fleetv1.Peers, told string) {
	key := peersOf{of.Region, of.SPIFFEID != ""}
	r.mu.Lock()
	defer r.mu.Unlock()
	if have, ok := r.peers[key]; ok && now.Sub(have.at) < peersFor {
		return have.peers, have.told
	}
	peers = &fleetv1.Peers{}
	for _, e := range r.all {
		id, err := uuid.Parse(e.id)
		if err != nil {
			continue
		}
		if t := state.Token(id); t != nil && (peersOf{t.Region, t.SPIFFEID != ""}) == key && e.PeerURL != "" && e.Live(now) {
			peers.Peers = append(peers.Peers, &fleetv1.Peer{Proxy: e.Name, Url: e.PeerURL, SpiffeId: t.SPIFFEID})
		}
	}
	slices.SortFunc(peers.Peers, func(a, b *fleetv1.Peer) int { return strings.Compare(a.GetProxy()+a.GetUrl(), b.GetProxy()+b.GetUrl()) })
	var text strings.Builder
	for _, p := range peers.GetPeers() {
		text.WriteString(p.GetProxy() + " " + p.GetUrl() + " " + p.GetSpiffeId() + "\n")
	}
	r.peers[key] = regionPeers{now, peers, text.String()}
	return peers, text.String()
}

// Disconnected says that the stream ended. The lease goes on.
func (r *Roster) Disconnected(token *core.Token, controlPlane string) {
	r.change(token, func(s *Standing) {
		if s.ServedBy == controlPlane {
			s.ServedBy = ""
		}
	})
}

// Left says that the proxy gave its lease up: it serves nobody.
func (r *Roster) Left(token *core.Token) {
	r.change(token, func(s *Standing) { s.LeaseUntil = time.Time{} })
}

// Acknowledged says that a proxy enforces a version.
func (r *Roster) Acknowledged(token *core.Token, version uint64, now time.Time) {
	now = now.Round(0).UTC() // as it comes back from the ledger
	r.change(token, func(s *Standing) {
		if version > s.Version {
			s.Version, s.AcknowledgedAt = version, now
		}
	})
}

// Resynced counts a digest that differed.
func (r *Roster) Resynced(token *core.Token) {
	r.mu.Lock()
	n := r.entry(token.ID.String()).Resyncs + 1
	r.mu.Unlock()
	r.change(token, func(s *Standing) { s.Resyncs = max(s.Resyncs, n) })
}

// Lease makes it durable that a proxy may serve until a time, before it is told so. Once written, a lease
// is good for a while of renewals: it is written as longer than it is, by ahead.
func (r *Roster) Lease(ctx context.Context, token *core.Token, until time.Time, ahead time.Duration) error {
	r.mu.Lock()
	e := r.entry(token.ID.String())
	enough := !e.LeaseUntil.Before(until) && !e.written.LeaseUntil.Before(until)
	r.mu.Unlock()
	if enough {
		return nil
	}
	bound := until.Add(ahead).Round(0).UTC()
	r.change(token, func(s *Standing) {
		if bound.After(s.LeaseUntil) {
			s.LeaseUntil = bound
		}
	})
	if err := r.write(ctx, e); err != nil {
		return fmt.Errorf("writing down a lease: %w", err)
	}
	return nil
}

// Standings returns what is known of each proxy that has a token or may still be serving, by name, and a
// channel that is closed when any of it changes. A proxy that never connected has a zero version and no lease.
func (r *Roster) Standings(state *core.State, now time.Time) ([]Standing, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.heard {
		return nil, r.changed, ErrUnheard
	}
	var all []Standing
	valid := map[string]bool{}
	for t := range state.Tokens() {
		if t.Kind != eventv1.TokenKind_TOKEN_KIND_PROXY {
			continue
		}
		s := Standing{TokenID: t.ID.String()}
		if e := r.all[s.TokenID]; e != nil {
			s = e.Standing
		}
		s.Name, s.Region, s.SPIFFEID = t.Name, t.Region, t.SPIFFEID
		all, valid[s.TokenID] = append(all, s), true
	}
	for id, e := range r.all {
		if e.Live(now) && !valid[id] {
			s := e.Standing
			s.Revoked = true
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b Standing) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.TokenID, b.TokenID)
	})
	return all, r.changed, nil
}
