package peers_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
	"sallyport.dev/controlplane/internal/peers"
)

func open(t *testing.T, conn *natsconn.Conn, id string) *peers.Peers {
	t.Helper()
	store, err := kv.Open(t.Context(), conn.Conn, kv.Config{Bucket: "SHARED"})
	enginetest.Must(t, err)
	return &peers.Peers{NC: conn.Conn, Store: store, ID: id, TTL: 600 * time.Millisecond, Log: slog.New(slog.DiscardHandler)}
}

func TestAPeerAnswersAndWaitsForWhatIsUnderWay(t *testing.T) {
	conn := natstest.Embedded(t)
	a, b := open(t, conn, "a"), open(t, conn, "b")
	ctx, cancel := context.WithCancel(t.Context())
	entered, leave := make(chan struct{}), make(chan struct{})
	served := make(chan error, 1)
	go func() {
		served <- b.Serve(ctx, func(_ context.Context, data []byte) []byte {
			if string(data) == "slow" {
				close(entered)
				<-leave
			}
			return append([]byte("b says "), data...)
		})
	}()
	ask := func(text string) (string, error) {
		within, done := context.WithTimeout(t.Context(), 10*time.Second)
		defer done()
		answer, err := a.Request(within, "b", []byte(text))
		return string(answer), err
	}
	enginetest.Eventually(t, "the peer to listen", func() bool { _, err := ask("hello"); return err == nil })
	slow := make(chan string, 1)
	go func() { answer, _ := ask("slow"); slow <- answer }()
	<-entered
	// One that takes long keeps no other waiting.
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if got, err := ask("quick"); err != nil || got != "b says quick" {
				t.Errorf("answered %q, %v", got, err)
			}
		})
	}
	all.Wait()
	cancel()
	select {
	case err := <-served:
		t.Errorf("Serve ended with %v while a request was under way", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	enginetest.Must(t, <-served)
	if got := <-slow; got != "b says slow" {
		t.Errorf("the request that was under way: %q", got)
	}
	if _, err := ask("hello"); err == nil {
		t.Error("a peer that ended answers")
	}
	if _, err := a.Request(t.Context(), "b", make([]byte, conn.MaxPayload()+1)); err == nil || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("what no message holds: %v", err)
	}
}

func TestOnePeerLeadsAndAnotherFollowsIt(t *testing.T) {
	conn := natstest.Embedded(t)
	var mu sync.Mutex
	leads := map[string]bool{}
	known := map[string]string{}
	start := func(id string) (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		p := open(t, conn, id)
		go func() {
			defer close(done)
			p.Campaign(ctx, func(holder string, mine bool) {
				mu.Lock()
				defer mu.Unlock()
				known[id], leads[id] = holder, mine
				if leads["a"] && leads["b"] {
					t.Error("two lead at once")
				}
			})
		}()
		return func() { cancel(); <-done }
	}
	is := func(who, holder string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return known[who] == holder && leads[who] == (who == holder)
		}
	}
	stopA := start("a")
	enginetest.Eventually(t, "a to lead", is("a", "a"))
	stopB := start("b")
	defer func() { stopB() }()
	enginetest.Eventually(t, "b to know of it", is("b", "a"))
	stopA()
	enginetest.Eventually(t, "b to take over", is("b", "b"))
}
