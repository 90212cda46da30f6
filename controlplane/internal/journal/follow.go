package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// followBatch bounds the records that one call of a follower gets.
const followBatch = 1024

// Follow calls fn with every record after a sequence, in order and each once, as they come: several at a
// time where they are there. Sequences have gaps where records were erased. It survives reconnections and
// leaders that change, and returns when ctx ends, with nil, or when fn fails, with its error.
func (j *Journal) Follow(ctx context.Context, after uint64, fn func([]Record) error) error {
	wait := 50 * time.Millisecond
	for {
		before := after
		err := j.follow(ctx, &after, fn)
		var stop *stopped
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &stop):
			return stop.error
		}
		if after > before {
			wait = 50 * time.Millisecond
		}
		j.log.WarnContext(ctx, "following the journal was interrupted; it goes on", "after", after, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, 2*time.Second)
	}
}

// stopped is what fn returned.
type stopped struct{ error }

// follow runs one ordered consumer until it breaks.
func (j *Journal) follow(ctx context.Context, after *uint64, fn func([]Record) error) error {
	consumer, err := j.js.OrderedConsumer(ctx, j.name, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: *after + 1,
	})
	if err != nil {
		return fmt.Errorf("making a consumer: %w", err)
	}
	messages := make(chan jetstream.Msg, followBatch)
	failed := make(chan error, 1)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		select {
		case messages <- m:
		case <-ctx.Done():
		}
	}, jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
		// Most of these heal by themselves; the ones that do not close the consumer.
		j.log.DebugContext(ctx, "the journal's consumer reports", "error", err)
	}))
	if err != nil {
		return fmt.Errorf("consuming: %w", err)
	}
	defer consuming.Stop()
	go func() {
		<-consuming.Closed()
		failed <- errors.New("the consumer was closed")
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-failed:
			return err
		case m := <-messages:
			records, err := drain(m, messages, after)
			if err != nil {
				return err
			}
			if len(records) == 0 {
				continue
			}
			if err := fn(records); err != nil {
				return &stopped{err}
			}
			*after = records[len(records)-1].Seq
		}
	}
}

// drain takes what is there already, up to a bound, and leaves out what was delivered before.
func drain(first jetstream.Msg, more <-chan jetstream.Msg, after *uint64) ([]Record, error) {
	var records []Record
	last := *after
	for m := first; ; {
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("reading a record's place: %w", err)
		}
		if meta.Sequence.Stream > last {
			last = meta.Sequence.Stream
			records = append(records, Record{Seq: last, Subject: m.Subject(), Data: m.Data()})
		}
		if len(records) == followBatch {
			return records, nil
		}
		select {
		case m = <-more:
		default:
			return records, nil
		}
	}
}
