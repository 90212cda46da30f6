package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/proof"
)

// CheckpointStream keeps the signed checkpoints, and CheckpointSubject is where they lie.
const (
	CheckpointStream  = "AUDIT_CHECKPOINTS"
	CheckpointSubject = "sallyport.audit-checkpoint"
)

// checkpointMost bounds the records between two checkpoints, and with them the work of one.
const checkpointMost = 100_000

// ErrTailMissing: the stream ends before what was signed.
var ErrTailMissing = errors.New("records that were signed are missing at the end of the audit stream: was it restored from a backup, or did somebody delete them?")

// openSigned finds a stream of what is signed, or makes it.
func openSigned(ctx context.Context, js jetstream.JetStream, replicas int, name, subject, holds string) (jetstream.Stream, error) {
	stream, err := js.Stream(ctx, name)
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return stream, err
	}
	stream, err = js.CreateStream(ctx, jetstream.StreamConfig{
		Name: name, Description: holds + " Read it; do not write to it.",
		Subjects: []string{subject}, Storage: jetstream.FileStorage, Replicas: replicas, Retention: jetstream.LimitsPolicy,
		Discard: jetstream.DiscardNew, DenyPurge: true, DenyDelete: true, AllowDirect: false,
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another control plane made it meanwhile
		return js.Stream(ctx, name)
	}
	return stream, err
}

// Checkpoint signs what the stream holds now, and returns the newest checkpoint. Where nothing was stored since the last, it
// signs again only if asked to. Of several control planes at once one does.
func (s *Store) Checkpoint(ctx context.Context, again bool) (*auditv1.Checkpoint, error) {
	for {
		c, more, err := s.checkpoint(ctx, again)
		if err != nil {
			return nil, fmt.Errorf("signing a checkpoint of audit: %w", err)
		}
		if !more {
			return c, nil
		}
	}
}

func (s *Store) checkpoint(ctx context.Context, again bool) (c *auditv1.Checkpoint, more bool, err error) {
	if s.key == nil {
		return nil, false, errors.New("there is no key to sign with")
	}
	last, position, err := s.lastCheckpoint(ctx)
	if err != nil {
		return nil, false, err
	}
	at := s.clocks.now()
	if before := last.GetAt().AsTime(); last != nil && before.After(at) {
		at = before // a clock went back: an export by time begins and ends at checkpoints, whose times do not
	}
	end, err := s.Last(ctx)
	if err != nil {
		return nil, false, err
	}
	switch {
	case end < last.GetSequence():
		return nil, false, ErrTailMissing
	case end == last.GetSequence() && last != nil && !again:
		return last, false, nil
	}
	tree, err := proof.NewTree(last)
	if err != nil {
		return nil, false, err
	}
	c = &auditv1.Checkpoint{Sequence: last.GetSequence()}
	for _, leaf := range s.recent.next(c.Sequence, int(min(checkpointMost, end-c.Sequence))) {
		if err := tree.Append(leaf[:]); err != nil {
			return nil, false, err
		}
		c.Sequence++
	}
	if more = c.Sequence < end; more && c.Sequence-last.GetSequence() < checkpointMost {
		err = s.Read(ctx, c.Sequence, func(m Message) error {
			core, err := proof.Core(m.Data, m.CoreLength)
			if err != nil {
				return fmt.Errorf("message %d: %w", m.Sequence, err)
			}
			c.Sequence = m.Sequence
			if err := tree.Append(proof.Leaf(core)); err != nil {
				return err
			}
			if more = tree.Size()-last.GetSize() >= checkpointMost && m.Sequence < end; more || m.Sequence >= end {
				return ErrStop
			}
			return nil
		})
		if err != nil {
			return nil, false, err
		}
	}
	c.Size, c.Root, c.Subtrees = tree.Size(), tree.Root(), tree.Subtrees()
	if c.At = timestamppb.New(at); more { // what follows was stored before at, too
		c.At = last.GetAt()
		if c.At == nil {
			c.At = timestamppb.New(time.Unix(0, 0))
		}
	}
	proof.SignCheckpoint(s.key, c)
	data, err := proto.Marshal(c)
	if err != nil {
		return nil, false, err
	}
	_, err = s.js.PublishMsg(ctx, &nats.Msg{Subject: CheckpointSubject, Data: data}, jetstream.WithExpectLastSequence(position))
	var refused *jetstream.APIError
	if errors.As(err, &refused) && (refused.ErrorCode == 10071 || refused.ErrorCode == 10164) {
		// Another control plane did it meanwhile.
		c, _, err = s.lastCheckpoint(ctx)
		return c, false, err
	}
	return c, more, err
}

// lastCheckpoint returns the newest checkpoint and its place on its stream; none: nil and 0.
func (s *Store) lastCheckpoint(ctx context.Context) (*auditv1.Checkpoint, uint64, error) {
	m, err := ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.checkpoints.GetLastMsgForSubject(ctx, CheckpointSubject)
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	c := &auditv1.Checkpoint{}
	return c, m.Sequence, proto.Unmarshal(m.Data, c)
}

// checkpointAt returns the checkpoint at a place of its stream; nil: there is none.
func (s *Store) checkpointAt(ctx context.Context, place uint64) (*auditv1.Checkpoint, error) {
	m, err := ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) { return s.checkpoints.GetMsg(ctx, place) })
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	c := &auditv1.Checkpoint{}
	return c, proto.Unmarshal(m.Data, c)
}

// RunCheckpoints signs a checkpoint every so often, if there is something to sign, until ctx ends.
func (s *Store) RunCheckpoints(ctx context.Context, every time.Duration) {
	failing := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every):
		}
		_, err := s.Checkpoint(ctx, false)
		if err != nil && ctx.Err() == nil && err.Error() != failing {
			s.log.ErrorContext(ctx, "audit is not signed at the moment; it is tried again", "error", err)
		}
		failing = ""
		if err != nil {
			failing = err.Error()
		}
	}
}
