// Package kv is compare-and-set key-value with expiry and watch, on JetStream: what must be shared by
// control planes beside the log, and may be forgotten when its time is over.
//
// Each key has one value and no history. A purged value's bytes are overwritten on disk.
package kv

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Errors of a store.
var (
	// ErrNotFound: there is no value under the key.
	ErrNotFound = errors.New("key not found")
	// ErrExists: Create found a value under the key. Read it.
	ErrExists = errors.New("key exists")
	// ErrConflict: Update found another revision. Read again, decide again.
	ErrConflict = errors.New("key was changed by another")
)

// Entry is a value as it stands.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64
}

// Config is how a store is kept.
type Config struct {
	// Bucket names the store: letters, digits, '-' and '_'.
	Bucket string
	// Replicas is how many servers keep it. Default 1.
	Replicas int
}

// Store is an open bucket. It is safe for concurrent use. A call whose context ends, or that fails with
// anything but the errors above, may have been carried out.
type Store struct {
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	stream jetstream.Stream
	nc     *nats.Conn
	prefix string
}

// Open finds the bucket or makes it.
func Open(ctx context.Context, nc *nats.Conn, c Config) (*Store, error) {
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening the bucket %s: %w", c.Bucket, err)
	}
	name := "KV_" + c.Bucket
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		// The bucket is made as a stream, since the bucket's own call does not know atomic batches.
		stream, err = js.CreateStream(ctx, jetstream.StreamConfig{
			Name: name, Subjects: []string{"$KV." + c.Bucket + ".>"}, Storage: jetstream.FileStorage, Replicas: c.Replicas,
			MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxBytes: -1, Discard: jetstream.DiscardNew, DenyDelete: false,
			AllowRollup: true, AllowDirect: false, AllowMsgTTL: true, SubjectDeleteMarkerTTL: time.Minute, AllowAtomicPublish: true,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("opening the bucket %s: %w", c.Bucket, err)
	}
	bucket, err := js.KeyValue(ctx, c.Bucket)
	if err != nil {
		return nil, fmt.Errorf("opening the bucket %s: %w", c.Bucket, err)
	}
	return &Store{js: js, kv: bucket, stream: stream, nc: nc, prefix: "$KV." + c.Bucket + "."}, nil
}

// Get returns the value under a key, or ErrNotFound.
func (s *Store) Get(ctx context.Context, key string) (Entry, error) {
	e, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return Entry{}, ErrNotFound
	}
	if err != nil {
		return Entry{}, fmt.Errorf("reading a key: %w", err)
	}
	return Entry{Key: key, Value: e.Value(), Revision: e.Revision()}, nil
}

// Create stores a value where there is none, or returns ErrExists. A ttl of zero stands for ever.
func (s *Store) Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error) {
	var options []jetstream.KVCreateOpt
	if ttl > 0 {
		options = append(options, jetstream.KeyTTL(ttl))
	}
	rev, err := s.kv.Create(ctx, key, value, options...)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return 0, ErrExists
	}
	if err != nil {
		return 0, fmt.Errorf("creating a key: %w", err)
	}
	return rev, nil
}

// Update replaces the value of a revision, or returns ErrConflict.
func (s *Store) Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error) {
	rev, err := s.kv.Update(ctx, key, value, revision)
	var api *jetstream.APIError
	if errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == 10164) {
		return 0, ErrConflict
	}
	if err != nil {
		return 0, fmt.Errorf("updating a key: %w", err)
	}
	return rev, nil
}

// Put stores a value, whatever is there.
func (s *Store) Put(ctx context.Context, key string, value []byte) error {
	if _, err := s.kv.Put(ctx, key, value); err != nil {
		return fmt.Errorf("storing a key: %w", err)
	}
	return nil
}

// Purge removes a key and overwrites its value on disk: a marker alone would leave the bytes there.
func (s *Store) Purge(ctx context.Context, key string) error {
	e, err := s.Get(ctx, key)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := s.stream.SecureDeleteMsg(ctx, e.Revision); err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return fmt.Errorf("overwriting a key's value: %w", err)
	}
	// Watchers learn of it by a marker, which the stream forgets after a minute.
	if err := s.kv.Purge(ctx, key, jetstream.PurgeTTL(time.Minute)); err != nil {
		return fmt.Errorf("purging a key: %w", err)
	}
	return nil
}

// Watch calls fn with each value under a prefix that is there, then with each that is stored, until ctx
// ends, with nil, or fn fails. A removed key comes with a nil value. Synced is called once when all that
// was there has been delivered; it may be nil.
func (s *Store) Watch(ctx context.Context, prefix string, synced func(), fn func(Entry) error) error {
	w, err := s.kv.Watch(ctx, prefix+">")
	if err != nil {
		return fmt.Errorf("watching keys: %w", err)
	}
	defer w.Stop() //nolint:errcheck // the watcher is over either way
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Updates():
			if !ok {
				if ctx.Err() != nil {
					return nil
				}
				return errors.New("watching keys: the watch was closed")
			}
			if e == nil {
				if synced != nil {
					synced()
				}
				continue
			}
			entry := Entry{Key: e.Key(), Revision: e.Revision()}
			if e.Operation() == jetstream.KeyValuePut {
				entry.Value = e.Value()
			}
			if err := fn(entry); err != nil {
				return err
			}
		}
	}
}

// List returns every value under a prefix, such as "person.". An empty prefix stands for all.
func (s *Store) List(ctx context.Context, prefix string) ([]Entry, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all []Entry
	done := errors.New("listed")
	finished := false
	w, err := s.kv.Watch(ctx, prefix+">", jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("listing keys: %w", err)
	}
	defer w.Stop() //nolint:errcheck // the watcher is over either way
	for !finished {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("listing keys: %w", ctx.Err())
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return nil, fmt.Errorf("listing keys: %w", done)
			case e == nil:
				finished = true
			default:
				all = append(all, Entry{Key: strings.Clone(e.Key()), Value: e.Value(), Revision: e.Revision()})
			}
		}
	}
	return all, nil
}
