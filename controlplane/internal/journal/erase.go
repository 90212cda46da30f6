package journal

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// errBehind: whoever answered does not have the message that is known to be there, so that what comes before
// it may be missing there too.
var errBehind = errors.New("the server that was asked is behind the log's end")

// erasePasses bounds how often a subject is gone through until nothing is left on it.
const erasePasses = 3

// Erase destroys those messages of a subject before a position of which holds says so, and overwrites their
// bytes in the stream's store: a deletion alone would leave them there. At the position there is a message of
// the same subject that stays: a server that does not have it is not believed when it says that there are no
// more. It returns how many were destroyed; after an error some may have been, and it is to be called again.
func (j *Journal) Erase(ctx context.Context, subject string, before uint64, holds func(data []byte) bool) (int, error) {
	all := 0
	for range erasePasses {
		n, err := j.erase(ctx, subject, before, holds)
		if all += n; err != nil {
			return all, fmt.Errorf("erasing messages of %s: %w", subject, err)
		}
		if n == 0 {
			return all, nil
		}
	}
	return all, fmt.Errorf("erasing messages of %s: they are there again after they were destroyed", subject)
}

func (j *Journal) erase(ctx context.Context, subject string, before uint64, holds func(data []byte) bool) (n int, err error) {
	for seq := uint64(1); ; {
		m, err := j.next(ctx, subject, seq)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return n, errBehind
		case err != nil:
			return n, fmt.Errorf("reading the log after %d: %w", seq-1, err)
		case m.Sequence == before:
			return n, nil
		case m.Sequence > before:
			return n, fmt.Errorf("there is no message of it at %d", before)
		}
		if holds(m.Data) {
			if err := j.destroy(ctx, m.Sequence); err != nil {
				return n, fmt.Errorf("destroying message %d: %w", m.Sequence, err)
			}
			n++
		}
		seq = m.Sequence + 1
	}
}

// next returns the first message of a subject at or after a sequence.
func (j *Journal) next(ctx context.Context, subject string, seq uint64) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, j.timeout)
	defer cancel()
	return j.stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
}

func (j *Journal) destroy(ctx context.Context, seq uint64) error {
	ctx, cancel := context.WithTimeout(ctx, j.timeout)
	defer cancel()
	err := j.stream.SecureDeleteMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		return nil // it is gone already, or the next pass finds it
	}
	return err
}
