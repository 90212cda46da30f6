package replica

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/policy"
)

// ErrStale says that there is no snapshot yet, or that the lease ran out: whatever is asked, the answer is no.
var ErrStale = errors.New("the policy is not current: no control plane was heard for too long")

// Config is a Replica's. Client is required.
type Config struct {
	Client *Client
	// Build of the proxy, for admins.
	Build string
	// FeatureLevel is the newest that the proxy understands.
	FeatureLevel uint32
	// Heartbeat is how often control planes send one. After three without a message the stream is opened anew. Default: 5 s.
	Heartbeat time.Duration
	// AckEvery is the least time between two acknowledgements; the first after a quiet time goes out at once. Default: 250 ms.
	AckEvery time.Duration
	// LastPause bounds the growing, jittered pause between attempts to connect; the first is 50 ms. Default: 10 s.
	LastPause time.Duration
	// OnWelcome, where set, is called with each stream's Welcome, before anything that follows it.
	OnWelcome func(*fleetv1.Welcome)
	// PeerURL is where other proxies of the region reach this one; empty: they do not.
	PeerURL string
	// OnPeers, where set, is called with the proxies of the region whenever they are said to be others.
	OnPeers func([]*fleetv1.Peer)
	// Troubles, where set, says what is wrong at the proxy. It is asked at each heartbeat; admins are told when it says something else.
	Troubles func() *fleetv1.Troubles
	// Authorities, where set, says what the proxy holds of the fleet's authorities, and OnAuthorities is called with what it is to hold, where that is
	// something else.
	Authorities   func() *fleetv1.Authorities
	OnAuthorities func(*fleetv1.Authorities)
	// Now is the clock, with its monotonic reading. Default: time.Now.
	Now func() time.Time
	// Logger gets lost streams, resyncs and refused versions. Default: slog.Default.
	Logger *slog.Logger
}

// Replica is the proxy's copy of the policy. It is safe for use by many goroutines.
type Replica struct {
	cfg  Config
	view atomic.Pointer[view]

	connected                  atomic.Bool
	resyncs, refused, attempts atomic.Uint64

	mu          sync.Mutex // held while subscribers are called, so that each sees versions in order
	subscribers map[*subscriber]struct{}
	usable      bool // what subscribers were last told
	credentials []*Credentials
}

// view is what is enforced. It is replaced, never changed; the table in it takes deltas in.
type view struct {
	table  *policy.Table
	epoch  string
	lease  lease
	broken bool // the table drifted; a full snapshot was asked for
}

// Change is what subscribers are told.
type Change struct {
	// Table that is enforced now. Nil: none, everything that is open must end.
	Table *policy.Table
	// Effect says whose verdicts may differ from before.
	Effect policy.Effect
}

type subscriber struct {
	told func(Change)
}

// Status is the state of a replica, for health checks and metrics.
type Status struct {
	Connected bool
	Epoch     string
	Version   uint64
	// LeaseUntil is when the lease ends by the wall clock; zero: there was none.
	LeaseUntil time.Time
	// Resyncs counts digests that differed, Refused versions that were lower than what is enforced, Attempts streams opened.
	Resyncs, Refused, Attempts uint64
}

// New returns a replica without a snapshot. Run fills it.
func New(cfg Config) *Replica {
	if cfg.Heartbeat <= 0 {
		cfg.Heartbeat = 5 * time.Second
	}
	if cfg.AckEvery <= 0 {
		cfg.AckEvery = 250 * time.Millisecond
	}
	if cfg.LastPause <= 0 {
		cfg.LastPause = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Replica{cfg: cfg, subscribers: map[*subscriber]struct{}{}}
}

// Usable returns the table that is enforced at a time, or ErrStale. It costs one atomic load.
func (r *Replica) Usable(now time.Time) (*policy.Table, error) {
	v := r.view.Load()
	if v == nil || v.broken || v.lease.over(now) {
		return nil, ErrStale
	}
	return v.table, nil
}

// Subscribe calls told after each version became visible, and without a table when the lease ran out. A version is
// acknowledged when all subscribers have returned, so they must be quick, and what they cut must be cut by then. The
// first call comes at once, where there is a usable table. Cancel ends the calls. told must not call Subscribe or cancel.
func (r *Replica) Subscribe(told func(Change)) (cancel func()) {
	s := &subscriber{told}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.subscribers[s] = struct{}{}
	if table, err := r.Usable(r.cfg.Now()); err == nil {
		told(Change{table, everybody})
	}
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.subscribers, s)
	}
}

