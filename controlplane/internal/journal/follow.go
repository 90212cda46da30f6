package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

const (
	// followBatch is about how many records one call of a follower gets; a batch is not torn for it.
	followBatch = 1024
	// followHeartbeat is how often the server must be heard; after two that were missed another consumer is made.
	followHeartbeat = 500 * time.Millisecond
	// forgetAfter is when the server forgets a consumer that nobody reads any more.
	forgetAfter = 30 * time.Second
)

// Follow calls fn with every record after a sequence, in order and each once, as they come: several at a
// time where they are there, and those that were appended as one batch never in two calls. Sequences have
// gaps where records were erased. It survives reconnections and leaders that change, and returns when ctx
// ends, with nil, or when fn fails, with its error.
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
		j.log.InfoContext(ctx, "following the journal was interrupted; it goes on", "after", after, "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// stopped is what fn returned.
type stopped struct{ error }

// follow runs one consumer until it breaks.
func (j *Journal) follow(ctx context.Context, after *uint64, fn func([]Record) error) error {
	consumer, err := j.consumer(ctx, *after)
	if err != nil {
		return fmt.Errorf("making a consumer: %w", err)
	}
	defer j.forget(ctx, consumer.CachedInfo().Name)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	messages := make(chan jetstream.Msg, followBatch)
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		select {
		case messages <- m:
		case <-ctx.Done():
		}
	}, jetstream.PullMaxMessages(followBatch), jetstream.PullExpiry(10*followHeartbeat), jetstream.PullHeartbeat(followHeartbeat),
		// A consumer costs little: whatever troubles it, another goes on from the same place.
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { cancel(err) }))
	if err != nil {
		return fmt.Errorf("consuming: %w", err)
	}
	defer consuming.Stop()
	var t taker
	t.last = *after
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-messages:
			records, err := t.take(m, messages)
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

func (j *Journal) consumer(ctx context.Context, after uint64) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, j.timeout)
	defer cancel()
	return j.js.CreateConsumer(ctx, j.name, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: after + 1, AckPolicy: jetstream.AckNonePolicy,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: forgetAfter,
	})
}

// forget removes a consumer as far as that can be done now; the server would, later.
func (j *Journal) forget(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), followHeartbeat)
	defer cancel()
	if err := j.js.DeleteConsumer(ctx, j.name, name); err != nil {
		j.log.DebugContext(ctx, "a consumer of the journal could not be removed; it is forgotten soon", "error", err)
	}
}

// taker puts batches together again.
type taker struct {
	last     uint64 // sequence on the stream
	consumed uint64 // sequence on the consumer, which has no gaps
	held     []Record
	batch    string // the batch that is not there as a whole
}

// take returns what is there already, up to a bound, as far as it is whole.
func (t *taker) take(m jetstream.Msg, more <-chan jetstream.Msg) ([]Record, error) {
	var whole []Record
	for {
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("reading a record's place: %w", err)
		}
		if t.consumed++; meta.Sequence.Consumer != t.consumed {
			return nil, fmt.Errorf("delivery %d came where %d was due", meta.Sequence.Consumer, t.consumed)
		}
		if meta.Sequence.Stream > t.last {
			t.last = meta.Sequence.Stream
			headers := m.Headers()
			batch := headers.Get(batchIDHeader)
			if batch != t.batch { // the end of the one before was erased
				whole, t.held, t.batch = append(whole, t.held...), nil, batch
			}
			t.held = append(t.held, Record{Seq: t.last, Subject: m.Subject(), Data: m.Data()})
			if batch == "" || headers.Get(batchCommitHeader) != "" || meta.NumPending == 0 {
				whole, t.held, t.batch = append(whole, t.held...), nil, ""
			}
		}
		if len(whole) >= followBatch {
			return whole, nil
		}
		select {
		case m = <-more:
		default:
			return whole, nil
		}
	}
}
