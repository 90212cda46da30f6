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
	// Hurry makes a running Follow look for itself whether there is more.
	Hurry()
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
	// Store says why the event store takes no writes, if so; it is asked when a round takes long. Nil: no
	// reason is known.
	Store func(ctx context.Context) error
	// Checkpoints bounds the time of a start. Nil: each start folds the whole log.
	Checkpoints *Checkpoints
	// Now tells the time. Default time.Now.
	Now func() time.Time
	// NewID makes ids. Default uuid.NewV7.
	NewID func() uuid.UUID
	// AnswerWithin bounds how long a command without a deadline of its own may take. Default 30 seconds.
	AnswerWithin time.Duration
	// TryWithin bounds one try to have the active writer answer; the command is then sent again under the
	// same id. Default 500 milliseconds.
	TryWithin time.Duration
	Log       *slog.Logger
}

// Outcome is what a command came to.
type Outcome struct {
	// Seq is the version at which the answer holds: that of the last event, or of the fence.
	Seq uint64
	// Events are what the command became; none where all was so already.
	Events []*eventv1.Event
	// State is a committed state that holds the outcome.
	State *core.State

	// repeated: the command had been carried out before, and its events were read from the log.
	repeated bool
}

// Round tells a follower what was committed: records lead from prev to next.
type Round func(prev, next *core.State, records []core.Record)

// Engine is a running engine. It is safe for concurrent use.
type Engine struct {
	Config
	now    atomic.Pointer[committed]
	failed atomic.Pointer[error]
	stall  stall
	queue  queue
	round  Round
	// followers of what is committed, beside round: keys are *follower.
	followers sync.Map
	// crowd is how many callers there were about the last round, and took how long it took. They are the
	// commit loop's.
	crowd int
	took  time.Duration

	// saved is the version of the checkpoint that is there, zero for none; saving is held to write another.
	saving sync.Mutex
	saved  atomic.Uint64

	past *pastStates

	// moved is closed and replaced when the state moves.
	movedMu sync.Mutex
	moved   chan struct{}

	leader  atomic.Pointer[leadership]
	recent  *recent
	awaited awaited

	stop    context.CancelFunc
	stopped sync.WaitGroup
	closed  <-chan struct{} // since Start
}

// committed is a state with the id of the event that led to it.
type committed struct {
	state *core.State
	last  string
}

// Errors of Do and Fence that are no refusals.
var (
	// ErrClosed: the engine was closed before the command's fate was known.
	ErrClosed = errors.New("the engine is closed")
	// ErrUnavailable: the event store takes no writes now. Nothing was done; the text says why.
	ErrUnavailable = errors.New("changes cannot be stored now, and nothing was done")
)

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
	if c.TryWithin == 0 {
		c.TryWithin = 500 * time.Millisecond
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{Config: c, moved: make(chan struct{}), past: newPastStates(), recent: newRecent(recentCommands)}
	e.queue.wake = make(chan struct{}, 1)
	e.leader.Store(&leadership{})
	e.now.Store(&committed{state: core.NewState()})
	if c.Checkpoints != nil {
		restored, err := c.Checkpoints.read(c.Log)
		if err != nil {
			return nil, fmt.Errorf("opening the engine: %w", err)
		}
		if restored != nil {
			e.now.Store(restored)
			e.saved.Store(restored.state.Seq())
		}
	}
	if err := e.open(ctx); err != nil {
		return nil, fmt.Errorf("opening the engine: %w", err)
	}
	return e, nil
}

// Start begins to commit. Each round, of this control plane or another, is given to round, in order and
// one at a time, beginning after State.
func (e *Engine) Start(round Round) {
	e.round = round
	ctx, stop := context.WithCancel(context.Background())
	e.stop, e.closed = stop, ctx.Done()
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
		if err := e.Checkpoint(e.State().Seq()); err != nil {
			e.Log.Warn("the checkpoint could not be written; the next start folds more of the log", "error", err)
		}
	}
}

// State is the committed state. It does not change; ask again for a newer one.
func (e *Engine) State() *core.State { return e.now.Load().state }

// Leading tells whether this control plane is the active writer, as far as is known here.
func (e *Engine) Leading() bool { return e.leader.Load().mine }

// Healthy says why the engine does not work, for readiness: it halted for good, or a round has been waiting
// for the event store for long.
func (e *Engine) Healthy() error {
	if err := e.halted(); err != nil {
		return err
	}
	return e.stall.reason()
}

func (e *Engine) halted() error {
	if err := e.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Do commits a command under an actor's identity. A refusal is a *core.Error; with it, and with
// ErrUnavailable, nothing was done. After any other error it is not known whether the command was carried
// out.
func (e *Engine) Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (Outcome, error) {
	return e.answer(ctx, e.NewID().String(), actor, c)
}

// Fence returns a state that was proved, by a write, to stand at the end of the log.
func (e *Engine) Fence(ctx context.Context) (*core.State, error) {
	if e.Peers == nil {
		return e.State(), e.Healthy()
	}
	out, err := e.answer(ctx, e.NewID().String(), nil, nil)
	return out.State, err
}

// hurryAfter is how long a version that is known to be on the log may take to come by itself.
const hurryAfter = 100 * time.Millisecond

// WaitFor returns when the state has reached a version, which is on the log or will be.
func (e *Engine) WaitFor(ctx context.Context, seq uint64) (*core.State, error) {
	hurry := time.NewTicker(hurryAfter)
	defer hurry.Stop()
	for {
		e.movedMu.Lock()
		moved := e.moved
		e.movedMu.Unlock()
		if s := e.State(); s.Seq() >= seq {
			return s, nil
		}
		if err := e.halted(); err != nil {
			return nil, err
		}
		select {
		case <-moved:
		case <-hurry.C:
			e.Journal.Hurry()
		case <-e.closed:
			return nil, ErrClosed
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for version %d: %w", seq, ctx.Err())
		}
	}
}

// advance makes a state the committed one and tells who waits or follows.
func (e *Engine) advance(prev, next *core.State, records []core.Record) {
	e.now.Store(&committed{state: next, last: records[len(records)-1].Event.GetId()})
	if e.round != nil {
		e.round(prev, next, records)
	}
	e.followers.Range(func(f, _ any) bool {
		f.(*follower).add(prev, records) //nolint:forcetypeassert // nothing else is in it
		return true
	})
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
