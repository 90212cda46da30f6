package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/replica/fleettest"
)

const waitCall = `{"name":"wait","arguments":{}}`

// wait makes a call that stays in flight, and returns its stream once the upstream is at it.
func (a *agent) wait() *stream {
	a.w.t.Helper()
	s := a.open(http.MethodPost, a.header("tools/call", "wait"), a.message("7", "tools/call", waitCall))
	s.wants("waiting")
	receive(a.w.t, a.w.demo.waiting, "the upstream was not called")
	return s
}

// listen opens the stream of notifications of the agent's era.
func (a *agent) listen() *stream {
	a.w.t.Helper()
	if !a.revision.Stateless() {
		h := a.header("", "")
		h.Set("Accept", "text/event-stream")
		return a.open(http.MethodGet, h, "")
	}
	s := a.open(http.MethodPost, a.header("subscriptions/listen", ""), a.message(`"sub"`, "subscriptions/listen", `{"notifications":{"toolsListChanged":true}}`))
	s.wants(`"notifications/subscriptions/acknowledged"`)
	return s
}

func receive(t testing.TB, from <-chan struct{}, otherwise string) {
	t.Helper()
	select {
	case <-from:
	case <-time.After(10 * time.Second):
		t.Fatal(otherwise)
	}
}

func TestDeactivationEndsAllThatThePersonHasOpenAndNothingElse(t *testing.T) {
	for _, upstreamStateless := range []bool{true, false} {
		t.Run(fmt.Sprintf("upstream stateless=%v", upstreamStateless), func(t *testing.T) {
			w := newWorld(t, &options{demo: newServer(t, upstreamStateless)})
			stateless, session := w.stateless(ada, "/mcp/demo"), w.opened(ada, "/mcp/demo", "2025-11-25")
			calls := []*stream{stateless.wait(), session.wait()}
			get, subscription := session.listen(), stateless.listen()
			bobs := w.stateless(bob, "/mcp/demo")
			bobsCall, bobsList := bobs.wait(), bobs.listen()
			w.settled(3)

			w.set(userEntry(ada, false, 1))

			for _, s := range calls {
				if last := s.ends(); !strings.Contains(last, "access was taken away") || !strings.Contains(last, `"id":7`) {
					t.Errorf("a call's stream ended with %q", last)
				}
				receive(t, w.demo.cancelled, "the upstream was not told")
			}
			if last := get.ends(); last != "" {
				t.Errorf("the session's stream said %q", last)
			}
			if last := subscription.ends(); !strings.Contains(last, `"id":"sub"`) || !strings.Contains(last, `"complete"`) {
				t.Errorf("the subscription ended with %q", last)
			}
			for _, r := range w.settled(2) {
				if r.GetPhase() != auditv1.Phase_PHASE_COMPLETED || r.GetOutcome() != auditv1.Outcome_OUTCOME_REVOKED || r.GetPersonId() != ada.String() {
					t.Errorf("recorded %v", r)
				}
			}
			for _, a := range []*agent{stateless, session} {
				if got := a.call("echo", `{}`); got.status != http.StatusUnauthorized || !strings.Contains(got.body, "deactivated") {
					t.Errorf("a call afterwards: %+v", got)
				}
				if r := w.settled(1)[0]; r.GetDecision().GetReason() != auditv1.Reason_REASON_PERSON_INACTIVE || r.GetPersonId() != ada.String() {
					t.Errorf("recorded %v", r)
				}
			}
			close(w.demo.release)
			if last := bobsCall.ends(); !strings.Contains(last, "done") {
				t.Errorf("another's call ended with %q", last)
			}
			// Had anything been said before, it would come first.
			w.set(catalogueEntry("demo", "echo"))
			bobsList.wants("notifications/tools/list_changed")
		})
	}
}

