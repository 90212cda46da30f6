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

// Errors of Append. After any other error nothing was written.
var (
	// ErrConflict: another writer's record stands at the expected position, or is about to, and nothing of
	// the batch was written. Follow the log to its end, decide again.
	ErrConflict = errors.New("another writer was first")
	// ErrFateUnknown: the context ended before it was known whether the batch was written. It may be.
	ErrFateUnknown = errors.New("it is not known whether the batch was written")
	// ErrMisplaced: the batch was written, but not at the expected position. JetStream promises that this
	// cannot be; whoever sees it must not go on.
	ErrMisplaced = errors.New("the log holds the batch at another position than it was written for")
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
	// At is when the stream stored it, by the clock of the server that led it.
	At time.Time
}

// Config is how a journal is kept. Its zero value is usable.
type Config struct {
	// Stream is the stream's name. Default SALLYPORT_EVENTS.
	Stream string
	// Replicas is how many servers keep the stream. Default 1.
	Replicas int
	// Timeout is the longest that one try to append waits for its acknowledgement before the batch is sent
	// again; the first tries wait less. Default 2 seconds.
	Timeout time.Duration
	Log     *slog.Logger
}

// subjects are those of all events.
const subjects = "sallyport.event.>"

// Journal is an open event log. It is safe for concurrent use; one Append runs at a time.
type Journal struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	stream  jetstream.Stream
	name    string
	timeout time.Duration
	log     *slog.Logger

	turn    chan struct{} // holds one token: who has it appends
	hurry   chan struct{} // asks the follower to look for itself
	replies *replies
	// publish is nc.PublishMsg, save in tests that lose messages.
	publish func(*nats.Msg) error
}

// Open finds the log's stream or makes it, and refuses one that could lose what it acknowledged. It lives
// as long as the connection.
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
	stream, err := findOrMake(ctx, js, c)
	if err != nil {
		return nil, fmt.Errorf("opening the journal's stream %s: %w", c.Stream, err)
	}
	if err := check(stream.CachedInfo().Config, c.Replicas); err != nil {
		return nil, fmt.Errorf("the stream %s cannot be the journal: %w", c.Stream, err)
	}
	j := &Journal{nc: nc, js: js, stream: stream, name: c.Stream, timeout: c.Timeout, log: c.Log, turn: make(chan struct{}, 1), hurry: make(chan struct{}, 1), publish: nc.PublishMsg}
	if j.replies, err = listen(nc); err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	return j, nil
}

func findOrMake(ctx context.Context, js jetstream.JetStream, c Config) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, c.Stream)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return stream, err
	}
	stream, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: c.Stream, Description: "Sallyport's event log: the truth. Do not write to it, delete from it or limit it.",
		Subjects: []string{subjects}, Storage: jetstream.FileStorage, Replicas: c.Replicas, Retention: jetstream.LimitsPolicy,
		MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, MaxMsgSize: -1, Discard: jetstream.DiscardNew,
		// Messages of an erased person are deleted one by one, so deleting is not denied; purging is.
		AllowAtomicPublish: true, DenyPurge: true, AllowDirect: false,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another control plane made it meanwhile
		return js.Stream(ctx, c.Stream)
	}
	return stream, err
}

// check refuses a stream that forgets, that takes what is not an event, or that acknowledges what it has
// not kept.
func check(c jetstream.StreamConfig, replicas int) error {
	switch {
	case c.Storage != jetstream.FileStorage:
		return errors.New("it is not kept on disk")
	case c.PersistMode == jetstream.AsyncPersistMode:
		return errors.New("it acknowledges before it writes (persist_mode async)")
	case c.NoAck:
		return errors.New("it acknowledges nothing (no_ack)")
	case !c.AllowAtomicPublish:
		return errors.New("it does not take atomic batches (allow_atomic)")
	case c.AllowDirect || c.MirrorDirect:
		return errors.New("it answers reads from followers, which may be stale (allow_direct)")
	case c.MaxAge != 0 || c.MaxMsgs > 0 || c.MaxBytes > 0 || c.MaxMsgsPerSubject > 0 || c.Retention != jetstream.LimitsPolicy:
		return errors.New("it forgets old messages (a limit is set)")
	case c.AllowMsgTTL || c.AllowRollup || !c.DenyPurge:
		return errors.New("it can be made to forget (allow_msg_ttl, allow_rollup_hdrs, or deny_purge is off)")
	case c.Sealed:
		return errors.New("it is sealed: nothing can be written any more")
	case c.Mirror != nil || len(c.Sources) > 0 || c.SubjectTransform != nil:
		return errors.New("it takes messages from other streams, or rewrites them (mirror, sources, subject_transform)")
	case len(c.Subjects) != 1 || c.Subjects[0] != subjects:
		return fmt.Errorf("its subjects are %q, not %q", c.Subjects, subjects)
	case c.Replicas < replicas:
		return fmt.Errorf("it is kept on %d servers, and %d are asked for: raise it with `nats stream update --replicas`, or ask for fewer", c.Replicas, replicas)
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

// MakeRawStream makes a stream that is kept as the journal is, for measurements beside it.
func MakeRawStream(ctx context.Context, nc *nats.Conn, name, subject string) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: name, Subjects: []string{subject}, Storage: jetstream.FileStorage, AllowAtomicPublish: true,
	})
	return err
}
