package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Last returns the position of the newest record, after which a Tail can begin.
func (s *Store) Last(ctx context.Context) (uint64, error) {
	m, err := ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.stream.GetLastMsgForSubject(ctx, subjects)
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		removed, err := s.lastRemoval(ctx)
		return removed.GetSequence(), err
	}
	if err != nil {
		return 0, fmt.Errorf("asking for the end of audit: %w", err)
	}
	return m.Sequence, nil
}

func (s *Store) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	info, err := ask(ctx, func(ctx context.Context) (*jetstream.StreamInfo, error) { return s.stream.Info(ctx) })
	if err == nil {
		s.clocks.heard(info)
	}
	return info, err
}

// Tail calls fn with each matching record that was stored after a sequence, in their order, then with each
// that is stored, until ctx ends, with nil, or fn fails. Zero stands for what is stored from now on. A fn
// that is slow slows nothing else.
func (s *Store) Tail(ctx context.Context, filter *adminv1.AuditFilter, after uint64, fn func(*adminv1.StoredRecord) error) error {
	read, err := NewFilter(filter)
	if err != nil {
		return err
	}
	config := jetstream.OrderedConsumerConfig{FilterSubjects: []string{read.pick()}, DeliverPolicy: jetstream.DeliverNewPolicy}
	if after > 0 {
		last, err := s.Last(ctx)
		if err != nil {
			return err
		}
		if after > last {
			return &core.Error{Code: core.InvalidArgument, Field: "after_sequence", Message: fmt.Sprintf("audit ends at %d, before the sequence to start after: it was restored from a backup, or the sequence is another's", last)}
		}
		removed, err := s.lastRemoval(ctx)
		if err != nil {
			return err
		}
		if after < removed.GetSequence() {
			return &core.Error{Code: core.InvalidArgument, Field: "after_sequence", Message: fmt.Sprintf("records up to %d were removed, because their time was over: begin after that, and know that those between are missed", removed.GetSequence())}
		}
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, after+1
	}
	consumer, err := s.js.OrderedConsumer(ctx, StreamName, config)
	if err != nil {
		return fmt.Errorf("following audit: %w", err)
	}
	defer s.release(consumer)
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("following audit: %w", err)
	}
	defer messages.Stop()
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	for {
		m, err := messages.Next()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("following audit: %w", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("following audit: %w", err)
		}
		r := Decode(m.Data(), meta.Sequence.Stream)
		match, err := s.matches(ctx, read, r.GetRecord())
		if err != nil {
			return fmt.Errorf("following audit: %w", err)
		}
		if !match {
			continue
		}
		if err := s.openPersonal(ctx, r.GetRecord()); err != nil {
			return fmt.Errorf("following audit: %w", err)
		}
		if err := fn(r); err != nil {
			return err
		}
	}
}
