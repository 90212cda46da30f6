package journal

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

// Headers of a message. The round tells whose a record is when an acknowledgement was lost.
const (
	roundHeader         = "Sallyport-Round"
	expectedLastHeader  = "Nats-Expected-Last-Sequence"
	batchIDHeader       = "Nats-Batch-Id"
	batchSequenceHeader = "Nats-Batch-Sequence"
	batchCommitHeader   = "Nats-Batch-Commit"
)

// JetStream's error codes that Append decides by.
const (
	wrongLastSequence         = 10071
	wrongLastSequenceConstant = 10164
	incompleteBatch           = 10176
	tooManyInFlight           = 10210
	noResources               = 10023
	insufficientStorage       = 10047
)

// Append writes a batch right after a position, as a whole or not at all, and returns the sequence of its
// last message. It returns when the batch's fate is certain: nil, ErrConflict, an error that says that
// nothing was written, or, when ctx ends first, ErrFateUnknown.
func (j *Journal) Append(ctx context.Context, expected uint64, batch []Message) (uint64, error) {
	if len(batch) == 0 || len(batch) > MaxBatch {
		return 0, fmt.Errorf("appending to the journal: a batch has 1 to %d messages, not %d", MaxBatch, len(batch))
	}
	round := nuid.Next()
	last := expected + uint64(len(batch))
	wait := 10 * time.Millisecond
	for try := 1; ; try++ {
		err := j.send(ctx, round, expected, batch)
		if err == nil {
			return last, nil
		}
		known, err := j.fate(ctx, round, expected, try, err)
		if known {
			if err == nil {
				return last, nil
			}
			return 0, err
		}
		j.log.WarnContext(ctx, "a round's acknowledgement was lost: its fate is being asked for", "position", expected+1, "try", try, "error", err)
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("appending at %d: %w: %w", expected+1, ErrFateUnknown, context.Cause(ctx))
		case <-time.After(wait):
		}
		wait = min(2*wait, time.Second)
	}
}

// fate says what became of a try that was not acknowledged. Where that is not known yet, the same batch is
// to be sent again at the same position: written twice it cannot be, since the position is taken by then.
func (j *Journal) fate(ctx context.Context, round string, expected uint64, try int, failed error) (known bool, err error) {
	var refused *refusal
	if !errors.As(failed, &refused) {
		return false, failed // no answer: it may be written, or on its way
	}
	switch refused.code {
	case wrongLastSequence, wrongLastSequenceConstant:
		// The position is taken, by this batch or by another. A leader that was deposed may not have the
		// record: then the question is asked again.
		switch owner, err := j.roundAt(ctx, expected+1); {
		case err != nil:
			return false, err
		case owner == round:
			return true, nil
		default:
			return true, ErrConflict
		}
	case incompleteBatch, tooManyInFlight:
		return false, failed // parts were lost on the way, or too many batches are under way: nothing is written
	case noResources, insufficientStorage:
		if try == 1 { // nothing of an earlier try can be on its way
			return true, fmt.Errorf("the journal cannot store: is the disk of NATS full? %w", failed)
		}
		return false, failed
	}
	if try == 1 {
		return true, fmt.Errorf("the journal refused the batch: %w", failed)
	}
	return false, failed
}

// refusal is JetStream's answer that a publish was not stored.
type refusal struct {
	code int
	text string
}

func (r *refusal) Error() string { return fmt.Sprintf("%s (%d)", r.text, r.code) }

// send tries once to write the batch. Any error but a refusal leaves its fate open.
func (j *Journal) send(ctx context.Context, round string, expected uint64, batch []Message) error {
	ctx, cancel := context.WithTimeout(ctx, j.timeout)
	defer cancel()
	// A batch that a lost message left half-staged is forgotten under its id: each try has its own.
	batchID := nuid.Next()
	for i, m := range batch {
		msg := &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{roundHeader: {round}}}
		if i == 0 {
			msg.Header[expectedLastHeader] = []string{strconv.FormatUint(expected, 10)}
		}
		if len(batch) > 1 {
			msg.Header[batchIDHeader] = []string{batchID}
			msg.Header[batchSequenceHeader] = []string{strconv.Itoa(i + 1)}
		}
		if i < len(batch)-1 {
			if err := j.publish(msg); err != nil {
				return fmt.Errorf("publishing: %w", err)
			}
			continue
		}
		if len(batch) > 1 {
			msg.Header[batchCommitHeader] = []string{"1"}
		}
		answer, err := j.request(ctx, msg)
		if err != nil {
			return fmt.Errorf("waiting for the acknowledgement: %w", err)
		}
		return acknowledged(answer.Data, expected+uint64(len(batch)))
	}
	return nil
}

// acknowledged reads JetStream's answer to a publish.
func acknowledged(data []byte, last uint64) error {
	var answer struct {
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
		Sequence uint64 `json:"seq"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return fmt.Errorf("reading the acknowledgement: %w", err)
	}
	if answer.Error != nil {
		return &refusal{code: answer.Error.Code, text: answer.Error.Description}
	}
	if answer.Sequence != last {
		return fmt.Errorf("the acknowledgement is of %d, not of %d", answer.Sequence, last)
	}
	return nil
}

// roundAt returns the round of the record at a position, or of the next after it where records were erased.
func (j *Journal) roundAt(ctx context.Context, seq uint64) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, j.timeout)
	defer cancel()
	m, err := j.stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		m, err = j.stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subjects))
	}
	if err != nil {
		return "", fmt.Errorf("reading position %d: %w", seq, err)
	}
	return m.Header.Get(roundHeader), nil
}
