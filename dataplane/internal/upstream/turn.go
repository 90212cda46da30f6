package upstream

import (
	"context"
	"errors"
	"sync/atomic"
)

// turn lets one caller at a time do what many wait for. Its zero value cannot be used; see newTurn.
type turn struct {
	busy   chan struct{}
	rounds atomic.Uint64 // that ended in an error, written under busy
	err    error         // of the last round, under busy
}

func newTurn() *turn { return &turn{busy: make(chan struct{}, 1)} }

// do runs work unless done is already true when it is the caller's turn. Who waited while another's work failed shares that
// error instead of trying again, so that a dead upstream is not asked by each waiter in turn; a try that only its own caller
// gave up is no failure, and one that may have failed for its own caller alone is tried again.
func (t *turn) do(ctx context.Context, done func() bool, work func(context.Context) error) error {
	round := t.rounds.Load()
	select {
	case t.busy <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-t.busy }()
	if done() {
		return nil
	}
	if t.rounds.Load() != round {
		return t.err
	}
	err := work(ctx)
	var failed *Error
	personal := errors.As(err, &failed) && failed.personal()
	if err != nil && ctx.Err() == nil && !personal {
		t.err = err
		t.rounds.Add(1)
	}
	return err
}
