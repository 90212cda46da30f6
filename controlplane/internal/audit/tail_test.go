package audit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

var errEnough = errors.New("enough")

// follow tails until a number of records came.
func follow(ctx context.Context, s *Store, f *adminv1.AuditFilter, after uint64, n int) ([]*adminv1.StoredRecord, error) {
	var got []*adminv1.StoredRecord
	err := s.Tail(ctx, f, after, func(r *adminv1.StoredRecord) error {
		if got = append(got, r); len(got) == n {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return got, err
}

func TestATailGoesOnAfterASequence(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	mustAppend(t, s, "p", "g", 1, 20, 20)
	var want, got []uint64
	for seq := uint64(6); seq <= 40; seq++ {
		want = append(want, seq)
	}
	stored := make(chan struct{})
	go func() {
		defer close(stored)
		for n := uint64(21); n <= 40; n++ {
			if _, err := s.Append(t.Context(), "p", "eu-west", "g", run(n, n)); err != nil {
				t.Error(err)
			}
		}
	}()
	for after := uint64(5); len(got) < len(want); { // it is cut off again and again
		records, err := follow(within(t), s, nil, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, sequences(records)...)
		after = got[len(got)-1]
		if len(got)+3 > len(want) {
			records, err := follow(within(t), s, nil, after, len(want)-len(got))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, sequences(records)...)
		}
	}
	<-stored
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func TestATailDeliversWhatItsFilterPicks(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	n := 0
	fill(t, s, 60, func(most int) int { n++; return n * 7919 % 104729 % most }, run(1, 1)[0].GetAt().AsTime())
	for _, f := range []*adminv1.AuditFilter{{}, {Region: "a.b"}, {Connector: "*"}, {Connector: "jira", Tool: "search"}, {Verdict: auditv1.Verdict_VERDICT_DENIED, Person: "person-1"}} {
		var want []uint64
		for _, r := range all(t, s)[1:] {
			if naive(f, r.GetRecord()) {
				want = append(want, r.GetSequence())
			}
		}
		if len(want) == 0 {
			t.Fatalf("%v picks nothing: the test shows nothing", f)
		}
		got, err := follow(within(t), s, f, 1, len(want))
		if err != nil || !slices.Equal(sequences(got), want) {
			t.Errorf("%v: got %v, %v, want %v", f, sequences(got), err, want)
		}
	}
}

func TestATailFromNowOnSkipsThePast(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	mustAppend(t, s, "p", "g", 1, 5, 5)
	ctx, cancel := context.WithCancel(within(t))
	got := make(chan *adminv1.StoredRecord, 1000)
	over := make(chan error, 1)
	go func() {
		over <- s.Tail(ctx, nil, 0, func(r *adminv1.StoredRecord) error { got <- r; return nil })
	}()
	// It is following when a record comes; which is the first to come is not told.
	next := uint64(6)
	for len(got) == 0 {
		mustAppend(t, s, "p", "g", next, next, next)
		next++
	}
	if r := <-got; r.GetSequence() < 6 {
		t.Fatalf("record %d came, which was there before", r.GetSequence())
	}
	cancel()
	if err := <-over; err != nil {
		t.Fatalf("a tail that was ended returned %v", err)
	}
	info, err := s.stream.Info(within(t))
	if err != nil || info.State.Consumers != 0 {
		t.Fatalf("%d consumers are left, %v", info.State.Consumers, err)
	}
}

func TestATailBeyondTheEndIsRefused(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	mustAppend(t, s, "p", "g", 1, 5, 5)
	for _, after := range []uint64{6, 1 << 63, ^uint64(0)} {
		var refused *core.Error
		if err := s.Tail(within(t), nil, after, nil); !errors.As(err, &refused) || refused.Code != core.InvalidArgument {
			t.Errorf("after %d: got %v", after, err)
		}
	}
}

func TestATailGoesOnWhenALeaderStops(t *testing.T) {
	cluster := natstest.NewCluster(t)
	s := open(t, natstest.Open(t, natsconn.Config{URL: cluster.URL()}).Conn, 3)
	reader := open(t, natstest.Open(t, natsconn.Config{URL: cluster.URL()}).Conn, 3)
	const last = 300
	mustAppend(t, s, "p", "g", 1, 10, 10)
	halfway, over := make(chan struct{}), make(chan error, 1)
	var got []string
	go func() {
		over <- reader.Tail(within(t), nil, 1, func(r *adminv1.StoredRecord) error {
			if got = append(got, fmt.Sprint(r.GetRecord().GetNumber())); len(got) == 50 {
				close(halfway)
			}
			if r.GetRecord().GetNumber() == last {
				return errEnough
			}
			return nil
		})
	}()
	mustAppend(t, s, "p", "g", 11, 100, 100)
	<-halfway
	cluster.StopNode(cluster.StreamLeader(StreamName))
	mustAppend(t, s, "p", "g", 101, last, last)
	if err := <-over; !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	var want []string
	for n := 2; n <= last; n++ {
		want = append(want, fmt.Sprint(n))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got %v", got)
	}
}
