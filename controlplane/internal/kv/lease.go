package kv

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// Leadership is who holds a lease.
type Leadership struct {
	// Holder is the id of who holds it; empty: nobody is known to.
	Holder string
	Mine   bool
}

// Campaign tries to hold a lease under a key until ctx ends, and calls fn at each change of who holds it,
// one call at a time; fn must return well within ttl. An id is of one campaign, never of two.
//
// A holder renews its lease at a third of ttl and stops to believe in it at two thirds after the last
// renewal began. Another takes it when it saw no renewal for ttl, by its own clock, since it first saw the
// last one; clocks of two machines are never compared. When ctx ends the lease is given up at once.
//
// A lease says who should act, and fences nothing: whoever acts on it needs a fence of another kind.
func (s *Store) Campaign(ctx context.Context, key, id string, ttl time.Duration, log *slog.Logger, fn func(Leadership)) {
	c := &campaign{store: s, key: key, id: id, ttl: ttl, log: log, fn: fn, seen: time.Now()}
	c.run(ctx)
}

type campaign struct {
	store *Store
	key   string
	id    string
	ttl   time.Duration
	log   *slog.Logger
	fn    func(Leadership)

	told     Leadership
	toldOnce bool
	revision uint64    // of the value that was last seen
	seen     time.Time // when it was first seen, by the monotonic clock
	renewed  time.Time // when this holder last began a renewal that succeeded
}

func (c *campaign) run(ctx context.Context) {
	defer c.resign(ctx)
	for {
		wait := c.ttl / 6
		if c.told.Mine {
			c.renew(ctx)
		} else {
			c.challenge(ctx)
		}
		if c.told.Mine {
			// Ahead of the time at which it stops to believe, also after a renewal that failed early.
			wait = min(c.ttl/3, max(time.Until(c.renewed.Add(c.ttl*2/3)), 0))
			if time.Since(c.renewed) > c.ttl/3 {
				wait = min(wait, c.ttl/10)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// renew lengthens a lease that is held, within the time for which it is.
func (c *campaign) renew(ctx context.Context) {
	began, end := time.Now(), c.renewed.Add(c.ttl*2/3)
	bounded, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	rev, err := c.write(bounded, []byte(c.id))
	switch {
	case err == nil && time.Now().Before(end):
		c.revision, c.renewed = rev, began
	case errors.Is(err, ErrConflict):
		c.log.WarnContext(ctx, "another took the lease", "key", c.key)
		c.lose()
		c.challenge(ctx)
	case ctx.Err() != nil: // it is given up
	case !time.Now().Before(end):
		c.log.WarnContext(ctx, "the lease could not be renewed in time", "key", c.key, "error", err)
		c.lose()
	}
}

// write replaces the value of a lease that is held.
func (c *campaign) write(ctx context.Context, value []byte) (uint64, error) {
	rev, err := c.store.Update(ctx, c.key, value, c.revision, 0)
	if !errors.Is(err, ErrConflict) {
		return rev, err
	}
	// A renewal may have gone through whose answer was given up. It counts for what it is: a revision.
	e, readErr := c.store.Get(ctx, c.key)
	if readErr != nil || string(e.Value) != c.id {
		return 0, err
	}
	return c.store.Update(ctx, c.key, value, e.Revision, 0)
}

// lose stops believing. From now on it watches as any other does, with all patience.
func (c *campaign) lose() {
	c.revision, c.seen = 0, time.Now()
	c.tell(Leadership{})
}

// challenge takes a lease that is free or silent.
func (c *campaign) challenge(ctx context.Context) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, c.ttl/2)
	defer cancel()
	e, err := c.store.Get(ctx, c.key)
	switch {
	case errors.Is(err, ErrNotFound):
		if rev, err := c.store.Create(ctx, c.key, []byte(c.id), 0); err == nil {
			c.win(rev, began)
		}
		return
	case err != nil:
		if time.Since(c.seen) >= c.ttl {
			c.tell(Leadership{}) // whoever held it is not known to any more
		}
		return
	}
	holder := string(e.Value)
	if e.Revision > c.revision {
		c.revision, c.seen = e.Revision, time.Now()
	}
	// An empty holder gave it up; one with this id is a try of this campaign that went through unheard.
	if holder != "" && holder != c.id && time.Since(c.seen) < c.ttl {
		c.tell(Leadership{Holder: holder})
		return
	}
	if rev, err := c.store.Update(ctx, c.key, []byte(c.id), e.Revision, 0); err == nil {
		c.win(rev, began)
	}
}

func (c *campaign) win(revision uint64, began time.Time) {
	if time.Since(began) > c.ttl*2/3 {
		return // it took too long to believe in
	}
	c.revision, c.renewed = revision, began
	c.tell(Leadership{Holder: c.id, Mine: true})
}

func (c *campaign) tell(l Leadership) {
	if c.toldOnce && l == c.told {
		return
	}
	c.told, c.toldOnce = l, true
	c.fn(l)
}

// resign gives the lease up, so that another need not wait for it to run out: an empty holder is nobody.
func (c *campaign) resign(ctx context.Context) {
	if !c.told.Mine {
		return
	}
	c.tell(Leadership{})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := c.write(ctx, nil); err != nil {
		c.log.DebugContext(ctx, "the lease could not be given up; it runs out", "key", c.key, "error", err)
	}
}
