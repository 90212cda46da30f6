package kv

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
)

// deposed answers reads for a while as a server does that led the bucket before the key was written.
type deposed struct {
	jetstream.Stream
	answers int
}

func (d *deposed) GetLastMsgForSubject(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	if d.answers > 0 {
		d.answers--
		return nil, jetstream.ErrMsgNotFound
	}
	return d.Stream.GetLastMsgForSubject(ctx, subject)
}

func TestThatThereIsNothingIsBelievedOfNoServerThatLeadsNoMore(t *testing.T) {
	sites(t, func(t *testing.T, open func() *Store) {
		s := open()
		if s.alone {
			t.Skip("one server knows all")
		}
		if _, err := s.Create(within(t), "key", []byte("value"), 0); err != nil {
			t.Fatal(err)
		}
		s.stream = &deposed{s.stream, 3}
		if _, err := s.Get(within(t), "key"); !errors.Is(err, ErrNotFound) {
			t.Fatalf("the server is not behind: %v", err)
		}
		if e, err := s.Find(within(t), "key"); err != nil || string(e.Value) != "value" {
			t.Errorf("found %q, %v", e.Value, err)
		}
	})
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	sites(t, func(t *testing.T, open func() *Store) {
		s := open()
		never := func(key string) {
			t.Helper()
			for range 2 {
				if _, err := s.Find(within(t), key); !errors.Is(err, ErrNotFound) {
					t.Errorf("%s: %v", key, err)
				}
			}
		}
		never("never")
		must[uint64](t)(s.Create(within(t), "gone", []byte("value"), 0))
		if err := s.Purge(within(t), "gone"); err != nil {
			t.Fatal(err)
		}
		never("gone")
		if _, err := s.Find(within(t), "no key"); !errors.Is(err, ErrKey) {
			t.Errorf("a key that is none: %v", err)
		}
		// That nothing was found stands in nobody's way.
		must[uint64](t)(s.Create(within(t), "never", []byte("first"), 0))
		want(t, s, "never", "first")
	})
}
