package engine

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// stallAfter is how long a round may take before commands that come are refused, with the reason, instead
// of waiting behind it.
const stallAfter = 3 * time.Second

// stall is whether a round waits for the event store for long, and why.
type stall struct {
	mu     sync.Mutex
	rounds uint64 // that were begun or ended: a report about an earlier one is too late
	timer  *time.Timer
	err    error
}

// watch begins a round and returns what ends it.
func (s *stall) watch(ask func(context.Context) error) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rounds++
	round := s.rounds
	s.timer = time.AfterFunc(stallAfter, func() { s.report(round, ask) })
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.timer.Stop()
		s.rounds++
		s.err = nil
	}
}

// report says why the round takes so long, and looks again later.
func (s *stall) report(round uint64, ask func(context.Context) error) {
	why := fmt.Errorf("%w: the event store does not answer", ErrUnavailable)
	if ask != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stallAfter)
		defer cancel()
		if err := ask(ctx); err != nil {
			why = fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rounds == round {
		s.err = why
		s.timer.Reset(stallAfter)
	}
}

// reason is nil where no round is waiting for long.
func (s *stall) reason() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
