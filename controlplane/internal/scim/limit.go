package scim

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"
)

// limits keep one token from taking what others need: so many requests a second, and so many at once. Only tokens that
// opened the door have an entry.
type limits struct {
	perSecond float64
	atOnce    int

	mu sync.Mutex
	of map[uuid.UUID]*limit
}

type limit struct {
	bucket *rate.Limiter
	busy   int
}

// enter lets a request in, and then leave must be called; or it says how long to wait.
func (l *limits) enter(token uuid.UUID, now time.Time) (leave func(), wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.of[token]
	if one == nil {
		one = &limit{bucket: rate.NewLimiter(rate.Limit(l.perSecond), int(math.Ceil(2*l.perSecond)))}
		l.of[token] = one
	}
	if one.busy >= l.atOnce {
		return nil, time.Second
	}
	if l.perSecond > 0 {
		place := one.bucket.ReserveN(now, 1)
		if delay := place.DelayFrom(now); delay > 0 {
			place.CancelAt(now)
			return nil, delay
		}
	}
	one.busy++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		one.busy--
	}, 0
}

// tooManyRequests tells a client in whole seconds when to come again, which is what directories read.
func tooManyRequests(w http.ResponseWriter, wait time.Duration) *scimError {
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
	return &scimError{status: http.StatusTooManyRequests, detail: "this token sends more than the server takes of one: send it again after Retry-After seconds"}
}
