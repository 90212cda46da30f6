package audit

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Nearly all that the stream holds comes from proxies, and nearly all of a record is stored as it was sent. So a record of the ordinary form is not
// decoded: what decoding would check is checked, and its bytes are cut into what says whose it is, what it says of its person, and the rest. What
// differs from the form in anything is decoded and encoded, as the control plane's own records are; so the form need not be more than what proxies send.

// Take is Append for records as a proxy sends them, encoded.
func (s *Store) Take(ctx context.Context, proxy, region, generation string, records [][]byte) (uint64, error) {
	return s.add(ctx, proxy, generation, func(ctx context.Context) ([]message, error) {
		return s.taken(ctx, newCutter(proxy, region, generation, records), records)
	})
}

// taken makes records' messages.
func (s *Store) taken(ctx context.Context, c *cutter, records [][]byte) ([]message, error) {
	all, most := make([]message, len(records)), s.mostOfOne()
	var places []int // of those that are decoded
	var decoded []*auditv1.AuditRecord
	for i, b := range records {
		m, plain, err := s.cut(ctx, c, b)
		if err != nil {
			return nil, err
		}
		if plain && m.size() <= most {
			all[i] = m
			continue
		}
		r := &auditv1.AuditRecord{}
		if err := proto.Unmarshal(b, r); err != nil {
			return nil, fmt.Errorf("number %d of %d is no record: %w", i+1, len(records), err)
		}
		places, decoded = append(places, i), append(decoded, r)
	}
	if err := s.keepValues(ctx, c.proxy, c.generation, decoded); err != nil {
		return nil, err
	}
	for i, r := range decoded {
		r.Proxy, r.Region, r.SpoolGeneration = c.proxy, c.region, c.generation
		m, err := s.encode(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", r.GetNumber(), err)
		}
		all[places[i]] = m
	}
	return all, consecutive(all)
}

// The fields of a record that are not stored where they come, or that are looked at.
const (
	fieldProxy      protowire.Number = 1
	fieldGeneration protowire.Number = 2
	fieldNumber     protowire.Number = 3
	fieldRegion     protowire.Number = 4
	fieldPersonID   protowire.Number = 9
	fieldClient     protowire.Number = 11
	fieldAddress    protowire.Number = 4 // of the client
	fieldConnector  protowire.Number = 12
	fieldArguments  protowire.Number = 14
	fieldResult     protowire.Number = 15
	fieldDecision   protowire.Number = 16
	fieldVerdict    protowire.Number = 1 // of the decision
	fieldErased     protowire.Number = 25
	fieldDigest     protowire.Number = 61
	fieldSalt       protowire.Number = 70
)

// plainFields are those of a record of the ordinary form: all that proxies set. What the store has to do with one, it does in cut too.
// plainPayload are those of its arguments and result: a whole value is taken out of these.
var (
	plainFields = []protowire.Number{
		fieldProxy, fieldGeneration, fieldNumber, fieldRegion, 5, 6, 7, 8, fieldPersonID, 10, fieldClient, fieldConnector, 13, fieldArguments, fieldResult,
		fieldDecision, 17, 18, 19, 20, 21, 22, 23, 26, 27, 28, 29, 62, 63, 64, 65, 66, 67, 68, 69,
	}
	plainPayload = []protowire.Number{1, 2, 3, 4, 5, 50}
)

var plainRecord = func() *form {
	f := formOf((&auditv1.AuditRecord{}).ProtoReflect().Descriptor(), plainFields)
	for _, n := range []protowire.Number{fieldProxy, fieldGeneration, fieldNumber, fieldRegion} {
		f[n].list = true // a spool puts its own behind what there is, and the last counts
	}
	payload := formOf((&auditv1.Payload{}).ProtoReflect().Descriptor(), plainPayload)
	f[fieldArguments].message, f[fieldResult].message = payload, payload
	return f
}()

const (
	saltSize = 32
	// cutRoom is more than the store puts to a record beside whose it is.
	cutRoom = 128
)

