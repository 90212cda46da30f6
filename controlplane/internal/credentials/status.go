package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/kv"
)

// flushEvery is how often it is written down when credentials were used.
const flushEvery = 15 * time.Second

// Status is what is known of a credential that is not on the log.
type Status struct {
	Used    time.Time `json:"used,omitzero"`
	Renewed time.Time `json:"renewed,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
	// Failed is when a renewal last failed, if none came about since.
	Failed time.Time `json:"failed,omitzero"`
}

// statuses collects what happens to credentials, and writes it down from time to time, for all control planes.
type statuses struct {
	mu      sync.Mutex
	pending map[uuid.UUID]Status
}

func (s *statuses) change(id uuid.UUID, change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending == nil {
		s.pending = map[uuid.UUID]Status{}
	}
	one := s.pending[id]
	change(&one)
	s.pending[id] = one
}

func (s *statuses) used(id uuid.UUID, at time.Time) {
	s.change(id, func(st *Status) { st.Used = at })
}

func (s *statuses) renewed(id uuid.UUID, at, expires time.Time) {
	s.change(id, func(st *Status) { st.Renewed, st.Expires, st.Failed = at, expires, time.Time{} })
}

func (s *statuses) failed(id uuid.UUID, at time.Time) {
	s.change(id, func(st *Status) { st.Failed = at })
}

func statusKey(id uuid.UUID) string { return "credential.status." + id.String() }

// flush writes down what was collected.
func (s *statuses) flush(ctx context.Context, store Store, log *slog.Logger) {
	s.mu.Lock()
	pending := s.pending
	s.pending = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, flushEvery)
	defer cancel()
	for id, fresh := range pending {
		_, err := store.Change(ctx, statusKey(id), 0, func(value []byte) ([]byte, error) {
			var known Status
			_ = json.Unmarshal(value, &known) // none, or of a build that is no more
			return json.Marshal(known.with(fresh))
		})
		if err != nil {
			log.WarnContext(ctx, "it could not be written down when credentials were used", "error", err)
			return
		}
	}
}

// with adds what is newer.
func (s Status) with(fresh Status) Status {
	if fresh.Used.After(s.Used) {
		s.Used = fresh.Used
	}
	if fresh.Renewed.After(s.Renewed) {
		s.Renewed, s.Expires, s.Failed = fresh.Renewed, fresh.Expires, time.Time{}
	}
	if fresh.Failed.After(s.Renewed) {
		s.Failed = fresh.Failed
	}
	return s
}

func (s *statuses) forget(ctx context.Context, store Store, id uuid.UUID) {
	s.mu.Lock()
	delete(s.pending, id)
	s.mu.Unlock()
	_ = store.Purge(ctx, statusKey(id)) // what stays says when something was used that is no more
}

// StatusOf returns what is known of a credential's use.
func (k *Keeper) StatusOf(ctx context.Context, id uuid.UUID) (Status, error) {
	entry, err := k.Store.Get(ctx, statusKey(id))
	if err != nil && !errors.Is(err, kv.ErrNotFound) {
		return Status{}, err
	}
	var known Status
	_ = json.Unmarshal(entry.Value, &known) // none: nothing is known
	k.status.mu.Lock()
	defer k.status.mu.Unlock()
	return known.with(k.status.pending[id]), nil
}
