// Package audit keeps the audit records: a JetStream stream to which each proxy's records are appended in
// their order, each once, and from which they are searched and followed.
//
// A record is known by (proxy, spool generation, number). A batch of a proxy is fenced by the position of
// that proxy's last record, so that duplicates, gaps and disorder are one check, over an outage of any
// length and whichever control plane stores it. The package changes no record.
package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// StreamName is the stream that consumers read. Subjects are
// sallyport.audit.<region>.<proxy>.<connector>.<decision>, with "-" where a record has none.
const StreamName = "AUDIT"

const subjects = "sallyport.audit.*.*.*.*"

// Config is how the store is kept.
type Config struct {
	// Replicas is how many servers keep the stream. Default 1.
	Replicas int
	Log      *slog.Logger
}

// Store is the open stream. It is safe for concurrent use.
type Store struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	log    *slog.Logger
}

// Open finds the stream or makes it.
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
	stream, err := js.Stream(ctx, StreamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		stream, err = js.CreateStream(ctx, jetstream.StreamConfig{
			Name: StreamName, Description: "Sallyport's audit records (sallyport.audit.v1.AuditRecord, protobuf). Read it; do not write to it.",
			Subjects: []string{subjects}, Storage: jetstream.FileStorage, Replicas: c.Replicas, Retention: jetstream.LimitsPolicy,
			MaxMsgs: -1, MaxBytes: -1, Discard: jetstream.DiscardNew, AllowAtomicPublish: true, DenyPurge: true, AllowDirect: false,
		})
	}
	if err != nil {
		return nil, fmt.Errorf("opening the audit stream: %w", err)
	}
	return &Store{nc: nc, js: js, stream: stream, log: c.Log}, nil
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

// token is a text as a part of a subject. Names of regions, proxies and connectors are words and hyphens;
// anything else came from outside and may not widen a subject.
func token(s string) string {
	if s == "" {
		return "-"
	}
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' {
			return r
		}
		return '_'
	}, s[:min(len(s), 128)])
}
