package journal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

// site is a log with the means to open it more than once.
type site struct {
	connect  func() *nats.Conn
	replicas int
	cluster  *natstest.Cluster // nil: embedded
}

// sites runs a test on a log that one server keeps and on one that three keep.
func sites(t *testing.T, test func(t *testing.T, s site)) {
	t.Run("embedded", func(t *testing.T) {
		conn := natstest.Embedded(t)
		test(t, site{connect: func() *nats.Conn { return conn.Conn }, replicas: 1})
	})
	t.Run("three nodes", func(t *testing.T) {
		cluster := natstest.NewCluster(t)
		connect := func() *nats.Conn { return natstest.Open(t, natsconn.Config{URL: cluster.URL()}).Conn }
		test(t, site{connect: connect, replicas: 3, cluster: cluster})
	})
}

func (s site) open(t testing.TB) *Journal {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	j, err := Open(ctx, s.connect(), Config{Replicas: s.replicas, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// batch makes messages that are told apart by a name.
func batch(name string, n int) []Message {
	all := make([]Message, n)
	for i := range n {
		all[i] = Message{Subject: "sallyport.event.test." + name, Data: fmt.Appendf(nil, "%s/%d", name, i)}
	}
	return all
}

func mustAppend(t testing.TB, j *Journal, expected uint64, b []Message) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	last, err := j.Append(ctx, expected, b)
	if err != nil {
		t.Fatal(err)
	}
	return last
}

// contents reads the log from its beginning up to a sequence.
func contents(t testing.TB, j *Journal, last uint64) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var all []string
	over := errors.New("read")
	err := j.Follow(ctx, 0, func(records []Record) error {
		for _, r := range records {
			all = append(all, string(r.Data))
			if r.Seq >= last {
				return over
			}
		}
		return nil
	})
	if !errors.Is(err, over) {
		t.Fatalf("the log was not read up to %d: %v", last, err)
	}
	return all
}

func wantLog(t testing.TB, j *Journal, want ...[]Message) {
	t.Helper()
	var data []string
	for _, b := range want {
		for _, m := range b {
			data = append(data, string(m.Data))
		}
	}
	// A record at the end that is known to be new shows that nothing else is behind what was read.
	last := mustAppend(t, j, uint64(len(data)), batch("end", 1))
	if got := contents(t, j, last); !slices.Equal(got, append(data, "end/0")) {
		t.Fatalf("the log holds %q, want %q", got, data)
	}
}

// tryOf tells of which try of a batch a message is.
func tryOf(m *nats.Msg) string {
	if id := m.Header.Get(batchIDHeader); id != "" {
		return id[strings.LastIndex(id, "-")+1:]
	}
	return m.Reply[strings.LastIndex(m.Reply, ".")+1:]
}

// TestALostAcknowledgementIsResolved loses a batch, a part of it or its answer, in each place.
func TestALostAcknowledgementIsResolved(t *testing.T) {
	drop := func(which func(m *nats.Msg) bool) func(j *Journal) {
		return func(j *Journal) {
			publish := j.publish
			j.publish = func(m *nats.Msg) error {
				if which(m) {
					return nil
				}
				return publish(m)
			}
		}
	}
	firstTry := func(m *nats.Msg) bool { return tryOf(m) == "1" }
	dropAnswers := func(tries ...string) func(j *Journal) {
		return func(j *Journal) {
			j.replies.drop = func(m *nats.Msg) bool {
				return slices.Contains(tries, m.Subject[strings.LastIndex(m.Subject, ".")+1:])
			}
		}
	}
	sites(t, func(t *testing.T, s site) {
		reader := s.open(t)
		var written [][]Message
		end := uint64(0)
		for _, size := range []int{1, 3} {
			for name, lose := range map[string]func(*Journal){
				"nothing":                      func(*Journal) {},
				"the whole batch on its way":   drop(firstTry),
				"what commits it":              drop(func(m *nats.Msg) bool { return firstTry(m) && m.Reply != "" }),
				"a message in its middle":      drop(func(m *nats.Msg) bool { return firstTry(m) && m.Header.Get(batchSequenceHeader) == "2" }),
				"its first message":            drop(func(m *nats.Msg) bool { return firstTry(m) && m.Header.Get(batchSequenceHeader) == "1" }),
				"the acknowledgement":          dropAnswers("1"),
				"the first and second answers": dropAnswers("1", "2"),
			} {
				t.Run(fmt.Sprintf("%s of %d", name, size), func(t *testing.T) {
					j := s.open(t)
					lose(j)
					b := batch(fmt.Sprintf("%d-%d", size, end), size)
					if last := mustAppend(t, j, end, b); last != end+uint64(size) {
						t.Fatalf("the batch ends at %d, want %d", last, end+uint64(size))
					}
					end += uint64(size)
					written = append(written, b)
				})
			}
		}
		wantLog(t, reader, written...)
	})
}

func TestABatchThatComesLateIsNotWrittenTwice(t *testing.T) {
	sites(t, func(t *testing.T, s site) {
		j := s.open(t)
		publish := j.publish
		var late []*nats.Msg
		j.publish = func(m *nats.Msg) error {
			if tryOf(m) == "1" {
				late = append(late, m)
				return nil
			}
			return publish(m)
		}
		b := batch("b", 3)
		mustAppend(t, j, 0, b)
		for _, m := range late {
			if err := publish(m); err != nil {
				t.Fatal(err)
			}
		}
		j.publish = publish
		wantLog(t, j, b)
	})
}

func TestAnotherWriterAtThePositionIsAConflict(t *testing.T) {
	sites(t, func(t *testing.T, s site) {
		mine, rival := s.open(t), s.open(t)
		theirs := batch("theirs", 2)
		mustAppend(t, rival, 0, theirs)
		for _, size := range []int{1, 3} {
			if _, err := mine.Append(t.Context(), 0, batch("mine", size)); !errors.Is(err, ErrConflict) {
				t.Fatalf("a batch of %d behind the end: got %v, want a conflict", size, err)
			}
			if _, err := mine.Append(t.Context(), 7, batch("mine", size)); !errors.Is(err, ErrConflict) {
				t.Fatalf("a batch of %d ahead of the end: got %v, want a conflict", size, err)
			}
		}
		// The batch is lost on its way, and the rival is first before it is sent again.
		publish := mine.publish
		var more []Message
		mine.publish = func(m *nats.Msg) error {
			if tryOf(m) == "1" {
				if more == nil {
					more = batch("more", 1)
					mustAppend(t, rival, 2, more)
				}
				return nil
			}
			return publish(m)
		}
		if _, err := mine.Append(t.Context(), 2, batch("mine", 2)); !errors.Is(err, ErrConflict) {
			t.Fatalf("a lost batch that a rival overtook: got %v, want a conflict", err)
		}
		mine.publish = publish
		wantLog(t, mine, theirs, more)
	})
}

func TestOnlyTheEndOfTheContextLeavesTheFateUnknown(t *testing.T) {
	s := site{connect: func() *nats.Conn { return natstest.Embedded(t).Conn }, replicas: 1}
	j := s.open(t)
	publish := j.publish
	j.publish = func(m *nats.Msg) error { return nil } // all is lost
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := j.Append(ctx, 0, batch("a", 2)); !errors.Is(err, ErrFateUnknown) || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want an unknown fate", err)
	}
	j.publish = func(m *nats.Msg) error { return nats.ErrReconnectBufExceeded } // nothing is sent
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := j.Append(ctx, 0, batch("a", 2)); err == nil || errors.Is(err, ErrFateUnknown) {
		t.Fatalf("got %v, want an error that leaves nothing open", err)
	}
	j.publish = publish
	for _, bad := range [][]Message{nil, make([]Message, MaxBatch+1), {{Subject: "sallyport.event.x", Data: make([]byte, 1<<20)}}} {
		if _, err := j.Append(t.Context(), 0, bad); err == nil || errors.Is(err, ErrFateUnknown) {
			t.Fatalf("got %v for a batch that cannot be", err)
		}
	}
	wantLog(t, j)
}

