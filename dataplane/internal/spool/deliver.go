package spool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Record is a record as it lies in the spool.
type Record struct {
	Number uint64
	// Data is the record, encoded. It is valid until Send returns.
	Data []byte
}

// Send hands consecutive records of one generation to the control plane and returns the number up to which they,
// and all before them, are durable there.
type Send func(ctx context.Context, generation string, records []Record) (acknowledged uint64, err error)

const (
	batchRecords = 5000
	batchBytes   = 4 << 20
	// One delivery may take this long before it is tried again.
	sendTimeout = 30 * time.Second
	firstPause  = 100 * time.Millisecond
	lastPause   = 30 * time.Second
)

// Deliver sends what the spool holds, oldest first, and goes on with each record that is appended, until ctx is done.
// A batch is sent again until it is acknowledged, so the receiver sees each record at least once, in order; it
// recognises what it has by generation and number. Deliver returns ctx's error and no other.
func (s *Spool) Deliver(ctx context.Context, send Send) error {
	var at cursor
	defer at.close()
	pause := time.Duration(0)
	for {
		sent, again, err := s.deliverOnce(ctx, send, &at)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if pause == 0 {
				s.cfg.Logger.Warn("audit delivery fails; records stay in the spool", "error", err)
			}
			pause = min(max(2*pause, firstPause), lastPause)
			if !sleep(ctx, pause/2+rand.N(pause)) {
				return ctx.Err()
			}
			continue
		}
		if pause > 0 {
			s.cfg.Logger.Info("audit delivery goes on")
			pause = 0
		}
		if again {
			continue
		}
		if sent {
			if !s.gather(ctx) {
				return ctx.Err()
			}
			continue
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gather waits until a batch is full, and no longer than Gather.
func (s *Spool) gather(ctx context.Context) bool {
	t := time.NewTimer(s.cfg.Gather)
	defer t.Stop()
	for {
		select {
		case <-s.full:
			if s.Stats().Pending >= batchRecords { // else it is of before the delivery
				return true
			}
		case <-t.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// deliverOnce sends one batch. It reports whether there was one, and whether the next shall follow at once.
func (s *Spool) deliverOnce(ctx context.Context, send Send, at *cursor) (sent, again bool, err error) {
	s.settleOwed()
	g, seg, limit := s.next()
	if g == nil {
		return false, false, s.makeRoom()
	}
	records, err := at.read(g, seg, limit)
	if errors.Is(err, errDamaged) {
		return false, true, s.amputate(g)
	}
	if err != nil {
		return false, false, err
	}
	sendCtx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	acked, err := send(sendCtx, g.id, records)
	if err != nil {
		return false, false, err
	}
	n, last := len(records), records[len(records)-1].Number
	if err := s.acknowledge(g, records, acked); err != nil {
		return true, false, err
	}
	// What a full batch left is worth one of its own only if that is full too: others are on their way to it.
	return true, last < limit && (n < batchRecords || s.Stats().Pending >= batchRecords), nil
}

// next returns the oldest generation with something to send, the segment in which that begins, and its size so far.
// Older generations that are done are removed.
func (s *Spool) next() (*generation, segment, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeDelivered()
	g := s.generations[0]
	if g.acked >= g.last {
		return nil, segment{}, 0
	}
	for _, seg := range g.segments {
		if seg.last > g.acked {
			return g, *seg, g.last
		}
	}
	return g, segment{}, g.last
}

// removeDelivered removes generations that are done. The caller holds mu.
func (s *Spool) removeDelivered() {
	for len(s.generations) > 1 && s.generations[0].acked >= s.generations[0].last {
		g := s.generations[0]
		if err := os.RemoveAll(g.dir); err != nil {
			s.cfg.Logger.Warn("removing a delivered spool generation", "generation", g.id, "error", err)
		}
		s.generations = s.generations[1:]
		s.recountLocked()
	}
}

var errDamaged = errors.New("a record was damaged on disk after it was written")

// cursor reads on in a segment where the last batch ended.
type cursor struct {
	generation *generation
	first      uint64 // of the segment
	file       *os.File
	next       uint64 // the number expected at offset
	offset     int64
	buf        []byte
	records    []Record // lie in buf
}

func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close() // read only
	}
	*c = cursor{buf: c.buf, records: c.records}
}

// read returns the records from the first that is not acknowledged, as many as one delivery takes, of one segment.
func (c *cursor) read(g *generation, seg segment, limit uint64) ([]Record, error) {
	want := g.acked + 1
	if c.generation != g || c.first != seg.first || c.next != want {
		if err := c.seek(g, seg, want); err != nil {
			return nil, err
		}
	}
	n := min(seg.size-c.offset, batchBytes+1<<19)
	if int64(cap(c.buf)) < n {
		c.buf = make([]byte, n)
	}
	b := c.buf[:n]
	if _, err := c.file.ReadAt(b, c.offset); err != nil {
		c.close()
		return nil, fmt.Errorf("reading the audit spool: %w", err)
	}
	c.records = c.records[:0]
	used := 0
	for used < len(b) && len(c.records) < batchRecords {
		f, ok := readFrame(b[used:], g.magic)
		if !ok || f.number != want || f.number > limit || used+f.size > batchBytes+frameHeader && len(c.records) > 0 {
			break
		}
		c.records = append(c.records, Record{f.number, f.payload})
		used += f.size
		want++
	}
	if len(c.records) == 0 {
		c.close()
		return nil, errDamaged
	}
	c.next, c.offset = want, c.offset+int64(used)
	return c.records, nil
}

// seek opens a segment and finds a record in it. Damage among acknowledged records before it does not matter.
func (c *cursor) seek(g *generation, seg segment, want uint64) error {
	c.close()
	if seg.first == 0 {
		return errDamaged
	}
	f, err := os.Open(g.path(&seg))
	if err != nil {
		return fmt.Errorf("reading the audit spool: %w", err)
	}
	c.file, c.generation, c.first, c.next, c.offset = f, g, seg.first, want, -1
	if seg.first == want {
		c.offset = 0
		return nil
	}
	b := make([]byte, seg.size)
	if _, err := f.ReadAt(b, 0); err != nil {
		c.close()
		return fmt.Errorf("reading the audit spool: %w", err)
	}
	scanFrames(b, g.magic, func(f frame) {
		if f.number == want {
			c.offset = int64(f.offset)
		}
	})
	if c.offset < 0 {
		c.close()
		return errDamaged
	}
	return nil
}

// acknowledge takes note of an acknowledged position and deletes what lies wholly before it.
func (s *Spool) acknowledge(g *generation, sent []Record, acked uint64) error {
	s.acknowledging.Lock()
	defer s.acknowledging.Unlock()
	first := sent[0].Number
	s.mu.Lock()
	last, dropped := g.last, g.dropped
	s.mu.Unlock()
	switch {
	case dropped > 0: // during the delivery: nothing is left of it that could be acknowledged
		return nil
	case acked > last:
		return s.forsake(g, acked)
	case acked+1 < first:
		return s.rewind(g, acked)
	case acked < first:
		return fmt.Errorf("the control plane acknowledged up to %d, and not %d, which it was sent", acked, first)
	}
	if err := g.saveAcked(acked, false); err != nil {
		// Not fatal: after a restart some records are sent again.
		s.cfg.Logger.Warn("audit spool", "error", err)
	}
	return s.advance(g, acked)
}

// advance moves the acknowledged position and frees segments.
func (s *Spool) advance(g *generation, acked uint64) error {
	s.mu.Lock()
	g.acked = acked
	if s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
	var done []*segment
	for i, seg := range g.segments {
		newest := g == s.current() && i == len(g.segments)-1
		if newest || seg.last > acked {
			break
		}
		done = append(done, seg)
	}
	s.mu.Unlock()
	if len(done) == 0 {
		return nil
	}
	if err := g.saveAcked(acked, true); err != nil {
		return err
	}
	for _, seg := range done {
		kept := s.carry(g, seg)
		if err := os.Remove(g.path(seg)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("deleting an acknowledged segment: %w", err)
		}
		s.mu.Lock()
		g.segments = g.segments[1:]
		s.total -= seg.size
		s.mu.Unlock()
		if kept != nil {
			// The disk may have been full until just now.
			kept = s.writeCarried()
		}
		if kept != nil {
			s.cfg.Logger.Warn("audit spool", "error", kept)
		}
	}
	return nil
}

// makeRoom frees segments that were ended since all that is in them was acknowledged.
func (s *Spool) makeRoom() error {
	s.acknowledging.Lock()
	defer s.acknowledging.Unlock()
	s.mu.Lock()
	g := s.current()
	acked, several := g.acked, len(g.segments) > 1
	s.mu.Unlock()
	if !several {
		return nil
	}
	return s.advance(g, acked)
}

// rewind goes back to what the control plane lacks. Where the spool no longer has it, as after the control plane lost
// records that it had acknowledged, a new generation tells the gap, so that what is still here gets through.
func (s *Spool) rewind(g *generation, acked uint64) error {
	s.mu.Lock()
	here := len(g.segments) > 0 && g.segments[0].first <= acked+1
	if here {
		g.acked = acked
	}
	s.mu.Unlock()
	if here {
		return nil
	}
	return s.supersede(g, g.acked+1, func(in inspection) *loss {
		l := &loss{generation: g, end: g.acked, rest: in.rest}
		l.text = fmt.Sprintf("the control plane has records of spool generation %s up to %d only; those up to %d were acknowledged before and are gone", g.id, acked, g.acked)
		return l
	})
}

// forsake begins a new generation because the control plane has records of this one that the folder lacks: the folder
// was rolled back. Numbers it gave since are taken; what it holds is sent under new ones.
func (s *Spool) forsake(g *generation, acked uint64) error {
	return s.supersede(g, g.acked+1, func(in inspection) *loss {
		l := &loss{generation: g, end: g.acked, rest: in.rest}
		l.text = fmt.Sprintf("the control plane has records of spool generation %s up to %d, more than the folder gave out: it was rolled back", g.id, acked)
		return l
	})
}

// amputate begins a new generation because a record of this one can no longer be read.
func (s *Spool) amputate(g *generation) error {
	return s.supersede(g, math.MaxUint64, func(in inspection) *loss {
		if in.last >= g.last {
			return nil // it can, after all
		}
		l := &loss{generation: g, end: max(in.last, g.acked), rest: in.rest}
		l.text = fmt.Sprintf("records of spool generation %s from %d were damaged on disk; %d behind them could be read", g.id, l.end+1, len(in.rest))
		return l
	})
}

// supersede ends a generation while appends wait, and begins another with what judge says.
func (s *Spool) supersede(g *generation, restFrom uint64, judge func(inspection) *loss) error {
	var err error
	closed := s.exclusive(func() {
		var in inspection
		if in, err = s.inspect(g, g.last, restFrom, func(*auditv1.AuditRecord, uint64) {}); err != nil {
			return
		}
		if l := judge(in); l != nil {
			s.cfg.Logger.Error("the audit spool begins a new generation", "generation", g.id, "why", l.text)
			err = s.beginGeneration([]loss{*l})
		}
	})
	return errors.Join(closed, err)
}

// writeCarried writes the calls in flight whose segments are gone.
func (s *Spool) writeCarried() error {
	s.mu.Lock()
	file := s.calls.encodeCarried()
	s.calls.stale = false
	s.mu.Unlock()
	if err := replaceFile(filepath.Join(s.cfg.Dir, carriedFile), file); err != nil {
		s.mu.Lock()
		s.calls.stale = true
		s.mu.Unlock()
		return fmt.Errorf("carrying calls in flight over: %w", err)
	}
	return nil
}
