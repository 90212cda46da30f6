package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

var (
	regions    = []string{"eu-west", "us-east", "a.b", "a_b"}
	connectors = []string{"github", "jira", "", "*", "git.hub"}
	tools      = []string{"push_files", "search"}
	persons    = []string{"person-1", "person-2", ""}
	verdicts   = []auditv1.Verdict{auditv1.Verdict_VERDICT_ALLOWED, auditv1.Verdict_VERDICT_DENIED, auditv1.Verdict_VERDICT_UNSPECIFIED}
)

// fill stores records of every kind by several proxies.
func fill(t testing.TB, s *Store, batches int, draw func(n int) int, at time.Time) {
	t.Helper()
	next := map[string]uint64{}
	for range batches {
		proxy, region := fmt.Sprint("p", draw(3)), regions[draw(len(regions))]
		records := run(next[proxy]+1, next[proxy]+1+uint64(draw(12)))
		for _, r := range records {
			r.Connector, r.Tool, r.PersonId = connectors[draw(len(connectors))], tools[draw(len(tools))], persons[draw(len(persons))]
			r.CallId = fmt.Sprint("call-", draw(20))
			r.Decision = &auditv1.Decision{Verdict: verdicts[draw(len(verdicts))]}
			r.At = timestamppb.New(at.Add(time.Duration(draw(100)) * time.Second)) // in no order
		}
		next[proxy] += uint64(len(records))
		if _, err := s.Append(within(t), proxy, region, "g", records); err != nil {
			t.Fatal(err)
		}
	}
}