func TestTheLargestBatchesFit(t *testing.T) {
	sites(t, func(t *testing.T, s site) {
		j := s.open(t)
		mustAppend(t, j, 0, batch("many", MaxBatch))
		large := batch("large", 40) // a push of a large group: lists of half a MiB
		for i := range large {
			large[i].Data = make([]byte, 512<<10)
		}
		if last := mustAppend(t, j, MaxBatch, large); last != MaxBatch+40 {
			t.Fatalf("ended at %d", last)
		}
	})
}

// TestRivalsNeverTearOrRepeat lets writers race while messages and answers are lost at random: what was
// acknowledged is in the log once, whole and where it was said to be, and what conflicted is not.
func TestRivalsNeverTearOrRepeat(t *testing.T) {
	sites(t, func(t *testing.T, s site) {
		const writers, rounds = 3, 15
		var mu sync.Mutex
		acknowledged := map[string]uint64{}
		conflicted := map[string]bool{}
		var end atomic.Uint64
		var all sync.WaitGroup
		for w := range writers {
			j := s.open(t)
			random := rand.New(rand.NewPCG(uint64(w), 7))
			var guard sync.Mutex
			unlucky := func() bool { guard.Lock(); defer guard.Unlock(); return random.IntN(12) == 0 }
			publish := j.publish
			j.publish = func(m *nats.Msg) error {
				if unlucky() {
					return nil
				}
				return publish(m)
			}
			j.replies.drop = func(*nats.Msg) bool { return unlucky() }
			all.Go(func() {
				for done := 0; done < rounds; {
					name := fmt.Sprintf("w%d-%d-%d", w, done, end.Load())
					b := batch(name, 1+done%4)
					at := end.Load()
					last, err := j.Append(t.Context(), at, b)
					mu.Lock()
					switch {
					case err == nil:
						acknowledged[name] = last
						done++
						for e := end.Load(); e < last && !end.CompareAndSwap(e, last); e = end.Load() {
							continue
						}
					case errors.Is(err, ErrConflict):
						conflicted[name] = true
					default:
						t.Errorf("%s: %v", name, err)
						done++
					}
					mu.Unlock()
				}
			})
		}
		all.Wait()
		log := contents(t, s.open(t), end.Load())
		found := 0
		for name, last := range acknowledged {
			size := 1
			for size < 4 && int(last)-size > 0 && strings.HasPrefix(log[int(last)-1-size], name+"/") {
				size++
			}
			for i := range size {
				if got, want := log[int(last)-size+i], fmt.Sprintf("%s/%d", name, i); got != want {
					t.Fatalf("position %d holds %s, want %s", int(last)-size+i+1, got, want)
				}
			}
			found += size
		}
		if found != len(log) {
			t.Fatalf("%d records were acknowledged, the log holds %d", found, len(log))
		}
		for _, record := range log {
			if name, _, _ := strings.Cut(record, "/"); conflicted[name] && acknowledged[name] == 0 {
				t.Fatalf("%s conflicted and is in the log", name)
			}
		}
	})
}
