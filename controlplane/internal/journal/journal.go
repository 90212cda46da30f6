// Package journal keeps the event log on JetStream, and is the only package that writes events.
//
// A round of messages is appended as one atomic batch at an expected position, or not at all. When an
// acknowledgement is lost, Append finds out what became of the batch before it returns: it never guesses,
// and never writes a batch at another position while its fate is open. The package knows nothing of what
// events mean.
package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// MaxBatch is the most messages that one Append takes: JetStream's limit.
const MaxBatch = 1000

// Errors of Append.
var (
	// ErrConflict: another writer's record stands at the expected position, and nothing of the batch was
	// written. Follow the log to its end, decide again.
	ErrConflict = errors.New("another writer was first")
	// ErrFateUnknown: the context ended before it was known whether the batch was written. It may be.
	ErrFateUnknown = errors.New("it is not known whether the batch was written")
)

// Message is an event to be written.
type Message struct {
	Subject string
	Data    []byte
}

// Record is an event that was written.
type Record struct {
	Seq     uint64
	Subject string
	Data    []byte
}

// Config is how a journal is kept. Its zero value is usable.
type Config struct {
	// Stream is the stream's name. Default SALLYPORT_EVENTS.
	Stream string
	// Replicas is how many servers keep the stream. Default 1.
	Replicas int
	// Timeout is how long one try to append waits for its acknowledgement. Default 2 seconds.
	Timeout time.Duration
	Log     *slog.Logger
}

// subjects are those of all events.
const subjects = "sallyport.event.>"

// Journal is an open event log. It is safe for concurrent use.
type Journal struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	stream  jetstream.Stream
	name    string
	timeout time.Duration
	log     *slog.Logger
	// request is nc.RequestMsgWithContext, save in tests that lose acknowledgements.
	request func(context.Context, *nats.Msg) (*nats.Msg, error)
	publish func(*nats.Msg) error
}

// Open finds the log's stream or makes it, and refuses one that could lose what it acknowledged.
func Open(ctx context.Context, nc *nats.Conn, c Config) (*Journal, error) {
	if c.Stream == "" {
		c.Stream = "SALLYPORT_EVENTS"
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	stream, err := js.Stream(ctx, c.Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, jetstream.StreamConfig{
			Name: c.Stream, Description: "Sallyport's event log: the truth. Do not write to it, delete from it or limit it.",
			Subjects: []string{subjects}, Storage: jetstream.FileStorage, Replicas: c.Replicas, Retention: jetstream.LimitsPolicy,
			MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, Discard: jetstream.DiscardNew,
			AllowAtomicPublish: true, DenyPurge: true, AllowDirect: false,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("opening the journal's stream %s: %w", c.Stream, err)
	}
	if err := check(stream.CachedInfo().Config); err != nil {
		return nil, fmt.Errorf("the stream %s cannot be the journal: %w", c.Stream, err)
	}
	j := &Journal{nc: nc, js: js, stream: stream, name: c.Stream, timeout: c.Timeout, log: c.Log, publish: nc.PublishMsg}
	j.request = func(ctx context.Context, m *nats.Msg) (*nats.Msg, error) { return nc.RequestMsgWithContext(ctx, m) }
	return j, nil
}

// check refuses a stream that forgets, or that acknowledges what it has not kept.
func check(c jetstream.StreamConfig) error {
	switch {
	case c.Storage != jetstream.FileStorage:
		return errors.New("it is not kept on disk")
	case c.PersistMode == jetstream.AsyncPersistMode:
		return errors.New("it acknowledges before it writes (persist_mode async)")
	case !c.AllowAtomicPublish:
		return errors.New("it does not take atomic batches (allow_atomic)")
	case c.AllowDirect:
		return errors.New("it answers reads from followers, which may be stale (allow_direct)")
	case c.MaxAge != 0 || c.MaxMsgs > 0 || c.MaxBytes > 0 || c.MaxMsgsPerSubject > 0 || c.Retention != jetstream.LimitsPolicy:
		return errors.New("it forgets old messages (a limit is set)")
	case len(c.Subjects) != 1 || c.Subjects[0] != subjects:
		return fmt.Errorf("its subjects are %q, not %q", c.Subjects, subjects)
	}
	return nil
}

// Last is the log's end as its leader believes. It is a place to begin, and proves nothing.
func (j *Journal) Last(ctx context.Context) (uint64, error) {
	info, err := j.stream.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("asking for the journal's end: %w", err)
	}
	return info.State.LastSeq, nil
}
