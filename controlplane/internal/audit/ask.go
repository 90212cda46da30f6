package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// askFirst and askLast are the least and the most that one question waits for its answer.
	askFirst = time.Second
	askLast  = 4 * time.Second
	// askWithin bounds a question whose context has no deadline.
	askWithin = 15 * time.Second
)

// ask asks the stream something that changes nothing, and asks again where no answer came: a leader that
// stops takes what it was asked with it, and until there is another nobody answers.
func ask[T any](ctx context.Context, question func(context.Context) (T, error)) (T, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, askWithin)
		defer cancel()
	}
	wait, pause := askFirst, 20*time.Millisecond
	for {
		try, cancel := context.WithTimeout(ctx, wait)
		answer, err := question(try)
		cancel()
		if err == nil || ctx.Err() != nil || !unanswered(err) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, fmt.Errorf("%w: %s", context.Cause(ctx), err.Error())
		case <-time.After(pause):
		}
		wait, pause = min(2*wait, askLast), min(2*pause, time.Second)
	}
}

func unanswered(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) || errors.Is(err, nats.ErrNoResponders) ||
		errors.Is(err, nats.ErrReconnectBufExceeded) // the connection is being opened again, and keeps nothing for later
}
