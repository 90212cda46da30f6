package fleet_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/fleet"
)

func TestTheRosterKnowsWhatAProxyEnforces(t *testing.T) {
	s := newSite(t, config{})
	standing := func() fleet.Standing {
		all := s.standings()
		if len(all) != 1 {
			t.Fatalf("%d proxies are known", len(all))
		}
		return all[0]
	}
	if got := standing(); got.Name != "us-east-1" || got.Version != 0 || got.Live(time.Now()) {
		t.Errorf("before it connected: %+v", got)
	}
	p := s.dial(t, s.token, nil)
	p.reach(s.seq())
	p.until("a heartbeat", func() bool { return len(p.heartbeats) > 0 })
	if got := standing(); got.Version != 0 || got.ServedBy != "cp-1" || got.Build != "test" || !got.Live(time.Now()) {
		t.Errorf("before it acknowledged: %+v", got)
	}
	p.ack(false)
	enginetest.Eventually(t, "the acknowledgement", func() bool { return standing().Version == p.version })
	p.cancel()
	enginetest.Eventually(t, "the end of the stream", func() bool { return standing().ServedBy == "" })
	if got := standing(); got.Version != p.version || !got.Live(time.Now()) {
		t.Errorf("the end of a stream ends no lease: %+v", got)
	}
	// Another control plane hears of it.
	ctx, cancel := context.WithCancel(t.Context())
	other, done := fleet.NewRoster(ledger{s.Shared}, s.Log), make(chan error)
	go func() { done <- other.Run(ctx) }()
	enginetest.Eventually(t, "another roster to hear of it", func() bool {
		all, _, err := other.Standings(s.Engine.State(), time.Now())
		return err == nil && all[0].Version == p.version && all[0].ServedBy == ""
	})
	cancel()
	enginetest.Must(t, <-done)
}

// TestALeaseIsKnownToAControlPlaneThatStarts: it is written down before the proxy has it, so that no receipt leaves
// out who may be serving. Until that was read, nothing is said at all.
func TestALeaseIsKnownToAControlPlaneThatStarts(t *testing.T) {
	s := newSite(t, config{})
	p := s.dial(t, s.token, nil)
	p.until("a heartbeat", func() bool { return len(p.heartbeats) > 0 })
	next := fleet.NewRoster(ledger{s.Shared}, s.Log)
	if _, _, err := next.Standings(s.Engine.State(), time.Now()); !errors.Is(err, fleet.ErrUnheard) {
		t.Errorf("before anything was read: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- next.Run(ctx) }()
	defer func() { cancel(); enginetest.Must(t, <-done) }()
	for {
		all, changed, err := next.Standings(s.Engine.State(), time.Now())
		if err == nil {
			if len(all) != 1 || !all[0].Live(time.Now()) {
				t.Errorf("the first that is said: %+v", all)
			}
			return
		}
		<-changed
	}
}

// deaf is a ledger that can be made to take nothing.
type deaf struct {
	ledger
	down *atomic.Bool
}

func (d deaf) Update(ctx context.Context, key string, change func([]byte) ([]byte, error)) (uint64, error) {
	if d.down.Load() {
		return 0, errors.New("down")
	}
	return d.ledger.Update(ctx, key, change)
}

func TestALeaseThatCannotBeWrittenIsNotGiven(t *testing.T) {
	s := newSite(t, config{})
	var down atomic.Bool
	r := fleet.NewRoster(deaf{ledger{s.Shared}, &down}, s.Log)
	token := s.Engine.State().Token(s.id)
	now := time.Now()
	enginetest.Must(t, r.Lease(t.Context(), token, now.Add(time.Minute), time.Minute))
	down.Store(true)
	if err := r.Lease(t.Context(), token, now.Add(90*time.Second), time.Minute); err != nil {
		t.Errorf("within what is written: %v", err)
	}
	if err := r.Lease(t.Context(), token, now.Add(3*time.Minute), time.Minute); err == nil {
		t.Error("a lease was given that nobody else knows of")
	}
	down.Store(false)
	enginetest.Must(t, r.Lease(t.Context(), token, now.Add(3*time.Minute), time.Minute))
}

func TestAHeartbeatNamesTheNewestMessageThatWasRead(t *testing.T) {
	s := newSite(t, config{})
	p := s.dial(t, s.token, nil)
	p.until("a heartbeat", func() bool { return len(p.heartbeats) > 0 })
	if m := p.heartbeats[0].GetMark(); m != helloMark {
		t.Errorf("the first heartbeat answers %d", m)
	}
	p.say(&fleetv1.Ack{Version: p.version, Mark: 21})
	p.until("an answer to it", func() bool { return p.heartbeats[len(p.heartbeats)-1].GetMark() == 21 })
}

// TestARevokedProxyIsShownWhileItMayServe: its lease runs on, whether or not it heard.
func TestARevokedProxyIsShownWhileItMayServe(t *testing.T) {
	s := newSite(t, config{lease: 2 * time.Second})
	id, token := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-2")
	p := s.dial(t, token, nil)
	p.until("a heartbeat", func() bool { return len(p.heartbeats) > 0 })
	s.Do(core.RevokeToken{ID: id})
	if err := p.end(); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("the stream ended with %v", err)
	}
	seen := 0
	enginetest.Eventually(t, "the end of its lease", func() bool {
		all := s.standings()
		if len(all) == 1 {
			return true
		}
		if seen++; all[1].Name != "us-east-2" || !all[1].Revoked || !all[1].Live(time.Now()) {
			t.Fatalf("it is shown as %+v", all[1])
		}
		return false
	})
	if seen == 0 {
		t.Error("it was not shown after it was revoked")
	}
}

func TestAProxyThatLeavesHasNoLease(t *testing.T) {
	s := newSite(t, config{})
	p := s.dial(t, s.token, nil)
	p.until("a heartbeat", func() bool { return len(p.heartbeats) > 0 })
	if !s.standings()[0].Live(time.Now()) {
		t.Fatal("it has no lease")
	}
	p.say(&fleetv1.Ack{Version: p.version, Leaving: true})
	if err := p.end(); err == nil {
		t.Error("the stream goes on")
	}
	enginetest.Eventually(t, "the lease to end", func() bool { return !s.standings()[0].Live(time.Now()) })
}
