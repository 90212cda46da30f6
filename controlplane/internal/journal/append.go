package journal

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of a message. The round tells whose a record is when an acknowledgement was lost.
const (
	roundHeader         = "Sallyport-Round"
	expectedLastHeader  = "Nats-Expected-Last-Sequence"
	batchIDHeader       = "Nats-Batch-Id"
	batchSequenceHeader = "Nats-Batch-Sequence"
	batchCommitHeader   = "Nats-Batch-Commit"
)

const (
	// firstWait is how long the first try waits: a new leader takes about this long to be there.
	firstWait = 400 * time.Millisecond
	// headerRoom is what the headers of a message take at most.
	headerRoom = 512
	// unansweredBytes is how much of a batch is sent before the server must have said that it has it.
	unansweredBytes = 4 << 20
)

// errTaken: a record stands at the position, or is about to, and it may be one of an earlier try.
var errTaken = errors.New("the position is taken")

// appending is a batch on its way, over all the tries that it takes.
type appending struct {
	*Journal
	round    string
	answers  <-chan reply
	expected uint64
	batch    []Message
	// open are the tries that may have been written, or may be yet.
	open map[string]bool
}

// Append writes a batch right after a position, as a whole or not at all, and returns the sequence of its
// last message. It returns when the batch's fate is certain, or when ctx ends: see the errors above.
func (j *Journal) Append(ctx context.Context, expected uint64, batch []Message) (uint64, error) {
	if len(batch) == 0 || len(batch) > MaxBatch {
		return 0, fmt.Errorf("appending to the journal: a batch has 1 to %d messages, not %d", MaxBatch, len(batch))
	}
	for _, m := range batch {
		if most := j.nc.MaxPayload(); most > 0 && int64(len(m.Data)+headerRoom) > most {
			return 0, fmt.Errorf("appending to the journal: an event has %d bytes, NATS takes %d with headers", len(m.Data), most)
		}
	}
	select {
	case j.turn <- struct{}{}:
		defer func() { <-j.turn }()
	case <-ctx.Done():
		return 0, fmt.Errorf("appending at %d: %w", expected+1, context.Cause(ctx))
	}
	a := &appending{Journal: j, expected: expected, batch: batch, open: map[string]bool{}}
	a.round, a.answers = j.replies.begin()
	if err := a.run(ctx); err != nil {
		return 0, fmt.Errorf("appending at %d: %w", expected+1, err)
	}
	return expected + uint64(len(batch)), nil
}

// run sends the batch until its fate is certain. To send it again at the same position is safe: written
// twice it cannot be, since the position is taken by then.
func (a *appending) run(ctx context.Context) error {
	wait, pause := min(firstWait, a.timeout), 10*time.Millisecond
	for try := 1; ; try++ {
		done, err := a.try(ctx, strconv.Itoa(try), wait)
		if done {
			return err
		}
		if errors.Is(err, errTaken) {
			switch owner, readErr := a.owner(ctx, wait); {
			case readErr != nil: // a leader that was deposed may not have the record: nothing is known
				err = errors.Join(err, readErr)
			case owner == a.round:
				return nil
			default:
				return ErrConflict
			}
		}
		if len(a.open) > 0 {
			a.log.WarnContext(ctx, "a round's acknowledgement was lost; it is sent again", "position", a.expected+1, "try", try, "error", err)
		}
		select {
		case <-ctx.Done():
			if len(a.open) > 0 {
				return fmt.Errorf("%w: %w: %w", ErrFateUnknown, context.Cause(ctx), err)
			}
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
		wait, pause = min(2*wait, a.timeout), min(2*pause, time.Second)
	}
}

// try sends the batch once and waits for an answer to this try or an earlier one. Not done: send it again;
// the error says what happened.
func (a *appending) try(ctx context.Context, name string, wait time.Duration) (done bool, err error) {
	if err := a.send(ctx, name); err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		select {
		case <-ctx.Done():
			return false, errors.New("no acknowledgement came in time")
		case r := <-a.answers:
			if !a.open[r.try] {
				continue // of a part, or a repeat
			}
			if done, err := a.judge(r); done || r.try == name {
				return done, err
			}
		}
	}
}

