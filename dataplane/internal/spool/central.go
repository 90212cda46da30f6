package spool

import "time"

// confirmed returns when the control plane has acknowledged a record.
func (s *Spool) confirmed(at place) error {
	late := time.NewTimer(s.cfg.ConfirmWithin)
	defer late.Stop()
	for {
		s.mu.Lock()
		g, closed := s.generationOf(at), s.closed
		done := g != nil && g.acked >= at.number
		if s.moved == nil {
			s.moved = make(chan struct{})
		}
		moved := s.moved
		s.mu.Unlock()
		switch {
		case done:
			return nil
		case closed:
			return ErrClosed
		case g == nil || g.last < at.number: // it has another number now, or was dropped
			return ErrUnconfirmed
		}
		select {
		case <-moved:
		case <-late.C:
			return ErrUnconfirmed
		}
	}
}

// generationOf is the generation in which a record lies; nil: it is there no more. The caller holds mu.
func (s *Spool) generationOf(at place) *generation {
	for _, g := range s.generations {
		if g.sequence == at.sequence {
			return g
		}
	}
	return nil
}
