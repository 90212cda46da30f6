// Package raw stores bytes in a JetStream stream with nothing added: what the measurements hold the engine and the SCIM
// server against.
package raw

import (
	"context"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"sallyport.dev/controlplane/internal/journal"
)

// MaxBatch is the most messages that one batch of a measurement has.
const MaxBatch = 500

const subject = "bench.raw."

// Stream is a stream of its own. It is not safe for concurrent use.
type Stream struct {
	nc *nats.Conn
	n  int
}

// Open makes the stream.
func Open(ctx context.Context, nc *nats.Conn) (*Stream, error) {
	if err := journal.MakeRawStream(ctx, nc, "BENCH_RAW", subject+">"); err != nil {
		return nil, err
	}
	return &Stream{nc: nc}, nil
}

// Publish stores messages and returns when they are durable: one alone as it is, several as one atomic batch.
func (s *Stream) Publish(ctx context.Context, all ...[]byte) error {
	id := nuid.Next()
	for i, data := range all {
		s.n++
		m := &nats.Msg{Subject: subject + strconv.Itoa(s.n), Data: data}
		if len(all) > 1 {
			m.Header = nats.Header{"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)}}
		}
		if i < len(all)-1 {
			if err := s.nc.PublishMsg(m); err != nil {
				return fmt.Errorf("publishing raw: %w", err)
			}
			continue
		}
		if len(all) > 1 {
			m.Header["Nats-Batch-Commit"] = []string{"1"}
		}
		if _, err := s.nc.RequestMsgWithContext(ctx, m); err != nil {
			return fmt.Errorf("publishing raw: %w", err)
		}
	}
	return nil
}
