package kv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

// sites runs a test on a store that one server keeps and on one that three keep.
func sites(t *testing.T, test func(t *testing.T, open func() *Store)) {
	t.Run("embedded", func(t *testing.T) {
		nc := natstest.Embedded(t).Conn
		test(t, func() *Store { return open(t, nc, 1) })
	})
	t.Run("three nodes", func(t *testing.T) {
		cluster := natstest.NewCluster(t)
		test(t, func() *Store {
			return open(t, natstest.Open(t, natsconn.Config{URL: cluster.URL()}).Conn, 3)
		})
	})
}

func open(t testing.TB, nc *nats.Conn, replicas int) *Store {
	t.Helper()
	s, err := Open(within(t), nc, Config{Bucket: "TEST", Replicas: replicas})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func want(t testing.TB, s *Store, key, value string) {
	t.Helper()
	if e, err := s.Get(within(t), key); err != nil || string(e.Value) != value {
		t.Fatalf("%s: got %q, %v, want %q", key, e.Value, err, value)
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func TestOneOfSeveralWritersWins(t *testing.T) {
	sites(t, func(t *testing.T, open func() *Store) {
		s, ctx := open(), within(t)
		_, err := s.Get(ctx, "a")
		wantErr(t, err, ErrNotFound)
		first := must[uint64](t)(s.Create(ctx, "a", []byte("1"), 0))
		_, err = s.Create(ctx, "a", []byte("2"), 0)
		wantErr(t, err, ErrExists)
		second := must[uint64](t)(s.Update(ctx, "a", []byte("2"), first, 0))
		_, err = s.Update(ctx, "a", []byte("3"), first, 0)
		wantErr(t, err, ErrConflict)
		want(t, s, "a", "2")
		if e := must[Entry](t)(s.Get(ctx, "a")); e.Revision != second {
			t.Fatalf("got revision %d, want %d", e.Revision, second)
		}
		_, err = s.Update(ctx, "never", []byte("3"), 1, 0)
		wantErr(t, err, ErrConflict)

		var wins atomic.Int32
		var racers sync.WaitGroup
		for i := range 8 {
			racers.Go(func() {
				_, err := s.Create(ctx, "race", fmt.Append(nil, i), 0)
				if err == nil {
					wins.Add(1)
				} else if !errors.Is(err, ErrExists) {
					t.Errorf("a racer got %v", err)
				}
			})
		}
		racers.Wait()
		if wins.Load() != 1 {
			t.Fatalf("%d racers created the same key", wins.Load())
		}
	})
}

// TestChangesThatMeetAreAllMade: each is made of what the others left.
func TestChangesThatMeetAreAllMade(t *testing.T) {
	sites(t, func(t *testing.T, open func() *Store) {
		s, ctx := open(), within(t)
		var racers sync.WaitGroup
		for range 8 {
			racers.Go(func() {
				for range 5 {
					_, err := s.Change(ctx, "tally", 0, func(value []byte) ([]byte, error) { return append(value, '|'), nil })
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		racers.Wait()
		want(t, s, "tally", strings.Repeat("|", 40))
		no := errors.New("no")
		_, err := s.Change(ctx, "tally", 0, func([]byte) ([]byte, error) { return nil, no })
		wantErr(t, err, no)
	})
}

// list returns what is under a prefix, each key once.
func list(t *testing.T, s *Store, prefix string) map[string]Entry {
	t.Helper()
	found := make(map[string]Entry)
	if err := s.Each(within(t), prefix, func(e Entry) error { found[e.Key] = e; return nil }); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestABatchIsCreatedWholeOrNotAtAll(t *testing.T) {
	sites(t, func(t *testing.T, open func() *Store) {
		s, ctx := open(), within(t)
		all := make([]KeyValue, MaxBatch)
		for i := range all {
			all[i] = KeyValue{fmt.Sprintf("batch.%04d", i), fmt.Append(nil, i)}
		}
		if err := s.CreateBatch(ctx, all); err != nil {
			t.Fatal(err)
		}
		if got := list(t, s, "batch."); len(got) != MaxBatch {
			t.Fatalf("%d keys are there", len(got))
		}
		err := s.CreateBatch(ctx, []KeyValue{{"other.1", nil}, all[3], {"other.2", nil}, all[7]})
		wantErr(t, err, ErrExists)
		var exists *ExistsError
		if !errors.As(err, &exists) || !slices.Equal(exists.Keys, []string{"batch.0003", "batch.0007"}) {
			t.Fatalf("got %v", err)
		}
		if got := list(t, s, "other."); len(got) != 0 {
			t.Fatalf("of a batch that was refused, %d keys are there", len(got))
		}
		// A purged key can be created again, in a batch too.
		if err := s.Purge(ctx, "batch.0003"); err != nil {
			t.Fatal(err)
		}
		if err := s.CreateBatch(ctx, []KeyValue{{"other.1", []byte("x")}, {"batch.0003", []byte("again")}}); err != nil {
			t.Fatal(err)
		}
		want(t, s, "batch.0003", "again")
		if err := s.CreateBatch(ctx, []KeyValue{{"twice", nil}, {"twice", nil}}); err == nil {
			t.Fatal("a batch with a key twice was taken")
		}
		if err := s.CreateBatch(ctx, make([]KeyValue, MaxBatch+1)); err == nil {
			t.Fatal("a batch that is too long was taken")
		}
	})
}

// TestALostAcknowledgementIsResolved loses the write or its answer, once or twice, for each kind of write.
func TestALostAcknowledgementIsResolved(t *testing.T) {
	lost := errors.New("lost")
	loseAnswers := func(n int) func(*Store) {
		return func(s *Store) {
			s.request = func(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
				answer, err := s.nc.RequestMsgWithContext(ctx, m)
				if n--; n >= 0 && err == nil {
					return nil, lost
				}
				return answer, err
			}
		}
	}
	loseWrites := func(n int) func(*Store) {
		return func(s *Store) {
			s.request = func(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
				if n--; n >= 0 {
					return nil, lost
				}
				return s.nc.RequestMsgWithContext(ctx, m)
			}
		}
	}
	losePart := func(s *Store) {
		n := 0
		s.publish = func(m *nats.Msg) error {
			if n++; n == 1 {
				return nil
			}
			return s.nc.PublishMsg(m)
		}
	}
	sites(t, func(t *testing.T, open func() *Store) {
		for name, lose := range map[string]func(*Store){
			"the answer": loseAnswers(1), "two answers": loseAnswers(2), "the write": loseWrites(1), "two writes": loseWrites(2), "a part": losePart,
		} {
			t.Run(name, func(t *testing.T) {
				s, ctx := open(), within(t)
				key := strings.ReplaceAll(name, " ", "-")
				lose(s)
				created, err := s.Create(ctx, key+".c", []byte("1"), 0)
				if err != nil {
					t.Fatalf("creating: %v", err)
				}
				if e := must[Entry](t)(s.Get(ctx, key+".c")); e.Revision != created {
					t.Fatalf("created at %d, stands at %d", created, e.Revision)
				}
				lose(s)
				updated, err := s.Update(ctx, key+".c", []byte("2"), created, 0)
				if err != nil {
					t.Fatalf("updating: %v", err)
				}
				if e := must[Entry](t)(s.Get(ctx, key+".c")); e.Revision != updated || string(e.Value) != "2" {
					t.Fatalf("updated at %d, stands at %d with %q", updated, e.Revision, e.Value)
				}
				lose(s)
				if err := s.CreateBatch(ctx, []KeyValue{{key + ".b1", []byte("1")}, {key + ".b2", []byte("2")}, {key + ".b3", []byte("3")}}); err != nil {
					t.Fatalf("creating a batch: %v", err)
				}
				want(t, s, key+".b3", "3")
				lose(s)
				if err := s.Purge(ctx, key+".c"); err != nil {
					t.Fatalf("purging: %v", err)
				}
				_, err = s.Get(ctx, key+".c")
				wantErr(t, err, ErrNotFound)
			})
		}
		t.Run("a rival is first", func(t *testing.T) {
			s, rival, ctx := open(), open(), within(t)
			rev := must[uint64](t)(s.Create(ctx, "r", []byte("1"), 0))
			first := true
			s.request = func(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
				if first {
					first = false
					if _, err := rival.Update(ctx, "r", []byte("rival"), rev, 0); err != nil {
						t.Errorf("the rival: %v", err)
					}
					return nil, lost
				}
				return s.nc.RequestMsgWithContext(ctx, m)
			}
			_, err := s.Update(ctx, "r", []byte("2"), rev, 0)
			wantErr(t, err, ErrConflict)
			want(t, s, "r", "rival")
		})
	})
}

func TestTheFateOfAWriteThatNobodyAnsweredIsNotGuessed(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	rev := must[uint64](t)(s.Create(within(t), "a", []byte("1"), 0))
	s.request = func(context.Context, *nats.Msg) (*nats.Msg, error) { return nil, nats.ErrTimeout }
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := s.Update(ctx, "a", []byte("2"), rev, 0)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrConflict) {
		t.Fatalf("got %v", err)
	}
	_, err = s.Create(ctx, "b", []byte("2"), 0)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrExists) {
		t.Fatalf("got %v", err)
	}
}

// TestAPurgedValueIsNotOnDisk looks for the bytes in every file of the server.
func TestAPurgedValueIsNotOnDisk(t *testing.T) {
	dir := t.TempDir()
	s, ctx := open(t, natstest.Open(t, natsconn.Config{DataDir: dir}).Conn, 1), within(t)
	alone, batched, kept := []byte("the-value-that-was-alone"), []byte("the-value-of-a-batch"), []byte("the-value-that-is-kept")
	must[uint64](t)(s.Create(ctx, "alone", alone, 0))
	must[uint64](t)(s.Create(ctx, "kept", kept, 0))
	if err := s.CreateBatch(ctx, []KeyValue{{"batched.1", batched}, {"batched.2", []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	if !onDisk(t, dir, alone) || !onDisk(t, dir, batched) {
		t.Fatal("a value is not found on disk before it is purged: the test looks in the wrong place")
	}
	for _, key := range []string{"alone", "batched.1", "never.was"} {
		if err := s.Purge(ctx, key); err != nil {
			t.Fatal(err)
		}
	}
	if onDisk(t, dir, alone) || onDisk(t, dir, batched) {
		t.Fatal("a purged value is still on disk")
	}
	if !onDisk(t, dir, kept) {
		t.Fatal("another value was removed too")
	}
}

func onDisk(t *testing.T, dir string, value []byte) bool {
	t.Helper()
	found := false
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if errors.Is(err, os.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			return nil // the server removes files meanwhile
		}
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		found = found || bytes.Contains(data, value)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestAValueExpiresAndItsWatchersHear(t *testing.T) {
	s, ctx := open(t, natstest.Embedded(t).Conn, 1), within(t)
	rev := must[uint64](t)(s.Create(ctx, "code.1", []byte("x"), time.Second))
	must[uint64](t)(s.Create(ctx, "code.2", []byte("y"), 0))
	must[uint64](t)(s.Update(ctx, "code.1", []byte("z"), rev, 1200*time.Millisecond))
	expired := errors.New("expired")
	began := time.Now()
	err := s.Watch(ctx, "code.", nil, func(e Entry) error {
		if e.Key == "code.1" && e.Value == nil {
			return expired
		}
		return nil
	})
	wantErr(t, err, expired)
	if took := time.Since(began); took < time.Second {
		t.Fatalf("it lived for %v only", took)
	}
	_, err = s.Get(ctx, "code.1")
	wantErr(t, err, ErrNotFound)
	want(t, s, "code.2", "y")
	must[uint64](t)(s.Create(ctx, "code.1", []byte("again"), 0))
}

func TestAWatchDeliversWhatIsThereThenEachChange(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	for i := range 600 { // more than a watch buffers
		must[uint64](t)(s.Create(within(t), fmt.Sprintf("w.%d", i), []byte("x"), 0))
	}
	must[uint64](t)(s.Create(within(t), "other.1", []byte("x"), 0))
	ctx, cancel := context.WithCancel(within(t))
	synced, over := make(chan int, 1), make(chan error, 1)
	changes := make(chan Entry, 10)
	go func() {
		n, live := 0, false
		over <- s.Watch(ctx, "w.", func() { live = true; synced <- n }, func(e Entry) error {
			if n++; live {
				changes <- e
			}
			return nil
		})
	}()
	if n := <-synced; n != 600 {
		t.Fatalf("%d values came before it was synced", n)
	}
	if err := s.Put(within(t), "w.3", nil); err != nil {
		t.Fatal(err)
	}
	if e := <-changes; e.Key != "w.3" || e.Value == nil || len(e.Value) != 0 {
		t.Fatalf("got %+v for an empty value", e)
	}
	if err := s.Purge(within(t), "w.4"); err != nil {
		t.Fatal(err)
	}
	if e := <-changes; e.Key != "w.4" || e.Value != nil {
		t.Fatalf("got %+v for a purge", e)
	}
	cancel()
	if err := <-over; err != nil {
		t.Fatalf("a watch that was ended returned %v", err)
	}
	// One that ends early, with more to come, ends all the same.
	stop := errors.New("stop")
	wantErr(t, s.Watch(within(t), "", nil, func(Entry) error { return stop }), stop)
}

func TestAWatchGoesOnWhenALeaderStops(t *testing.T) {
	cluster := natstest.NewCluster(t)
	s := open(t, natstest.Open(t, natsconn.Config{URL: cluster.URL()}).Conn, 3)
	must[uint64](t)(s.Create(within(t), "w.first", []byte("x"), 0))
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	synced := make(chan struct{})
	seen, over := errors.New("seen"), make(chan error, 1)
	go func() {
		over <- s.Watch(ctx, "w.", func() { close(synced) }, func(e Entry) error {
			if e.Key == "w.last" {
				return seen
			}
			return nil
		})
	}()
	<-synced
	cluster.StopNode(cluster.StreamLeader("KV_TEST"))
	must[uint64](t)(s.Create(ctx, "w.last", []byte("x"), 0))
	wantErr(t, <-over, seen)
}

func TestHostileKeysAreRefused(t *testing.T) {
	s, ctx := open(t, natstest.Embedded(t).Conn, 1), within(t)
	for _, key := range []string{"", ".", "a.", ".a", "a..b", "*", "a.>", "a b", "a\r\nNats-Rollup: all", "ü", strings.Repeat("a", 257)} {
		for name, call := range map[string]func() error{
			"Get":         func() error { _, err := s.Get(ctx, key); return err },
			"Create":      func() error { _, err := s.Create(ctx, key, nil, 0); return err },
			"CreateBatch": func() error { return s.CreateBatch(ctx, []KeyValue{{"good", nil}, {key, nil}}) },
			"Update":      func() error { _, err := s.Update(ctx, key, nil, 1, 0); return err },
			"Put":         func() error { return s.Put(ctx, key, nil) },
			"Purge":       func() error { return s.Purge(ctx, key) },
		} {
			if err := call(); !errors.Is(err, ErrKey) {
				t.Errorf("%s of %q: got %v", name, key, err)
			}
		}
	}
	for _, prefix := range []string{"a", "*", "*.", "."} {
		if err := s.Each(ctx, prefix, func(Entry) error { return nil }); !errors.Is(err, ErrKey) {
			t.Errorf("listing %q: got %v", prefix, err)
		}
	}
}

func TestABucketThatCouldLoseIsRefused(t *testing.T) {
	nc := natstest.Embedded(t).Conn
	js := must[jetstream.JetStream](t)(jetstream.New(nc))
	must[jetstream.KeyValue](t)(js.CreateKeyValue(within(t), jetstream.KeyValueConfig{Bucket: "FOREIGN", History: 5}))
	if _, err := Open(within(t), nc, Config{Bucket: "FOREIGN"}); err == nil {
		t.Fatal("a bucket with history was taken")
	}
	open(t, nc, 1)
	if _, err := Open(within(t), nc, Config{Bucket: "TEST", Replicas: 3}); err == nil {
		t.Fatal("a bucket on one server was taken for one on three")
	}
}
