package spool

import (
	"errors"
	"fmt"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// admitted is add, and makes room where that is full and the oldest may be dropped. The caller holds mu.
func (s *Spool) admitted(e entry) (*batch, error) {
	t, err := s.add(e)
	if !s.cfg.DropOldest || !errors.Is(err, ErrFull) {
		return t, err
	}
	s.mu.Unlock()
	dropped := s.exclusive(func() {
		s.mu.Lock()
		full := s.total > s.cfg.MaxBytes*3/4 // or else another made room meanwhile
		s.mu.Unlock()
		if full {
			err = s.drop()
		}
	})
	s.mu.Lock()
	if dropped != nil {
		return nil, dropped
	}
	if err != nil && !errors.Is(err, ErrFull) {
		s.cfg.Logger.Error("the audit spool is full, and its oldest records could not be dropped", "error", err)
		return nil, ErrFull
	}
	return s.add(e)
}

// drop drops the older half of what lies here, and begins a generation with what is left, headed by what says how many were dropped. Only
// the writer calls it.
func (s *Spool) drop() error {
	if !s.acknowledging.TryLock() { // that makes room by itself
		return nil
	}
	defer s.acknowledging.Unlock()
	s.mu.Lock()
	g := s.current()
	older := s.generations[:len(s.generations)-1]
	from, kept := g.last+1, int64(0)
	for i := len(g.segments) - 1; i >= 0 && kept+g.segments[i].size <= s.cfg.MaxBytes/2; i-- {
		kept += g.segments[i].size
		from = g.segments[i].first
	}
	from = max(from, g.acked+1)
	s.mu.Unlock()
	var losses []loss
	for _, o := range older {
		if o.last > o.acked {
			l, err := s.dropping(o, o.last)
			if err != nil {
				return err
			}
			losses = append(losses, l)
		}
	}
	l, err := s.dropping(g, from-1)
	if err != nil {
		return err
	}
	losses = append(losses, l)
	if err := s.beginGeneration(losses); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range losses {
		l.generation.dropped = l.end + max(l.lost, 1)
		s.cfg.Logger.Error("the audit spool was full, and its oldest records were dropped", "generation", l.generation.id, "records", l.lost)
	}
	s.removeDelivered()
	return nil
}

// dropping is the loss of a generation's records up to one. What a dropped record says was lost before is counted with it.
func (s *Spool) dropping(g *generation, upTo uint64) (loss, error) {
	l := loss{generation: g, end: g.acked, lost: upTo - g.acked}
	in, err := s.inspect(g, g.last, upTo+1, func(rec *auditv1.AuditRecord, number uint64) {
		if rec.GetMethod() == GapMethod && number > g.acked && number <= upTo {
			l.lost += rec.GetLost()
		}
	})
	l.rest = in.rest
	l.text = fmt.Sprintf("%d records, the last of them %d of spool generation %s, were dropped because the spool was full; a delivery that was under way may have stored some of them", l.lost, upTo, g.id)
	return l, err
}