// TestAChangeThatTakesACallsAllowAwayCutsIt, whatever it was that changed.
func TestAChangeThatTakesACallsAllowAwayCutsIt(t *testing.T) {
	w := newWorld(t, &options{})
	whole := w.entries()
	revoked := userEntry(ada, true, 1)
	revoked.GetUser().ValidAfterMs = time.Now().Add(-time.Second).UnixMilli() // tokens are a minute old
	for _, tc := range []struct {
		name   string
		change func()
		undo   func()
	}{
		{"the rule is gone", func() { w.set(grantEntry(1, "demo", allow("echo"))) }, nil},
		{"a deny is added", func() { w.set(grantEntry(1, "demo", allow("*"), deny("wait"))) }, nil},
		{"the grant is gone", func() { w.plane.WaitAcked(t, w.plane.Remove(grantEntry(1, "demo"))) }, nil},
		{"the person leaves the group", func() { w.set(userEntry(ada, true)) }, nil},
		{"the person is gone", func() { w.plane.WaitAcked(t, w.plane.Remove(userEntry(ada, true))) }, nil},
		{"the person's tokens are revoked", func() { w.set(revoked) }, nil},
		{"the tool is not pinned any more", func() { w.set(catalogueEntry("demo", "echo")) }, nil},
		{"the connector is gone", func() { w.plane.WaitAcked(t, w.plane.Remove(connectorEntry("demo", "", ""))) }, nil},
		{
			"a block", func() {
				w.set(blockEntry(&policyv1.Block{Id: "b", Target: &policyv1.Block_Connector{Connector: "demo"}}))
			}, func() { w.plane.WaitAcked(t, w.plane.Remove(blockEntry(&policyv1.Block{Id: "b"}))) },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := w.stateless(ada, "/mcp/demo").wait()
			tc.change()
			if last := s.ends(); !strings.Contains(last, "access was taken away") {
				t.Errorf("the stream ended with %q", last)
			}
			receive(t, w.demo.cancelled, "the upstream was not told")
			if r := w.settled(2)[1]; r.GetOutcome() != auditv1.Outcome_OUTCOME_REVOKED {
				t.Errorf("recorded %v", r)
			}
			if tc.undo != nil {
				tc.undo()
			}
			w.set(whole...)
		})
	}
}

func TestAChangeThatLeavesTheAllowLeavesTheCall(t *testing.T) {
	w := newWorld(t, &options{})
	s := w.stateless(ada, "/mcp/demo").wait()
	w.set(grantEntry(1, "demo", allow("wait")))
	w.set(userEntry(ada, true, 1, 2))
	close(w.demo.release)
	if last := s.ends(); !strings.Contains(last, "done") {
		t.Errorf("the stream ended with %q", last)
	}
	if r := w.settled(2)[1]; r.GetOutcome() != auditv1.Outcome_OUTCOME_OK {
		t.Errorf("recorded %v", r)
	}
}

func TestTheEndOfABlockIsSeenWithoutAChange(t *testing.T) {
	w := newWorld(t, &options{})
	w.set(blockEntry(&policyv1.Block{Id: "b", Target: &policyv1.Block_Tool{Tool: &policyv1.ConnectorTool{Connector: "demo", Tool: "echo"}}, Until: in(1500 * time.Millisecond)}))
	a := w.stateless(ada, "/mcp/demo")
	if got := a.ask("tools/list", `{}`); strings.Contains(got.body, `"echo"`) {
		t.Skip("the machine is too slow: the block is over")
	}
	a.listen().wants("notifications/tools/list_changed")
	if got := a.ask("tools/list", `{}`); !strings.Contains(got.body, `"echo"`) {
		t.Errorf("got %+v", got)
	}
}

// TestOnlyThoseWhoseListChangedAreTold: each stream is told of the change that is its own, first and only.
func TestOnlyThoseWhoseListChangedAreTold(t *testing.T) {
	w := newWorld(t, &options{})
	open := func(person uuid.UUID, path string) []*stream {
		return []*stream{w.stateless(person, path).listen(), w.opened(person, path, "2025-11-25").listen(), w.opened(person, path, "2025-03-26").listen()}
	}
	all := map[string][]*stream{"ada demo": open(ada, "/mcp/demo"), "ada other": open(ada, "/mcp/other"), "ada all": open(ada, "/mcp"), "bob demo": open(bob, "/mcp/demo")}
	for _, step := range []struct {
		name   string
		change *fleetv1.Entry
		told   []string
	}{
		{"nothing that anybody sees", catalogueEntry("demo", "echo", "wait", "fail", "forbidden", "unlisted", "hidden"), nil},
		{"the rules of ada's group on demo", grantEntry(1, "demo", allow("echo")), []string{"ada demo", "ada all"}},
		{"bob's groups", userEntry(bob, true), []string{"bob demo"}},
		{"the catalogue of other", catalogueEntry("other", "echo", "more"), []string{"ada other", "ada all"}},
		{"a tool that both see, once bob is back", userEntry(bob, true, 2), []string{"bob demo"}},
	} {
		w.set(step.change)
		for who, streams := range all {
			for i, s := range streams {
				told := false
				for _, name := range step.told {
					told = told || name == who
				}
				if told {
					s.wants(`"method":"notifications/tools/list_changed"`)
					continue
				}
				// Acknowledged means decided; what it leads to is written by the stream's own goroutine.
				select {
				case e := <-s.events:
					t.Errorf("%s: stream %d of %s was told %q", step.name, i, who, e)
				case <-time.After(20 * time.Millisecond):
				}
			}
		}
	}
}

