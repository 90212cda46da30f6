package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/journal"
)

// Past is a state that was, and when it was the newest.
type Past struct {
	State *core.State
	// Since is when its last event was stored, Until when the next one was; zero: there is none yet. They are the stream's
	// times, and never run backwards: where a server's clock did, the latest time before it counts.
	Since, Until time.Time

	// erasures is where the last tombstone lay when it was made, if nobody was being erased then.
	erasures uint64
	settled  bool

	of    *pastStates
	users int // guarded by of.mu
}

// Release says that whoever was given the state is done with it. Each who was given it calls it once.
func (p *Past) Release() { p.of.release(p) }

const (
	// pastInUse is how many states that were may be in use at a time: each may take as much memory as the one that stands.
	pastInUse = 2
	// pastAsking is how many may be asking for one, those who wait included.
	pastAsking = 16
)

// ErrBusy: as many ask for states that were as may. Ask again later.
var ErrBusy = fmt.Errorf("%d questions about earlier states are being answered or wait already, each of which may take as much memory as all that stands now: "+
	"ask again in a moment, and for one time at a time (those who ask for the same time share its state)", pastAsking)

// pastStates bounds how many states that were are in use.
type pastStates struct {
	// making has room for one: who makes a state. It takes long, and who waits may give up.
	making chan struct{}
	// room holds one for each state in use.
	room chan struct{}
	// last is the one that was made last, while somebody has it; whoever holds making reads and writes it.
	last weak.Pointer[Past]

	asking atomic.Int32

	mu sync.Mutex // guards how many use each
}

func newPastStates() *pastStates {
	return &pastStates{making: make(chan struct{}, 1), room: make(chan struct{}, pastInUse)}
}

// ask waits until it is one's turn to make a state, and returns what gives the turn back.
func (s *pastStates) ask(ctx context.Context) (done func(), err error) {
	if s.asking.Add(1) > pastAsking {
		s.asking.Add(-1)
		return nil, ErrBusy
	}
	select {
	case s.making <- struct{}{}:
		return func() { <-s.making; s.asking.Add(-1) }, nil
	case <-ctx.Done():
		s.asking.Add(-1)
		return nil, context.Cause(ctx)
	}
}

// share gives one more a state that is in use, and tells whether it is.
func (s *pastStates) share(p *Past) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.users == 0 {
		return false
	}
	p.users++
	return true
}

// enter waits for room for one more state.
func (s *pastStates) enter(ctx context.Context) error {
	select {
	case s.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *pastStates) release(p *Past) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.users--; p.users == 0 {
		<-s.room
	}
}

// ErrFuture: what is asked for was not yet.
var ErrFuture = errors.New("that is still to come")

// At returns the state as it was at a version or, for version zero, at a time. It folds the log from the kept state before it: at most
// about a day of it, or a month where that is long ago, and all of it where none was kept. One is made at a time, and whoever asks for the one that
// was made last gets the same, as long as somebody has it. Few are in use at a time: whoever asks for another waits until one is
// released, and too many who wait are refused with ErrBusy. Of people who were erased since, ids are left.
//
// Release what it returns.
func (e *Engine) At(ctx context.Context, version uint64, at time.Time) (*Past, error) {
	done, err := e.past.ask(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	end := e.State().Seq()
	switch {
	case version > end:
		return nil, fmt.Errorf("version %d: %w: the log ends at %d", version, ErrFuture, end)
	case version == 0 && at.After(e.Now()):
		return nil, fmt.Errorf("%s: %w", at.Format(time.RFC3339), ErrFuture)
	}
	last := e.past.last.Value()
	if last != nil && (!last.is(version, at) || !last.settled || last.erasures != e.State().LastErasure()) {
		last = nil
	}
	if last != nil && e.past.share(last) {
		return last, nil
	}
	if err := e.past.enter(ctx); err != nil {
		return nil, err
	}
	p := last
	if p == nil {
		if p, err = e.pastAt(ctx, version, at, end); err != nil {
			<-e.past.room
			return nil, err
		}
	}
	p.of, p.users = e.past, 1
	e.past.last = weak.Make(p)
	return p, nil
}

// pastAt makes a state that was.
func (e *Engine) pastAt(ctx context.Context, version uint64, at time.Time, end uint64) (*Past, error) {
	if end > manyEvents {
		if err := e.Seals.Preload(ctx); err != nil {
			return nil, err
		}
	}
	now := e.State()
	p := e.newestKept(ctx, version, at)
	p.erasures, p.settled = now.LastErasure(), now.ErasureCount() == 0
	err := e.read(ctx, p.State.Seq(), end, func(records []journal.Record) error {
		events, err := e.decodeAll(ctx, records)
		if err != nil {
			return err
		}
		for i, rec := range records {
			stored := rec.At
			if stored.Before(p.Since) {
				stored = p.Since
			}
			if version != 0 && rec.Seq > version || version == 0 && stored.After(at) {
				p.Until = stored
				return errRead
			}
			if err := p.State.Apply(core.Record{Seq: rec.Seq, Event: events[i]}); err != nil {
				return err
			}
			p.Since = stored
		}
		return nil
	})
	if err != nil && !errors.Is(err, errRead) {
		return nil, err
	}
	return p, nil
}

// is tells whether this is the state at a version, or at a time. While it is the newest it is made anew.
func (p *Past) is(version uint64, at time.Time) bool {
	if p.Until.IsZero() {
		return false
	}
	if version != 0 {
		return p.State.Seq() == version
	}
	return !at.Before(p.Since) && at.Before(p.Until)
}
