package kv

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

const testTTL = 900 * time.Millisecond

// witness hears every campaigner and fails the test when two believe at once.
type witness struct {
	t       *testing.T
	ttl     time.Duration // of the lease
	mu      sync.Mutex
	holder  string
	changed chan struct{}
	running sync.WaitGroup
}

func newWitness(t *testing.T) *witness {
	w := &witness{t: t, ttl: testTTL, changed: make(chan struct{})}
	t.Cleanup(w.running.Wait)
	return w
}

// campaign starts a campaigner, and returns what ends it.
func (w *witness) campaign(s *Store, id string) context.CancelFunc {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.t.Cleanup(cancel)
	w.running.Go(func() {
		s.Campaign(ctx, "lease", id, w.ttl, slog.New(slog.DiscardHandler), func(l Leadership) { w.hear(id, l) })
	})
	return cancel
}

func (w *witness) hear(id string, l Leadership) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case l.Mine && w.holder != "" && w.holder != id:
		w.t.Errorf("%s holds the lease while %s still believes to", id, w.holder)
	case l.Mine && l.Holder != id:
		w.t.Errorf("%s holds the lease as %q", id, l.Holder)
	}
	switch {
	case l.Mine:
		w.holder = id
	case w.holder == id:
		w.holder = ""
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// until waits for a holder to be as wanted, and returns it.
func (w *witness) until(what string, wanted func(holder string) bool) string {
	w.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		w.mu.Lock()
		holder, changed := w.holder, w.changed
		w.mu.Unlock()
		if wanted(holder) {
			return holder
		}
		select {
		case <-changed:
		case <-deadline:
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestALeaseThatIsGivenUpIsTakenAtOnce(t *testing.T) {
	sites(t, func(t *testing.T, open func() *Store) {
		w := newWitness(t)
		w.ttl = 24 * time.Second // longer than until waits: that it ran out does not help
		end := map[string]context.CancelFunc{"a": w.campaign(open(), "a"), "b": w.campaign(open(), "b")}
		first := w.until("a holder", func(h string) bool { return h != "" })
		end[first]()
		w.until("the other", func(h string) bool { return h != "" && h != first })
		want(t, open(), "lease", map[string]string{"a": "b", "b": "a"}[first])
	})
}

// TestAHolderThatIsCutOff is about one that can tell nobody: its calls hang, fail, or lose their answers.
func TestAHolderThatIsCutOffStopsToBelieveBeforeAnotherTakesOver(t *testing.T) {
	cuts := map[string]func(s *Store) func(context.Context, *nats.Msg) (*nats.Msg, error){
		"hangs": func(*Store) func(context.Context, *nats.Msg) (*nats.Msg, error) {
			return func(ctx context.Context, _ *nats.Msg) (*nats.Msg, error) { <-ctx.Done(); return nil, ctx.Err() }
		},
		"fails": func(*Store) func(context.Context, *nats.Msg) (*nats.Msg, error) {
			return func(context.Context, *nats.Msg) (*nats.Msg, error) { return nil, nats.ErrNoResponders }
		},
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			sites(t, func(t *testing.T, open func() *Store) {
				w, doomed, heir := newWitness(t), open(), open()
				var mu sync.Mutex
				whole := doomed.request
				request := whole
				doomed.request = func(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
					mu.Lock()
					now := request
					mu.Unlock()
					return now(ctx, m)
				}
				w.campaign(doomed, "doomed")
				w.until("the first holder", func(h string) bool { return h == "doomed" })
				w.campaign(heir, "heir")
				mu.Lock()
				request = cut(doomed)
				mu.Unlock()
				began := time.Now()
				w.until("the heir", func(h string) bool { return h == "heir" })
				if took := time.Since(began); took > 4*testTTL {
					t.Errorf("it took %v to take over from a holder that was cut off", took)
				}
				mu.Lock()
				request = whole
				mu.Unlock()
				// Back again, it does not take the lease from one who renews it.
				if e, err := heir.Get(within(t), "lease"); err != nil || string(e.Value) != "heir" {
					t.Fatalf("got %q, %v", e.Value, err)
				}
			})
		})
	}
}

func TestARenewalWhoseAnswerIsLostKeepsTheLease(t *testing.T) {
	s := open(t, natstest.Embedded(t).Conn, 1)
	renewals, lost := make(chan struct{}, 100), make(chan struct{}, 100)
	n := 0
	s.request = func(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
		answer, err := s.nc.RequestMsgWithContext(ctx, m)
		if n++; n%2 == 0 {
			lost <- struct{}{}
			return nil, nats.ErrTimeout
		}
		renewals <- struct{}{}
		return answer, err
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan Leadership, 100)
	var running sync.WaitGroup
	running.Go(func() {
		s.Campaign(ctx, "lease", "a", testTTL, slog.New(slog.DiscardHandler), func(l Leadership) { told <- l })
	})
	for range 4 {
		<-lost
	}
	cancel()
	running.Wait()
	close(told)
	var all []Leadership
	for l := range told {
		all = append(all, l)
	}
	if len(all) != 2 || !all[0].Mine || all[1].Mine {
		t.Fatalf("the campaigner was told %+v, want that it won, and at its end that it gave up", all)
	}
}

func TestALeaseSurvivesTheLeaderOfItsStore(t *testing.T) {
	cluster := natstest.NewCluster(t)
	connect := func() *Store { return open(t, natstest.Open(t, natsconn.Config{URL: cluster.URL()}).Conn, 3) }
	w, watcher := newWitness(t), connect()
	w.campaign(connect(), "a")
	w.campaign(connect(), "b")
	w.until("a holder", func(h string) bool { return h != "" })
	before := must[Entry](t)(watcher.Get(within(t), "lease"))
	cluster.StopNode(cluster.StreamLeader("KV_TEST"))
	// The lease is renewed or taken over in the store that is left: both are a later revision of a believer.
	deadline := time.Now().Add(20 * time.Second)
	for {
		e, err := watcher.Get(within(t), "lease")
		holder := w.until("a holder", func(h string) bool { return h != "" })
		if err == nil && e.Revision > before.Revision+2 && string(e.Value) == holder {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the lease was not renewed: it stands at %+v (%v), held by %s", e, err, holder)
		}
	}
}