func TestASubscriptionSaysWhatItIsOf(t *testing.T) {
	w := newWorld(t, &options{})
	a := w.stateless(ada, "/mcp/demo")
	s := a.listen()
	w.set(grantEntry(1, "demo", allow("echo")))
	s.wants(`"io.modelcontextprotocol/subscriptionId":"sub"`)
	// One that asks for other lists alone stays silent.
	silent := a.open(http.MethodPost, a.header("subscriptions/listen", ""), a.message("9", "subscriptions/listen", `{"notifications":{"promptsListChanged":true}}`))
	if e, _ := silent.next(); !strings.Contains(e, `"notifications":{"promptsListChanged":true}`) {
		t.Errorf("granted %q", e)
	}
	w.set(grantEntry(1, "demo", allow("wait")))
	s.wants("notifications/tools/list_changed")
	w.set(userEntry(ada, false, 1))
	if e, ok := silent.next(); !ok || !strings.Contains(e, `"id":9`) {
		t.Errorf("it went on with %q", e)
	}
}

func TestACallThatTheAgentCancelsIsCancelledUpstreamAndRecorded(t *testing.T) {
	w := newWorld(t, &options{})
	a := w.opened(ada, "/mcp/demo", "2025-11-25")
	other := w.opened(ada, "/mcp/demo", "2025-11-25")
	s := a.wait()
	cancel := `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}`
	if got := other.post("", cancel); got.status != http.StatusAccepted {
		t.Errorf("got %+v", got)
	}
	if len(w.demo.cancelled) != 0 {
		t.Error("another session's cancellation counted")
	}
	if got := a.post("", cancel); got.status != http.StatusAccepted || got.body != "" {
		t.Errorf("got %+v", got)
	}
	s.ends()
	receive(t, w.demo.cancelled, "the upstream was not told")
	if r := w.settled(2)[1]; r.GetOutcome() != auditv1.Outcome_OUTCOME_CANCELLED {
		t.Errorf("recorded %v", r)
	}
}

// TestADeactivationBetweenDecisionAndForwardSendsNothing: the call was decided and waits for its credential, which comes after the person's access
// ended. Nothing is sent; nor where the person is back by then, since the token that the call came with is of before.
func TestADeactivationBetweenDecisionAndForwardSendsNothing(t *testing.T) {
	for _, back := range []bool{false, true} {
		for _, stateless := range []bool{true, false} {
			var w *world
			asked := 0
			issue := func(*fleetv1.IssueCredentialRequest) (*fleettest.Issued, error) {
				if asked++; asked == 1 { // the call is decided, and in flight
					w.set(userEntry(ada, false, 1))
					if back {
						again := userEntry(ada, true, 1)
						again.GetUser().Generation = 3
						again.GetUser().ValidAfterMs = time.Now().Add(time.Second).UnixMilli()
						w.set(again)
					}
				}
				return &fleettest.Issued{Header: "X-Api-Key", Value: "upstream-s3cret", Lifetime: time.Hour}, nil
			}
			w = newWorld(t, &options{plane: fleettest.ControlPlane{Credential: issue}, demo: newServer(t, stateless)})
			w.set(connectorEntry("demo", w.demo.URL, "X-Api-Key"))
			before := len(w.demo.got("tools/call"))
			got := w.stateless(ada, "/mcp/demo").call("echo", `{"text":"hi"}`)
			if strings.Contains(got.body, "said hi") || len(w.demo.got("tools/call")) != before {
				t.Errorf("back=%v: the call was made: %+v", back, got)
			}
			if asked == 0 {
				t.Errorf("back=%v: it did not come as far as its credential: %+v", back, got)
			}
			for _, r := range w.settled(2) {
				if r.GetPhase() == auditv1.Phase_PHASE_COMPLETED && r.GetOutcome() != auditv1.Outcome_OUTCOME_REVOKED {
					t.Errorf("back=%v: recorded %v", back, r)
				}
			}
		}
	}
}
