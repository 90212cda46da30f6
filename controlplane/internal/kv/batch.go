package kv

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// MaxBatch is the most keys that one CreateBatch takes: JetStream's limit.
const MaxBatch = 1000

// readsAtOnce bounds how many keys are asked for at the same time.
const readsAtOnce = 64

// KeyValue is a key with the value that it is to have.
type KeyValue struct {
	Key   string
	Value []byte
}

// ExistsError says which keys of a batch exist. It is an ErrExists.
type ExistsError struct{ Keys []string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("%d of the keys exist, such as %s", len(e.Keys), e.Keys[0])
}

// Is tells that it is an ErrExists.
func (e *ExistsError) Is(target error) bool { return target == ErrExists }

// CreateBatch stores values where there are none, all or none, as one write. An *ExistsError names the keys
// that are there; then nothing was stored.
func (s *Store) CreateBatch(ctx context.Context, all []KeyValue) error {
	if len(all) == 0 {
		return nil
	}
	if len(all) > MaxBatch {
		return fmt.Errorf("creating keys: at most %d at once, not %d", MaxBatch, len(all))
	}
	_, err := s.create(ctx, all, 0)
	return err
}

func (s *Store) create(ctx context.Context, all []KeyValue, ttl time.Duration) (revision uint64, err error) {
	id := nuid.Next()
	changes, keys := make([]change, len(all)), make([]string, len(all))
	seen := make(map[string]bool, len(all))
	for i, kv := range all {
		if err := checkKey(kv.Key); err != nil {
			return 0, err
		}
		if seen[kv.Key] {
			return 0, fmt.Errorf("creating keys: %s is there twice", kv.Key)
		}
		seen[kv.Key] = true
		keys[i] = kv.Key
		changes[i] = change{key: kv.Key, value: kv.Value, ttl: ttl}
	}
	err = retry(ctx, func(ctx context.Context, wait time.Duration) (bool, error) {
		var err error
		revision, err = s.try(ctx, wait, id, changes)
		if err == nil || !errors.Is(err, ErrConflict) && !errors.Is(err, errLost) {
			return true, err
		}
		lasts, readErr := s.lasts(ctx, keys)
		if readErr != nil {
			return false, errors.Join(err, readErr)
		}
		var taken []string
		for i, last := range lasts {
			switch {
			case last == nil:
				changes[i].expected = 0
			case last.Header.Get(writeHeader) == id:
				// An earlier try was carried out, and with it the whole batch.
				revision = last.Sequence
				return true, nil
			case removal(last.Header):
				changes[i].expected = last.Sequence
			default:
				taken = append(taken, keys[i])
			}
		}
		if len(taken) > 0 {
			return true, &ExistsError{Keys: taken}
		}
		return false, err
	})
	if err != nil {
		return 0, fmt.Errorf("creating keys: %w", err)
	}
	return revision, nil
}

// GetMany returns the values under keys, in their order. One that is missing has the revision zero.
func (s *Store) GetMany(ctx context.Context, keys []string) ([]Entry, error) {
	lasts, err := s.lasts(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("reading keys: %w", err)
	}
	all := make([]Entry, len(keys))
	for i, last := range lasts {
		all[i].Key = keys[i]
		if last != nil && !removal(last.Header) {
			all[i].Value, all[i].Revision = last.Data, last.Sequence
		}
	}
	return all, nil
}

// lasts returns what was last written for each key.
func (s *Store) lasts(ctx context.Context, keys []string) ([]*jetstream.RawStreamMsg, error) {
	all, failed := make([]*jetstream.RawStreamMsg, len(keys)), make([]error, len(keys))
	next := make(chan int)
	var readers sync.WaitGroup
	for range min(readsAtOnce, len(keys)) {
		readers.Go(func() {
			for i := range next {
				all[i], failed[i] = s.last(ctx, keys[i])
			}
		})
	}
	for i := range keys {
		next <- i
	}
	close(next)
	readers.Wait()
	return all, errors.Join(failed...)
}
