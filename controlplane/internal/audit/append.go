package audit

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"google.golang.org/protobuf/proto"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/audit/proof"
)

// Headers of a record: how many bytes its core has, and, in the last of a batch, which is the only one at which a proxy's
// records can end, its identity, where the records before those of its generation end, and the signature over where the
// proxy's chain stands.
const (
	coreHeader       = "Sallyport-Core"
	generationHeader = "Sallyport-Spool"
	numberHeader     = "Sallyport-Number"
	beforeHeader     = "Sallyport-Before"
	headHeader       = "Sallyport-Head"
)

// Headers of JetStream's.
const (
	batchHeader         = "Nats-Batch-Id"
	batchSequenceHeader = "Nats-Batch-Sequence"
	batchCommitHeader   = "Nats-Batch-Commit"
	expectedHeader      = jetstream.ExpectedLastSubjSeqHeader
	expectedOfHeader    = "Nats-Expected-Last-Subject-Sequence-Subject"
)

const (
	// batchRecords and batchBytes bound one atomic batch. A batch costs JetStream some milliseconds, however few are in it.
	batchRecords = 5000 // which the embedded server takes
	batchBytes   = 8 << 20
	// leastRecords are what every server takes that is not told otherwise.
	leastRecords = 1000
	// headerRoom is what subject and headers of a message take at most.
	headerRoom = 1024
	// firstWait and lastWait are the least and the most that one try waits for its acknowledgement, and waitPerRecord what each record
	// of it adds.
	firstWait     = 400 * time.Millisecond
	lastWait      = 3 * time.Second
	waitPerRecord = 500 * time.Microsecond
	// appendWithin bounds an Append whose context has no deadline.
	appendWithin = 15 * time.Second
	// maxRuns bounds how far back a spool generation is looked for. One that was not among so many is new.
	maxRuns = 128
	// maxKnown bounds the proxies whose position is kept in memory.
	maxKnown = 10_000
)

// Errors of Append's arguments.
var (
	// ErrGeneration: it is not a name that a spool has.
	ErrGeneration = errors.New("a spool generation is 1 to 64 letters, digits and hyphens")
	// ErrNumbers: the records are not consecutive.
	ErrNumbers = errors.New("the records' numbers are not consecutive from 1 on")
)

// errOvertaken: the proxy's last record is not, or not yet, the one that was expected. errLost: the fate of a
// batch is not known. errTooMany: the server takes no batch of so many.
var (
	errOvertaken = errors.New("others store records of the same proxy")
	errLost      = errors.New("no acknowledgement came")
	errTooMany   = errors.New("the NATS server takes no batch of so many records")
)

var generationPattern = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// position is a proxy's last record in the stream. Records of one generation that follow each other are a
// run; before is the last record ahead of the run, so that earlier generations can be found. The digest is of the
// record's core. All zero: none. A record that was removed when its time was over has no sequence.
type position struct {
	sequence   uint64
	generation string
	number     uint64
	before     uint64
	digest     proof.Digest
	version    uint64 // of a change that was removed
}

// Append stores consecutive records of a proxy's spool and returns the number up to which all of that
// generation are durable. What was stored before is acknowledged and not stored again; what would leave a
// gap is not stored, and the answer says after which number to go on. A new generation begins at 1. The
// records become the store's, and get the identity that the proxy's own credential gives, whatever they say.
// After an error it is not known what was stored: send the same again.
func (s *Store) Append(ctx context.Context, proxy, region, generation string, records []*auditv1.AuditRecord) (uint64, error) {
	return s.add(ctx, proxy, generation, func(ctx context.Context) ([]message, error) {
		return s.messages(ctx, proxy, region, generation, records)
	})
}

