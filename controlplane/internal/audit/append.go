package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Headers of a record: its identity.
const (
	generationHeader = "Sallyport-Spool"
	numberHeader     = "Sallyport-Number"
)

// maxBatch is the most records of one atomic batch: JetStream's limit.
const maxBatch = 1000

// appendTries bounds how often a batch is tried again because its acknowledgement was lost or another
// control plane stored some of it.
const appendTries = 5

// position is a proxy's last record in the stream.
type position struct {
	sequence   uint64
	generation string
	number     uint64
}

// Append stores consecutive records of a proxy's spool and returns the number up to which all of that
// generation are durable. What was stored before is acknowledged and not stored again; what would leave a
// gap is not stored, and the answer says from where to go on. Records carry the identity that the proxy's
// own credential gives, whatever they say. After an error it is not known what was stored: send the same again.
func (s *Store) Append(ctx context.Context, proxy, region, generation string, records []*auditv1.AuditRecord) (uint64, error) {
	for try := 1; ; try++ {
		last, err := s.last(ctx, proxy, region)
		if err != nil {
			return 0, err
		}
		have := uint64(0)
		if last.generation == generation {
			have = last.number
		}
		rest, err := follow(records, have)
		if err != nil {
			return 0, err
		}
		if len(rest) == 0 {
			return have, nil
		}
		err = s.store(ctx, proxy, region, generation, last.sequence, rest)
		if err == nil {
			return rest[len(rest)-1].GetNumber(), nil
		}
		// The fence did not hold, or the answer was lost: the stream says what is there.
		if try == appendTries || ctx.Err() != nil {
			return 0, err
		}
		select {
		case <-ctx.Done():
			return 0, err
		case <-time.After(time.Duration(try) * 20 * time.Millisecond):
		}
	}
}

// follow returns the records that come right after a number. None, where the first would leave a gap.
func follow(records []*auditv1.AuditRecord, have uint64) ([]*auditv1.AuditRecord, error) {
	if len(records) > maxBatch {
		return nil, fmt.Errorf("storing audit records: at most %d at once, not %d", maxBatch, len(records))
	}
	for i, r := range records {
		if r.GetNumber() != records[0].GetNumber()+uint64(i) || r.GetNumber() == 0 {
			return nil, errors.New("storing audit records: their numbers are not consecutive")
		}
	}
	for len(records) > 0 && records[0].GetNumber() <= have {
		records = records[1:]
	}
	if len(records) > 0 && records[0].GetNumber() != have+1 {
		return nil, nil
	}
	return records, nil
}

// fence picks all of one proxy's records, and only those.
func fence(proxy, region string) string {
	return "sallyport.audit." + token(region) + "." + token(proxy) + ".>"
}

// last asks where a proxy's records end. A stale answer does no harm: the fence would not hold.
func (s *Store) last(ctx context.Context, proxy, region string) (position, error) {
	m, err := s.stream.GetLastMsgForSubject(ctx, fence(proxy, region))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return position{}, nil
	}
	if err != nil {
		return position{}, fmt.Errorf("asking for a proxy's last audit record: %w", err)
	}
	number, err := strconv.ParseUint(m.Header.Get(numberHeader), 10, 64)
	if err != nil {
		return position{}, fmt.Errorf("the audit stream holds a record without a number, at %d: who wrote it?", m.Sequence)
	}
	return position{sequence: m.Sequence, generation: m.Header.Get(generationHeader), number: number}, nil
}

// store writes records as one batch, if the proxy's last record is still the one at a sequence.
func (s *Store) store(ctx context.Context, proxy, region, generation string, after uint64, records []*auditv1.AuditRecord) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	batch := nuid.Next()
	for i, r := range records {
		r.Proxy, r.Region, r.SpoolGeneration = proxy, region, generation
		data, err := proto.Marshal(r)
		if err != nil {
			return fmt.Errorf("encoding an audit record: %w", err)
		}
		m := &nats.Msg{Subject: Subject(r), Data: data, Header: nats.Header{
			generationHeader: {generation}, numberHeader: {strconv.FormatUint(r.GetNumber(), 10)},
		}}
		if i == 0 {
			m.Header["Nats-Expected-Last-Subject-Sequence"] = []string{strconv.FormatUint(after, 10)}
			m.Header["Nats-Expected-Last-Subject-Sequence-Subject"] = []string{fence(proxy, region)}
		}
		if len(records) > 1 {
			m.Header["Nats-Batch-Id"] = []string{batch}
			m.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
		}
		if i < len(records)-1 {
			if err := s.nc.PublishMsg(m); err != nil {
				return fmt.Errorf("publishing audit records: %w", err)
			}
			continue
		}
		if len(records) > 1 {
			m.Header["Nats-Batch-Commit"] = []string{"1"}
		}
		answer, err := s.nc.RequestMsgWithContext(ctx, m)
		if err != nil {
			return fmt.Errorf("waiting for the acknowledgement of audit records: %w", err)
		}
		return stored(answer.Data)
	}
	return nil
}

func stored(data []byte) error {
	var answer struct {
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return fmt.Errorf("reading the acknowledgement of audit records: %w", err)
	}
	if answer.Error != nil {
		return fmt.Errorf("the audit stream refused records: %s (%d)", answer.Error.Description, answer.Error.Code)
	}
	return nil
}
