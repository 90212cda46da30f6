package audit

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

func TestDuplicatesAreAcknowledgedAndGapsAreNot(t *testing.T) {
	sites(t, func(t *testing.T, open func() *Store) {
		s := open()
		mustAppend(t, s, "p", "g", 2, 5, 0) // a gap at the beginning
		mustAppend(t, s, "p", "g", 1, 3, 3)
		mustAppend(t, s, "p", "g", 1, 3, 3) // again
		mustAppend(t, s, "p", "g", 2, 5, 5) // overlapping
		mustAppend(t, s, "p", "g", 7, 9, 5) // a gap
		mustAppend(t, s, "p", "g", 1, 1, 5) // late
		mustAppend(t, s, "q", "g", 1, 1, 1) // another proxy's numbers are its own
		mustAppend(t, open(), "p", "g", 4, 7, 7)
		mustAppend(t, s, "p", "g", 8, 8, 8) // by one whose memory is old
		if got, err := s.Append(within(t), "p", "eu-west", "g", nil); err != nil || got != 8 {
			t.Fatalf("nothing: acknowledged %d, %v", got, err)
		}
		wantContents(t, s, slices.Concat(series("p/g", 1, 5), series("q/g", 1, 1), series("p/g", 6, 8))...)
	})
}

// TestANewSpoolBeginsAtOne has a proxy that lost its disk, and requests of the time before that come late.
func TestANewSpoolBeginsAtOneAndTheOldOneIsNotForgotten(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	mustAppend(t, s, "p", "first", 1, 4, 4)
	mustAppend(t, s, "p", "second", 3, 4, 0) // must begin at 1
	mustAppend(t, s, "p", "second", 1, 2, 2)
	mustAppend(t, s, "p", "first", 1, 4, 4) // late, and not stored again
	mustAppend(t, s, "p", "first", 3, 5, 5) // late, and new in part
	mustAppend(t, s, "p", "third", 1, 1, 1)
	mustAppend(t, s, "p", "second", 1, 2, 2)
	fresh := open(t, s.nc, 1)
	mustAppend(t, fresh, "p", "first", 5, 6, 6)
	mustAppend(t, fresh, "p", "second", 2, 3, 3)
	wantContents(t, s, slices.Concat(series("p/first", 1, 4), series("p/second", 1, 2), series("p/first", 5, 5),
		series("p/third", 1, 1), series("p/first", 6, 6), series("p/second", 3, 3))...)
}

func TestAProxyThatMovesToAnotherRegionGoesOn(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	mustAppend(t, s, "p", "g", 1, 2, 2)
	if got, err := s.Append(within(t), "p", "us-east", "g", run(2, 3)); err != nil || got != 3 {
		t.Fatalf("acknowledged %d, %v", got, err)
	}
	wantContents(t, s, series("p/g", 1, 3)...)
}

// TestALongOutageComesInSeveralBatches also has servers that take less in one than was thought.
func TestALongOutageComesInSeveralBatches(t *testing.T) {
	sites(t, func(t *testing.T, open func() *Store) {
		s := open()
		const last = batchRecords + 100
		mustAppend(t, s, "p", "g", 1, last, last)
		records := run(last+1, last+20)
		for _, r := range records {
			r.Error = strings.Repeat("x", 900_000)
		}
		if got, err := s.Append(within(t), "p", "eu-west", "g", records); err != nil || got != last+20 {
			t.Fatalf("acknowledged %d, %v", got, err)
		}
		wantContents(t, s, series("p/g", 1, last+20)...)
	})
}

// TestTwoControlPlanesAtOnceStoreEachRecordOnce lets a proxy send everything to several at the same time.
func TestTwoControlPlanesAtOnceStoreEachRecordOnce(t *testing.T) {
	sites(t, func(t *testing.T, open func() *Store) {
		planes := []*Store{open(), open(), open()}
		const last, batch = 600, 40
		var senders sync.WaitGroup
		for _, s := range planes {
			senders.Go(func() {
				for from := uint64(1); from <= last; {
					got, err := s.Append(within(t), "p", "eu-west", "g", run(from, from+batch-1))
					if err != nil {
						t.Error(err)
						return
					}
					if got < from-1 {
						t.Errorf("%d was acknowledged, and then %d", from-1, got)
						return
					}
					from = got + 1
				}
			})
		}
		senders.Wait()
		if t.Failed() {
			return
		}
		got := contents(t, planes[0])
		if want := series("p/g", 1, len(got)); len(got) < last || !slices.Equal(got, want) {
			t.Fatalf("the stream holds %d records, not each once and in order: %v", len(got), got)
		}
	})
}

func TestALostAcknowledgementIsResolved(t *testing.T) {
	lost := errors.New("lost")
	for name, lose := range map[string]func(s *Store, n int) (*nats.Msg, bool){
		"the answer": func(*Store, int) (*nats.Msg, bool) { return nil, true },
		"the batch":  func(*Store, int) (*nats.Msg, bool) { return nil, false },
	} {
		t.Run(name, func(t *testing.T) {
			sites(t, func(t *testing.T, open func() *Store) {
				s, calls := open(), 0
				s.request = func(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
					calls++
					if _, arrives := lose(s, calls); calls%3 != 0 {
						if arrives {
							if _, err := s.nc.RequestMsgWithContext(ctx, m); err != nil {
								return nil, err
							}
						}
						return nil, lost
					}
					return s.nc.RequestMsgWithContext(ctx, m)
				}
				mustAppend(t, s, "p", "g", 1, 5, 5)
				mustAppend(t, s, "p", "g", 6, 6, 6)
				mustAppend(t, s, "p", "h", 1, 2, 2)
				wantContents(t, s, slices.Concat(series("p/g", 1, 6), series("p/h", 1, 2))...)
			})
		})
	}
}

func TestRecordsOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	ctx := within(t)
	for i := range uint64(3) {
		conn, err := natsconn.Open(ctx, natsconn.Config{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		s := open(t, conn.Conn, 1)
		mustAppend(t, s, "p", "g", 1, 5*(i+1), 5*(i+1))
		wantContents(t, s, series("p/g", 1, 5*int(i+1))...)
		conn.Close()
	}
}

func TestStoringGoesOnWhenALeaderStops(t *testing.T) {
	cluster := natstest.NewCluster(t)
	s := open(t, natstest.Open(t, natsconn.Config{URL: cluster.URL()}).Conn, 3)
	const last, stop = 400, 150
	for from := uint64(1); from <= last; {
		got, err := s.Append(within(t), "p", "eu-west", "g", run(from, from+9))
		if err != nil {
			t.Fatal(err)
		}
		if from <= stop && got >= stop {
			cluster.StopNode(cluster.StreamLeader(StreamName))
		}
		from = got + 1
	}
	wantContents(t, s, series("p/g", 1, last)...)
}

// TestEveryScheduleStoresEachRecordOnce draws batches of several proxies and generations, in any order and
// by two control planes, and compares with a model: what was acknowledged is there, once, in order.
func TestEveryScheduleStoresEachRecordOnce(t *testing.T) {
	nc := natstest.Embedded(t).Conn
	planes := []*Store{open(t, nc, 1), open(t, nc, 1)}
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		model := map[string]uint64{}
		for range rapid.IntRange(1, 20).Draw(rt, "batches") {
			proxy := fmt.Sprintf("p%d-%d", round, rapid.IntRange(0, 1).Draw(rt, "proxy"))
			generation := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "generation")
			from := rapid.Uint64Range(1, 9).Draw(rt, "from")
			to := from + rapid.Uint64Range(0, 5).Draw(rt, "more")
			s := planes[rapid.IntRange(0, 1).Draw(rt, "plane")]
			got, err := s.Append(t.Context(), proxy, "eu", generation, run(from, to))
			key := proxy + "/" + generation
			want := model[key]
			if from <= want+1 {
				want = max(want, to)
			}
			if err != nil || got != want {
				rt.Fatalf("%s %d to %d: acknowledged %d, %v, want %d", key, from, to, got, err, want)
			}
			model[key] = want
		}
		stored := map[string]uint64{}
		for _, id := range contents(t, planes[0]) {
			cut := strings.LastIndex(id, "/")
			key := id[:cut]
			if stored[key]++; fmt.Sprint(stored[key]) != id[cut+1:] {
				rt.Fatalf("%s is stored where %d is to be", id, stored[key])
			}
		}
		for key, n := range model {
			if stored[key] != n {
				rt.Fatalf("of %s %d are stored, %d were acknowledged", key, stored[key], n)
			}
		}
	})
}

// BenchmarkAppend stores records of eight proxies at once in batches of 500, beside raw publishes of the
// same bytes to a stream of the same kind without waiting for each.
func BenchmarkAppend(b *testing.B) {
	const proxies, batch = 8, 500
	var ours, raw float64
	b.Run("ours", func(b *testing.B) {
		s := open(b, natstest.Embedded(b).Conn, 1)
		var next [proxies]uint64
		b.ResetTimer()
		for range b.N {
			var senders sync.WaitGroup
			for p := range proxies {
				senders.Go(func() {
					if _, err := s.Append(b.Context(), fmt.Sprint("p", p), "eu", "g", payload(next[p]+1, next[p]+batch)); err != nil {
						b.Error(err)
					}
					next[p] += batch
				})
			}
			senders.Wait()
		}
		ours = float64(b.N*proxies*batch) / b.Elapsed().Seconds()
		b.ReportMetric(ours, "records/s")
	})
	b.Run("raw async", func(b *testing.B) {
		s := open(b, natstest.Embedded(b).Conn, 1)
		r := payload(1, 1)[0]
		data, err := proto.Marshal(r)
		if err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		for range b.N {
			for range 20 {
				var last error
				for range 100 { // under the window at which publishing stalls
					if _, err := s.js.PublishAsync("sallyport.audit.eu.p.github.allowed", data); err != nil {
						last = err
					}
				}
				<-s.js.PublishAsyncComplete()
				if last != nil {
					b.Fatal(last)
				}
			}
		}
		raw = float64(b.N*20*100) / b.Elapsed().Seconds()
		b.ReportMetric(raw, "records/s")
		b.ReportMetric(ours/raw, "ours/raw")
	})
}

var head = func() []byte {
	b := make([]byte, 1200)
	for i := range b {
		b[i] = byte('a' + rand.IntN(26))
	}
	return b
}()

// payload makes records of a usual size, about 1.3 KB.
func payload(from, to uint64) []*auditv1.AuditRecord {
	all := run(from, to)
	for _, r := range all {
		r.Arguments = &auditv1.Payload{Head: head, Size: uint64(len(head))}
	}
	return all
}
