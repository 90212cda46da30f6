// Package kv is compare-and-set key-value with expiry and watch, on JetStream: what must be shared by
// control planes beside the log, and may be forgotten when its time is over.
//
// Each key has one value and no history. A write whose acknowledgement is lost is resolved before it
// returns, as long as its context lives. The package never merges two writes, and never reads from a
// follower. A purged value's bytes are overwritten in the server's store; on a replicated store they stay in
// the servers' Raft logs until those are compacted, so that what is secret is to be sealed before it comes here.
package kv

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Errors of a store.
var (
	// ErrNotFound: there is no value under the key.
	ErrNotFound = errors.New("key not found")
	// ErrExists: there is a value under a key that was to be created. Read it.
	ErrExists = errors.New("key exists")
	// ErrConflict: Update found another revision. Read again, decide again.
	ErrConflict = errors.New("key was changed by another")
	// ErrKey: the key, or prefix, is not one that a store takes.
	ErrKey = errors.New("a key has 1 to 256 letters, digits and -_=/, in parts joined by single dots")
)

// markerTTL is how long a removed key is remembered, for those who watch.
const markerTTL = time.Minute

// callTimeout bounds a call whose context has no deadline.
const callTimeout = 30 * time.Second

// readTimeout bounds one question for a key.
const readTimeout = 3 * time.Second

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
	nc     *nats.Conn
	kv     jetstream.KeyValue
	stream jetstream.Stream
	prefix string
	alone  bool // one server keeps it, which knows all

	// publish and request are those of the connection, save in tests that lose messages.
	publish func(*nats.Msg) error
	request func(context.Context, *nats.Msg) (*nats.Msg, error)
}

// Open finds the bucket or makes it, and refuses one that could lose or mix up what it acknowledged. It
// lives as long as the connection.
func Open(ctx context.Context, nc *nats.Conn, c Config) (*Store, error) {
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening the bucket %s: %w", c.Bucket, err)
	}
	stream, err := findOrMake(ctx, js, c)
	if err != nil {
		return nil, fmt.Errorf("opening the bucket %s: %w", c.Bucket, err)
	}
	if err := check(stream.CachedInfo().Config, c.Replicas); err != nil {
		return nil, fmt.Errorf("the stream KV_%s cannot be a bucket: %w", c.Bucket, err)
	}
	bucket, err := js.KeyValue(ctx, c.Bucket)
	if err != nil {
		return nil, fmt.Errorf("opening the bucket %s: %w", c.Bucket, err)
	}
	return &Store{
		kv: bucket, stream: stream, nc: nc, prefix: "$KV." + c.Bucket + ".", alone: stream.CachedInfo().Config.Replicas <= 1,
		publish: nc.PublishMsg, request: nc.RequestMsgWithContext,
	}, nil
}

// findOrMake makes the bucket as a stream, since the bucket's own call does not know atomic batches.
func findOrMake(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	name := "KV_" + c.Bucket
	stream, err := js.Stream(ctx, name)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return stream, err
	}
	stream, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: name, Subjects: []string{"$KV." + c.Bucket + ".>"}, Storage: jetstream.FileStorage, Replicas: c.Replicas,
		MaxMsgsPerSubject: 1, MaxMsgs: -1, MaxBytes: -1, Discard: jetstream.DiscardNew, DenyDelete: false,
		AllowRollup: true, AllowDirect: false, AllowMsgTTL: true, SubjectDeleteMarkerTTL: markerTTL, AllowAtomicPublish: true,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another control plane made it meanwhile
		return js.Stream(ctx, name)
	}
	return stream, err
}

func check(c jetstream.StreamConfig, replicas int) error {
	switch {
	case c.Storage != jetstream.FileStorage:
		return errors.New("it is not kept on disk")
	case c.PersistMode == jetstream.AsyncPersistMode:
		return errors.New("it acknowledges before it writes (persist_mode async)")
	case c.AllowDirect || c.MirrorDirect:
		return errors.New("it answers reads from followers, which may be stale (allow_direct)")
	case !c.AllowAtomicPublish || !c.AllowMsgTTL || !c.AllowRollup || c.SubjectDeleteMarkerTTL == 0:
		return errors.New("it lacks allow_atomic, allow_msg_ttl, allow_rollup_hdrs or subject_delete_marker_ttl")
	case c.MaxMsgsPerSubject != 1:
		return errors.New("it keeps old values (max_msgs_per_subject is not 1)")
	case c.MaxAge != 0 || c.MaxMsgs > 0 || c.MaxBytes > 0:
		return errors.New("it forgets values (a limit is set)")
	case c.DenyDelete:
		return errors.New("it does not let values be destroyed (deny_delete)")
	case c.Replicas < replicas:
		return fmt.Errorf("it is kept on %d servers, and %d are asked for: raise it with `nats stream update --replicas`, or ask for fewer", c.Replicas, replicas)
	}
	return nil
}

var keyPattern = regexp.MustCompile(`^[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*$`)

func checkKey(key string) error {
	if len(key) > 256 || !keyPattern.MatchString(key) {
		return ErrKey
	}
	return nil
}

