package fleet_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// holds checks that a proxy has exactly what the state compiles for its region.
func (p *proxy) holds(s *core.State) {
	p.t.Helper()
	n := 0
	for e := range s.Entries("us-east") {
		n++
		if !proto.Equal(p.entries[keyOf(e)], e) {
			p.t.Errorf("the proxy has %v, want %v", p.entries[keyOf(e)], e)
		}
	}
	if n != len(p.entries) {
		p.t.Errorf("the proxy has %d entries, want %d", len(p.entries), n)
	}
}

func (s *site) seq() uint64 { return s.Engine.State().Seq() }

func TestAProxyGetsASnapshotThenEachChange(t *testing.T) {
	s := newSite(t, config{})
	ada := s.User("okta", "ada")
	group := s.Group("okta", "Engineers", ada)
	p := s.dial(t, s.token, nil)
	p.reach(s.seq())
	if p.chunks == 0 || p.deltas != 0 {
		t.Errorf("%d chunks and %d deltas came", p.chunks, p.deltas)
	}
	if w := p.welcome; w.GetProxy() != "us-east-1" || w.GetRegion() != "us-east" || w.GetEpoch() != "epoch" || len(w.GetSealingKeys()) == 0 {
		t.Errorf("welcomed as %s in %s", w.GetProxy(), w.GetRegion())
	}
	p.holds(s.Engine.State())
	chunks := p.chunks
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github"}, {Id: "jira", Url: "https://mcp.example/jira", Regions: []string{"eu-west"}}},
		[]core.GrantSpec{core.NewGrantSpec(group.ID, "github", []*policyv1.Rule{{Allow: []string{"*"}}})}))
	s.Do(core.UpdateUser{Directory: "okta", ID: ada.ID, Profile: ada.Profile, Active: false})
	s.User("okta", "bob")
	s.Do(core.RetireConnector{ID: "github"})
	s.Do(core.DeleteGroup{Directory: "okta", ID: group.ID})
	p.reach(s.seq())
	p.holds(s.Engine.State())
	if p.chunks != chunks || p.deltas == 0 {
		t.Errorf("after the snapshot %d chunks and %d deltas came", p.chunks-chunks, p.deltas)
	}
	for key := range p.entries {
		if strings.Contains(key, "jira") {
			t.Error("a connector of another region was sent")
		}
	}
}

func TestALargeStateComesInChunks(t *testing.T) {
	s := newSite(t, config{})
	rules := []*policyv1.Rule{{Allow: []string{strings.Repeat("x", 100)}}}
	for len(rules) < 400 {
		rules = append(rules, rules[0])
	}
	var specs []core.GrantSpec
	for i := range 20 {
		specs = append(specs, core.NewGrantSpec(s.Group("okta", fmt.Sprintf("group-%d", i)).ID, "github", rules))
	}
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github"}}, specs))
	p := s.dial(t, s.token, nil)
	p.reach(s.seq())
	if p.chunks < 2 {
		t.Errorf("%d chunk came", p.chunks)
	}
	p.holds(s.Engine.State())
}

// TestALeaseIsRenewedOnlyForWhatWasSent: proxy.step refuses any heartbeat that runs ahead.
func TestALeaseIsRenewedOnlyForWhatWasSent(t *testing.T) {
	s := newSite(t, config{lease: time.Minute})
	p := s.dial(t, s.token, nil)
	stop := make(chan struct{})
	written := make(chan struct{})
	go func() {
		defer close(written)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				s.User("okta", fmt.Sprintf("user-%d", i))
			}
		}
	}()
	p.until("heartbeats while changes come", func() bool { return len(p.heartbeats) >= 10 })
	close(stop)
	<-written
	last := s.seq()
	p.until("a heartbeat for the end of the log", func() bool { return p.heartbeats[len(p.heartbeats)-1].GetFencedVersion() >= last })
	for _, h := range p.heartbeats {
		if lease := h.GetLease().AsDuration(); lease > time.Minute || lease < 50*time.Second {
			t.Errorf("a lease of %s", lease)
		}
	}
	p.holds(s.Engine.State())
}

// TestAnOldProofBeginsNoNewLease: a control plane that is cut off from the log must not keep proxies serving
// that connect to it again and again.
// TestAProofFromBeforeTheStreamBeginsNoLease: a control plane that is cut off from the log gives none to a proxy that
// comes, which may have enforced more, and acknowledged it elsewhere, before it restarted.
func TestAProofFromBeforeTheStreamBeginsNoLease(t *testing.T) {
	var down atomic.Bool
	s := newSite(t, config{cutOff: &down})
	p := s.dial(t, s.token, nil)
	p.until("a heartbeat", func() bool { return len(p.heartbeats) > 0 })
	down.Store(true)
	again := s.dial(t, s.token, nil)
	// A heartbeat, if there were one, would come right after the snapshot and before the next change.
	for range 3 {
		again.reach(s.User("okta", fmt.Sprintf("user-%d", s.seq())).Version)
	}
	if n := len(again.heartbeats); n != 0 {
		t.Errorf("%d heartbeats were given without a proof", n)
	}
	down.Store(false)
	again.until("a heartbeat", func() bool { return len(again.heartbeats) > 0 })
}

