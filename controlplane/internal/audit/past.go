package audit

import (
	"context"
	"fmt"
	"time"
)

// What a clock that jumps ahead makes look old must not be removed. So age is measured by a time that is confirmed: the clock of the control
// plane, or that of the stream where it is behind, and never more than confirmedFor ahead of the last checkpoint that is older than that. A
// clock that jumps is followed a day after it did, at the earliest, at whichever control plane and over restarts: people have a day to see it.

// confirmedFor is how long a clock has to be seen to go on.
const confirmedFor = 24 * time.Hour

// Confirmed returns the time by which it is told what is past its time; zero: audit is younger than a day, and nothing is.
func (s *Store) Confirmed(ctx context.Context) (time.Time, error) {
	info, err := s.info(ctx)
	if err != nil {
		return time.Time{}, fmt.Errorf("asking for the time of audit: %w", err)
	}
	now := s.clocks.now().Round(0)
	if last := info.State.LastTime; !last.IsZero() && last.Before(now) {
		now = last
	}
	_, c, err := s.checkpointBefore(ctx, now.Add(-confirmedFor))
	if err != nil || c == nil {
		return time.Time{}, err
	}
	if at := c.GetAt().AsTime().Add(confirmedFor); at.Before(now) {
		now = at
	}
	return now, nil
}
