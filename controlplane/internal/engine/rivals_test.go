package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/natsconn"
)

// answered is what a caller was told.
type answered struct {
	name string
	out  engine.Outcome
	err  error
}

// TestLostRoundsChangeNothingThatWasAnswered lets two engines that may both believe to be the writer commit
// to one log, so that rounds conflict and are decided again, and loses forwarded requests and answers. What
// was answered must be what the log says, once, and both engines and one that only reads the log must agree.
func TestLostRoundsChangeNothingThatWasAnswered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "engine-*")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		conn, err := natsconn.Open(context.Background(), natsconn.Config{DataDir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		h := newHub()
		ids := []string{"a", "b"}
		h.believe("a", "a")
		h.believe("b", "a")
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		var guard sync.Mutex
		unlucky := func(n int) bool { guard.Lock(); defer guard.Unlock(); return random.IntN(n) == 0 }
		h.lose = func(bool) bool { return unlucky(10) }

		var engines []*engine.Engine
		var all []parts
		for _, id := range ids {
			p := newParts(t, conn, dir, 1)
			e := start(t, engine.Config{Journal: p.journal, Seals: p.vault, Peers: peer{h, id}, TryWithin: 50 * time.Millisecond}, nil)
			engines, all = append(engines, e), append(all, p)
		}
		defer func() {
			for _, e := range engines {
				e.Close()
			}
		}()
		const callers, each, names = 6, 8, 10
		results := make(chan answered, callers*each)
		var running sync.WaitGroup
		for c := range callers {
			running.Go(func() {
				for i := range each {
					name := fmt.Sprintf("user-%d", (c*7+i*3)%names)
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
					out, err := engines[(c+i)%2].Do(ctx, actor, newUser(name))
					cancel()
					results <- answered{name, out, err}
				}
			})
		}
		flips := make(chan struct{})
		go func() { // what each believes of the other changes all the time
			defer close(flips)
			for range 30 {
				for _, id := range ids {
					h.believe(id, ids[map[bool]int{true: 1}[unlucky(2)]])
				}
				time.Sleep(3 * time.Millisecond)
			}
			h.believe("a", "b")
			h.believe("b", "b")
		}()
		running.Wait()
		<-flips
		close(results)

		log := logOf(t, all[0])
		created := map[string]core.Record{} // by event id
		commands := map[string]int{}
		userCreated := 0
		for _, rec := range log {
			if rec.Event.GetPersonal() != nil {
				t.Fatalf("event %d lies on the log with its personal attributes", rec.Seq)
			}
			if rec.Event.GetUserCreated() != nil {
				userCreated++
				created[rec.Event.GetId()] = rec
				commands[rec.Event.GetCommandId()]++
			}
		}
		for id, n := range commands {
			if n != 1 {
				t.Fatalf("the command %s was carried out %d times", id, n)
			}
		}
		done := map[string]uint64{}
		var refusals []answered
		for r := range results {
			var refusal *core.Error
			switch {
			case r.err == nil:
				if len(r.out.Events) != 2 {
					t.Fatalf("creating %s came to %d events", r.name, len(r.out.Events))
				}
				rec, ok := created[r.out.Events[0].GetId()]
				if !ok || rec.Seq+1 != r.out.Seq {
					t.Fatalf("creating %s was answered with %d, which the log does not have there", r.name, r.out.Seq)
				}
				if done[r.name] != 0 {
					t.Fatalf("%s was created twice", r.name)
				}
				if r.out.State.UserByName("okta", r.name) == nil {
					t.Fatalf("the state that came with the answer lacks %s", r.name)
				}
				done[r.name] = r.out.Seq
			case errors.As(r.err, &refusal) && refusal.Code == core.AlreadyExists:
				refusals = append(refusals, r)
			default:
				t.Fatalf("creating %s: %v", r.name, r.err)
			}
		}
		for _, r := range refusals {
			if at := done[r.name]; at == 0 || at > r.out.Seq {
				t.Fatalf("%s was refused at %d as existing, and was created at %d", r.name, r.out.Seq, at)
			}
		}
		if len(done) != names || userCreated != names {
			t.Fatalf("%d names were created by %d events, want %d", len(done), userCreated, names)
		}
		want := dump(t, rebuilt(t, all[0]))
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for i, e := range engines {
			s, err := e.WaitFor(ctx, log[len(log)-1].Seq)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(dump(t, s), want) {
				t.Fatalf("the state of engine %s differs from the one rebuilt from the log", ids[i])
			}
		}
	})
}
