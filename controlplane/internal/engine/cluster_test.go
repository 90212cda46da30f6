package engine_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
	"sallyport.dev/controlplane/internal/peers"
)

const (
	events = "SALLYPORT_EVENTS"
	// away is how long one way to the far control plane takes: 80 ms there and back, as between continents.
	away = 40 * time.Millisecond
	// within bounds what starves: a command that others overtake each time never ends, and all else takes a small part of this, on a busy machine too.
	within = 15 * time.Second
)

// slowest is the longest that a command took.
type slowest struct{ nanos, count atomic.Int64 }

func (s *slowest) add(took time.Duration) {
	s.count.Add(1)
	for old := s.nanos.Load(); int64(took) > old && !s.nanos.CompareAndSwap(old, int64(took)); old = s.nanos.Load() {
		continue
	}
}

func (s *slowest) String() string {
	return fmt.Sprintf("%d commands, the slowest took %v", s.count.Load(), time.Duration(s.nanos.Load()).Round(time.Millisecond))
}

// TestTwoControlPlanesCompleteEveryCommandInTime puts one control plane 80 ms away and the other under load,
// on three nodes of which the leader of the log is stopped in between, with either as the active writer.
func TestTwoControlPlanesCompleteEveryCommandInTime(t *testing.T) {
	for _, writer := range []string{"near", "far"} {
		t.Run("the writer is "+writer, func(t *testing.T) {
			cluster := natstest.NewCluster(t)
			dir := t.TempDir()
			open := func(name, url string) (*engine.Engine, parts) {
				conn := natstest.Open(t, natsconn.Config{URL: url})
				p := newParts(t, conn, dir, 3)
				log := slog.New(slog.DiscardHandler)
				e := start(t, engine.Config{Journal: p.journal, Seals: p.vault, Peers: &peers.Peers{NC: conn.Conn, Store: p.shared, ID: name, Log: log}}, nil)
				return e, p
			}
			urls := map[string]string{"near": cluster.URL(), "far": cluster.FarURL(away)}
			engines := map[string]*engine.Engine{}
			var p parts
			for _, name := range []string{writer, map[string]string{"near": "far", "far": "near"}[writer]} { // the first takes the lease
				engines[name], p = open(name, urls[name])
				t.Cleanup(engines[name].Close)
			}

			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			took := map[string]*slowest{"near": {}, "far": {}}
			work := func(name string, caller int) {
				for i := 0; ctx.Err() == nil; i++ {
					began := time.Now()
					out, err := engines[name].Do(context.WithoutCancel(ctx), actor, newGroup(fmt.Sprintf("%s-%d-%d", name, caller, i)))
					if err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					took[name].add(time.Since(began))
					if out.State.Seq() < out.Seq || len(out.Events) != 1 {
						t.Errorf("%s: answered %d events at %d with a state at %d", name, len(out.Events), out.Seq, out.State.Seq())
						return
					}
				}
			}
			running.Go(func() { work("far", 0) })
			for caller := range 8 {
				running.Go(func() { work("near", caller) })
			}
			more := func(n int64) { // both go on
				t.Helper()
				from := map[string]int64{"near": took["near"].count.Load(), "far": took["far"].count.Load()}
				eventually(t, "both control planes to go on", func() error {
					for name, s := range took {
						if s.count.Load() < from[name]+n {
							return fmt.Errorf("%s: %s", name, s)
						}
					}
					return nil
				})
			}
			more(5)
			leader := cluster.StreamLeader(events)
			cluster.StopNode(leader, events, "KV_SHARED", "KV_VAULT")
			more(5)
			cluster.StartNode(leader, events, "KV_SHARED", "KV_VAULT")
			more(3)
			cancel()
			running.Wait()
			for name, s := range took {
				t.Logf("%s: %s", name, s)
				if time.Duration(s.nanos.Load()) > within {
					t.Errorf("%s: a command took longer than %s", name, within)
				}
			}
			last := p
			state := rebuilt(t, last)
			for name, e := range engines {
				s, err := e.WaitFor(t.Context(), state.Seq())
				if err != nil {
					t.Fatal(err)
				}
				if s.Seq() == state.Seq() && string(dump(t, s)) != string(dump(t, state)) {
					t.Errorf("the state of %s differs from the one rebuilt from the log", name)
				}
			}
			if got, want := int64(state.GroupCount("okta")), took["near"].count.Load()+took["far"].count.Load(); got != want {
				t.Errorf("%d groups are there, %d were answered", got, want)
			}
		})
	}
}