func TestAProxyThatReconnectsGoesOnFromItsVersion(t *testing.T) {
	s := newSite(t, config{})
	s.User("okta", "ada")
	first := s.dial(t, s.token, nil)
	first.reach(s.seq())
	first.cancel()
	s.User("okta", "bob")
	second := s.dial(t, s.token, first)
	second.reach(s.seq())
	if second.chunks != 0 || second.deltas == 0 {
		t.Errorf("%d chunks and %d deltas came", second.chunks, second.deltas)
	}
	second.holds(s.Engine.State())
	second.cancel()

	// What does not fit what the control plane knows of that version begins anew.
	for name, spoil := range map[string]func(*proxy){
		"another digest":                   func(p *proxy) { p.digest = []byte("0123456789abcdef") },
		"no digest":                        func(p *proxy) { p.digest = nil },
		"another epoch":                    func(p *proxy) { p.epoch = "before" },
		"a version far ahead, other epoch": func(p *proxy) { p.epoch, p.version = "before", 1<<40 },
		"version zero":                     func(p *proxy) { p.version = 0 },
	} {
		t.Run(name, func(t *testing.T) {
			from := *second
			spoil(&from)
			from.entries = map[string]*fleetv1.Entry{"drifted": {Value: &fleetv1.Entry_Group{Group: &fleetv1.Group{Number: 999}}}}
			p := s.dial(t, s.token, &from)
			p.until("a snapshot", func() bool { return p.chunks > 0 && !p.midway })
			p.reach(s.seq())
			p.holds(s.Engine.State())
		})
	}
}

func TestAProxyThatFellFarBehindGetsASnapshot(t *testing.T) {
	s := newSite(t, config{ring: 4})
	first := s.dial(t, s.token, nil)
	first.reach(s.seq())
	first.cancel()
	for i := range 30 {
		s.User("okta", fmt.Sprintf("user-%d", i))
	}
	second := s.dial(t, s.token, first)
	second.reach(s.seq())
	if second.chunks == 0 {
		t.Error("no snapshot came")
	}
	second.holds(s.Engine.State())
}

func TestAResyncIsASnapshotAndIsCounted(t *testing.T) {
	s := newSite(t, config{})
	s.User("okta", "ada")
	p := s.dial(t, s.token, nil)
	p.reach(s.seq())
	clear(p.entries) // it drifted
	before := p.chunks
	p.ack(true)
	p.until("a snapshot", func() bool { return p.chunks > before && !p.midway })
	p.holds(s.Engine.State())
	enginetest.Eventually(t, "the roster to count it", func() bool {
		all := s.standings()
		return len(all) == 1 && all[0].Resyncs == 1
	})
}

func TestARevokedTokenEndsTheStream(t *testing.T) {
	s := newSite(t, config{})
	id, token := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-2")
	p := s.dial(t, token, nil)
	p.reach(s.seq())
	s.Do(core.RevokeToken{ID: id})
	if err := p.end(); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("the stream ended with %v", err)
	}
	if err := s.dial(t, token, nil).end(); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("a new stream: %v", err)
	}
}

func TestOnlyAProxysTokenOpensAStream(t *testing.T) {
	s := newSite(t, config{})
	_, admin := s.Token(eventv1.TokenKind_TOKEN_KIND_ADMIN, "root")
	_, scim := s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	for name, token := range map[string]string{"none": "", "admin": admin, "scim": scim, "forged": s.token[:len(s.token)-4] + "AAAA"} {
		p := s.dial(t, token, nil)
		if err := p.end(); connect.CodeOf(err) != connect.CodeUnauthenticated || p.welcome != nil {
			t.Errorf("%s: %v", name, err)
		}
		req := connect.NewRequest(&fleetv1.DeliverAuditRequest{SpoolGeneration: "g1"})
		req.Header().Set("Authorization", "Bearer "+token)
		if _, err := s.client(t).DeliverAudit(t.Context(), req); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("%s delivers audit: %v", name, err)
		}
	}
}

// TestAProxyAheadOfTheLogIsRefused: it enforces what the log does not hold, so the log was rolled back.
func TestAProxyAheadOfTheLogIsRefused(t *testing.T) {
	s := newSite(t, config{})
	p := s.dial(t, s.token, &proxy{epoch: "epoch", version: s.seq() + 100, digest: []byte("0123456789abcdef")})
	if err := p.end(); connect.CodeOf(err) != connect.CodeFailedPrecondition || p.chunks > 0 || len(p.heartbeats) > 0 {
		t.Errorf("it was answered %v with %d chunks", err, p.chunks)
	}
}

func TestAStreamBeginsWithHelloAndGoesOnWithAcknowledgements(t *testing.T) {
	s := newSite(t, config{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for name, send := range map[string][]*fleetv1.SyncRequest{
		"nothing in it":            {{}},
		"an acknowledgement first": {{Message: &fleetv1.SyncRequest_Ack{Ack: &fleetv1.Ack{Version: 1}}}},
		"hello twice":              {{Message: &fleetv1.SyncRequest_Hello{Hello: &fleetv1.Hello{}}}, {Message: &fleetv1.SyncRequest_Hello{Hello: &fleetv1.Hello{}}}},
	} {
		stream := s.client(t).Sync(ctx)
		stream.RequestHeader().Set("Authorization", "Bearer "+s.token)
		for _, m := range send {
			_ = stream.Send(m) // its failure shows at the next receive
		}
		var err error
		for err == nil {
			_, err = stream.Receive()
		}
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}
