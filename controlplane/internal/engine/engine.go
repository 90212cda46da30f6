// Package engine runs the core over the journal: it takes commands, commits what they become, and holds
// the committed state for readers.
//
// Commands that wait are committed together as one round. No answer, a refusal included, leaves before the
// fate of its round is known, and readers never see what is not committed. Where several control planes
// share a log, one is the active writer and the others forward to it; the position at which a round is
// written is the fence that makes a mistake about who that is harmless. The package holds no rules.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/journal"
)

// Journal is what the engine needs of the event log.
type Journal interface {
	Append(ctx context.Context, expected uint64, batch []journal.Message) (uint64, error)
	Follow(ctx context.Context, after uint64, fn func([]journal.Record) error) error
	Last(ctx context.Context) (uint64, error)
}

// Seals keeps personal attributes unreadable on the log.
type Seals interface {
	// EnsureKeys makes keys for people who have none, in one write.
	EnsureKeys(ctx context.Context, people []uuid.UUID) error
	Seal(ctx context.Context, person uuid.UUID, plain []byte) ([]byte, error)
	// Open returns what was sealed; erased: the person's key is destroyed.
	Open(ctx context.Context, person uuid.UUID, sealed []byte) (plain []byte, erased bool, err error)
	// Preload reads all keys at once, before many seals are opened.
	Preload(ctx context.Context) error
}

// Config is what an engine is made of. Journal and Seals are required.
type Config struct {
	Journal Journal
	Seals   Seals
	// Peers connects the control planes of one log. Nil: this process alone can write the log, which then
	// needs no barriers.
	Peers Peers
	// Checkpoints bounds the time of a start. Nil: each start folds the whole log.
	Checkpoints *Checkpoints
	// Now tells the time. Default time.Now.
	Now func() time.Time
	// NewID makes ids. Default uuid.NewV7.
	NewID func() uuid.UUID
	// AnswerWithin bounds how long a command without a deadline of its own may take. Default 30 seconds.
	AnswerWithin time.Duration
	Log          *slog.Logger
}

// Outcome is what a command came to.
type Outcome struct {
	// Seq is the version at which the answer holds: that of the last event, or of the fence.
	Seq uint64
	// Events are what the command became; none where all was so already. Those of a forwarded command
	// hold no personal attributes.
	Events []*eventv1.Event
	// State is a committed state that holds the outcome.
	State *core.State
}

// Round tells a follower what was committed: records lead from prev to next.
type Round func(prev, next *core.State, records []core.Record)

// Engine is a running engine. It is safe for concurrent use.
type Engine struct {
	Config
	state  atomic.Pointer[core.State]
	failed atomic.Pointer[error]
	queue  queue
	round  Round
	// crowd is how many commands the last round had. It is the commit loop's.
	crowd int

	// moved is closed and replaced when the state moves.
	movedMu sync.Mutex
	moved   chan struct{}

	leader atomic.Pointer[leadership]
	recent *recent

	stop    context.CancelFunc
	stopped sync.WaitGroup
	closed  context.Context
}

// ErrClosed: the engine was closed before the command's fate was known.
var ErrClosed = errors.New("the engine is closed")

