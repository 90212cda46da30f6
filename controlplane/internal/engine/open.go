package engine

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/journal"
)

// manyEvents is from how many events on a start reads all people's keys at once.
const manyEvents = 1000

// errRead ends a Follow that has what it was for.
var errRead = errors.New("read")

// open brings the state from where the checkpoint left it, if there was one, to the end of the log that
// its leader believes in.
func (e *Engine) open(ctx context.Context) error {
	last, err := e.Journal.Last(ctx)
	if err != nil {
		return err
	}
	if err := e.checkRestored(ctx, last); err != nil {
		return err
	}
	at := e.State().Seq()
	if last-at > manyEvents {
		if err := e.Seals.Preload(ctx); err != nil {
			return err
		}
		e.Log.InfoContext(ctx, "folding the log", "from", at, "to", last)
	}
	if err := e.remember(ctx, at); err != nil {
		return err
	}
	return e.read(ctx, at, last, func(records []journal.Record) error { return e.fold(ctx, records) })
}

// checkRestored refuses a log that is not the one whose state the checkpoint is: it was rolled back, and
// proxies may have seen what is no longer there.
func (e *Engine) checkRestored(ctx context.Context, last uint64) error {
	restored := e.now.Load()
	at := restored.state.Seq()
	if at == 0 {
		return nil
	}
	const remedy = "the log was rolled back or replaced. Restore it, or, if the log is right, remove the checkpoint"
	if last < at {
		return fmt.Errorf("the log ends at %d, but a checkpoint here stands at %d: %s", last, at, remedy)
	}
	var there *eventv1.Event
	err := e.read(ctx, at-1, at, func(records []journal.Record) error {
		if there == nil && records[0].Seq == at {
			there = &eventv1.Event{}
			return proto.Unmarshal(records[0].Data, there)
		}
		return nil
	})
	switch {
	case err != nil:
		return fmt.Errorf("comparing the checkpoint with the log: %w", err)
	case there == nil: // it was erased, so that nothing tells any more
		e.Log.WarnContext(ctx, "the checkpoint is not used, since its last event was erased: the whole log is folded")
		e.now.Store(&committed{state: core.NewState()})
	case there.GetId() != restored.last:
		return fmt.Errorf("the log holds another event at %d than the checkpoint here: %s", at, remedy)
	}
	return nil
}

// remember reads the commands before the checkpoint again: one that another control plane sends a second
// time, since this one ended before it answered, must be found.
func (e *Engine) remember(ctx context.Context, upTo uint64) error {
	if e.Peers == nil || upTo == 0 {
		return nil
	}
	from := upTo - min(upTo, recentCommands)
	return e.read(ctx, from, upTo, func(records []journal.Record) error {
		for _, rec := range records {
			if rec.Seq > upTo {
				return nil
			}
			ev := &eventv1.Event{}
			if err := proto.Unmarshal(rec.Data, ev); err != nil {
				return fmt.Errorf("reading event %d: %w", rec.Seq, err)
			}
			e.recent.add(ev.GetCommandId(), rec.Seq)
		}
		return nil
	})
}

// read calls fn with the records after one sequence and up to another at least.
func (e *Engine) read(ctx context.Context, after, last uint64, fn func([]journal.Record) error) error {
	if last <= after {
		return nil
	}
	err := e.Journal.Follow(ctx, after, func(records []journal.Record) error {
		if err := fn(records); err != nil {
			return err
		}
		if records[len(records)-1].Seq >= last {
			return errRead
		}
		return nil
	})
	switch {
	case errors.Is(err, errRead):
		return nil
	case err == nil:
		err = context.Cause(ctx)
	}
	return fmt.Errorf("reading the log from %d to %d: %w", after, last, err)
}
