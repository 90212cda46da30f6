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
// one call at a time. A holder renews it three times within ttl and stops to believe in it when a renewal
// is two thirds of ttl late; another takes it when it saw no renewal for ttl by its own clock since it saw
// the last. Clocks of two machines are never compared. When ctx ends the lease is given up at once.
//
// A lease says who should act, and fences nothing: whoever acts on it needs a fence of another kind.
func (s *Store) Campaign(ctx context.Context, key, id string, ttl time.Duration, log *slog.Logger, fn func(Leadership)) {
	c := &campaign{store: s, key: key, id: id, ttl: ttl, log: log, fn: fn}
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
	// A timer rather than a ticker: a slow call must not be followed by a burst.
	for {
		c.step(ctx)
		wait := c.ttl / 3
		if !c.told.Mine {
			wait = c.ttl / 6
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// step renews the lease, or takes it where it is free.
func (c *campaign) step(ctx context.Context) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, c.ttl/2)
	defer cancel()
	if c.told.Mine {
		rev, err := c.store.Update(ctx, c.key, []byte(c.id), c.revision)
		switch {
		case err == nil:
			c.revision, c.renewed = rev, began
			return
		case errors.Is(err, ErrConflict):
			// Another holds it, or a renewal went through whose answer was lost: look below.
			c.tell(Leadership{})
		case time.Since(c.renewed) > 2*c.ttl/3:
			c.log.WarnContext(ctx, "the lease could not be renewed in time", "key", c.key, "error", err)
			c.tell(Leadership{})
			return
		default:
			return
		}
	}
	e, err := c.store.Get(ctx, c.key)
	switch {
	case errors.Is(err, ErrNotFound):
		if rev, err := c.store.Create(ctx, c.key, []byte(c.id), 0); err == nil {
			c.won(rev, began)
		}
		return
	case err != nil:
		return // nothing is known now
	}
	if e.Revision != c.revision {
		c.revision, c.seen = e.Revision, time.Now()
	}
	holder := string(e.Value)
	if holder != c.id && time.Since(c.seen) < c.ttl {
		c.tell(Leadership{Holder: holder})
		return
	}
	// The holder is silent, or it is this one from before: take it over.
	if rev, err := c.store.Update(ctx, c.key, []byte(c.id), e.Revision); err == nil {
		c.won(rev, began)
	}
}

func (c *campaign) won(revision uint64, began time.Time) {
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

// resign gives the lease up, so that another need not wait for it to run out.
func (c *campaign) resign(ctx context.Context) {
	if !c.told.Mine {
		return
	}
	c.tell(Leadership{})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	// An empty holder is nobody: the next one that looks takes it.
	if _, err := c.store.Update(ctx, c.key, nil, c.revision); err == nil {
		if err := c.store.Purge(ctx, c.key); err != nil {
			c.log.DebugContext(ctx, "the lease that was given up could not be purged", "key", c.key, "error", err)
		}
	}
}
