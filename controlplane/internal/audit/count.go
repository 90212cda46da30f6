package audit

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// countBounds are what bounds one count on the stream.
var countBounds = bounds{
	records: 1, bytes: 1, read: 2_000_000, steps: 100_000, time: 20 * time.Second,
	minSpan: 4096, maxWindow: 65_536, fetch: 2048,
}

// maxCounts bounds the different counts that one call holds.
const maxCounts = 100_000

// Tally adds records up by what a request asks for.
type Tally struct {
	request *adminv1.CountAuditRequest
	counts  map[tallyKey]uint64
	total   uint64
}

type tallyKey struct {
	first, second string
	at            int64
}

// NewTally returns an empty one.
func NewTally(r *adminv1.CountAuditRequest) *Tally {
	return &Tally{request: r, counts: map[tallyKey]uint64{}}
}

// Add adds a record.
func (t *Tally) Add(r *auditv1.AuditRecord) {
	var keys []string
	for _, by := range t.request.GetBy() {
		keys = append(keys, CountKey(by, r))
	}
	t.AddCount(keys, t.Step(r.GetAt().AsTime()), 1)
}

// Step returns the step of the histogram in which a time lies, in seconds of Unix time; 0 where there is none.
func (t *Tally) Step(at time.Time) int64 {
	step := int64(t.request.GetInterval().AsDuration() / time.Second)
	if step == 0 {
		return 0
	}
	seconds := at.Unix()
	return seconds - ((seconds%step)+step)%step
}

// AddCount adds many that share what they are counted by.
func (t *Tally) AddCount(keys []string, at int64, n uint64) {
	k := tallyKey{at: at}
	if len(keys) > 0 {
		k.first = keys[0]
	}
	if len(keys) > 1 {
		k.second = keys[1]
	}
	t.total += n
	if _, there := t.counts[k]; there || len(t.counts) < maxCounts {
		t.counts[k] += n
	}
}

// Response is what was added up.
func (t *Tally) Response(beforeNotCounted uint64) *adminv1.CountAuditResponse {
	limit := int(t.request.GetLimit())
	if limit == 0 {
		limit = 1000
	}
	byTime := t.request.GetInterval() != nil
	var all []*adminv1.AuditCount
	for k, n := range t.counts {
		c := &adminv1.AuditCount{Keys: []string{k.first, k.second}[:len(t.request.GetBy())], Count: n}
		if byTime {
			c.At = &timestamppb.Timestamp{Seconds: k.at}
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b *adminv1.AuditCount) int {
		return cmp.Or(cmp.Compare(b.GetAt().GetSeconds(), a.GetAt().GetSeconds()), cmp.Compare(b.GetCount(), a.GetCount()), slices.Compare(a.GetKeys(), b.GetKeys()))
	})
	return &adminv1.CountAuditResponse{Counts: all[:min(limit, len(all))], Total: t.total, BeforeNotCounted: beforeNotCounted}
}

// CountKey is what a record is counted under.
func CountKey(by adminv1.CountBy, r *auditv1.AuditRecord) string {
	switch by {
	case adminv1.CountBy_COUNT_BY_PERSON:
		return r.GetPersonId()
	case adminv1.CountBy_COUNT_BY_CONNECTOR:
		return r.GetConnector()
	case adminv1.CountBy_COUNT_BY_TOOL:
		return r.GetTool()
	case adminv1.CountBy_COUNT_BY_REGION:
		return r.GetRegion()
	case adminv1.CountBy_COUNT_BY_PROXY:
		return r.GetProxy()
	case adminv1.CountBy_COUNT_BY_DECISION:
		return EnumWord(r.GetDecision().GetVerdict(), "VERDICT_")
	case adminv1.CountBy_COUNT_BY_REASON:
		return EnumWord(r.GetDecision().GetReason(), "REASON_")
	case adminv1.CountBy_COUNT_BY_KIND:
		return KindWord(r.GetKind())
	}
	return ""
}

// EnumWord is an enum's value as a word in small letters; unspecified is none.
func EnumWord(value fmt.Stringer, prefix string) string {
	w := strings.ToLower(strings.TrimPrefix(value.String(), prefix))
	if w == "unspecified" {
		return ""
	}
	return w
}

// KindWord is a kind as a word; a record that says none is of a call.
func KindWord(k auditv1.Kind) string { return cmp.Or(EnumWord(k, "KIND_"), "call") }

// Count counts matching records, from the newest back, as many as one call may look at.
func (s *Store) Count(ctx context.Context, r *adminv1.CountAuditRequest) (*adminv1.CountAuditResponse, error) {
	f, err := NewFilter(r.GetFilter())
	if err != nil {
		return nil, err
	}
	t := NewTally(r)
	before, err := s.CountNewer(ctx, f, 0, t)
	if err != nil {
		return nil, err
	}
	return t.Response(before), nil
}

// CountNewer adds what was stored after a sequence, and returns the sequence before which it did not look.
func (s *Store) CountNewer(ctx context.Context, f *Filter, after uint64, t *Tally) (uint64, error) {
	sc, err := s.scan(ctx, f, after, 1, 0)
	if err == nil {
		sc.bounds, sc.span = countBounds, countBounds.minSpan
		sc.each = func(r *adminv1.StoredRecord) { t.Add(r.GetRecord()) }
		err = sc.run(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("counting audit: %w", err)
	}
	return sc.cursor, nil
}
