package kv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// writeHeader tells whose a value is when an acknowledgement was lost.
const writeHeader = "Sallyport-Write"

const (
	// firstWait and lastWait are the least and the most that a try waits for its acknowledgement before it is
	// sent again.
	firstWait = 300 * time.Millisecond
	lastWait  = 2 * time.Second
	// firstPause and lastPause are the least and the most between two tries.
	firstPause = 10 * time.Millisecond
	lastPause  = 500 * time.Millisecond
)

// errLost: no acknowledgement came, so that the try may have been carried out, or may be yet.
var errLost = errors.New("no acknowledgement came")

// change is a new value of a key, or its removal, if what was last written for the key has a revision.
type change struct {
	key      string
	value    []byte
	expected uint64 // zero: nothing
	ttl      time.Duration
	removal  bool
}

func (s *Store) message(id string, c change) *nats.Msg {
	m := &nats.Msg{Subject: s.prefix + c.key, Data: c.value, Header: nats.Header{
		writeHeader:                         {id},
		jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(c.expected, 10)},
	}}
	if c.removal {
		m.Header["KV-Operation"] = []string{"PURGE"}
		m.Header[jetstream.MsgRollup] = []string{jetstream.MsgRollupSubject}
	}
	if c.ttl > 0 {
		// JetStream counts whole seconds; a value may live longer than asked, never shorter.
		seconds := (c.ttl + time.Second - 1) / time.Second
		m.Header[jetstream.MsgTTLHeader] = []string{strconv.FormatInt(int64(seconds), 10) + "s"}
	}
	return m
}

// try sends changes once, all or none, and returns the revision of the last. ErrConflict: a key was not as
// expected, or is being changed now. errLost: the fate is open. After any other error nothing was written.
func (s *Store) try(ctx context.Context, wait time.Duration, id string, changes []change) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	batch := nuid.Next() // of its own for each try: a half-staged one is forgotten under its id
	for i, c := range changes {
		m := s.message(id, c)
		if len(changes) > 1 {
			m.Header["Nats-Batch-Id"] = []string{batch}
			m.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
		}
		if i < len(changes)-1 {
			if err := s.publish(m); err != nil {
				return 0, fmt.Errorf("%w: %w", errLost, err)
			}
			continue
		}
		if len(changes) > 1 {
			m.Header["Nats-Batch-Commit"] = []string{"1"}
		}
		answer, err := s.request(ctx, m)
		if errors.Is(err, nats.ErrMaxPayload) {
			return 0, fmt.Errorf("the value is too large: %w", err)
		}
		if err != nil {
			return 0, fmt.Errorf("%w: %w", errLost, err)
		}
		return acknowledged(answer.Data)
	}
	return 0, errors.New("nothing to write")
}

