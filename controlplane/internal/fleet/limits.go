package fleet

import (
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"
)

// How many credentials are issued: a proxy that was stolen, or an agent that loops, does not wear the vault out. What a proxy asks for
// it keeps for as long as it may, so that honest ones are far below.
const (
	personPerSecond, personAtOnce = 20, 200
	proxyPerSecond, proxyAtOnce   = 500, 5000
	forgetLimits                  = 10 * time.Minute
)

// limits count by proxy, and by proxy and person.
type limits struct {
	mu    sync.Mutex
	by    map[[2]uuid.UUID]*limit
	swept time.Time
}

type limit struct {
	*rate.Limiter
	used time.Time
}

func newLimits() *limits { return &limits{by: map[[2]uuid.UUID]*limit{}} }

// take tells whether a proxy may have one more credential for a person. What a person has too much of counts for nobody else.
func (l *limits) take(proxy, person uuid.UUID, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.swept) > forgetLimits {
		for key, one := range l.by {
			if now.Sub(one.used) > forgetLimits {
				delete(l.by, key)
			}
		}
		l.swept = now
	}
	return l.one(proxy, person, personPerSecond, personAtOnce, now) && l.one(proxy, uuid.Nil, proxyPerSecond, proxyAtOnce, now)
}

func (l *limits) one(proxy, person uuid.UUID, perSecond rate.Limit, atOnce int, now time.Time) bool {
	key := [2]uuid.UUID{proxy, person}
	one := l.by[key]
	if one == nil {
		one = &limit{Limiter: rate.NewLimiter(perSecond, atOnce)}
		l.by[key] = one
	}
	one.used = now
	return one.AllowN(now, 1)
}
