package upstream

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// breaker leaves an upstream alone that failed several times in a row. While it is closed a call only reads two numbers.
type breaker struct {
	failures atomic.Int64 // in a row
	until    atomic.Int64 // Unix nanoseconds; zero: closed
	last     atomic.Pointer[failure]
	since    atomic.Int64 // Unix nanoseconds: of the first of these failures
}

type failure struct {
	kind Kind
	at   time.Time
}

// admit refuses a call while the upstream is left alone. After that one call is let through, then another each time as long later,
// until one succeeds.
func (u *Upstream) admit() error {
	until := u.breaker.until.Load()
	if until == 0 {
		return nil
	}
	now := u.pool.config.Now()
	if rest := time.Unix(0, until).Sub(now); rest > 0 {
		return u.alone(rest)
	}
	if !u.breaker.until.CompareAndSwap(until, now.Add(u.target.OpenFor).UnixNano()) {
		return u.alone(u.target.OpenFor) // another call is the one that tries
	}
	return nil
}

func (u *Upstream) alone(rest time.Duration) error {
	seconds := int(rest/time.Second) + 1
	return u.fail(LeftAlone, "it failed several times in a row; try again in "+strconv.Itoa(seconds)+" s")
}

// judge counts how a call began. What the upstream answered, be it a refusal, shows that it is there.
func (u *Upstream) judge(err error) {
	if err == nil {
		u.well()
		return
	}
	var failed *Error
	switch {
	case errors.As(err, &failed) && !failed.unwell():
		u.well()
	case failed != nil:
		now := u.pool.config.Now()
		u.breaker.last.Store(&failure{failed.Kind, now})
		row := u.breaker.failures.Add(1)
		if row == 1 {
			u.breaker.since.Store(now.UnixNano())
		}
		switch {
		case failed.personal(): // which admins are told of; but it is there, and others may well use it
			u.breaker.until.Store(0)
		case row >= int64(u.target.Failures):
			u.breaker.until.Store(now.Add(u.target.OpenFor).UnixNano())
		}
	}
	// Else the caller's context ended, which says nothing of the upstream.
}

// well forgets the failures in a row. One that was counted meanwhile may have left the upstream alone with no failure to show for it.
func (u *Upstream) well() {
	if u.breaker.failures.Load() != 0 || u.breaker.until.Load() != 0 {
		u.breaker.failures.Store(0)
		u.breaker.until.Store(0)
	}
}

// unwell tells whether a failure is the upstream's, and not the call's.
func (e *Error) unwell() bool {
	switch e.Kind {
	case Unreachable, Timeout:
		return true
	case BadResponse:
		return e.Status == 0 && e.Reason != tooLarge || e.Status >= http.StatusInternalServerError
	}
	return false
}

// repeatable tells whether a call may be made again after a failure: one that never reached the upstream always, another only if it
// changes nothing.
func repeatable(err error, safe bool) bool {
	var failed *Error
	if !errors.As(err, &failed) {
		return false
	}
	switch failed.Kind {
	case Unreachable:
		return true
	case Timeout:
		return false // whoever waits has waited long enough
	case BadResponse:
		return safe && (failed.Status == 0 || failed.Status >= http.StatusInternalServerError || failed.Status == http.StatusTooManyRequests)
	}
	return false
}

// Between tries it is waited about firstTry, twice as long each time.
const firstTry = 50 * time.Millisecond

// pause waits before a try, and is false if ctx ended meanwhile.
func pause(ctx context.Context, try int) bool {
	wait := firstTry << try
	timer := time.NewTimer(wait/2 + rand.N(wait))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Health is how an upstream does.
type Health struct {
	Connector string
	// Failures in a row; zero: it is well.
	Failures int
	// Last failure's kind and time; the zero time: there was none.
	Last Kind
	At   time.Time
	// Since is when the first of the failures in a row was.
	Since time.Time
	// Until when it is left alone; the zero time: it is not.
	Until time.Time
}

// Health returns how the upstreams do that were called, in no order.
func (p *Pool) Health() []Health {
	p.mu.RLock()
	defer p.mu.RUnlock()
	now := p.config.Now()
	all := make([]Health, 0, len(p.upstreams))
	for _, u := range p.upstreams {
		h := Health{Connector: u.target.Connector, Failures: int(u.breaker.failures.Load()), Since: time.Unix(0, u.breaker.since.Load())}
		if last := u.breaker.last.Load(); last != nil {
			h.Last, h.At = last.kind, last.at
		}
		if until := time.Unix(0, u.breaker.until.Load()); until.After(now) {
			h.Until = until
		}
		all = append(all, h)
	}
	return all
}