func acknowledged(data []byte) (uint64, error) {
	var answer struct {
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
		Sequence uint64 `json:"seq"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return 0, fmt.Errorf("%w: it cannot be read: %w", errLost, err)
	}
	switch {
	case answer.Error == nil && answer.Sequence > 0:
		return answer.Sequence, nil
	case answer.Error == nil:
		return 0, fmt.Errorf("%w: it is empty", errLost)
	case answer.Error.Code == 10071 || answer.Error.Code == 10164: // wrong last sequence, of one server and of several
		return 0, ErrConflict
	case answer.Error.Code == 10118 || answer.Error.Code == 10176 || answer.Error.Code == 10210: // offline, a part was lost, too many batches
		return 0, fmt.Errorf("%w: JetStream says: %s", errLost, answer.Error.Description)
	}
	return 0, fmt.Errorf("JetStream says: %s (%d)", answer.Error.Description, answer.Error.Code)
}

// retry calls try until it is done, with waits for an acknowledgement and pauses that grow, as long as ctx lives.
func retry(ctx context.Context, try func(ctx context.Context, wait time.Duration) (done bool, err error)) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	wait, pause := firstWait, firstPause
	for {
		done, err := try(ctx, wait)
		if done {
			return err
		}
		select {
		case <-ctx.Done():
			// What the last try said is no longer an answer: only its text is told.
			return fmt.Errorf("%w: %s", context.Cause(ctx), err.Error())
		case <-time.After(pause):
		}
		wait, pause = min(2*wait, lastWait), min(2*pause, lastPause)
	}
}

// Create stores a value where there is none, or returns ErrExists. A ttl of zero stands for ever; others
// are rounded up to seconds.
func (s *Store) Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error) {
	return s.create(ctx, []KeyValue{{key, value}}, ttl)
}

// Update replaces the value of a revision, or returns ErrConflict. The new value lives for ttl from now on;
// zero stands for ever.
func (s *Store) Update(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	if err := checkKey(key); err != nil {
		return 0, err
	}
	id, open := nuid.Next(), false
	var written uint64
	err := retry(ctx, func(ctx context.Context, wait time.Duration) (bool, error) {
		var err error
		written, err = s.try(ctx, wait, id, []change{{key: key, value: value, expected: revision, ttl: ttl}})
		switch {
		case errors.Is(err, errLost):
			open = true
		case errors.Is(err, ErrConflict) && open:
			// It may be the try before that stands in the way: see whose value it is.
		default:
			return true, err
		}
		last, readErr := s.last(ctx, key)
		switch {
		case readErr != nil:
			return false, errors.Join(err, readErr)
		case last != nil && last.Header.Get(writeHeader) == id:
			written = last.Sequence
			return true, nil
		case last == nil || last.Sequence > revision:
			return true, ErrConflict
		}
		// As before: the try is still under way or lost, or who was asked is a leader no more.
		return false, err
	})
	if err != nil {
		return 0, fmt.Errorf("updating a key: %w", err)
	}
	return written, nil
}

// Change replaces a key's value by what change makes of it, nil where there is none, and begins again where
// another was faster. The new value lives for ttl from now on; zero stands for ever.
func (s *Store) Change(ctx context.Context, key string, ttl time.Duration, change func(value []byte) ([]byte, error)) (uint64, error) {
	for {
		was, err := s.Get(ctx, key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return 0, err
		}
		value, changeErr := change(was.Value)
		if changeErr != nil {
			return 0, changeErr
		}
		var revision uint64
		if err != nil {
			revision, err = s.Create(ctx, key, value, ttl)
		} else {
			revision, err = s.Update(ctx, key, value, was.Revision, ttl)
		}
		if !errors.Is(err, ErrExists) && !errors.Is(err, ErrConflict) {
			return revision, err
		}
	}
}

// Find returns the value under a key, or ErrNotFound, which is proved: by a marker of a removal, written where there is nothing to remove.
// Whoever watches the key is told.
func (s *Store) Find(ctx context.Context, key string) (Entry, error) {
	if s.alone {
		return s.Get(ctx, key)
	}
	id := nuid.Next()
	var found Entry
	err := retry(ctx, func(ctx context.Context, wait time.Duration) (bool, error) {
		last, err := s.last(ctx, key)
		if errors.Is(err, ErrKey) {
			return true, err
		}
		if err != nil {
			return false, err
		}
		marker := change{key: key, removal: true, ttl: markerTTL}
		if last != nil {
			if !removal(last.Header) {
				found = Entry{Key: key, Value: last.Data, Revision: last.Sequence}
				return true, nil
			}
			marker.expected = last.Sequence
		}
		_, err = s.try(ctx, wait, id, []change{marker})
		if errors.Is(err, ErrConflict) || errors.Is(err, errLost) {
			return false, err // look again
		}
		if err == nil {
			err = ErrNotFound
		}
		return true, err
	})
	if err != nil {
		return Entry{}, fmt.Errorf("finding a key: %w", err)
	}
	return found, nil
}

// Put stores a value, whatever is there. It does not try again.
func (s *Store) Put(ctx context.Context, key string, value []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if _, err := s.kv.Put(ctx, key, value); err != nil {
		return fmt.Errorf("storing a key: %w", err)
	}
	return nil
}

// Purge removes a key and overwrites its value on disk: a marker alone would leave the bytes there. What
// was replaced by Update or Put before is removed too, but not overwritten. Where the key is gone already,
// its watchers are told again.
func (s *Store) Purge(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	id := nuid.Next()
	err := retry(ctx, func(ctx context.Context, wait time.Duration) (bool, error) {
		last, err := s.last(ctx, key)
		if err != nil {
			return false, err
		}
		if last != nil && removal(last.Header) {
			return true, nil
		}
		if last != nil {
			err := s.stream.SecureDeleteMsg(ctx, last.Sequence)
			if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
				return false, fmt.Errorf("overwriting its value: %w", err)
			}
		}
		// The marker is written only where nothing is left, so that it removes no value that was not overwritten.
		_, err = s.try(ctx, wait, id, []change{{key: key, removal: true, ttl: markerTTL}})
		if errors.Is(err, ErrConflict) || errors.Is(err, errLost) {
			return false, err // look again
		}
		return true, err
	})
	if err != nil {
		return fmt.Errorf("purging a key: %w", err)
	}
	return nil
}
