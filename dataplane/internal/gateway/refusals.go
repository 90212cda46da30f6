package gateway

import (
	"sync"
	"time"
)

// How many refusals are recorded: so many a second, and so many at once after a quiet time.
const (
	refusalsPerSecond = 50
	refusalsAtOnce    = 500
)

// refusals is a token bucket. Its zero value is full.
type refusals struct {
	mu      sync.Mutex
	used    float64
	at      time.Time
	leftOut int
}

// admit tells whether a refusal is recorded, and how many before it were not.
func (r *refusals) admit(now time.Time) (leftOut int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.used = max(0, r.used-now.Sub(r.at).Seconds()*refusalsPerSecond)
	r.at = now
	if r.used+1 > refusalsAtOnce {
		r.leftOut++
		return 0, false
	}
	r.used++
	leftOut, r.leftOut = r.leftOut, 0
	return leftOut, true
}