// all reads the stream to its end as it stands, oldest first.
func all(t testing.TB, s *Store) []*adminv1.StoredRecord {
	t.Helper()
	last, err := s.Last(within(t))
	if err != nil {
		t.Fatal(err)
	}
	var out []*adminv1.StoredRecord
	for seq := uint64(1); seq <= last; seq++ {
		m, err := s.stream.GetMsg(within(t), seq)
		if err != nil {
			t.Fatal(err)
		}
		r := Decode(m.Data, seq)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func sequences(records []*adminv1.StoredRecord) []uint64 {
	var out []uint64
	for _, r := range records {
		out = append(out, r.GetSequence())
	}
	return out
}

// pages searches until there is no cursor.
func pages(ctx context.Context, s *Store, f *adminv1.AuditFilter, limit int) (found []uint64, calls int, err error) {
	cursor := ""
	for {
		records, next, err := s.Search(ctx, f, limit, cursor)
		if err != nil {
			return nil, calls, err
		}
		calls++
		if len(records) > limit {
			return nil, calls, fmt.Errorf("a page has %d records, of at most %d", len(records), limit)
		}
		found = append(found, sequences(records)...)
		if next == "" {
			return found, calls, nil
		}
		if next == cursor {
			return nil, calls, fmt.Errorf("the cursor %s stays where it is", cursor)
		}
		cursor = next
	}
}

// TestSearchFindsWhatANaiveFilterFinds draws filters, page sizes and how much one call may look at.
func TestSearchFindsWhatANaiveFilterFinds(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	at := time.Now().Add(-time.Hour).Truncate(time.Second)
	seed := rapid.IntRange(0, 1_000_000)
	n := 0
	fill(t, s, 120, func(most int) int { n++; return seed.Example(n) % most }, at)
	stored := all(t, s)
	if len(stored) < 300 {
		t.Fatalf("only %d records were stored", len(stored))
	}
	rapid.Check(t, func(rt *rapid.T) {
		b := defaultBounds
		b.minSpan = rapid.Uint64Range(1, 300).Draw(rt, "minSpan")
		b.maxWindow = rapid.Uint64Range(1, 100).Draw(rt, "maxWindow")
		b.fetch = rapid.Uint64Range(1, 50).Draw(rt, "fetch")
		b.steps = rapid.IntRange(3, 64).Draw(rt, "steps")
		b.read = rapid.IntRange(1, 1000).Draw(rt, "read")
		b.bytes = rapid.IntRange(1, 10_000).Draw(rt, "bytes")
		searcher := &Store{nc: s.nc, js: s.js, stream: s.stream, log: s.log, bounds: b}
		optional := func(name string, values []string) string {
			return rapid.SampledFrom(append([]string{"", ""}, values...)).Draw(rt, name)
		}
		f := &adminv1.AuditFilter{
			Region: optional("region", append(regions, "nowhere")), Connector: optional("connector", connectors), Tool: optional("tool", tools),
			Person: optional("person", persons), Verdict: rapid.SampledFrom(verdicts).Draw(rt, "verdict"),
		}
		if rapid.IntRange(0, 4).Draw(rt, "byCall") == 0 {
			f.CallId = fmt.Sprint("call-", rapid.IntRange(0, 22).Draw(rt, "call"))
		}
		if rapid.Bool().Draw(rt, "hasSince") {
			f.Since = timestamppb.New(at.Add(time.Duration(rapid.IntRange(-10, 110).Draw(rt, "since")) * time.Second))
		}
		if rapid.Bool().Draw(rt, "hasUntil") {
			f.Until = timestamppb.New(at.Add(time.Duration(rapid.IntRange(-10, 110).Draw(rt, "until")) * time.Second))
		}
		var want []uint64
		for _, r := range slices.Backward(stored) {
			if naive(f, r.GetRecord()) {
				want = append(want, r.GetSequence())
			}
		}
		got, _, err := pages(t.Context(), searcher, f, rapid.IntRange(1, 400).Draw(rt, "limit"))
		if err != nil {
			rt.Fatal(err)
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("%v found %v, want %v", f, got, want)
		}
	})
}

// naive says in another way than the package what a filter means.
func naive(f *adminv1.AuditFilter, r *auditv1.AuditRecord) bool {
	for want, have := range map[*string]string{&f.Region: r.GetRegion(), &f.Connector: r.GetConnector(), &f.Tool: r.GetTool(), &f.Person: r.GetPersonId(), &f.CallId: r.GetCallId()} {
		if *want != "" && *want != have {
			return false
		}
	}
	if f.GetVerdict() != 0 && f.GetVerdict() != r.GetDecision().GetVerdict() {
		return false
	}
	if f.GetSince() != nil && r.GetAt().AsTime().UnixNano() < f.GetSince().AsTime().UnixNano() {
		return false
	}
	return f.GetUntil() == nil || r.GetAt().AsTime().UnixNano() < f.GetUntil().AsTime().UnixNano()
}

func TestPagesAreStableWhileRecordsAreStored(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	mustAppend(t, s, "p", "g", 1, 50, 50)
	var found []uint64
	next := uint64(51)
	for cursor, first := "", true; first || cursor != ""; first = false {
		records, c, err := s.Search(within(t), nil, 7, cursor)
		if err != nil {
			t.Fatal(err)
		}
		found, cursor = append(found, sequences(records)...), c
		mustAppend(t, s, "p", "g", next, next+4, next+4)
		next += 5
	}
	var want []uint64
	for seq := uint64(50); seq >= 1; seq-- {
		want = append(want, seq)
	}
	if !slices.Equal(found, want) {
		t.Fatalf("found %v", found)
	}
}

func TestWhatOneSearchLooksAtIsBounded(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	mustAppend(t, s, "p", "g", 1, 3000, 3000)
	s.bounds.read = 600
	records, cursor, err := s.Search(within(t), &adminv1.AuditFilter{CallId: "call-2"}, 10, "")
	if err != nil || len(records) != 0 || cursor == "" {
		t.Fatalf("found %d, cursor %q, %v", len(records), cursor, err)
	}
	found, calls, err := pages(within(t), s, &adminv1.AuditFilter{CallId: "call-2"}, 10)
	if err != nil || !slices.Equal(found, []uint64{2}) || calls < 2 {
		t.Fatalf("found %v in %d calls, %v", found, calls, err)
	}
	s.bounds.bytes = 2000
	records, cursor, err = s.Search(within(t), nil, 1000, "")
	if err != nil || len(records) == 0 || len(records) > 40 || cursor == "" {
		t.Fatalf("found %d of few bytes, cursor %q, %v", len(records), cursor, err)
	}
}

func TestARareConnectorIsFoundWithoutReadingTheRest(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	rare := run(1, 1)
	rare[0].Connector = "payroll"
	if _, err := s.Append(within(t), "q", "eu-west", "g", rare); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, "p", "g", 1, 4000, 4000)
	s.bounds.read = 300 // one window at the end, and then what the server picks
	found, calls, err := pages(within(t), s, &adminv1.AuditFilter{Connector: "payroll"}, 10)
	if err != nil || calls != 1 || !slices.Equal(found, []uint64{1}) {
		t.Fatalf("found %v in %d calls, %v", found, calls, err)
	}
}

func TestASearchByTimeBeginsWhereRecordsCanBe(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	mustAppend(t, s, "p", "g", 1, 5, 5)
	m, err := s.stream.GetMsg(within(t), 5)
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, "p", "g", 6, 9, 9)
	for _, c := range []struct {
		since time.Time
		want  uint64
	}{{m.Time.Add(-time.Hour), 1}, {m.Time.Add(time.Nanosecond), 6}, {time.Now().Add(time.Hour), 10}, {endOfTime, 10}} {
		if got, err := s.firstSince(within(t), c.since); err != nil || got != c.want {
			t.Errorf("since %v: got %d, %v, want %d", c.since, got, err, c.want)
		}
	}
	// The id of a call tells when it began, and extreme times are no trouble.
	old, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := (&Filter{AuditFilter: &adminv1.AuditFilter{CallId: old.String()}}).Since(), time.Now().Add(-clockSlack); got.Sub(want).Abs() > time.Minute {
		t.Errorf("a call of now: stored since %v, want %v", got, want)
	}
	for _, f := range []*adminv1.AuditFilter{
		{Since: &timestamppb.Timestamp{Seconds: 1 << 62}}, {Since: &timestamppb.Timestamp{Seconds: -1 << 62}}, {CallId: "ffffffff-ffff-7fff-bfff-ffffffffffff"},
		{Until: &timestamppb.Timestamp{Seconds: -1 << 62}}, {Since: timestamppb.New(time.Unix(1, 0)), Until: timestamppb.New(time.Unix(0, 0))},
	} {
		if _, _, err := pages(within(t), s, f, 10); err != nil {
			t.Errorf("%v: %v", f, err)
		}
	}
}