// Status returns the state as of now.
func (r *Replica) Status() Status {
	s := Status{
		Connected: r.connected.Load(), Resyncs: r.resyncs.Load(), Refused: r.refused.Load(), Attempts: r.attempts.Load(),
	}
	if v := r.view.Load(); v != nil {
		s.Epoch, s.Version = v.epoch, v.table.Version()
		if v.lease.length > 0 {
			s.LeaseUntil = v.lease.began.Round(0).Add(v.lease.length)
		}
	}
	return s
}

// giveUp ends the lease before its time.
func (r *Replica) giveUp(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.view.Load()
	if v == nil || v.lease.length == 0 {
		return
	}
	next := *v
	next.lease = lease{}
	r.view.Store(&next)
	if r.usable {
		r.cfg.Logger.Warn("the lease was given up: every call is refused", "reason", reason)
		r.tell(Change{})
	}
}

// Run follows the control planes until ctx is done, and returns its error. It ends with the lease given up, and tells so
// to the control plane, which then need not wait for the lease to run out: nothing may be served by then.
func (r *Replica) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { r.watchLease(ctx) })

	const firstPause = 50 * time.Millisecond
	pause := firstPause
	for {
		r.attempts.Add(1)
		lived, err := r.follow(ctx)
		r.connected.Store(false)
		if ctx.Err() != nil {
			r.giveUp("the proxy stops")
			return ctx.Err()
		}
		if connect.CodeOf(err) == connect.CodeUnauthenticated {
			r.giveUp("the control plane no longer takes this proxy's token")
		}
		r.cfg.Client.failed(err)
		if lived {
			pause = firstPause
		}
		r.cfg.Logger.Warn("the stream to the control plane ended", "error", err, "again_in", pause)
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-ctx.Done():
			timer.Stop()
			r.giveUp("the proxy stops")
			return ctx.Err()
		case <-timer.C:
		}
		pause = min(2*pause, r.cfg.LastPause)
	}
}

// watchLease tells subscribers when the lease ran out. Calls do not wait for it: each looks at the clocks itself.
func (r *Replica) watchLease(ctx context.Context) {
	ticker := time.NewTicker(max(r.cfg.Heartbeat/5, 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		r.mu.Lock()
		if _, err := r.Usable(r.cfg.Now()); err != nil && r.usable {
			r.cfg.Logger.Error("the lease ran out: every call is refused until a control plane is heard")
			r.tell(Change{})
		}
		r.mu.Unlock()
	}
}

var everybody = policy.Effect{Everybody: true}

// tell calls the subscribers. The caller holds mu.
func (r *Replica) tell(c Change) {
	r.usable = c.Table != nil
	if !r.usable {
		c.Effect = everybody
	}
	for s := range r.subscribers {
		s.told(c)
	}
}

// install makes a table of a full snapshot the one that is enforced, and tells. The lease goes on as it was.
func (r *Replica) install(epoch string, table *policy.Table) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := &view{table: table, epoch: epoch}
	// A new log's first snapshot waits for its own heartbeat: the old one's lease says nothing about it.
	if v := r.view.Load(); v != nil && v.epoch == epoch {
		next.lease = v.lease
	}
	for _, c := range r.credentials {
		c.dropAll()
	}
	r.view.Store(next)
	r.changed(next, everybody)
}

// apply changes the table that is enforced, and tells. After an error nothing is enforced until a full snapshot.
func (r *Replica) apply(v *view, d *fleetv1.Delta) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Before the change is visible: a credential must not go to where a connector points only from now on.
	for _, c := range r.credentials {
		c.dropChanged(d)
	}
	effect, err := v.table.Apply(d)
	if err != nil {
		broken := *v
		broken.broken = true
		r.view.Store(&broken)
		r.changed(&broken, everybody)
		return err
	}
	r.changed(v, effect)
	return nil
}

// changed tells subscribers of a view whose table is new or changed. The caller holds mu.
func (r *Replica) changed(v *view, effect policy.Effect) {
	switch {
	case !v.broken && !v.lease.over(r.cfg.Now()):
		r.tell(Change{v.table, effect})
	case r.usable:
		r.tell(Change{})
	}
}

// renew takes a heartbeat in. A lease that ends before the one that runs does not shorten it.
func (r *Replica) renew(l lease) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := *r.view.Load()
	if v.lease.length > 0 && l.began.Add(l.length).Before(v.lease.began.Add(v.lease.length)) {
		return
	}
	v.lease = l
	r.view.Store(&v)
	if !r.usable {
		r.changed(&v, everybody)
	}
}
