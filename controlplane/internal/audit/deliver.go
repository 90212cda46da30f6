package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

const (
	// deliveryPrefix begins the names of durable consumers that control planes run themselves.
	deliveryPrefix = "exporter-"
	// ackWait is how long a record may be in hand before it is given to another; whoever has it says so before that.
	ackWait = 30 * time.Second
	// inHand bounds the records that are given out and not acknowledged.
	inHand = 20_000
)

// Delivery is a durable consumer of the stream: what is acknowledged is not given out again, and what is not is, to whichever
// control plane asks.
type Delivery struct {
	store    *Store
	consumer jetstream.Consumer
}

// DeliveryConfig says what is delivered. Made tells two of one name apart: the later one starts anew.
type DeliveryConfig struct {
	Name       string
	Made       string
	Connectors []string // none: all
	// Beginning and Since say where it starts; neither: with what is stored from now on.
	Beginning bool
	Since     time.Time
}

// Deliver finds a durable consumer or makes it.
func (s *Store) Deliver(ctx context.Context, c DeliveryConfig) (*Delivery, error) {
	config := jetstream.ConsumerConfig{
		Durable: deliveryPrefix + c.Name, Description: "Sallyport's audit exporter " + c.Name, DeliverPolicy: jetstream.DeliverNewPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxDeliver: -1, MaxAckPending: inHand, Metadata: map[string]string{"sallyport_made": c.Made},
	}
	switch {
	case c.Beginning:
		config.DeliverPolicy = jetstream.DeliverAllPolicy
	case !c.Since.IsZero():
		since := c.Since.Add(-s.clocks.known())
		config.DeliverPolicy, config.OptStartTime = jetstream.DeliverByStartTimePolicy, &since
	}
	for _, connector := range c.Connectors {
		config.FilterSubjects = append(config.FilterSubjects, "sallyport.audit.*.*."+token(connector)+".*")
	}
	old, err := ask(ctx, func(ctx context.Context) (jetstream.Consumer, error) {
		return s.stream.Consumer(ctx, config.Durable)
	})
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound):
	case err != nil:
		return nil, fmt.Errorf("asking for the consumer %s: %w", config.Durable, err)
	case old.CachedInfo().Config.Metadata["sallyport_made"] != c.Made:
		if err := s.EndDelivery(ctx, c.Name); err != nil {
			return nil, err
		}
	default:
		// Where it starts was settled when it was made.
		was := old.CachedInfo().Config
		if slices.Equal(was.FilterSubjects, config.FilterSubjects) {
			return &Delivery{s, old}, nil
		}
		config.DeliverPolicy, config.OptStartTime, config.OptStartSeq = was.DeliverPolicy, was.OptStartTime, was.OptStartSeq
	}
	consumer, err := s.stream.CreateOrUpdateConsumer(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("making the consumer %s: %w", config.Durable, err)
	}
	return &Delivery{s, consumer}, nil
}

// EndDelivery removes a durable consumer, if there is one.
func (s *Store) EndDelivery(ctx context.Context, name string) error {
	if err := s.stream.DeleteConsumer(ctx, deliveryPrefix+name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("removing the consumer %s: %w", deliveryPrefix+name, err)
	}
	return nil
}

// Deliveries are the names of the durable consumers that there are, each with how many records it has not acknowledged.
func (s *Store) Deliveries(ctx context.Context) (map[string]uint64, error) {
	all := map[string]uint64{}
	list := s.stream.ListConsumers(ctx)
	for info := range list.Info() {
		if name, ours := strings.CutPrefix(info.Name, deliveryPrefix); ours {
			all[name] = info.NumPending + uint64(info.NumAckPending)
		}
	}
	return all, list.Err()
}

// Delivered is a record in hand.
type Delivered struct {
	Message
	m jetstream.Msg
}

// Record returns the record, opened if what it says of its person is sealed and asked for; else without that.
func (s *Store) Record(ctx context.Context, m Message, personal bool) (*auditv1.AuditRecord, error) {
	r := Decode(m.Data, m.Sequence).GetRecord()
	if !personal {
		withoutPersonal(r)
		return r, nil
	}
	return r, s.openPersonal(ctx, r)
}

// Ack says that a record is done with. If that is not heard it is given out again.
func (d Delivered) Ack() error { return d.m.Ack() }

// Hold says that a record is still in hand.
func (d Delivered) Hold() error { return d.m.InProgress() }

// Release gives a record back, to be given out again at once.
func (d Delivered) Release() error { return d.m.Nak() }

// Fetch returns up to so many records, none if there are none for so long.
func (d *Delivery) Fetch(ctx context.Context, most int, wait time.Duration) ([]Delivered, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	batch, err := d.consumer.Fetch(most, jetstream.FetchContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("fetching audit: %w", err)
	}
	var all []Delivered
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return nil, fmt.Errorf("fetching audit: %w", err)
		}
		all = append(all, Delivered{Message{
			Sequence: meta.Sequence.Stream, Stored: meta.Timestamp, Data: m.Data(), CoreLength: m.Headers().Get(coreHeader), Head: m.Headers().Get(headHeader),
		}, m})
	}
	if err := batch.Error(); err != nil && !errors.Is(err, context.DeadlineExceeded) && len(all) == 0 {
		return nil, fmt.Errorf("fetching audit: %w", err)
	}
	return all, nil
}

// Message returns the record at a sequence.
func (s *Store) Message(ctx context.Context, sequence uint64) (Message, error) {
	m, err := ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) { return s.stream.GetMsg(ctx, sequence) })
	if err != nil {
		return Message{}, fmt.Errorf("reading audit record %d: %w", sequence, err)
	}
	return Message{Sequence: m.Sequence, Stored: m.Time, Data: m.Data, CoreLength: m.Header.Get(coreHeader), Head: m.Header.Get(headHeader)}, nil
}
