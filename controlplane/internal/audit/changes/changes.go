// Package changes has audit tell what the event log says: one record for each event that changed something, with who did it, to what,
// and what was otherwise before.
//
// A control plane follows the log and stores the records under one name, from the last that is there; each has the event's
// position as its version, so that none is missing and none is there twice, whatever is killed. The package changes nothing of the log.
package changes

import (
	"context"
	"errors"
	"log/slog"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/core"
)

const (
	// every is how often changes are stored, at most: each batch is a write to disk.
	every = 50 * time.Millisecond
	// lastWithin is how long a control plane that stops takes to store the last of them.
	lastWithin = 3 * time.Second
)

// Log is what is followed: the engine.
type Log interface {
	State() *core.State
	Leading() bool
	Follow(ctx context.Context, after uint64, fn func(before *core.State, records []core.Record) error) error
}

// Trail is where the records are stored.
type Trail interface {
	// Version is up to which version all are there.
	Version(ctx context.Context) (uint64, error)
	Append(ctx context.Context, records []*auditv1.AuditRecord) error
}

// Follower turns events into records while it runs.
type Follower struct {
	Log   Log
	Trail Trail
	Slog  *slog.Logger
}

var _ Trail = (*audit.Changes)(nil)

// errDone ends a following that has come as far as it should.
var errDone = errors.New("done")

// Run stores what the log says until ctx ends, and then what was committed before. Of several control planes the one does it that writes
// the log; where there is none for a moment, nobody.
func (f *Follower) Run(ctx context.Context) {
	pause := 100 * time.Millisecond
	for ctx.Err() == nil {
		err := f.follow(ctx, 0)
		if ctx.Err() != nil {
			break
		}
		if err != nil && !errors.Is(err, errNotLeading) {
			f.Slog.WarnContext(ctx, "changes cannot be told to audit now; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		if pause = min(2*pause, 2*time.Second); err == nil || errors.Is(err, errNotLeading) {
			pause = 500 * time.Millisecond
		}
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWithin)
	defer cancel()
	if err := f.follow(last, f.Log.State().Seq()); err != nil && !errors.Is(err, errDone) && !errors.Is(err, errNotLeading) {
		f.Slog.WarnContext(ctx, "the last changes were not told to audit; the next control plane does it", "error", err)
	}
}

// errNotLeading: another control plane does it.
var errNotLeading = errors.New("another control plane writes the log")

// follow stores what comes after what is stored, up to a version; zero: without an end.
func (f *Follower) follow(ctx context.Context, upTo uint64) error {
	if !f.Log.Leading() {
		return errNotLeading
	}
	version, err := f.Trail.Version(ctx)
	if err != nil {
		return err
	}
	if upTo != 0 && version >= upTo {
		return errDone
	}
	if end := f.Log.State().Seq(); version > end {
		// Nothing is stored until the log has passed what is there: it may have been rolled back, and then others must look.
		f.Slog.ErrorContext(ctx, "audit has changes that the log does not have: was the log rolled back?", "audit", version, "log", end)
	}
	return f.Log.Follow(ctx, version, func(before *core.State, records []core.Record) error {
		if !f.Log.Leading() {
			return errNotLeading
		}
		if told := recordsOf(before, records); len(told) > 0 {
			if err := f.Trail.Append(ctx, told); err != nil {
				return err
			}
			select { // what comes meanwhile is stored together
			case <-ctx.Done():
			case <-time.After(every):
			}
		}
		if upTo != 0 && records[len(records)-1].Seq >= upTo {
			return errDone
		}
		return nil
	})
}
