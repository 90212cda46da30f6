package export

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/vault"
)

// Stream is what the exporters need of audit.
type Stream interface {
	Deliver(ctx context.Context, c audit.DeliveryConfig) (*audit.Delivery, error)
	EndDelivery(ctx context.Context, name string) error
	Deliveries(ctx context.Context) (map[string]uint64, error)
	Record(ctx context.Context, m audit.Message, personal bool) (*auditv1.AuditRecord, error)
	Message(ctx context.Context, sequence uint64) (audit.Message, error)
}

// Secrets opens what exporters show their receivers.
type Secrets interface {
	ExporterSecret(ctx context.Context, secretID, exporter string) (vault.Secret, error)
}

// State is what the exporters need of the state.
type State interface {
	AuditExporters() iter.Seq[*core.AuditExporter]
	User(id uuid.UUID) *core.User
}

// Config is what a Runner is made of. All are required but Folder.
type Config struct {
	Audit   Stream
	Store   *kv.Store // shared by the control planes: lease, status, what was put aside
	Secrets Secrets
	State   func() State
	// Name is this control plane's.
	Name string
	// Folder is where files are written. Empty: nowhere.
	Folder string
	Log    *slog.Logger

	// backoff is the first and the longest wait before a batch is sent again. Default 1 s and 1 min.
	backoff, longest time.Duration
	// openSink makes sinks; tests have some of their own.
	openSink func(e *core.AuditExporter, secret vault.Secret) (Sink, error)
}

// Runner runs the exporters, where this control plane is the one to do so.
type Runner struct {
	Config

	mu      sync.Mutex
	running map[string]*worker
	lag     map[string]uint64
}

// New returns a runner.
func New(c Config) *Runner {
	r := &Runner{Config: c, running: map[string]*worker{}}
	if r.backoff == 0 {
		r.backoff, r.longest = time.Second, time.Minute
	}
	if r.openSink == nil {
		r.openSink = func(e *core.AuditExporter, secret vault.Secret) (Sink, error) {
			return open(e.Settings, secret, r.Folder)
		}
	}
	return r
}

const (
	lease = "audit-exporters"
	// leaseFor is how long a control plane that is gone may hold the exporters up.
	leaseFor = 6 * time.Second
	// lookEvery is how often it is looked whether an exporter changed, and lagEvery how far they are.
	lookEvery = 500 * time.Millisecond
	lagEvery  = 5 * time.Second
)

// Run runs the exporters while this control plane holds the lease, until ctx ends.
func (r *Runner) Run(ctx context.Context) {
	mine := make(chan bool, 16)
	var campaign sync.WaitGroup
	campaign.Go(func() {
		r.Store.Campaign(ctx, lease, r.Name, leaseFor, r.Log, func(l kv.Leadership) {
			select {
			case mine <- l.Mine:
			case <-ctx.Done():
			}
		})
	})
	defer campaign.Wait()
	var end func()
	defer func() {
		if end != nil {
			end()
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case is := <-mine:
			if !is && end != nil {
				end()
				end = nil
			}
			if is && end == nil {
				running, cancel := context.WithCancel(ctx)
				var done sync.WaitGroup
				done.Go(func() { r.lead(running) })
				end = func() { cancel(); done.Wait() }
			}
		}
	}
}

// lead runs what exporters there are, until ctx ends.
func (r *Runner) lead(ctx context.Context) {
	var done sync.WaitGroup
	defer done.Wait()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, w := range r.running {
			w.cancel()
		}
		clear(r.running)
	}()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var looked time.Time
	for {
		wanted := map[string]*core.AuditExporter{}
		for e := range r.State().AuditExporters() {
			wanted[e.Settings.GetName()] = e
		}
		r.mu.Lock()
		for name, w := range r.running {
			if now := wanted[name]; now == nil || !same(now, w.exporter) {
				w.cancel()
			}
			select {
			case <-w.ended:
				delete(r.running, name)
			default:
			}
		}
		for name, e := range wanted {
			if r.running[name] == nil {
				w := newWorker(ctx, r, e)
				r.running[name] = w
				done.Go(w.run)
			}
		}
		r.mu.Unlock()
		if time.Since(looked) > lagEvery {
			looked = time.Now()
			r.look(ctx, wanted)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look says how far the exporters are, and makes an end of what is left of those that are no more.
func (r *Runner) look(ctx context.Context, wanted map[string]*core.AuditExporter) {
	lag, err := r.Audit.Deliveries(ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.Log.WarnContext(ctx, "it cannot be asked how far the audit exporters are", "error", err)
		}
		return
	}
	for name := range maps.Clone(lag) {
		if wanted[name] != nil {
			continue
		}
		delete(lag, name)
		r.mu.Lock()
		ending := r.running[name] != nil
		r.mu.Unlock()
		if ending {
			continue
		}
		// What is known of it goes first: the consumer is what tells that there is something to forget.
		if err = r.forget(ctx, name); err == nil {
			err = r.Audit.EndDelivery(ctx, name)
		}
		if err != nil && ctx.Err() == nil {
			r.Log.WarnContext(ctx, "what is left of an audit exporter could not be removed; it is tried again", "exporter", name, "error", err)
		}
	}
	r.mu.Lock()
	r.lag = lag
	r.mu.Unlock()
}

func same(a, b *core.AuditExporter) bool {
	return a.Made == b.Made && a.SecretID == b.SecretID && proto.Equal(a.Settings, b.Settings)
}

// made tells exporters of one name apart.
func made(e *core.AuditExporter) string { return strconv.FormatUint(e.Made, 10) }

const statusPrefix = "status."

// Status is how an exporter does, for all control planes to show.
type Status struct {
	ControlPlane string    `json:"control_plane"`
	Made         uint64    `json:"made"`
	Health       string    `json:"health"`
	Sent         uint64    `json:"sent"`
	LastSent     time.Time `json:"last_sent,omitzero"`
	Error        string    `json:"error,omitempty"`
	FailingSince time.Time `json:"failing_since,omitzero"`
	Updated      time.Time `json:"updated"`

	// Lag is how many records are stored and not sent, and Dead how many were put aside.
	Lag  uint64 `json:"-"`
	Dead int    `json:"-"`
}

// forgotten is how old a status may be that still says how an exporter does.
const forgotten = 30 * time.Second

// Status says how an exporter does.
func (r *Runner) Status(ctx context.Context, exporter string) (Status, error) {
	s := Status{}
	lag, err := r.Audit.Deliveries(ctx)
	if err != nil {
		return s, fmt.Errorf("asking how far the exporters are: %w", err)
	}
	if entry, err := r.Store.Get(ctx, statusPrefix+exporter); err == nil {
		_ = json.Unmarshal(entry.Value, &s) // what cannot be read says nothing
	}
	made := uint64(0)
	for e := range r.State().AuditExporters() {
		if e.Settings.GetName() == exporter {
			made = e.Made
		}
	}
	if s.Made != made || time.Since(s.Updated) > forgotten {
		s = Status{Health: "waiting", Made: made}
	}
	dead, err := r.DeadLetters(ctx, exporter)
	s.Lag, s.Dead = lag[exporter], len(dead)
	return s, err
}
