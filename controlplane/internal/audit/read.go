package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Message is a record as it lies on the stream.
type Message struct {
	Sequence uint64
	// Stored is when the stream took it, by its clock.
	Stored time.Time
	Data   []byte
	// CoreLength is what the header says of the core; empty: nothing.
	CoreLength string
	// Head is the signature over the proxy's chain, which this record is the head of; empty: none.
	Head string
}

// ErrStop ends a Read without an error.
var ErrStop = errors.New("that is enough")

// Read calls fn with each message after a sequence, in their order, then with each that is stored, until ctx ends or fn
// fails. It reads ahead, however slow fn is, by some thousand messages.
func (s *Store) Read(ctx context.Context, after uint64, fn func(Message) error) error {
	return s.read(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1}, fn)
}

// Since calls fn with the records stored at or after a time as they lie on the stream, in their order and up to the one that is the last
// now.
func (s *Store) Since(ctx context.Context, from time.Time, fn func(data []byte) error) error {
	last, err := ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.stream.GetLastMsgForSubject(ctx, subjects)
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("asking for the end of audit: %w", err)
	}
	start := from.Add(-s.clocks.known())
	if last.Time.Before(start) {
		return nil
	}
	return s.read(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &start}, func(m Message) error {
		if m.Sequence > last.Sequence {
			return ErrStop
		}
		if !m.Stored.Before(from) {
			if err := fn(m.Data); err != nil {
				return err
			}
		}
		if m.Sequence == last.Sequence {
			return ErrStop
		}
		return nil
	})
}

// read calls fn with what a consumer delivers.
func (s *Store) read(ctx context.Context, config jetstream.OrderedConsumerConfig, fn func(Message) error) error {
	consumer, err := s.js.OrderedConsumer(ctx, StreamName, config)
	if err != nil {
		return fmt.Errorf("reading audit: %w", err)
	}
	defer s.release(consumer)
	messages, err := consumer.Messages(jetstream.PullMaxMessages(5000))
	if err != nil {
		return fmt.Errorf("reading audit: %w", err)
	}
	defer messages.Stop()
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	for {
		m, err := messages.Next()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("reading audit: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("reading audit: %w", err)
		}
		read := Message{Sequence: meta.Sequence.Stream, Stored: meta.Timestamp, Data: m.Data(), CoreLength: m.Headers().Get(coreHeader), Head: m.Headers().Get(headHeader)}
		switch err := fn(read); {
		case errors.Is(err, ErrStop):
			return nil
		case err != nil:
			return err
		}
	}
}

// Identity tells this stream from one that was made in its place.
func (s *Store) Identity(ctx context.Context) (string, error) {
	info, err := s.info(ctx)
	if err != nil {
		return "", fmt.Errorf("asking for the audit stream: %w", err)
	}
	return info.Created.UTC().Format(time.RFC3339Nano), nil
}