// pattern is the subject of all keys under a prefix, which is empty or ends with a dot.
func pattern(prefix string) (string, error) {
	if prefix == "" {
		return ">", nil
	}
	if !strings.HasSuffix(prefix, ".") || checkKey(prefix[:len(prefix)-1]) != nil {
		return "", fmt.Errorf("%w; a prefix ends with one", ErrKey)
	}
	return prefix + ">", nil
}

// Get returns the value under a key, or ErrNotFound. A server that leads no more, and does not know it yet, answers as things were: for
// those who then Create or Update, which fails, that is good enough. Whoever acts on ErrNotFound alone asks Find.
func (s *Store) Get(ctx context.Context, key string) (Entry, error) {
	last, err := s.last(ctx, key)
	if err != nil {
		return Entry{}, fmt.Errorf("reading a key: %w", err)
	}
	if last == nil || removal(last.Header) {
		return Entry{}, ErrNotFound
	}
	return Entry{Key: key, Value: last.Data, Revision: last.Sequence}, nil
}

// last returns what was last written for a key, a marker of its removal included, or nil.
func (s *Store) last(ctx context.Context, key string) (*jetstream.RawStreamMsg, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	m, err := s.stream.GetLastMsgForSubject(ctx, s.prefix+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	return m, err
}

// removal tells whether a message marks that its key was removed or has expired.
func removal(h nats.Header) bool {
	return h.Get("KV-Operation") != "" || h.Get("Nats-Marker-Reason") != ""
}

// Watch calls fn with each value under a prefix that is there, then with each that is stored, until ctx
// ends, with nil, or fn fails. A removed or expired key comes with a nil value. Of several values that a key
// had in a short time, only the last need come. Synced is called once when all that was there has been
// delivered; it may be nil.
func (s *Store) Watch(ctx context.Context, prefix string, synced func(), fn func(Entry) error) error {
	err := s.follow(ctx, prefix, func() error {
		if synced != nil {
			synced()
		}
		return nil
	}, fn)
	if errors.Is(err, errEnded) {
		return nil
	}
	return err
}

// Changes is Watch of what is stored or removed from now on. Synced is called when now has begun.
func (s *Store) Changes(ctx context.Context, prefix string, synced func(), fn func(Entry) error) error {
	err := s.follow(ctx, prefix, func() error { synced(); return nil }, fn, jetstream.UpdatesOnly())
	if errors.Is(err, errEnded) {
		return nil
	}
	return err
}

// Each calls fn with every value under a prefix, such as "person.", that was stored before. An empty prefix
// stands for all. A value may come again: the server that lists them may have been behind, and then all is
// listed anew.
func (s *Store) Each(ctx context.Context, prefix string, fn func(Entry) error) error {
	keys, err := pattern(prefix)
	if err != nil {
		return err
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		end, err := s.end(ctx, keys)
		if err != nil {
			return fmt.Errorf("listing keys: %w", err)
		}
		listed, err := s.each(ctx, prefix, fn)
		if err != nil || listed >= end {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("listing keys: %w", context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// end returns the revision of what was last written under a pattern: it is asked of the bucket's leader.
func (s *Store) end(ctx context.Context, pattern string) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	m, err := s.stream.GetLastMsgForSubject(ctx, s.prefix+pattern)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return m.Sequence, nil
}

// each lists once, as some server knows it, and returns the last revision that came.
func (s *Store) each(ctx context.Context, prefix string, fn func(Entry) error) (last uint64, err error) {
	done := errors.New("all was delivered")
	err = s.follow(ctx, prefix, func() error { return done }, func(e Entry) error {
		last = max(last, e.Revision)
		if e.Value == nil {
			return nil
		}
		return fn(e)
	})
	switch {
	case errors.Is(err, done):
		return last, nil
	case errors.Is(err, errEnded):
		return 0, fmt.Errorf("listing keys: %w", context.Cause(ctx))
	}
	return 0, err
}

// errEnded: follow's context ended.
var errEnded = errors.New("the context ended")

func (s *Store) follow(ctx context.Context, prefix string, synced func() error, fn func(Entry) error, options ...jetstream.WatchOpt) error {
	keys, err := pattern(prefix)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.kv.Watch(ctx, keys, options...)
	if err != nil && ctx.Err() != nil {
		return errEnded
	}
	if err != nil {
		return fmt.Errorf("watching keys: %w", err)
	}
	defer func() {
		_ = w.Stop() // it fails where the watch is over already
		for range w.Updates() {
			continue // what delivers may wait for us with one in hand
		}
	}()
	if len(options) > 0 { // only updates: nothing is to come first
		if err := synced(); err != nil {
			return err
		}
	}
	for {
		select {
		case <-ctx.Done():
			return errEnded
		case e, ok := <-w.Updates():
			if err := deliver(e, ok, synced, fn); err != nil {
				if ctx.Err() != nil && !ok {
					return errEnded
				}
				return err
			}
		}
	}
}

func deliver(e jetstream.KeyValueEntry, ok bool, synced func() error, fn func(Entry) error) error {
	switch {
	case !ok:
		return errors.New("watching keys: the watch was closed")
	case e == nil:
		return synced()
	}
	entry := Entry{Key: e.Key(), Revision: e.Revision()}
	if e.Operation() == jetstream.KeyValuePut {
		entry.Value = append([]byte{}, e.Value()...) // never nil: that stands for a removal
	}
	return fn(entry)
}