func TestACursorThatWasNotGivenIsRefused(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	if records, cursor, err := s.Search(within(t), nil, 10, ""); err != nil || len(records) > 0 || cursor != "" {
		t.Fatalf("an empty stream: found %d, cursor %q, %v", len(records), cursor, err)
	}
	mustAppend(t, s, "p", "g", 1, 5, 5)
	for _, cursor := range []string{"x", "-1", "0", "1e3", "99999999999999999999", " 3"} {
		var refused *core.Error
		if _, _, err := s.Search(within(t), nil, 10, cursor); !errors.As(err, &refused) || refused.Code != core.InvalidArgument {
			t.Errorf("cursor %q: got %v", cursor, err)
		}
	}
	if records, _, err := s.Search(within(t), nil, 10, "18446744073709551615"); err != nil || len(records) != 5 {
		t.Errorf("a cursor beyond the end: found %d, %v", len(records), err)
	}
}

// TestWhatWasAcknowledgedIsFoundAtOnce has a follower answer that may be behind.
func TestWhatWasAcknowledgedIsFoundAtOnce(t *testing.T) {
	cluster := natstest.NewCluster(t)
	s := open(t, natstest.Open(t, natsconn.Config{URL: cluster.URL()}).Conn, 3)
	for n := uint64(1); n <= 60; n++ {
		mustAppend(t, s, "p", "g", n, n, n)
		records, _, err := s.Search(within(t), &adminv1.AuditFilter{Connector: "github"}, 1, "")
		if err != nil || len(records) != 1 || records[0].GetRecord().GetNumber() != n {
			t.Fatalf("after record %d: found %v, %v", n, records, err)
		}
	}
}

func TestASearchLeavesNothingBehind(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	mustAppend(t, s, "p", "g", 1, 1000, 1000)
	for range 3 {
		if _, _, err := pages(within(t), s, &adminv1.AuditFilter{Since: timestamppb.Now()}, 100); err != nil {
			t.Fatal(err)
		}
	}
	info, err := s.stream.Info(within(t))
	if err != nil || info.State.Consumers != 0 {
		t.Fatalf("%d consumers are left, %v", info.State.Consumers, err)
	}
}
