package audit

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

// Each check writes to a store that syncs, so there are fewer of them than rapid makes; -rapid.checks says otherwise.
func init() {
	if err := flag.Set("rapid.checks", "25"); err != nil {
		panic(err)
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, nc *nats.Conn, replicas int) *Store {
	t.Helper()
	s, err := Open(within(t), nc, Config{Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// sites runs a test on a stream that one server keeps and on one that three keep.
func sites(t *testing.T, test func(t *testing.T, open func() *Store)) {
	t.Run("embedded", func(t *testing.T) {
		nc := natstest.Embedded(t).Conn
		test(t, func() *Store { return open(t, nc, 1) })
	})
	t.Run("three nodes", func(t *testing.T) {
		cluster := natstest.NewCluster(t)
		test(t, func() *Store { return open(t, natstest.Open(t, natsconn.Config{URL: cluster.URL()}).Conn, 3) })
	})
}

// run makes records numbered from one to another.
func run(from, to uint64) []*auditv1.AuditRecord {
	var all []*auditv1.AuditRecord
	for n := from; n <= to; n++ {
		all = append(all, &auditv1.AuditRecord{
			Number: n, At: timestamppb.New(time.Unix(1_790_000_000, 0)), CallId: fmt.Sprint("call-", n), PersonId: fmt.Sprint("person-", n%3),
			Connector: "github", Tool: "push_files", Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
		})
	}
	return all
}

func mustAppend(t testing.TB, s *Store, proxy, generation string, from, to, want uint64) {
	t.Helper()
	got, err := s.Append(within(t), proxy, "eu-west", generation, run(from, to))
	if err != nil || got != want {
		t.Fatalf("%s/%s %d to %d: acknowledged %d, %v, want %d", proxy, generation, from, to, got, err, want)
	}
}

// contents reads the stream one by one, and tells each record as proxy/generation/number.
func contents(t testing.TB, s *Store) []string {
	t.Helper()
	last, err := s.Last(within(t))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for seq := uint64(1); seq <= last; seq++ {
		m, err := s.stream.GetMsg(within(t), seq)
		if err != nil {
			t.Fatal(err)
		}
		r := &auditv1.AuditRecord{}
		if err := proto.Unmarshal(m.Data, r); err != nil {
			t.Fatal(err)
		}
		if m.Subject != Subject(r) {
			t.Fatalf("record %d lies at %s, want %s", seq, m.Subject, Subject(r))
		}
		all = append(all, fmt.Sprintf("%s/%s/%d", r.GetProxy(), r.GetSpoolGeneration(), r.GetNumber()))
	}
	return all
}

func wantContents(t testing.TB, s *Store, want ...string) {
	t.Helper()
	if got := contents(t, s); !slices.Equal(got, want) {
		t.Fatalf("the stream holds %v, want %v", got, want)
	}
}

func series(name string, from, to int) []string {
	var all []string
	for n := from; n <= to; n++ {
		all = append(all, fmt.Sprintf("%s/%d", name, n))
	}
	return all
}

func TestTwoNamesAreNeverTheSamePartOfASubject(t *testing.T) {
	names := []string{"", "-", "--", "_", "a", "A", "a.b", "a_b", "a b", "*", ">", "a.*", "a.>", "a\r\nb", "a\nb", "ä", "a\x00", "~", strings.Repeat("a", 64), strings.Repeat("a", 65), strings.Repeat("a", 66), "$JS.API", "\xff"}
	seen := map[string]string{}
	for _, n := range names {
		got := token(n)
		if other, taken := seen[got]; taken {
			t.Errorf("%q and %q are both %s", n, other, got)
		}
		seen[got] = n
		if got == "" || len(got) > 64 || strings.ContainsAny(got, ".*> \t\r\n\x00") {
			t.Errorf("%q became %q, which is no part of a subject", n, got)
		}
	}
	for _, n := range []string{"eu-west", "us_east_1", "github"} {
		if token(n) != n {
			t.Errorf("%q became %q", n, token(n))
		}
	}
}

func TestHostileNamesStayWithinTheirSubject(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	hostile := []string{"a.b", "a_b", ">", "*", "a b", strings.Repeat("x", 5000), "\r\nNats-Rollup: all"}
	for _, proxy := range hostile {
		records := run(1, 2)
		for _, r := range records {
			r.Connector, r.Tool = proxy, proxy
			r.Proxy, r.Region, r.SpoolGeneration = "another", "another", "another" // whatever it says
		}
		got, err := s.Append(within(t), proxy, proxy, "g", records)
		if err != nil || got != 2 {
			t.Fatalf("%q: acknowledged %d, %v", proxy, got, err)
		}
	}
	var want []string
	for _, proxy := range hostile {
		want = append(want, series(proxy+"/g", 1, 2)...)
	}
	wantContents(t, s, want...)
}

func TestAStreamThatCouldLoseIsRefused(t *testing.T) {
	for name, change := range map[string]func(*jetstream.StreamConfig){
		"in memory":       func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"with an end":     func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"without batches": func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false },
		"of followers":    func(c *jetstream.StreamConfig) { c.AllowDirect = true },
		"of other things": func(c *jetstream.StreamConfig) { c.Subjects = []string{"sallyport.audit.>"} },
	} {
		t.Run(name, func(t *testing.T) {
			nc := natstest.Embedded(t).Conn
			js, err := jetstream.New(nc)
			if err != nil {
				t.Fatal(err)
			}
			c := jetstream.StreamConfig{Name: StreamName, Subjects: []string{subjects}, Storage: jetstream.FileStorage, AllowAtomicPublish: true}
			change(&c)
			if _, err := js.CreateStream(within(t), c); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(within(t), nc, Config{}); err == nil || !strings.Contains(err.Error(), "cannot keep audit") {
				t.Fatalf("got %v", err)
			}
		})
	}
	if _, err := Open(within(t), open(t, natstest.Embedded(t).Conn, 1).nc, Config{Replicas: 3}); err == nil {
		t.Fatal("a stream on one server was taken for one on three")
	}
}

func TestRecordsThatAreNoRunAreRefused(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	hole, back, zero := run(1, 3), run(1, 3), run(1, 2)
	hole[2].Number, back[2].Number, zero[0].Number = 4, 1, 0
	zero[1].Number = 1
	for name, records := range map[string][]*auditv1.AuditRecord{"a hole": hole, "back again": back, "from zero": zero} {
		if _, err := s.Append(within(t), "p", "r", "g", records); !errors.Is(err, ErrNumbers) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, generation := range []string{"", "a b", "a\r\nNats-Rollup: all", strings.Repeat("g", 65)} {
		if _, err := s.Append(within(t), "p", "r", generation, run(1, 1)); !errors.Is(err, ErrGeneration) {
			t.Errorf("generation %q: got %v", generation, err)
		}
	}
	if _, err := s.Append(within(t), "", "r", "g", run(1, 1)); err == nil {
		t.Error("records of no proxy were taken")
	}
	wantContents(t, s)
}

func TestARecordThatIsTooLargeIsCutAndSaysSo(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	records := run(1, 3)
	records[1].Arguments = &auditv1.Payload{Head: make([]byte, 700_000), Size: 700_000}
	records[1].Groups = []string{strings.Repeat("g", 700_000)}
	got, err := s.Append(within(t), "p", "r", "g", records)
	if err != nil || got != 3 {
		t.Fatalf("acknowledged %d, %v", got, err)
	}
	found, _, err := s.Search(within(t), nil, 10, "")
	if err != nil || len(found) != 3 {
		t.Fatalf("found %d, %v", len(found), err)
	}
	r := found[1].GetRecord()
	if r.GetNumber() != 2 || r.GetPersonId() != "person-2" || !r.GetArguments().GetTruncated() || r.GetArguments().GetSize() != 700_000 || !strings.Contains(r.GetError(), "left out") {
		t.Fatalf("got number %d, person %q, truncated %v, error %q", r.GetNumber(), r.GetPersonId(), r.GetArguments().GetTruncated(), r.GetError())
	}
	if found[0].GetRecord().GetError() != "" {
		t.Fatal("another record was changed")
	}
}
