package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// entry is a record on its way to disk: the frame with room for its header, and the checksum of the payload so far.
type entry struct {
	frame  *[]byte
	crc    uint32
	callID string
	phase  auditv1.Phase
	later  bool   // nobody waits for it, and the frame is the spool's
	at     *place // where it lies, for who waits until that is acknowledged; nil: nobody
}

// batch is what one write takes. Who joins first while nobody writes is the writer; who joins during a write waits,
// and the writer hands over to one of them when it is done, so that nobody writes for others longer than once.
type batch struct {
	entries []entry
	do      []func()
	size    int64
	lead    chan struct{} // holds a token for whoever shall write this batch
	done    chan struct{} // closed when err is final; nil while nobody but the writer needs it
	err     error
}

var frames = sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }}

// Append keeps a record and returns when it is as durable as configured. The record's proxy, spool_generation, number
// and region are the spool's to set: the kept record has them, rec itself is not changed.
// After an error the record is not kept and its number goes to another: ErrFull, ErrTooLarge, ErrClosed or what the
// disk said. Each is worth another try later, except ErrTooLarge and ErrClosed. After ErrUnconfirmed it is kept.
func (s *Spool) Append(rec *auditv1.AuditRecord) error {
	e, err := encode(rec)
	if err != nil {
		return err
	}
	defer e.free()
	if s.cfg.Durability == Central && e.phase == auditv1.Phase_PHASE_AUTHORIZED {
		e.at = new(place)
	}
	s.mu.Lock()
	t, err := s.admitted(e)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	if err := s.await(t); err != nil || e.at == nil {
		return err
	}
	return s.confirmed(*e.at)
}

// soon is how long a record of AppendLater may wait for another one to be written with.
const soon = 2 * time.Millisecond

// AppendLater keeps a record whose caller need not wait for it: it is written with the next one, and soon. An error is like Append's.
// What the disk says later is logged. A completion for which there is no room is kept in memory until there is.
func (s *Spool) AppendLater(rec *auditv1.AuditRecord) error {
	e, err := encode(rec)
	if err != nil {
		return err
	}
	e.later = true
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.admitted(e); err != nil {
		if errors.Is(err, ErrFull) && s.owe(e) {
			err = nil
		}
		e.free()
		return err
	}
	if !s.due {
		s.due = true
		if s.alarm == nil {
			s.alarm = time.AfterFunc(soon, s.writeLater)
		} else {
			s.alarm.Reset(soon)
		}
	}
	return nil
}

// writeLater writes what waits and nobody waits for.
func (s *Spool) writeLater() {
	s.mu.Lock()
	s.due = false
	if s.pending == nil || s.writing && s.pending.lead != nil { // it is written, or about to be
		s.mu.Unlock()
		return
	}
	_ = s.await(s.pending) // logged
}

// encode makes a record's entry.
func encode(rec *auditv1.AuditRecord) (entry, error) {
	buf := frames.Get().(*[]byte)
	b, err := appendRecord((*buf)[:0:cap(*buf)][:frameHeader], rec)
	if err != nil {
		frames.Put(buf)
		return entry{}, fmt.Errorf("encoding the audit record: %w", err)
	}
	*buf = b
	return entry{frame: buf, crc: crc32.Checksum(b[frameHeader:], castagnoli), callID: rec.GetCallId(), phase: rec.GetPhase()}, nil
}

// free gives the frame back.
func (e *entry) free() {
	if cap(*e.frame) <= 64<<10 {
		frames.Put(e.frame)
	}
}

// add puts an entry into the batch that the next write takes. The caller holds mu.
func (s *Spool) add(e entry) (*batch, error) {
	size := int64(len(*e.frame) + len(s.stamp) + 2*protowire.SizeVarint(^uint64(0)))
	if err := s.admit(size, e.phase); err != nil {
		return nil, err
	}
	t := s.join()
	t.entries = append(t.entries, e)
	t.size += size
	s.queued += size
	return t, nil
}

// admit says whether a record may be kept. A completion may use a reserve, so that calls under way can be told to
// the end when new ones are already refused.
func (s *Spool) admit(size int64, phase auditv1.Phase) error {
	limit := s.cfg.MaxBytes
	if phase == auditv1.Phase_PHASE_COMPLETED {
		limit += limit / 16
	}
	switch {
	case s.closed:
		return ErrClosed
	case size-frameHeader > maxRecord:
		return ErrTooLarge
	case s.total+s.queued+size > limit:
		return ErrFull
	}
	return nil
}

// exclusive runs f as the writer, between writes.
func (s *Spool) exclusive(f func()) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	ran := false
	t := s.join()
	t.do = append(t.do, func() { ran = true; f() })
	_ = s.await(t) // is about records that share the batch
	if !ran {
		return ErrClosed
	}
	return nil
}

// join returns the batch that the next write takes. The caller holds mu.
func (s *Spool) join() *batch {
	if s.pending == nil {
		if s.pending = s.spare; s.pending == nil {
			s.pending = &batch{}
		}
		s.spare = nil
	}
	return s.pending
}

