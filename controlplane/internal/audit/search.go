package audit

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// window is how many positions of the stream one step of a search reads.
const window = 8192

// maxWindows bounds the work of one search: it then answers with what it found and a cursor to go on.
const maxWindows = 128

// Search returns matching records, newest first, and the cursor with which to go on; empty: nothing older
// matches. Reading goes backwards in windows; what a subject tells is picked by the server.
func (s *Store) Search(ctx context.Context, filter *adminv1.AuditFilter, limit int, cursor string) ([]*adminv1.StoredRecord, string, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("searching audit: %w", err)
	}
	below := info.State.LastSeq + 1
	if cursor != "" {
		if below, err = strconv.ParseUint(cursor, 10, 64); err != nil {
			return nil, "", errors.New("searching audit: the page token is not one that this server gave")
		}
	}
	var found []*adminv1.StoredRecord
	for range maxWindows {
		if below <= info.State.FirstSeq || below <= 1 {
			return found, "", nil
		}
		from := max(info.State.FirstSeq, 1)
		if below > window && below-window > from {
			from = below - window
		}
		records, oldest, err := s.read(ctx, filter, from, below)
		if err != nil {
			return nil, "", err
		}
		for i := len(records) - 1; i >= 0; i-- {
			if len(found) == limit {
				return found, strconv.FormatUint(found[limit-1].GetSequence(), 10), nil
			}
			found = append(found, records[i])
		}
		below = from
		if since := filter.GetSince(); since != nil && !oldest.IsZero() && oldest.Before(since.AsTime().Add(-clockSlack)) {
			return found, "", nil
		}
	}
	return found, strconv.FormatUint(below, 10), nil
}

// clockSlack is how much older than their storing records may be, at most, for a search by time to stop:
// a proxy that was cut off delivers late, never early.
const clockSlack = time.Minute

// read returns the matching records of [from, below), oldest first, and when the oldest position was stored.
func (s *Store) read(ctx context.Context, filter *adminv1.AuditFilter, from, below uint64) ([]*adminv1.StoredRecord, time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var oldest time.Time
	if m, err := s.stream.GetMsg(ctx, from); err == nil {
		oldest = m.Time
	}
	consumer, err := s.js.OrderedConsumer(ctx, StreamName, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, FilterSubjects: []string{pick(filter)},
	})
	if err != nil {
		return nil, oldest, fmt.Errorf("reading audit: %w", err)
	}
	defer s.forget(consumer)
	pending := consumer.CachedInfo().NumPending
	var records []*adminv1.StoredRecord
	for pending > 0 {
		batch, err := consumer.Fetch(int(min(pending, 1000)), jetstream.FetchMaxWait(2*time.Second))
		if err != nil {
			return nil, oldest, fmt.Errorf("reading audit: %w", err)
		}
		got := 0
		for m := range batch.Messages() {
			got++
			meta, err := m.Metadata()
			if err != nil {
				return nil, oldest, fmt.Errorf("reading audit: %w", err)
			}
			if meta.Sequence.Stream >= below {
				return records, oldest, nil
			}
			r, err := decode(m.Data(), meta.Sequence.Stream)
			if err != nil {
				return nil, oldest, err
			}
			if matches(filter, r.GetRecord()) {
				records = append(records, r)
			}
			pending = meta.NumPending
		}
		if err := batch.Error(); err != nil {
			return nil, oldest, fmt.Errorf("reading audit: %w", err)
		}
		if got == 0 {
			if ctx.Err() != nil {
				return nil, oldest, fmt.Errorf("reading audit: %w", ctx.Err())
			}
			return nil, oldest, errors.New("reading audit: the stream did not answer in time")
		}
	}
	return records, oldest, nil
}

// forget removes a consumer that has done its work, so that it need not time out.
func (s *Store) forget(c jetstream.Consumer) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if info := c.CachedInfo(); info != nil {
		if err := s.stream.DeleteConsumer(ctx, info.Name); err != nil {
			s.log.Debug("a consumer of audit could not be removed; it times out", "error", err)
		}
	}
}

func decode(data []byte, sequence uint64) (*adminv1.StoredRecord, error) {
	r := &auditv1.AuditRecord{}
	if err := proto.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("reading audit record %d: %w", sequence, err)
	}
	return &adminv1.StoredRecord{Sequence: sequence, Record: r}, nil
}

// pick is the subject that all matching records have.
func pick(f *adminv1.AuditFilter) string {
	part := func(s string) string {
		if s == "" {
			return "*"
		}
		return token(s)
	}
	verdict := "*"
	if f.GetVerdict() != auditv1.Verdict_VERDICT_UNSPECIFIED {
		verdict = decision(f.GetVerdict())
	}
	return "sallyport.audit." + part(f.GetRegion()) + ".*." + part(f.GetConnector()) + "." + verdict
}

// matches decides on the record itself: a subject is only near to what it stands for.
func matches(f *adminv1.AuditFilter, r *auditv1.AuditRecord) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	at := r.GetAt().AsTime()
	return is(f.GetPerson(), r.GetPersonId()) && is(f.GetConnector(), r.GetConnector()) && is(f.GetTool(), r.GetTool()) &&
		is(f.GetRegion(), r.GetRegion()) && is(f.GetCallId(), r.GetCallId()) &&
		(f.GetVerdict() == auditv1.Verdict_VERDICT_UNSPECIFIED || f.GetVerdict() == r.GetDecision().GetVerdict()) &&
		(f.GetSince() == nil || !at.Before(f.GetSince().AsTime())) && (f.GetUntil() == nil || at.Before(f.GetUntil().AsTime()))
}

// Tail calls fn with each matching record that was stored after a sequence, then with each that is stored,
// until ctx ends, with nil, or fn fails. Zero stands for what is stored from now on.
func (s *Store) Tail(ctx context.Context, filter *adminv1.AuditFilter, after uint64, fn func(*adminv1.StoredRecord) error) error {
	config := jetstream.OrderedConsumerConfig{FilterSubjects: []string{pick(filter)}, DeliverPolicy: jetstream.DeliverNewPolicy}
	if after > 0 {
		config.DeliverPolicy, config.OptStartSeq = jetstream.DeliverByStartSequencePolicy, after+1
	}
	consumer, err := s.js.OrderedConsumer(ctx, StreamName, config)
	if err != nil {
		return fmt.Errorf("following audit: %w", err)
	}
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
		r, err := decode(m.Data(), meta.Sequence.Stream)
		if err != nil {
			return err
		}
		if !matches(filter, r.GetRecord()) {
			continue
		}
		if err := fn(r); err != nil {
			return err
		}
	}
}
