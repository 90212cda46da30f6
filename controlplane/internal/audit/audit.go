// Package audit keeps the audit records: a JetStream stream to which each proxy's records are appended in
// their order, each once, and from which they are searched and followed.
//
// A record is known by (proxy, spool generation, number). A batch of a proxy is fenced by the position of
// that proxy's last record, so that duplicates, gaps and disorder are one check, over an outage of any
// length and whichever control plane stores it. The package removes only what is past the time for which it is to be kept, and
// changes in a record only whose it is, what does not fit a message, and, where that is asked for, what is sealed for its person.
package audit

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// StreamName is the stream that consumers read. Subjects are
// sallyport.audit.<region>.<proxy>.<connector>.<decision>, with "-" where a record has none.
const StreamName = "AUDIT"

const subjects = "sallyport.audit.*.*.*.*"

// Config is how the store is kept.
type Config struct {
	// Replicas is how many servers keep the stream. Default 1.
	Replicas int
	Seals    Seals
	// SealPersonal seals what records say of people, so that it goes when they are erased. Records that were
	// sealed are opened either way.
	SealPersonal bool
	// Values says what a connector has audit keep beside records. Nil: nothing is.
	Values func(connector string) *policyv1.AuditSettings
	// OpenConditionValues opens what proxies sealed of what conditions read, which goes on under the person's key. Nil: none of it is kept.
	OpenConditionValues func(sealed []byte, about ...string) ([]byte, error)
	// Key signs where proxies' chains stand. Nil: nothing is signed.
	Key ed25519.PrivateKey
	Log *slog.Logger
}

// Store is the open stream. It is safe for concurrent use.
type Store struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	// checkpoints is the stream of signed checkpoints, removals that of what was removed when its time was over.
	checkpoints jetstream.Stream
	removals    jetstream.Stream
	seals       Seals
	seal        bool // what is personal
	openValues  func(sealed []byte, about ...string) ([]byte, error)
	key         ed25519.PrivateKey
	log         *slog.Logger
	valuesOf    func(connector string) *policyv1.AuditSettings
	replicas    int
	// request is that of the connection, save in tests that lose answers.
	request func(context.Context, *nats.Msg) (*nats.Msg, error)
	bounds  bounds // of one search
	recent  recent
	clocks  clocks
	// most is how many records the server takes as one batch, as far as is known.
	most atomic.Int64

	mu    sync.Mutex
	known map[string]position // of proxies whose records were stored here of late
	// valueStores are the stores of whole values that were opened, by days.
	valueStores map[string]jetstream.ObjectStore
}

// Open finds the stream or makes it, and refuses one that could lose what it acknowledged. It lives as long
// as the connection.
func Open(ctx context.Context, nc *nats.Conn, c Config) (*Store, error) {
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("opening the audit stream: %w", err)
	}
	stream, err := findOrMake(ctx, js, c.Replicas)
	if err != nil {
		return nil, fmt.Errorf("opening the audit stream: %w", err)
	}
	if err := check(stream.CachedInfo().Config, c.Replicas); err != nil {
		return nil, fmt.Errorf("the stream %s cannot keep audit: %w", StreamName, err)
	}
	checkpoints, err := openSigned(ctx, js, c.Replicas, CheckpointStream, CheckpointSubject, "Signed checkpoints of Sallyport's audit (sallyport.audit.v1.Checkpoint, protobuf).")
	if err != nil {
		return nil, fmt.Errorf("opening the stream of audit checkpoints: %w", err)
	}
	removals, err := openSigned(ctx, js, c.Replicas, RemovalStream, RemovalSubject, "What was removed of Sallyport's audit when its time was over (sallyport.audit.v1.Removal, protobuf).")
	if err != nil {
		return nil, fmt.Errorf("opening the stream of what was removed of audit: %w", err)
	}
	s := &Store{nc: nc, js: js, stream: stream, checkpoints: checkpoints, removals: removals, seals: c.Seals, seal: c.SealPersonal, openValues: c.OpenConditionValues, key: c.Key, log: c.Log, valuesOf: c.Values, replicas: c.Replicas, request: nc.RequestMsgWithContext, bounds: defaultBounds, known: map[string]position{}}
	s.clocks.heard(stream.CachedInfo())
	s.most.Store(batchRecords)
	return s, nil
}

func findOrMake(ctx context.Context, js jetstream.JetStream, replicas int) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, StreamName)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return stream, err
	}
	stream, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: StreamName, Description: "Sallyport's audit records (sallyport.audit.v1.AuditRecord, protobuf). Read it; do not write to it.",
		Subjects: []string{subjects}, Storage: jetstream.FileStorage, Replicas: replicas, Retention: jetstream.LimitsPolicy,
		MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1, Discard: jetstream.DiscardNew, AllowAtomicPublish: true, AllowDirect: false,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another control plane made it meanwhile
		return js.Stream(ctx, StreamName)
	}
	return stream, err
}

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
		return errors.New("it forgets old records, and with them where its proxies stand (a limit is set)")
	case c.AllowMsgTTL || c.AllowRollup:
		return errors.New("it can be made to forget (allow_msg_ttl, allow_rollup_hdrs)")
	case c.Mirror != nil || len(c.Sources) > 0 || c.SubjectTransform != nil:
		return errors.New("it takes messages from other streams, or rewrites them (mirror, sources, subject_transform)")
	case len(c.Subjects) != 1 || c.Subjects[0] != subjects:
		return fmt.Errorf("its subjects are %q, not %q", c.Subjects, subjects)
	case c.Replicas < replicas:
		return fmt.Errorf("it is kept on %d servers, and %d are asked for: raise it with `nats stream update --replicas`, or ask for fewer", c.Replicas, replicas)
	}
	return nil
}

// Subject is where a record lies.
func Subject(r *auditv1.AuditRecord) string {
	return "sallyport.audit." + token(r.GetRegion()) + "." + token(r.GetProxy()) + "." + token(r.GetConnector()) + "." + decision(r.GetDecision().GetVerdict())
}

func decision(v auditv1.Verdict) string {
	switch v {
	case auditv1.Verdict_VERDICT_ALLOWED:
		return "allowed"
	case auditv1.Verdict_VERDICT_DENIED:
		return "denied"
	}
	return "-"
}

// maxToken is the longest name that is a part of a subject as it is.
const maxToken = 64

// token is a name as a part of a subject: none is "-", and two names are never the same part. Names of
// regions, proxies and connectors are words and hyphens; anything else came from outside and may not widen a
// subject, so it is told by its digest.
func token(s string) string {
	if s == "" {
		return "-"
	}
	plain := func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_'
	}
	if s != "-" && len(s) <= maxToken && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "~" + hex.EncodeToString(sum[:16])
}
