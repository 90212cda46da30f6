package dpop

import (
	"crypto/sha256"
	"sync"
	"time"
)

// Seen remembers the proofs that one process believed, for as long as they could be good. Its zero value is empty.
type Seen struct {
	mu         sync.Mutex
	young, old map[[sha256.Size]byte]struct{}
	since      time.Time // of the young
}

// maxSeen bounds what is remembered of one span of time: about 60 MB in all.
const maxSeen = 500_000

// First tells whether a proof was not seen before. Where no more can be remembered it says no: a proof that nobody remembers could
// be used again.
func (s *Seen) First(p Proof, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if age := now.Sub(s.since); age > 2*Window || age < 0 || s.young == nil {
		s.old = s.young
		if age > 4*Window {
			s.old = nil
		}
		s.young, s.since = map[[sha256.Size]byte]struct{}{}, now
	}
	_, young := s.young[p.Once]
	_, old := s.old[p.Once]
	if young || old || len(s.young) >= maxSeen {
		return false
	}
	s.young[p.Once] = struct{}{}
	return true
}