// add stores the messages that are made by a function.
func (s *Store) add(ctx context.Context, proxy, generation string, made func(context.Context) ([]message, error)) (uint64, error) {
	if proxy == "" {
		return 0, errors.New("storing audit records: they belong to no proxy")
	}
	if !generationPattern.MatchString(generation) {
		return 0, fmt.Errorf("storing audit records: %w", ErrGeneration)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, appendWithin)
		defer cancel()
	}
	messages, err := made(ctx)
	acknowledged := uint64(0)
	if err == nil {
		acknowledged, err = s.append(ctx, proxy, generation, messages)
	}
	if err != nil {
		return 0, fmt.Errorf("storing audit records of %s: %w", token(proxy), err)
	}
	return acknowledged, nil
}

// message is a record on its way: its core, to which the digest of the one before is added, and what lies behind it.
type message struct {
	number       uint64
	subject      string
	core, behind []byte
}

func (m message) size() int { return len(m.core) + proof.PreviousRoom + len(m.behind) }

func (s *Store) messages(ctx context.Context, proxy, region, generation string, records []*auditv1.AuditRecord) ([]message, error) {
	all := make([]message, len(records))
	for i, r := range records {
		r.Proxy, r.Region, r.SpoolGeneration = proxy, region, generation
		m, err := s.encode(ctx, r)
		if err != nil {
			return nil, fmt.Errorf("record %d: %w", r.GetNumber(), err)
		}
		all[i] = m
	}
	return all, consecutive(all)
}

// consecutive tells whether messages are numbered one by one.
func consecutive(all []message) error {
	for i, m := range all {
		if m.number == 0 || i > 0 && m.number != all[i-1].number+1 {
			return ErrNumbers
		}
	}
	return nil
}

// mostOfOne is how many bytes a record's message may have.
func (s *Store) mostOfOne() int { return int(s.nc.MaxPayload()) - headerRoom }

// encode makes a record's message. From one that is too large goes what is largest, and it says so: it must not stand in
// the way of all that come after it.
func (s *Store) encode(ctx context.Context, r *auditv1.AuditRecord) (message, error) {
	most := s.mostOfOne()
	arguments, result, address := r.GetArguments(), r.GetResult(), r.GetClient().GetAddress()
	m, err := s.divide(ctx, r)
	if err != nil || m.size() <= most {
		return m, err
	}
	for _, p := range []*auditv1.Payload{arguments, result} {
		if p != nil {
			p.Head, p.Truncated = nil, true
		}
	}
	r.Arguments, r.Result, r.Groups, r.Details = arguments, result, nil, nil
	if r.Client != nil {
		r.Client.Address = address
	}
	r.Error = fmt.Sprintf("this record had %d bytes, more than the control plane can keep; groups and payloads were left out", m.size())
	if m, err = s.divide(ctx, r); err == nil && m.size() > most {
		err = fmt.Errorf("it has %d bytes, of which at most %d can be kept: raise NATS's max_payload", m.size(), most)
	}
	return m, err
}

func (s *Store) divide(ctx context.Context, r *auditv1.AuditRecord) (m message, err error) {
	m = message{number: r.GetNumber(), subject: Subject(r)}
	if m.behind, err = s.split(ctx, r); err == nil {
		m.core, err = proto.Marshal(r)
	}
	return m, err
}

// append stores messages chunk by chunk. What an error leaves open is asked of the stream.
func (s *Store) append(ctx context.Context, proxy, generation string, messages []message) (uint64, error) {
	s.noteClocks(ctx, messages)
	end, have, err := s.find(ctx, proxy, generation, true)
	wait, pause := firstWait, 10*time.Millisecond
	for {
		if err == nil {
			messages = after(messages, have)
			switch {
			case len(messages) > 0 && messages[0].number == have+1:
			case end.fresh:
				return have, nil
			default:
				// Another control plane may have stored more: a proxy is never told less than it was before.
				end, have, err = s.find(ctx, proxy, generation, false)
				continue
			}
			chunk := first(messages, int(s.most.Load()))
			var stored position
			if stored, err = s.store(ctx, wait, proxy, generation, end.position, chunk); err == nil {
				s.remember(proxy, stored)
				end, have = tip{stored, true}, stored.number
				wait, pause = firstWait, 10*time.Millisecond
				continue
			}
			if errors.Is(err, errTooMany) && len(chunk) > leastRecords {
				s.most.Store(leastRecords)
				err = nil
				continue
			}
			s.forget(proxy)
			if !errors.Is(err, errOvertaken) && !errors.Is(err, errLost) {
				return 0, err
			}
			wait = min(2*wait, lastWait)
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-time.After(pause):
		}
		pause = min(2*pause, 500*time.Millisecond)
		end, have, err = s.find(ctx, proxy, generation, false)
	}
}