// await sees the batch, which the caller has joined, written by somebody. It is entered with mu held.
func (s *Spool) await(t *batch) error {
	if s.writing {
		if t.done == nil {
			t.done, t.lead = make(chan struct{}), make(chan struct{}, 1)
		}
		s.mu.Unlock()
		select {
		case <-t.done:
			return t.err
		case <-t.lead:
		}
		s.mu.Lock()
	}
	s.writing = true
	s.pending = nil
	g, stamp, closed := s.current(), s.stamp, s.closed
	s.mu.Unlock()
	if closed {
		s.release(t.entries, ErrClosed)
		return s.handOver(t, ErrClosed)
	}

	size, err := s.write(g, stamp, t.entries)

	s.mu.Lock()
	s.queued -= t.size
	if err == nil && len(t.entries) > 0 {
		s.commit(g, t.entries, size)
	}
	s.mu.Unlock()
	s.release(t.entries, err)
	for _, f := range t.do {
		f()
	}
	if len(t.entries) > 0 {
		s.notify()
	}
	return s.handOver(t, err)
}

// release is done with entries that nobody waits for.
func (s *Spool) release(entries []entry, err error) {
	for i := range entries {
		e := &entries[i]
		if !e.later {
			continue
		}
		if err != nil {
			s.mu.Lock()
			owed := !errors.Is(err, ErrClosed) && s.owe(*e)
			s.mu.Unlock()
			s.cfg.Logger.Error("an audit record could not be kept", "call_id", e.callID, "phase", e.phase, "tried_again", owed, "error", err)
		}
		e.free()
	}
}

// handOver ends the writer's turn.
func (s *Spool) handOver(t *batch, err error) error {
	t.err = err
	done := t.done
	s.mu.Lock()
	if s.pending != nil && s.pending.lead != nil {
		s.pending.lead <- struct{}{}
	} else {
		s.writing = false // what nobody waits for has its time yet
	}
	if done == nil && s.spare == nil && len(t.do) == 0 {
		clear(t.entries)
		*t = batch{entries: t.entries[:0]}
		s.spare = t
	}
	s.mu.Unlock()
	if done != nil {
		close(done)
	}
	return err
}

// write puts entries behind the last record of g and returns how many bytes that were. On an error nothing of them counts.
// Only the writer calls it.
func (s *Spool) write(g *generation, stamp []byte, entries []entry) (int64, error) {
	if len(entries) == 0 {
		return 0, nil
	}
	out := s.out[:0]
	for i, e := range entries {
		b := append(*e.frame, stamp...)
		number := g.last + 1 + uint64(i)
		b = protowire.AppendTag(b, fieldNumber, protowire.VarintType)
		b = protowire.AppendVarint(b, number)
		sealFrame(b, g.magic, number, crc32.Update(e.crc, castagnoli, b[len(*e.frame):]))
		*e.frame = b
		if len(entries) == 1 {
			out = b
		} else {
			out = append(out, b...)
		}
	}
	if len(entries) > 1 && cap(out) <= 1<<20 {
		s.out = out
	}
	if err := s.put(g, out); err != nil {
		return 0, fmt.Errorf("keeping the audit record: %w", err)
	}
	return int64(len(out)), nil
}

// put writes bytes at the end of the newest segment, or begins one.
func (s *Spool) put(g *generation, b []byte) error {
	if s.file != nil && s.tail.size >= s.cfg.SegmentBytes {
		s.endSegment()
	}
	if s.file == nil {
		if err := s.beginSegment(g); err != nil {
			s.unkept.Store(true)
			return err
		}
	}
	_, err := s.file.WriteAt(b, s.tail.size)
	if err == nil && s.cfg.Durability == Disk {
		err = s.file.Sync()
	}
	if err == nil {
		if s.unkept.Load() {
			s.unkept.Store(false)
		}
		return nil
	}
	// What was written in part must not be taken for records later. Where it cannot be cut off, a new segment begins
	// at the same number, and a scan believes the later segment. One begins anyway: this one can be deleted then, when all
	// that is in it is acknowledged, which may be the room that is missing.
	if s.file.Truncate(s.tail.size) != nil || s.tail.size > 0 {
		s.endSegment()
		_ = s.beginSegment(g) // or at the next record
	}
	s.unkept.Store(true)
	return err
}

func (s *Spool) beginSegment(g *generation) error {
	seg := &segment{first: g.last + 1, last: g.last}
	f, err := os.OpenFile(g.path(seg), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	if s.cfg.Durability == Disk {
		if err := syncDir(g.dir); err != nil {
			_ = f.Close()
			return err
		}
	}
	s.file, s.tail = f, seg
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(g.segments); n > 0 && g.segments[n-1].first == seg.first {
		g.segments[n-1] = seg // the one before held nothing that counts
		return nil
	}
	g.segments = append(g.segments, seg)
	return nil
}

func (s *Spool) endSegment() {
	if s.file != nil {
		_ = s.file.Close() // each write was checked, and synced where that was asked
	}
	s.file, s.tail = nil, nil
}

// commit makes written entries count. The caller is the writer and holds mu.
func (s *Spool) commit(g *generation, entries []entry, size int64) {
	for _, e := range entries {
		g.last++
		if e.at != nil {
			*e.at = place{g.sequence, g.last}
		}
		s.calls.note(e.callID, e.phase, place{g.sequence, g.last})
	}
	s.tail.last = g.last
	s.tail.size += size
	s.total += size
	if g.last-g.acked >= batchRecords {
		offer(s.full)
	}
}
