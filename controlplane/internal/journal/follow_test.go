package journal

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

func TestFollowGivesBatchesWholeAndInOrder(t *testing.T) {
	sites(t, func(t *testing.T, s site) {
		j := s.open(t)
		var want []string
		end := uint64(0)
		for i, size := range []int{1, 700, 3, 900, 1, 2} {
			b := batch(string(rune('a'+i)), size)
			end = mustAppend(t, j, end, b)
			for _, m := range b {
				want = append(want, string(m.Data))
			}
		}
		over := errors.New("read")
		last, at := "", uint64(1)
		err := j.Follow(t.Context(), 1, func(records []Record) error {
			if first, _, _ := strings.Cut(string(records[0].Data), "/"); first == last {
				t.Fatalf("the batch %s came in two calls", first)
			}
			for _, r := range records {
				if at++; r.Seq != at || string(r.Data) != want[at-1] {
					t.Fatalf("got record %d %s, want %d %s", r.Seq, r.Data, at, want[at-1])
				}
				last, _, _ = strings.Cut(string(r.Data), "/")
			}
			if at == end {
				return over
			}
			return nil
		})
		if !errors.Is(err, over) {
			t.Fatalf("got %v, want the error of the function", err)
		}
	})
}

func TestFollowSkipsWhatWasErased(t *testing.T) {
	conn := natstest.Embedded(t)
	j, err := Open(t.Context(), conn.Conn, Config{})
	if err != nil {
		t.Fatal(err)
	}
	mustAppend(t, j, 0, batch("a", 3))
	mustAppend(t, j, 3, batch("b", 3))
	mustAppend(t, j, 6, batch("c", 1))
	for _, seq := range []uint64{2, 3, 4} { // the end of one batch and the beginning of the next
		if err := j.stream.SecureDeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := contents(t, j, 7), []string{"a/0", "b/1", "b/2", "c/0"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	conn := natstest.Embedded(t)
	j := site{connect: func() *nats.Conn { return conn.Conn }, replicas: 1}.open(t)
	ctx, cancel := context.WithCancel(t.Context())
	mustAppend(t, j, 0, batch("a", 1))
	if err := j.Follow(ctx, 0, func([]Record) error { cancel(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// TestTheLogGoesOnWhenItsLeaderStops stops the stream's leader while one journal writes and one follows,
// and starts it again.
func TestTheLogGoesOnWhenItsLeaderStops(t *testing.T) {
	sites(t, func(t *testing.T, s site) {
		if s.cluster == nil {
			t.Skip("one server has no other leader")
		}
		writer, follower := s.open(t), s.open(t)
		ctx, cancel := context.WithCancel(t.Context())
		var following sync.WaitGroup
		seen := make(chan Record, 1000)
		following.Go(func() {
			if err := follower.Follow(ctx, 0, func(records []Record) error {
				for _, r := range records {
					seen <- r
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
		end := uint64(0)
		for round := range 3 {
			for range 5 {
				end = mustAppend(t, writer, end, batch("a", 3))
			}
			leader := s.cluster.StreamLeader("SALLYPORT_EVENTS")
			s.cluster.StopNode(leader, "SALLYPORT_EVENTS")
			began := time.Now()
			end = mustAppend(t, writer, end, batch("b", 3))
			wrote := time.Since(began)
			for at := uint64(0); at < end; {
				select {
				case r := <-seen:
					at = r.Seq
				case <-time.After(200 * time.Millisecond):
					follower.Hurry()
				}
			}
			t.Logf("round %d: written %v after the leader stopped, followed after %v", round, wrote, time.Since(began))
			if wrote > 3*time.Second || time.Since(began) > 4*time.Second {
				t.Errorf("the log stood still too long")
			}
			s.cluster.StartNode(leader, "SALLYPORT_EVENTS")
		}
		cancel()
		following.Wait()
	})
}

func TestAStreamThatCouldLoseIsRefused(t *testing.T) {
	conn := natstest.Embedded(t)
	js, err := jetstream.New(conn.Conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "LOG", Subjects: []string{subjects}}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), conn.Conn, Config{Stream: "LOG"}); err == nil || !strings.Contains(err.Error(), "allow_atomic") {
		t.Fatalf("got %v, want a refusal that says why", err)
	}
	for want, spoil := range map[string]func(c *jetstream.StreamConfig){
		"not kept on disk": func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage },
		"before it writes": func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode },
		"atomic":           func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = false },
		"stale":            func(c *jetstream.StreamConfig) { c.AllowDirect = true },
		"forgets":          func(c *jetstream.StreamConfig) { c.MaxAge = time.Hour },
		"deny_purge":       func(c *jetstream.StreamConfig) { c.DenyPurge = false },
		"no_ack":           func(c *jetstream.StreamConfig) { c.NoAck = true },
		"subjects":         func(c *jetstream.StreamConfig) { c.Subjects = []string{"sallyport.event.user.>"} },
		"0 servers":        func(c *jetstream.StreamConfig) { c.Replicas = 0 },
		"sealed":           func(c *jetstream.StreamConfig) { c.Sealed = true },
		"mirror":           func(c *jetstream.StreamConfig) { c.Mirror = &jetstream.StreamSource{Name: "X"} },
		"allow_rollu":      func(c *jetstream.StreamConfig) { c.AllowRollup = true },
	} {
		t.Run(want, func(t *testing.T) {
			c := jetstream.StreamConfig{
				Subjects: []string{subjects}, Storage: jetstream.FileStorage, AllowAtomicPublish: true, DenyPurge: true, Replicas: 1,
			}
			if err := check(c, 1); err != nil {
				t.Fatalf("a good stream is refused: %v", err)
			}
			spoil(&c)
			if err := check(c, 1); err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("got %v, want a refusal that says %q", err, want)
			}
		})
	}
}

// TestALookReadsAsFarAsThereIs is how a follower goes on while no consumer can be made.
func TestALookReadsAsFarAsThereIs(t *testing.T) {
	conn := natstest.Embedded(t)
	j := site{connect: func() *nats.Conn { return conn.Conn }, replicas: 1}.open(t)
	end := mustAppend(t, j, 0, batch("a", 600))
	end = mustAppend(t, j, end, batch("b", 2))
	for _, seq := range []uint64{1, 100, 300} {
		if err := j.stream.SecureDeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	var taken taker
	var got []Record
	for taken.last < end {
		before := taken.last
		got = append(got, j.look(t.Context(), &taken)...)
		if taken.last == before {
			t.Fatalf("a look found nothing after %d", before)
		}
	}
	if len(got) != 599 || got[0].Seq != 2 || got[len(got)-1].Seq != end {
		t.Fatalf("got %d records from %d to %d", len(got), got[0].Seq, got[len(got)-1].Seq)
	}
}
