// Package erasure makes an end of what is left of people who were removed: it destroys their keys, overwrites the messages
// on the log that hold their sealed attributes, sees to it that no checkpoint here still has them, and then says on the
// log that nothing is left. It also keeps the list of all who were ever removed, apart from the log, so that a backup
// that is restored brings nobody back.
//
// Every step can be done again: one that a crash or a change of the active writer cut off is done by whoever writes next.
package erasure

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
)

// Engine is what erasures need of the engine.
type Engine interface {
	State() *core.State
	Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (engine.Outcome, error)
	// Leading tells whether this control plane writes the log.
	Leading() bool
	// Checkpoint sees to it that no checkpoint here is older than a version.
	Checkpoint(atLeast uint64) error
}

// Keys destroys people's keys.
type Keys interface {
	DestroyKey(ctx context.Context, person uuid.UUID) error
}

// Log overwrites messages of a subject.
type Log interface {
	Erase(ctx context.Context, subject string, before uint64, holds func(data []byte) bool) (int, error)
}

// Config is what a Worker works with.
type Config struct {
	Engine Engine
	Keys   Keys
	Log    Log
	// List is where those who were removed are noted.
	List   *List
	Logger *slog.Logger
	// Every is how often it is looked for erasures. Default one second.
	Every time.Duration
}

// Worker finishes erasures.
type Worker struct {
	config Config
	listed uint64 // up to where removals are on the list
	rested time.Time
}

// New returns a worker.
func New(c Config) *Worker {
	if c.Every == 0 {
		c.Every = time.Second
	}
	return &Worker{config: c}
}

var actor = &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM, Id: "erasure"}

// Restore removes again who is on the list and in the state: a backup was restored that is older than their removal.
func (w *Worker) Restore(ctx context.Context) error {
	again := 0
	for id := range w.config.List.All() {
		if w.config.Engine.State().User(id) == nil {
			continue
		}
		if _, err := w.config.Engine.Do(ctx, actor, core.EraseUser{ID: id}); err != nil && !isNotFound(err) {
			return fmt.Errorf("removing somebody again who was erased before: %w", err)
		}
		again++
	}
	if again > 0 {
		w.config.Logger.WarnContext(ctx, "people who had been erased were there again, as after the restoration of a backup: they are removed", "people", again)
	}
	return nil
}

func isNotFound(err error) bool {
	var refusal *core.Error
	return errors.As(err, &refusal) && refusal.Code == core.NotFound
}

// Run finishes erasures until ctx ends.
func (w *Worker) Run(ctx context.Context) {
	ticker := time.NewTicker(w.config.Every)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		err := w.pass(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			w.config.Logger.WarnContext(ctx, "an erasure cannot be finished now; it is tried again", "error", err)
		}
		failing = err != nil
	}
}

// A checkpoint is written for each pass, however many erasures there are, and nothing is done for so many times as long
// as the pass took.
const (
	passMost = 1000
	restPart = 5
)

// pass notes removals and finishes what can be finished.
func (w *Worker) pass(ctx context.Context) error {
	s := w.config.Engine.State()
	if s.LastErasure() > w.listed {
		if err := w.config.List.Add(s.Removed()); err != nil {
			return err
		}
		w.listed = s.LastErasure()
	}
	if s.ErasureCount() == 0 || !w.config.Engine.Leading() || time.Now().Before(w.rested) {
		return nil
	}
	began := time.Now()
	err := w.finish(ctx, s)
	w.rested = time.Now().Add(restPart * time.Since(began))
	return err
}

func (w *Worker) finish(ctx context.Context, s *core.State) error {
	var open []core.Erasure
	for e := range s.Erasures() {
		if open = append(open, e); len(open) == passMost {
			break
		}
	}
	if err := w.config.Engine.Checkpoint(s.LastErasure()); err != nil {
		return err
	}
	var done []uuid.UUID
	var failed error
	for _, e := range open {
		if err := w.erase(ctx, e); err != nil {
			failed = fmt.Errorf("erasing %s: %w", e.ID, err)
			break // what failed for one fails for all, mostly
		}
		done = append(done, e.ID)
	}
	if len(done) == 0 {
		return failed
	}
	if _, err := w.config.Engine.Do(ctx, actor, core.FinishErasures{IDs: done}); err != nil {
		return errors.Join(failed, fmt.Errorf("saying that erasures are finished: %w", err))
	}
	w.config.Logger.InfoContext(ctx, "people were erased", "people", len(done))
	return failed
}

// erase destroys a person's key first: from then on nothing that is left anywhere can be read.
func (w *Worker) erase(ctx context.Context, e core.Erasure) error {
	if err := w.config.Keys.DestroyKey(ctx, e.ID); err != nil {
		return err
	}
	_, err := w.config.Log.Erase(ctx, core.UserSubject(e.ID), e.Seq, sealed)
	return err
}

// sealed tells whether a message holds somebody's attributes. One that cannot be read is taken to.
func sealed(data []byte) bool {
	var ev eventv1.Event
	return proto.Unmarshal(data, &ev) != nil || len(ev.GetSealed()) > 0
}
