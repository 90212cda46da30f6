package engine

import (
	"context"
	"errors"
	"fmt"
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
}

// ErrFuture: what is asked for was not yet.
var ErrFuture = errors.New("that is still to come")

// At returns the state as it was at a version or, for version zero, at a time. It folds the log from the kept state before it: at most
// about a day of it, or a month where that is long ago, and all of it where none was kept. One is made at a time, and whoever asks for the one that
// was made last gets the same, as long as somebody has it. Of people who were erased since, ids are left.
func (e *Engine) At(ctx context.Context, version uint64, at time.Time) (*Past, error) {
	select {
	case e.past <- struct{}{}:
		defer func() { <-e.past }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	end := e.State().Seq()
	switch {
	case version > end:
		return nil, fmt.Errorf("version %d: %w: the log ends at %d", version, ErrFuture, end)
	case version == 0 && at.After(e.Now()):
		return nil, fmt.Errorf("%s: %w", at.Format(time.RFC3339), ErrFuture)
	}
	if p := e.lastPast.Value(); p != nil && p.is(version, at) && p.settled && p.erasures == e.State().LastErasure() {
		return p, nil
	}
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
	e.lastPast = weak.Make(p)
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
