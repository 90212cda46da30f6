package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"sallyport.dev/controlplane/internal/core"
)

// ReaderConfig says what another system's durable consumer delivers.
type ReaderConfig struct {
	Durable  string
	Subjects []string // none: all
	// Beginning and Since say where it starts; neither: with what is stored from now on.
	Beginning bool
	Since     time.Time
}

// MakeReader makes a durable consumer for another system, which pulls records and acknowledges each.
func (s *Store) MakeReader(ctx context.Context, c ReaderConfig) error {
	config := jetstream.ConsumerConfig{
		Durable: c.Durable, Description: "made by sallyport audit consumers create", DeliverPolicy: jetstream.DeliverNewPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: inHand, FilterSubjects: c.Subjects,
	}
	switch {
	case c.Beginning:
		config.DeliverPolicy = jetstream.DeliverAllPolicy
	case !c.Since.IsZero():
		since := c.Since.Add(-s.clocks.known())
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	if err := checkSubjects(c.Subjects); err != nil {
		return err
	}
	if _, err := s.stream.CreateConsumer(ctx, config); err != nil {
		return fmt.Errorf("making the consumer %s: %w", c.Durable, err)
	}
	return nil
}

// checkSubjects refuses what is no subject of audit.
func checkSubjects(all []string) error {
	for _, subject := range all {
		parts := strings.Split(subject, ".")
		ok := len(parts) >= 3 && parts[0] == "sallyport" && parts[1] == "audit" && (len(parts) == 6 || len(parts) < 6 && parts[len(parts)-1] == ">")
		for i, part := range parts {
			plain := strings.IndexFunc(part, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '*' || r == '>' }) < 0
			ok = ok && part != "" && (plain || part == "*" || part == ">" && i == len(parts)-1)
		}
		if !ok {
			return &core.Error{Code: core.InvalidArgument, Field: "subjects", Message: fmt.Sprintf("%q is no subject of audit: write sallyport.audit.REGION.PROXY.CONNECTOR.DECISION, with * for any, such as sallyport.audit.*.*.*.denied", subject)}
		}
	}
	return nil
}

// RemoveReader ends one, if it is there.
func (s *Store) RemoveReader(ctx context.Context, durable string) error {
	if err := s.stream.DeleteConsumer(ctx, durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("removing the consumer %s: %w", durable, err)
	}
	return nil
}

// PauseReader has one deliver nothing for so long; it keeps its place.
func (s *Store) PauseReader(ctx context.Context, durable string, until time.Time) error {
	if _, err := s.stream.PauseConsumer(ctx, durable, until); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("pausing the consumer %s: %w", durable, err)
	}
	return nil
}

// ReaderLag is how many records one has not acknowledged.
func (s *Store) ReaderLag(ctx context.Context, durable string) (uint64, error) {
	c, err := ask(ctx, func(ctx context.Context) (jetstream.Consumer, error) { return s.stream.Consumer(ctx, durable) })
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("asking for the consumer %s: %w", durable, err)
	}
	return c.CachedInfo().NumPending + uint64(c.CachedInfo().NumAckPending), nil
}
