package journal

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// followBatch is about how many records one call of a follower gets; a batch is not torn for it.
	followBatch = 1024
	// followHeartbeat is how often the server must be heard; after two that were missed another consumer is made.
	followHeartbeat = 500 * time.Millisecond
	// lookAfter is how long a consumer may take to be made before records are read without one.
	lookAfter = 100 * time.Millisecond
	// lookFor bounds one such reading.
	lookFor = 300 * time.Millisecond
	// lookAhead is how many records are asked for at a time, at most.
	lookAhead = 256
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
			return nil //nolint:nilerr // the caller ended it, and what broke with that is no error
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
		wait = min(2*wait, 200*time.Millisecond) // where a consumer cannot be made, what reads meanwhile must go on
	}
}

// stopped is what fn returned.
type stopped struct{ error }

// Hurry makes a running Follow ask the stream's leader for what comes next: for those who know that there
// is more, and see that it does not come. A consumer may be on a server that is gone or cut off.
func (j *Journal) Hurry() {
	select {
	case j.hurry <- struct{}{}:
	default:
	}
}

// follow runs one consumer until it breaks. Until there is one, which takes a leader of the whole cluster
// beside that of the stream, it reads record by record.
func (j *Journal) follow(ctx context.Context, after *uint64, fn func([]Record) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type made struct {
		consumer jetstream.Consumer
		err      error
	}
	ready := make(chan made, 1)
	go func(after uint64) {
		consumer, err := j.consumer(ctx, after)
		ready <- made{consumer, err}
	}(*after)
	t := taker{last: *after}
	messages := make(chan jetstream.Msg, followBatch)
	look := time.NewTimer(lookAfter)
	defer look.Stop()
	release := func() {}
	defer func() { release() }()
	for {
		var records []Record
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-ready:
			look.Stop()
			if m.err != nil {
				return fmt.Errorf("making a consumer: %w", m.err)
			}
			consuming, err := consume(ctx, m.consumer, messages, cancel)
			if err != nil {
				return fmt.Errorf("consuming: %w", err)
			}
			release = func() {
				consuming.Stop()
				j.forget(ctx, m.consumer.CachedInfo().Name)
			}
			continue
		case m := <-messages:
			records, err = t.take(m, messages)
		case <-j.hurry:
			records = j.look(ctx, &t)
		case <-look.C:
			records = j.look(ctx, &t)
			look.Reset(lookAfter)
		}
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

// look reads what comes next from the stream's leader, as far as it is whole: many records at a time where
// there are many, since the leader may be far.
func (j *Journal) look(ctx context.Context, t *taker) []Record {
	var whole []Record
	for len(whole) < followBatch && ctx.Err() == nil {
		t.ahead = min(max(t.ahead, 1), lookAhead)
		found := j.readAt(ctx, t.last+1, t.ahead)
		for _, m := range found {
			whole = append(whole, t.add(m.Header, Record{Seq: m.Sequence, Subject: m.Subject, Data: m.Data, At: m.Time}, false)...)
		}
		if len(found) < t.ahead {
			t.ahead = 2 * len(found) // about as many may have come by the next time
			break                    // there is no more, or nobody who knows: the consumer, or another look, will tell
		}
		t.ahead *= 4
	}
	return whole
}

// readAt reads the next record at or after a sequence, and with it those that follow without a gap, n at most.
func (j *Journal) readAt(ctx context.Context, seq uint64, n int) []*jetstream.RawStreamMsg {
	ctx, cancel := context.WithTimeout(ctx, lookFor)
	defer cancel()
	all := make([]*jetstream.RawStreamMsg, n)
	var reading sync.WaitGroup
	for i := range n {
		reading.Go(func() {
			var options []jetstream.GetMsgOpt
			if i == 0 {
				options = append(options, jetstream.WithGetMsgSubject(subjects)) // past what was erased
			}
			if m, err := j.stream.GetMsg(ctx, seq+uint64(i), options...); err == nil {
				all[i] = m
			}
		})
	}
	reading.Wait()
	for i, m := range all {
		if m == nil || m.Sequence != all[0].Sequence+uint64(i) {
			return all[:i]
		}
	}
	return all
}

// consume hands a consumer's messages over. A consumer costs little: whatever troubles it, another goes
// on from the same place.
func consume(ctx context.Context, c jetstream.Consumer, messages chan<- jetstream.Msg, cancel context.CancelCauseFunc) (jetstream.ConsumeContext, error) {
	return c.Consume(func(m jetstream.Msg) {
		select {
		case messages <- m:
		case <-ctx.Done():
		}
	}, jetstream.PullMaxMessages(followBatch), jetstream.PullExpiry(10*followHeartbeat), jetstream.PullHeartbeat(followHeartbeat),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { cancel(err) }))
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
	ahead    int    // how many records a look asks for next
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
		record := Record{Seq: meta.Sequence.Stream, Subject: m.Subject(), Data: m.Data(), At: meta.Timestamp}
		whole = append(whole, t.add(m.Headers(), record, meta.NumPending == 0)...)
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

// add takes the next record and returns what is whole with it. The end of a batch may have been erased:
// where nothing comes after, the batch is over too.
func (t *taker) add(headers nats.Header, r Record, nothingAfter bool) (whole []Record) {
	if r.Seq <= t.last {
		return nil // it was delivered by other means
	}
	t.last = r.Seq
	batch := headers.Get(batchIDHeader)
	if batch != t.batch {
		whole, t.held, t.batch = t.held, nil, batch
	}
	t.held = append(t.held, r)
	if batch == "" || headers.Get(batchCommitHeader) != "" || nothingAfter {
		whole, t.held, t.batch = append(whole, t.held...), nil, ""
	}
	return whole
}