// after returns the messages with higher numbers.
func after(messages []message, have uint64) []message {
	for len(messages) > 0 && messages[0].number <= have {
		messages = messages[1:]
	}
	return messages
}

// first returns as many messages as one batch takes, of which the server takes so many.
func first(messages []message, most int) []message {
	bytes := 0
	for i, m := range messages {
		if bytes += m.size(); i == most || i > 0 && bytes > batchBytes {
			return messages[:i]
		}
	}
	return messages
}

// fence picks all of one proxy's records, and only those.
func fence(proxy string) string { return "sallyport.audit.*." + token(proxy) + ".>" }

// tip is where a proxy's records end; fresh, if the stream was asked for it.
type tip struct {
	position
	fresh bool
}

// find returns where a proxy's records end, and the last number of a generation. What is remembered may be
// old: then the fence does not hold.
func (s *Store) find(ctx context.Context, proxy, generation string, remembered bool) (tip, uint64, error) {
	if remembered {
		s.mu.Lock()
		p, ok := s.known[proxy]
		s.mu.Unlock()
		if ok && p.generation == generation {
			return tip{p, false}, p.number, nil
		}
	}
	m, err := ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		return s.stream.GetLastMsgForSubject(ctx, fence(proxy))
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		removed, err := s.removedEnd(ctx, proxy)
		if err != nil || removed.generation != generation {
			return tip{removed, true}, 0, err
		}
		return tip{removed, true}, removed.number, nil
	}
	if err != nil {
		return tip{}, 0, fmt.Errorf("asking for its last record: %w", err)
	}
	last, err := read(m)
	if err != nil {
		return tip{}, 0, err
	}
	end := tip{last, true}
	for p, runs := last, 0; ; runs++ {
		if p.generation == generation {
			return end, p.number, nil
		}
		if p.before == 0 || runs == maxRuns {
			return end, 0, nil
		}
		m, err := s.at(ctx, p.before)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return end, 0, nil
		}
		if err != nil {
			return tip{}, 0, fmt.Errorf("asking for its earlier records: %w", err)
		}
		if p, err = read(m); err != nil {
			return tip{}, 0, err
		}
	}
}

// at returns the message at a position.
func (s *Store) at(ctx context.Context, sequence uint64) (*jetstream.RawStreamMsg, error) {
	return ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) { return s.stream.GetMsg(ctx, sequence) })
}

func read(m *jetstream.RawStreamMsg) (position, error) {
	number, err := strconv.ParseUint(m.Header.Get(numberHeader), 10, 64)
	before, err2 := strconv.ParseUint(m.Header.Get(beforeHeader), 10, 64)
	if err != nil || err2 != nil || before >= m.Sequence {
		return position{}, fmt.Errorf("the audit stream holds a record without a place, at %d: who wrote it?", m.Sequence)
	}
	core, err := proof.Core(m.Data, m.Header.Get(coreHeader))
	if err != nil {
		return position{}, fmt.Errorf("the audit stream holds a record that cannot be read, at %d: %w", m.Sequence, err)
	}
	return position{sequence: m.Sequence, generation: m.Header.Get(generationHeader), number: number, before: before, digest: sha256.Sum256(core)}, nil
}

