package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// openCalls knows the calls that were authorized and not completed, so that a start after a crash can complete them.
// A call is found by scanning the segments; one that outlives its segment is carried in a file beside them.
type openCalls struct {
	started map[string]place
	carried map[string][]byte // authorized records, without arguments, whose segments are gone
	stale   bool              // the file differs from carried
}

// place is where a record lies.
type place struct {
	sequence, number uint64
}

const (
	carriedFile  = "open-calls"
	carriedMagic = "open calls"
)

func newOpenCalls() openCalls {
	return openCalls{started: map[string]place{}, carried: map[string][]byte{}}
}

func (c *openCalls) len() int { return len(c.started) + len(c.carried) }

func (c *openCalls) note(callID string, phase auditv1.Phase, at place) {
	switch phase {
	case auditv1.Phase_PHASE_AUTHORIZED:
		c.started[callID] = at
	case auditv1.Phase_PHASE_COMPLETED:
		delete(c.started, callID)
		if _, ok := c.carried[callID]; ok {
			delete(c.carried, callID)
			c.stale = true
		}
	}
}

// loadCarried reads the file. What is damaged in it is lost, which costs a call its completion of unknown outcome.
func loadCarried(dir string) map[string][]byte {
	carried := map[string][]byte{}
	b, err := os.ReadFile(filepath.Join(dir, carriedFile))
	if err != nil {
		return carried
	}
	scanFrames(b, magicOf(carriedMagic), func(f frame) {
		var rec auditv1.AuditRecord
		if proto.Unmarshal(f.payload, &rec) == nil {
			carried[rec.GetCallId()] = append([]byte(nil), f.payload...)
		}
	})
	return carried
}

// carry takes over the open calls of a segment that is about to be deleted. Only Deliver calls it.
func (s *Spool) carry(g *generation, seg *segment) error {
	s.mu.Lock()
	wanted := map[uint64]bool{}
	for _, at := range s.calls.started {
		if at.sequence == g.sequence && at.number >= seg.first && at.number <= seg.last {
			wanted[at.number] = true
		}
	}
	stale := s.calls.stale
	s.mu.Unlock()
	if len(wanted) == 0 && !stale {
		return nil
	}
	found, err := s.readAuthorized(g, seg, wanted)
	if err != nil {
		return err
	}

	s.mu.Lock()
	for id, payload := range found {
		if _, open := s.calls.started[id]; open {
			delete(s.calls.started, id)
			s.calls.carried[id] = payload
		}
	}
	s.mu.Unlock()
	return s.writeCarried()
}

func (c *openCalls) encodeCarried() []byte {
	var file []byte
	for _, payload := range c.carried {
		at := len(file)
		file = append(append(file, make([]byte, frameHeader)...), payload...)
		sealFrame(file[at:], magicOf(carriedMagic), 0, crc32.Checksum(payload, castagnoli))
	}
	return file
}

func (s *Spool) readAuthorized(g *generation, seg *segment, wanted map[uint64]bool) (map[string][]byte, error) {
	found := map[string][]byte{}
	if len(wanted) == 0 {
		return found, nil
	}
	b, err := os.ReadFile(g.path(seg))
	if err != nil {
		return nil, fmt.Errorf("reading a segment: %w", err)
	}
	var bad error
	scanFrames(b, g.magic, func(f frame) {
		if !wanted[f.number] {
			return
		}
		var rec auditv1.AuditRecord
		if err := proto.Unmarshal(f.payload, &rec); err != nil {
			bad = errors.Join(bad, fmt.Errorf("decoding record %d: %w", f.number, err))
			return
		}
		rec.Arguments = nil
		payload, err := proto.Marshal(&rec)
		bad = errors.Join(bad, err)
		found[rec.GetCallId()] = payload
	})
	return found, bad
}

// unknownOutcome is the completion of a call that was in flight when the proxy stopped.
func (s *Spool) unknownOutcome(authorized *auditv1.AuditRecord) *auditv1.AuditRecord {
	rec := proto.Clone(authorized).(*auditv1.AuditRecord)
	rec.Phase = auditv1.Phase_PHASE_COMPLETED
	rec.Outcome = auditv1.Outcome_OUTCOME_UNKNOWN
	rec.At = timestamppb.New(s.cfg.Now())
	rec.Arguments = nil
	rec.Error = "the proxy stopped while the call was in flight"
	return rec
}

const (
	// mostOwed bounds the completions that wait in memory. Those of more calls are told as of unknown outcome after the next start.
	mostOwed = 10_000
	// owedRest is how long they wait after there was no room.
	owedRest = time.Second
)

// owe keeps a completion in memory until there is room for it. The caller holds mu.
func (s *Spool) owe(e entry) bool {
	rec := &auditv1.AuditRecord{}
	if e.phase != auditv1.Phase_PHASE_COMPLETED || len(s.owed) >= mostOwed || proto.Unmarshal((*e.frame)[frameHeader:], rec) != nil {
		return false
	}
	s.owed = append(s.owed, rec)
	return true
}

// settleOwed appends the completions that are owed since the start. What the disk does not take now is tried again by Deliver.
func (s *Spool) settleOwed() {
	for {
		s.mu.Lock()
		if len(s.owed) == 0 || s.resting {
			s.mu.Unlock()
			return
		}
		rec := s.owed[0]
		s.mu.Unlock()
		if err := s.Append(rec); err != nil {
			s.mu.Lock()
			s.resting = true
			s.mu.Unlock()
			s.cfg.Logger.Warn("completions of calls wait for room in the audit spool", "error", err)
			time.AfterFunc(owedRest, func() {
				s.mu.Lock()
				s.resting = false
				s.mu.Unlock()
				s.notify()
			})
			return
		}
		s.mu.Lock()
		s.owed = s.owed[1:]
		s.mu.Unlock()
	}
}
