package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	"sallyport.dev/scripts/demo/agent"
)

// load is calls that agents go on to make while things break, each with an argument that no other has.
type load struct {
	w        *world
	end      context.CancelFunc
	agents   sync.WaitGroup
	answered atomic.Int64 // calls that the agent was told to be done
	failed   atomic.Int64 // calls that it was told to have failed, or that were cut
}

// startLoad has agents call at a proxy until the load is stopped. One that loses its connection opens another.
func (w *world) startLoad(p *proxy, agents int) *load {
	ctx, end := context.WithCancel(w.t.Context())
	l := &load{w: w, end: end}
	for n := range agents {
		l.agents.Go(func() {
			for made := 0; ctx.Err() == nil; {
				s, err := agent.Connect(ctx, p.url(), w.issuer.token(ada), agent.Options{Revision: agent.Modern})
				if err != nil {
					pause(ctx, 50*time.Millisecond)
					continue
				}
				for lost := false; !lost && ctx.Err() == nil; made++ {
					if res := s.Call(ctx, "github__create_branch", map[string]any{"owner": "acme", "repo": "payments", "branch": fmt.Sprintf("load-%d-%d", n, made)}); res.OK {
						l.answered.Add(1)
					} else {
						l.failed.Add(1)
						lost = true
					}
					pause(ctx, 10*time.Millisecond)
				}
				s.Close()
			}
		})
	}
	w.t.Cleanup(l.stop)
	return l
}

// stop ends the load and returns when the last call has.
func (l *load) stop() {
	l.end()
	l.agents.Wait()
}

// more waits until so many more calls are answered.
func (l *load) more(n int64) {
	l.w.t.Helper()
	want := l.answered.Load() + n
	eventually(l.w.t, func() error {
		if have := l.answered.Load(); have < want {
			return fmt.Errorf("%d calls are answered, not %d", have, want)
		}
		return nil
	})
}

// branch is the argument by which a call of the load is known.
func branch(arguments []byte) string {
	var args struct{ Branch string }
	if json.Unmarshal(arguments, &args) != nil {
		return ""
	}
	return args.Branch
}

// accounted says whether each call that the upstream saw is in audit once, authorized and completed, and nothing is there twice. It
// returns how many the upstream saw, and what became of those that audit has.
func (l *load) accounted() (seen int, outcomes map[auditv1.Outcome]int, err error) {
	got, err := l.w.audit(&adminv1.AuditFilter{Tool: "create_branch"})
	if err != nil {
		return 0, nil, err
	}
	recorded := map[string]int{}
	for id, phases := range got {
		first, last := phases[auditv1.Phase_PHASE_AUTHORIZED], phases[auditv1.Phase_PHASE_COMPLETED]
		if len(first) != 1 || len(last) != 1 || len(phases) != 2 {
			return 0, nil, fmt.Errorf("call %s: %d authorized, %d completed, %d phases", id, len(first), len(last), len(phases))
		}
		recorded[branch(first[0].GetArguments().GetHead())]++
	}
	for _, c := range l.w.github.Calls.All() {
		name := branch(c.Arguments)
		if recorded[name] != 1 {
			return 0, nil, fmt.Errorf("the upstream saw the call %q, and audit has it %d times", name, recorded[name])
		}
		seen++
	}
	if int64(seen) < l.answered.Load() {
		return 0, nil, fmt.Errorf("%d calls were answered, and the upstream saw %d", l.answered.Load(), seen)
	}
	return seen, got.outcomes(), nil
}

// chance is where a test takes random moments from. Its seed is printed, and may be given.
func chance(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("SALLYPORT_FAULTS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("SALLYPORT_FAULTS_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// faults is how many things break in a test.
func faults(t *testing.T, usual int) int {
	t.Helper()
	text := os.Getenv("SALLYPORT_FAULTS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pause waits for a moment, so that what happens next falls somewhere.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