func (s *Store) remember(proxy string, p position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.known[proxy]; !there && len(s.known) >= maxKnown {
		clear(s.known)
	}
	s.known[proxy] = p
}

func (s *Store) forget(proxy string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, proxy)
}

// store writes records as one batch, if the proxy's last record is still the one at the tip, and returns
// where its records end then.
func (s *Store) store(ctx context.Context, wait time.Duration, proxy, generation string, tip position, records []message) (position, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+time.Duration(len(records))*waitPerRecord)
	defer cancel()
	last := len(records) - 1
	end := position{generation: generation, number: records[last].number, before: tip.before, digest: tip.digest}
	if tip.generation != generation {
		end.before = tip.sequence
	}
	var leaves []proof.Digest
	if s.key != nil {
		leaves = make([]proof.Digest, 0, len(records))
	}
	// A message is copied when it is published: all are made of one.
	coreLength, place := []string{""}, []string{""}
	m := &nats.Msg{Header: nats.Header{coreHeader: coreLength, expectedHeader: {strconv.FormatUint(tip.sequence, 10)}, expectedOfHeader: {fence(proxy)}}}
	if len(records) > 1 {
		m.Header[batchHeader], m.Header[batchSequenceHeader] = []string{nuid.Next()}, place
	}
	for i, r := range records {
		core := proof.AppendChained(m.Data[:0], r.core, end.digest)
		end.digest = sha256.Sum256(core)
		if s.key != nil {
			leaves = append(leaves, proof.Digest(proof.Leaf(core)))
		}
		coreLength[0], place[0] = strconv.Itoa(len(core)), strconv.Itoa(i+1)
		m.Subject, m.Data = r.subject, append(core, r.behind...)
		if i == last {
			break
		}
		if err := s.nc.PublishMsg(m); err != nil {
			return position{}, fmt.Errorf("%w: %w", errLost, err)
		}
		delete(m.Header, expectedHeader) // it is of the first
		delete(m.Header, expectedOfHeader)
	}
	m.Header[generationHeader], m.Header[numberHeader] = []string{generation}, []string{strconv.FormatUint(end.number, 10)}
	m.Header[beforeHeader] = []string{strconv.FormatUint(end.before, 10)}
	if s.key != nil {
		m.Header[headHeader] = []string{proof.Sign(s.key, proof.HeadStatement(proxy, generation, end.number, end.digest))}
	}
	if last > 0 {
		m.Header[batchCommitHeader] = []string{"1"}
	}
	answer, err := s.request(ctx, m)
	if err != nil {
		return position{}, fmt.Errorf("%w: %w", errLost, err)
	}
	if end.sequence, err = acknowledged(answer.Data); err == nil && s.key != nil {
		s.recent.stored(end.sequence, leaves)
	}
	return end, err
}

// acknowledged reads the sequence of a batch's last record.
func acknowledged(data []byte) (uint64, error) {
	var answer struct {
		Error *struct {
			Code        int    `json:"err_code"`
			Description string `json:"description"`
		} `json:"error"`
		Sequence uint64 `json:"seq"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return 0, fmt.Errorf("%w: it cannot be read: %w", errLost, err)
	}
	switch {
	case answer.Error == nil && answer.Sequence > 0:
		return answer.Sequence, nil
	case answer.Error == nil:
		return 0, fmt.Errorf("%w: it is empty", errLost)
	case answer.Error.Code == 10071 || answer.Error.Code == 10164: // wrong last sequence, of one server and of several
		return 0, errOvertaken
	case answer.Error.Code == 10118 || answer.Error.Code == 10176 || answer.Error.Code == 10210: // offline, a part was lost, too many batches
		return 0, fmt.Errorf("%w: JetStream says: %s", errLost, answer.Error.Description)
	case answer.Error.Code == 10199:
		return 0, errTooMany
	}
	return 0, fmt.Errorf("JetStream says: %s (%d)", answer.Error.Description, answer.Error.Code)
}
