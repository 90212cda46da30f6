package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// ChangesName is under which name the events of the log are on the stream.
const ChangesName = OwnPrefix + "changes"

// Changes stores records of the log's events, each once, whichever control planes do so at the same time: the record that was stored
// last tells up to which version of the log all are there, and the next batch is fenced by it. It is not safe for concurrent use.
type Changes struct {
	store      *Store
	generation string
	region     string // of this control plane
	known      bool   // whether what follows is; another control plane may have gone on since
	end        position
	version    uint64
}

// Changes returns what stores the events of a log, which its epoch names, in the region of this control plane.
func (s *Store) Changes(epoch, region string) *Changes {
	return &Changes{store: s, generation: "log-" + epoch, region: region}
}

// Version is up to which version of the log all events are on the stream.
func (c *Changes) Version(ctx context.Context) (uint64, error) {
	if err := c.find(ctx); err != nil {
		return 0, fmt.Errorf("asking which changes audit has: %w", err)
	}
	return c.version, nil
}

// Append stores records of events, whose versions ascend, save those that are stored already. After an error the same may be given again.
func (c *Changes) Append(ctx context.Context, records []*auditv1.AuditRecord) error {
	wait, pause := firstWait, 10*time.Millisecond
	for {
		n, err := c.append(ctx, wait, records)
		switch {
		case err == nil && n == len(records):
			return nil
		case err == nil:
			records = records[n:]
			wait, pause = firstWait, 10*time.Millisecond
			continue
		case errors.Is(err, errTooMany) && c.store.most.Load() > leastRecords:
			c.store.most.Store(leastRecords)
			continue
		}
		c.known = false
		if !errors.Is(err, errOvertaken) && !errors.Is(err, errLost) {
			return fmt.Errorf("storing changes in audit: %w", err)
		}
		wait = min(2*wait, lastWait)
		select {
		case <-ctx.Done():
			return fmt.Errorf("storing changes in audit: %w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
}

// append stores as many of the records as one batch takes, and returns how many of them are stored now.
func (c *Changes) append(ctx context.Context, wait time.Duration, records []*auditv1.AuditRecord) (int, error) {
	if !c.known {
		if err := c.find(ctx); err != nil {
			return 0, err
		}
	}
	stored := 0
	for stored < len(records) && records[stored].GetVersion() <= c.version {
		stored++
	}
	rest := records[stored:min(len(records), stored+batchRecords)]
	if len(rest) == 0 {
		return stored, nil
	}
	rest = clones(rest)
	number := uint64(0)
	if c.end.generation == c.generation {
		number = c.end.number
	}
	for i, r := range rest {
		r.Number = number + uint64(i) + 1
	}
	messages, err := c.store.messages(ctx, ChangesName, c.region, c.generation, rest)
	if err != nil {
		return 0, err
	}
	chunk := first(messages, int(c.store.most.Load()))
	end, err := c.store.store(ctx, wait, ChangesName, c.generation, c.end, chunk)
	if err != nil {
		return 0, err
	}
	c.end, c.version = end, rest[len(chunk)-1].GetVersion()
	return stored + len(chunk), nil
}

// find asks the stream for the last record of the log.
func (c *Changes) find(ctx context.Context) error {
	end, _, err := c.store.find(ctx, ChangesName, c.generation, false)
	if err != nil {
		return err
	}
	c.end, c.version = end.position, 0
	switch {
	case c.end.generation != c.generation:
	case c.end.sequence == 0:
		c.version = c.end.version
	default:
		m, err := c.store.at(ctx, c.end.sequence)
		if err != nil {
			return fmt.Errorf("reading the last change: %w", err)
		}
		c.version = Decode(m.Data, m.Sequence).GetRecord().GetVersion()
	}
	c.known = true
	return nil
}