// judge says what an answer to a try means.
func (a *appending) judge(r reply) (done bool, err error) {
	switch {
	case r.lost: // the message that commits was heard by nobody
		delete(a.open, r.try)
		return false, errors.New("nobody answers for the stream")
	case r.code == 0 && r.seq == 0:
		return false, errors.New("the acknowledgement is empty")
	case r.code == 0 && r.seq == a.expected+uint64(len(a.batch)):
		return true, nil
	case r.code == 0:
		return true, fmt.Errorf("%w: it ends at %d", ErrMisplaced, r.seq)
	case r.code == wrongLastSequence, r.code == wrongLastSequenceConstant, r.code == duplicateMessageID:
		// This try was not written; whether an earlier one was is asked of the position.
		delete(a.open, r.try)
		if len(a.open) == 0 {
			return true, ErrConflict
		}
		return false, fmt.Errorf("%w: %w", errTaken, r.err())
	case notWritten[r.code]:
		delete(a.open, r.try)
		if len(a.open) == 0 && !passing[r.code] {
			return true, fmt.Errorf("nothing was written: %w", r.err())
		}
		return false, r.err()
	}
	return false, r.err() // it may have been written all the same
}

// send publishes the batch under an id of its own for each try: one that a lost message left half-staged
// is forgotten under its id.
func (a *appending) send(ctx context.Context, try string) error {
	batchID, unanswered := a.round+"-"+try, 0
	last := len(a.batch) - 1
	for i, m := range a.batch {
		msg := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: make(nats.Header, 5)}
		msg.Header[roundHeader] = []string{a.round}
		if i == 0 {
			msg.Header[expectedLastHeader] = []string{strconv.FormatUint(a.expected, 10)}
		}
		if last > 0 {
			msg.Header[batchIDHeader] = []string{batchID}
			msg.Header[batchSequenceHeader] = []string{strconv.Itoa(i + 1)}
		}
		if i == last {
			return a.commit(msg, try)
		}
		if unanswered += len(m.Data); unanswered > unansweredBytes {
			unanswered = 0
			if err := a.part(ctx, msg, try+".part"+strconv.Itoa(i)); err != nil {
				return err
			}
			continue
		}
		if err := a.publish(msg); err != nil {
			return fmt.Errorf("publishing: %w", err) // what commits the batch was not sent
		}
	}
	return nil
}

// commit publishes the message that commits the batch. From here on the try is open.
func (a *appending) commit(msg *nats.Msg, try string) error {
	if len(a.batch) > 1 {
		msg.Header[batchCommitHeader] = []string{"1"}
	}
	msg.Reply = a.replies.address(a.round, try)
	a.open[try] = true
	err := a.publish(msg)
	if errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrConnectionReconnecting) || errors.Is(err, nats.ErrConnectionClosed) {
		delete(a.open, try)
	}
	if err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	return nil
}

// part publishes a message within the batch and waits until the server has it, so that a long batch does
// not run over the server's buffers.
func (a *appending) part(ctx context.Context, msg *nats.Msg, name string) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	msg.Reply = a.replies.address(a.round, name)
	if err := a.publish(msg); err != nil {
		return fmt.Errorf("publishing: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return errors.New("a part of the batch was not taken in time")
		case r := <-a.answers:
			switch {
			case r.try != name:
				continue // of an earlier try; the position will tell
			case r.code != 0:
				return r.err()
			case r.lost:
				return errors.New("nobody answers for the stream")
			}
			return nil
		}
	}
}

// owner returns the round of the record at the expected position, or of the next after it where records
// were erased.
func (a *appending) owner(ctx context.Context, wait time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	m, err := a.stream.GetMsg(ctx, a.expected+1, jetstream.WithGetMsgSubject(subjects))
	if err != nil {
		return "", fmt.Errorf("reading position %d: %w", a.expected+1, err)
	}
	return m.Header.Get(roundHeader), nil
}
