package engine

import (
	"context"
	"fmt"
	"sync"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/journal"
)

// maxBehind is how many events wait for a follower that is slower than they come. Beyond that it reads them from the log.
const maxBehind = 100_000

// follower is where events wait for one who follows them.
type follower struct {
	mu      sync.Mutex
	before  *core.State // the records
	records []core.Record
	behind  bool // more came than may wait
	wake    chan struct{}
}

func (f *follower) add(before *core.State, records []core.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.behind = f.behind || len(f.records)+len(records) > maxBehind; f.behind {
		f.before, f.records = nil, nil // they are on the log
	} else {
		if len(f.records) == 0 {
			f.before = before
		}
		f.records = append(f.records, records...)
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *follower) take() (before *core.State, records []core.Record, behind bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before, records = f.before, f.records
	f.before, f.records = nil, nil
	return before, records, f.behind
}

// Follow calls fn with every event after a version, in order and each once, some at a time: what was committed, and the state before it.
// It returns when ctx ends, with nil, or when fn fails, with its error. What was committed before is read from the log, for which
// a state is folded anew, if this control plane's checkpoint is not from before it; of people who were erased since, ids are left. fn may
// take its time.
func (e *Engine) Follow(ctx context.Context, after uint64, fn func(before *core.State, records []core.Record) error) error {
	f := &follower{wake: make(chan struct{}, 1)}
	e.followers.Store(f, struct{}{})
	defer func() { e.followers.Delete(f) }()
	deliver := func(before *core.State, records []core.Record) error {
		if records[len(records)-1].Seq <= after {
			return nil
		}
		if records[0].Seq <= after {
			before = before.Fork()
			for ; records[0].Seq <= after; records = records[1:] {
				if err := before.Apply(records[0]); err != nil {
					return err
				}
			}
		}
		if err := fn(before, records); err != nil {
			return err
		}
		after = records[len(records)-1].Seq
		return nil
	}
	if err := e.replay(ctx, after, e.State().Seq(), deliver); err != nil {
		return ended(ctx, err)
	}
	for {
		before, records, behind := f.take()
		if len(records) > 0 {
			if err := deliver(before, records); err != nil {
				return ended(ctx, err)
			}
		}
		if behind {
			e.followers.Delete(f)
			return e.Follow(ctx, after, fn)
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// ended is nil for an error that came since the caller ended it.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // what broke with that is no error
	}
	return err
}

// replay calls fn with the events after one version and up to another, read from the log.
func (e *Engine) replay(ctx context.Context, after, upTo uint64, fn func(before *core.State, records []core.Record) error) error {
	if after >= upTo {
		return nil
	}
	state, err := e.stateBefore(after)
	if err != nil {
		return err
	}
	if upTo-state.Seq() > manyEvents {
		if err := e.Seals.Preload(ctx); err != nil {
			return fmt.Errorf("reading people's keys: %w", err)
		}
	}
	return e.read(ctx, state.Seq(), upTo, func(read []journal.Record) error {
		events, err := e.decodeAll(ctx, read)
		if err != nil {
			return err
		}
		before, records := state, make([]core.Record, len(read))
		state = state.Fork()
		for i, rec := range read {
			records[i] = core.Record{Seq: rec.Seq, Event: events[i]}
			if err := state.Apply(records[i]); err != nil {
				return err
			}
		}
		return fn(before, records)
	})
}

// stateBefore is a state at or before a version, as near to it as one is there.
func (e *Engine) stateBefore(version uint64) (*core.State, error) {
	if e.Checkpoints == nil || e.saved.Load() == 0 || e.saved.Load() > version {
		return core.NewState(), nil
	}
	e.saving.Lock()
	defer e.saving.Unlock()
	at, err := e.Checkpoints.load(e.Checkpoints.Path)
	if err != nil {
		return nil, fmt.Errorf("reading the checkpoint: %w", err)
	}
	if at.state.Seq() > version { // another was written meanwhile
		return core.NewState(), nil
	}
	return at.state, nil
}