// cutter makes messages of the records of one delivery.
type cutter struct {
	proxy, region, generation string
	identity                  []byte // these, encoded
	salts                     []byte // for the records to come
	cores, behinds            []byte // of the messages made
	// The last message's subject, and of what it is made.
	subject, connector string
	verdict            auditv1.Verdict
}

func newCutter(proxy, region, generation string, records [][]byte) *cutter {
	c := &cutter{proxy: proxy, region: region, generation: generation, salts: make([]byte, saltSize*len(records))}
	_, _ = rand.Read(c.salts) // never fails
	c.identity = appendField(c.identity, fieldProxy, []byte(proxy))
	c.identity = appendField(c.identity, fieldGeneration, []byte(generation))
	c.identity = appendField(c.identity, fieldRegion, []byte(region))
	size := 0
	for _, b := range records {
		size += len(b) + len(c.identity) + cutRoom
	}
	c.cores, c.behinds = make([]byte, 0, size), make([]byte, 0, size/2)
	return c
}

// cut makes the message of a record, if that is of the ordinary form.
func (s *Store) cut(ctx context.Context, c *cutter, b []byte) (m message, plain bool, err error) {
	var (
		seen                       fieldSet
		person, connector          []byte
		address, arguments, result []byte // with their tags
		verdict                    auditv1.Verdict
		from                       = len(c.cores)
	)
	for len(b) > 0 {
		f, n := plainRecord.next(b, &seen)
		if n == 0 {
			c.cores = c.cores[:from]
			return m, false, nil
		}
		whole := b[:n]
		b = b[n:]
		switch f.number {
		case fieldProxy, fieldGeneration, fieldRegion:
			continue
		case fieldNumber:
			m.number = f.varint
			continue
		case fieldArguments:
			arguments = whole
			continue
		case fieldResult:
			result = whole
			continue
		case fieldClient:
			var rest []byte
			address, rest = apart(f.value, fieldAddress)
			c.cores = appendField(c.cores, fieldClient, rest)
			continue
		case fieldPersonID:
			person = f.value
		case fieldConnector:
			connector = f.value
		case fieldDecision:
			verdict = auditv1.Verdict(varint(f.value, fieldVerdict)) //nolint:gosec // as decoding has it
		}
		c.cores = append(c.cores, whole...)
	}
	c.cores = append(c.cores, c.identity...)
	c.cores = protowire.AppendVarint(protowire.AppendTag(c.cores, fieldNumber, protowire.VarintType), m.number)
	if address != nil || arguments != nil || result != nil {
		kept, digest, err := s.behind(ctx, string(person), s.seal, c.personal(address, arguments, result))
		if err != nil {
			return m, false, err
		}
		if m.behind = kept; kept == nil {
			c.cores = protowire.AppendVarint(protowire.AppendTag(c.cores, fieldErased, protowire.VarintType), 1)
		}
		c.cores = appendField(c.cores, fieldDigest, digest[:])
	}
	m.core, m.subject = slices.Clip(c.cores[from:]), c.subjectOf(connector, verdict)
	return m, true, nil
}

// personal is what a record says of its person, as a record of its own.
func (c *cutter) personal(address, arguments, result []byte) []byte {
	from := len(c.behinds)
	if address != nil {
		c.behinds = appendField(c.behinds, fieldClient, address)
	}
	c.behinds = append(append(c.behinds, arguments...), result...)
	c.behinds = appendField(c.behinds, fieldSalt, c.salts[:saltSize])
	c.salts = c.salts[saltSize:]
	return slices.Clip(c.behinds[from:])
}

// subjectOf is where a record lies: mostly where the one before it does.
func (c *cutter) subjectOf(connector []byte, verdict auditv1.Verdict) string {
	if c.subject == "" || verdict != c.verdict || string(connector) != c.connector {
		c.connector, c.verdict = string(connector), verdict
		c.subject = Subject(&auditv1.AuditRecord{Region: c.region, Proxy: c.proxy, Connector: c.connector, Decision: &auditv1.Decision{Verdict: verdict}})
	}
	return c.subject
}

func appendField(b []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), value)
}
