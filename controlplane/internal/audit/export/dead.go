package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"sallyport.dev/controlplane/internal/kv"
)

// DeadLetter says of a record that it was put aside. The record itself stays on the stream.
type DeadLetter struct {
	Sequence uint64    `json:"-"`
	At       time.Time `json:"at"`
	Tries    int       `json:"tries"`
	Reason   string    `json:"reason"`
	// Retry: it is to be sent again.
	Retry bool `json:"retry,omitempty"`
}

const (
	// maxDead is how many records an exporter puts aside before it waits for somebody to look.
	maxDead = 10_000
	// maxReason bounds what is kept of why.
	maxReason = 500
)

func deadPrefix(exporter string) string { return "dead." + exporter + "." }

func deadKey(exporter string, sequence uint64) string {
	return deadPrefix(exporter) + fmt.Sprintf("%020d", sequence)
}

// readDead reads an entry, of which only the sequence is left once it was removed.
func readDead(e kv.Entry) (d DeadLetter, there bool) {
	sequence, err := strconv.ParseUint(e.Key[strings.LastIndexByte(e.Key, '.')+1:], 10, 64)
	if err != nil {
		return d, false
	}
	there = e.Value != nil && json.Unmarshal(e.Value, &d) == nil
	d.Sequence = sequence
	return d, there
}

// DeadLetters are what an exporter put aside, by sequence.
func (r *Runner) DeadLetters(ctx context.Context, exporter string) ([]DeadLetter, error) {
	var all []DeadLetter
	err := r.Store.Each(ctx, deadPrefix(exporter), func(e kv.Entry) error {
		if d, ok := readDead(e); ok {
			all = append(all, d)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading what was put aside: %w", err)
	}
	return all, nil
}

// Retry has records sent again, all or some of those that were put aside, and says how many.
func (r *Runner) Retry(ctx context.Context, exporter string, sequences []uint64) (int, error) {
	only := map[uint64]bool{}
	for _, s := range sequences {
		only[s] = true
	}
	all, err := r.DeadLetters(ctx, exporter)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, d := range all {
		if len(only) > 0 && !only[d.Sequence] {
			continue
		}
		d.Retry = true
		if err := r.putDead(ctx, exporter, d); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func (r *Runner) putDead(ctx context.Context, exporter string, d DeadLetter) error {
	d.Reason = d.Reason[:min(len(d.Reason), maxReason)]
	value, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("writing what was put aside: %w", err)
	}
	if err := r.Store.Put(ctx, deadKey(exporter, d.Sequence), value); err != nil {
		return fmt.Errorf("keeping what was put aside: %w", err)
	}
	return nil
}

// forget drops what is known of an exporter that is no more.
func (r *Runner) forget(ctx context.Context, exporter string) error {
	keys := []string{statusPrefix + exporter}
	if err := r.Store.Each(ctx, deadPrefix(exporter), func(e kv.Entry) error {
		keys = append(keys, e.Key)
		return nil
	}); err != nil {
		return fmt.Errorf("forgetting an exporter: %w", err)
	}
	for _, key := range keys {
		if err := r.Store.Purge(ctx, key); err != nil && !errors.Is(err, kv.ErrNotFound) {
			return fmt.Errorf("forgetting an exporter: %w", err)
		}
	}
	return nil
}
