// Package activity remembers what directories did lately: when each was last heard of, by which token, how much it asked
// for, and what was refused to it and why. All control planes write to one place, a few times a minute, so that each
// can tell; what the last seconds brought may be missing after a crash.
//
// It keeps endpoints, ids and kinds of errors, and nothing that a request says of anybody.
package activity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/kv"
)

// Store is where control planes share what they saw.
type Store interface {
	Change(ctx context.Context, key string, ttl time.Duration, change func(value []byte) ([]byte, error)) (uint64, error)
	Get(ctx context.Context, key string) (kv.Entry, error)
}

const (
	// every is how often what was seen is written.
	every = 10 * time.Second
	// mostRefusals and mostAlarms are how many of a directory are kept.
	mostRefusals = 50
	mostAlarms   = 20
	// lastWrite bounds the write at the end.
	lastWrite = 2 * time.Second
)

// Request is one request of a directory. Directory and Token are empty where no token opened the door.
type Request struct {
	At        time.Time
	Directory string
	Token     uuid.UUID
	// Refusal is what was refused, if anything.
	Refusal *Refusal
}

// Refusal is a request that was refused.
type Refusal struct {
	At       time.Time `json:"at"`
	Method   string    `json:"method"`
	Resource string    `json:"resource"`
	Status   int       `json:"status"`
	Type     string    `json:"type,omitempty"`
}

// Directory is what is remembered of one directory.
type Directory struct {
	LastRequest time.Time               `json:"last_request"`
	Requests    uint64                  `json:"requests"`
	Refused     uint64                  `json:"refused"`
	Tokens      map[uuid.UUID]time.Time `json:"tokens,omitempty"`
	// Refusals are the last ones, newest last.
	Refusals []Refusal `json:"refusals,omitempty"`
	// Alarms are the last ones, newest last.
	Alarms []Alarm `json:"alarms,omitempty"`
}

// add takes in what came after.
func (d *Directory) add(later *Directory) {
	d.LastRequest = latest(d.LastRequest, later.LastRequest)
	d.Requests += later.Requests
	d.Refused += later.Refused
	if d.Tokens == nil && later.Tokens != nil {
		d.Tokens = make(map[uuid.UUID]time.Time, len(later.Tokens))
	}
	for id, at := range later.Tokens {
		d.Tokens[id] = latest(d.Tokens[id], at)
	}
	d.Refusals = append(d.Refusals, later.Refusals...)
	if more := len(d.Refusals) - mostRefusals; more > 0 {
		d.Refusals = append([]Refusal{}, d.Refusals[more:]...)
	}
	d.Alarms = append(d.Alarms, later.Alarms...)
	if more := len(d.Alarms) - mostAlarms; more > 0 {
		d.Alarms = append([]Alarm{}, d.Alarms[more:]...)
	}
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Recorder collects what directories do at this control plane. It is safe for concurrent use.
type Recorder struct {
	store Store
	log   *slog.Logger

	mu     sync.Mutex
	unsaid map[string]*Directory
	// saving is held while unsaid is written.
	saving sync.Mutex
}

// NewRecorder returns a recorder, which writes while it runs.
func NewRecorder(store Store, log *slog.Logger) *Recorder {
	return &Recorder{store: store, log: log, unsaid: make(map[string]*Directory)}
}

// Note remembers a request.
func (r *Recorder) Note(q Request) {
	one := &Directory{LastRequest: q.At, Requests: 1}
	if q.Token != uuid.Nil {
		one.Tokens = map[uuid.UUID]time.Time{q.Token: q.At}
	}
	if q.Refusal != nil {
		one.Refused, one.Refusals = 1, []Refusal{*q.Refusal}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(q.Directory, one)
}

// Alarm remembers an alarm.
func (r *Recorder) Alarm(a Alarm) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(a.Directory, &Directory{Alarms: []Alarm{a}})
}

func (r *Recorder) keep(directory string, more *Directory) {
	d := r.unsaid[directory]
	if d == nil {
		d = &Directory{}
		r.unsaid[directory] = d
	}
	d.add(more)
}

// Run writes what was noted until ctx ends, and once more then.
func (r *Recorder) Run(ctx context.Context) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			r.finish(ctx)
			return
		case <-ticker.C:
		}
		err := r.flush(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			r.log.WarnContext(ctx, "what directories do cannot be noted now; it is tried again", "error", err)
		}
		failing = err != nil
	}
}

// finish writes what is left.
func (r *Recorder) finish(ctx context.Context) {
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
	defer cancel()
	if err := r.flush(last); err != nil {
		r.log.DebugContext(ctx, "what directories did in the last seconds is not remembered", "error", err)
	}
}

// flush writes what was noted. What cannot be written is kept for the next time.
func (r *Recorder) flush(ctx context.Context) error {
	r.saving.Lock()
	defer r.saving.Unlock()
	r.mu.Lock()
	unsaid := r.unsaid
	r.unsaid = make(map[string]*Directory)
	r.mu.Unlock()
	for directory, more := range maps.Clone(unsaid) {
		_, err := r.store.Change(ctx, key(directory), 0, func(value []byte) ([]byte, error) {
			d, err := decode(value)
			if err != nil {
				return nil, err
			}
			d.add(more)
			return json.Marshal(d)
		})
		if err != nil {
			r.putBack(unsaid)
			return fmt.Errorf("noting what a directory did: %w", err)
		}
		delete(unsaid, directory)
	}
	return nil
}

// putBack keeps what could not be written, before what came meanwhile.
func (r *Recorder) putBack(older map[string]*Directory) {
	r.mu.Lock()
	defer r.mu.Unlock()
	newer := r.unsaid
	r.unsaid = older
	for directory, d := range newer {
		r.keep(directory, d)
	}
}

// Of returns what is remembered of a directory, or of requests that no token opened the door for: "".
func (r *Recorder) Of(ctx context.Context, directory string) (*Directory, error) {
	if err := r.flush(ctx); err != nil {
		return nil, err
	}
	e, err := r.store.Get(ctx, key(directory))
	if errors.Is(err, kv.ErrNotFound) {
		return &Directory{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what a directory did: %w", err)
	}
	return decode(e.Value)
}

func decode(value []byte) (*Directory, error) {
	d := &Directory{}
	if len(value) == 0 {
		return d, nil
	}
	if err := json.Unmarshal(value, d); err != nil {
		return nil, fmt.Errorf("reading what a directory did: %w", err)
	}
	return d, nil
}

// key is where a directory's activity lies: an id may have characters that a key may not.
func key(directory string) string {
	if directory == "" {
		return "scim.-"
	}
	return "scim." + base64.RawURLEncoding.EncodeToString([]byte(directory))
}