// Open folds the log up to its end. Start must be called before commands are given.
func Open(ctx context.Context, c Config) (*Engine, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.NewID == nil {
		c.NewID = func() uuid.UUID { return uuid.Must(uuid.NewV7()) }
	}
	if c.AnswerWithin == 0 {
		c.AnswerWithin = 30 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{Config: c, moved: make(chan struct{}), recent: newRecent(recentCommands)}
	e.queue.wake = make(chan struct{}, 1)
	e.leader.Store(&leadership{})
	state := core.NewState()
	if c.Checkpoints != nil {
		if restored := c.Checkpoints.read(c.Log); restored != nil {
			state = restored
		}
	}
	e.state.Store(state)
	if err := e.catchUp(ctx); err != nil {
		return nil, err
	}
	return e, nil
}

// catchUp folds what the log holds beyond the state, up to the end that its leader believes in.
func (e *Engine) catchUp(ctx context.Context) error {
	last, err := e.Journal.Last(ctx)
	if err != nil {
		return fmt.Errorf("opening the engine: %w", err)
	}
	at := e.State().Seq()
	switch {
	case last == at:
		return nil
	case last < at:
		return fmt.Errorf("opening the engine: the log ends at %d, but a checkpoint here stands at %d: the log was rolled back. Restore it, or, if the log is right, remove the checkpoint", last, at)
	case last-at > 1000:
		if err := e.Seals.Preload(ctx); err != nil {
			return fmt.Errorf("opening the engine: %w", err)
		}
		e.Log.InfoContext(ctx, "folding the log", "from", at, "to", last)
	}
	ctx, done := context.WithCancel(ctx)
	defer done()
	err = e.Journal.Follow(ctx, at, func(records []journal.Record) error {
		if err := e.fold(ctx, records); err != nil {
			return err
		}
		if e.State().Seq() >= last {
			done()
		}
		return nil
	})
	if err == nil && e.State().Seq() < last {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("folding the log: %w", err)
	}
	return nil
}

// Start begins to commit. Each round, of this control plane or another, is given to round, in order and
// one at a time, beginning after State.
func (e *Engine) Start(round Round) {
	e.round = round
	ctx, stop := context.WithCancel(context.Background())
	e.stop, e.closed = stop, ctx
	followed := make(chan []journal.Record, 16)
	if e.Peers != nil {
		e.stopped.Go(func() { e.follow(ctx, followed) })
		e.stopped.Go(func() { e.lead(ctx) })
		e.stopped.Go(func() { e.serve(ctx) })
	} else {
		e.leader.Store(&leadership{mine: true})
	}
	e.stopped.Go(func() { e.commitLoop(ctx, followed) })
	if e.Checkpoints != nil {
		e.stopped.Go(func() { e.checkpointLoop(ctx) })
	}
}

// Close ends the engine after the round that is under way, writes a checkpoint, and waits.
func (e *Engine) Close() {
	e.stop()
	e.stopped.Wait()
	e.queue.close()
	if e.Checkpoints != nil {
		if err := e.Checkpoints.write(e.State()); err != nil {
			e.Log.Warn("the checkpoint could not be written; the next start folds more of the log", "error", err)
		}
	}
}

// State is the committed state. It does not change; ask again for a newer one.
func (e *Engine) State() *core.State { return e.state.Load() }

// Healthy says why the engine does not work, for readiness.
func (e *Engine) Healthy() error {
	if err := e.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Do commits a command under an actor's identity. A refusal is a *core.Error. After any other error it is
// not known whether the command was carried out, unless the error is from before it was sent.
func (e *Engine) Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (Outcome, error) {
	return e.answer(ctx, &pending{id: e.NewID().String(), actor: actor, command: c, done: make(chan struct{})})
}

// Fence returns a state that was proved, by a write, to stand at the end of the log.
func (e *Engine) Fence(ctx context.Context) (*core.State, error) {
	if e.Peers == nil {
		return e.State(), e.Healthy()
	}
	out, err := e.answer(ctx, &pending{id: e.NewID().String(), done: make(chan struct{})})
	return out.State, err
}

// WaitFor returns when the state has reached a version.
func (e *Engine) WaitFor(ctx context.Context, seq uint64) (*core.State, error) {
	for {
		e.movedMu.Lock()
		moved := e.moved
		e.movedMu.Unlock()
		if s := e.State(); s.Seq() >= seq {
			return s, nil
		}
		select {
		case <-moved:
		case <-e.closed.Done():
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for version %d: %w", seq, ctx.Err())
		}
	}
}

// advance makes a state the committed one and tells who waits or follows.
func (e *Engine) advance(prev, next *core.State, records []core.Record) {
	e.state.Store(next)
	if e.round != nil {
		e.round(prev, next, records)
	}
	e.movedMu.Lock()
	close(e.moved)
	e.moved = make(chan struct{})
	e.movedMu.Unlock()
}

// halt stops the engine for good: it must not decide on a state that it cannot fold.
func (e *Engine) halt(err error) {
	if e.failed.CompareAndSwap(nil, &err) {
		e.Log.Error("the engine halts: nothing is committed or enforced anew until an operator acts", "error", err)
	}
}
