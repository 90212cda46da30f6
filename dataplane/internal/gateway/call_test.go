package gateway_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/replica/fleettest"
	"sallyport.dev/dataplane/internal/spool"
)

// eras are agents of each era at an endpoint.
func (w *world) eras(path string) []*agent {
	return []*agent{w.stateless(ada, path), w.opened(ada, path, "2025-11-25"), w.opened(ada, path, "2025-06-18"), w.opened(ada, path, "2025-03-26")}
}

func TestAnAllowedCallReachesTheUpstreamOnceAndIsRecordedBeforeAndAfter(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		w := newWorld(t, &options{demo: newServer(t, stateless)})
		for endpoint, tool := range map[string]string{"/mcp/demo": "echo", "/mcp": "demo__echo"} {
			for _, a := range w.eras(endpoint) {
				t.Run(fmt.Sprintf("upstream stateless=%v agent=%s%s", stateless, a.revision, endpoint), func(t *testing.T) {
					before := len(w.demo.got("tools/call"))
					got := a.call(tool, `{"text":"hi"}`)
					if got.status != http.StatusOK || !strings.Contains(got.body, "said hi") || got.field("id") != 7.0 {
						t.Fatalf("got %+v", got)
					}
					if a.revision.Stateless() && got.field("result", "resultType") != "complete" {
						t.Fatalf("the result lacks its type: %+v", got)
					}
					calls := w.demo.got("tools/call")[before:]
					if len(calls) != 1 || !strings.Contains(calls[0].body, `"name":"echo"`) {
						t.Fatalf("the upstream was sent %+v", calls)
					}
					records := w.settled(2)
					first, second := records[0], records[1]
					if first.GetPhase() != auditv1.Phase_PHASE_AUTHORIZED || second.GetPhase() != auditv1.Phase_PHASE_COMPLETED || first.GetCallId() == "" || first.GetCallId() != second.GetCallId() {
						t.Fatalf("recorded %v", records)
					}
					for _, r := range records {
						d := r.GetDecision()
						if r.GetPersonId() != ada.String() || r.GetConnector() != "demo" || r.GetTool() != "echo" || r.GetMethod() != "tools/call" ||
							d.GetVerdict() != auditv1.Verdict_VERDICT_ALLOWED || d.GetReason() != auditv1.Reason_REASON_RULE_ALLOWED || d.GetGroup() != "okta/Engineers" || d.GetRule() != 1 ||
							r.GetRevision() != string(a.revision) || r.GetClient().GetId() != "agent" || r.GetProxy() != "proxy" || r.GetRegion() != "test" ||
							r.GetSnapshotVersion() != w.version || r.GetClient().GetAddress() != "127.0.0.1" {
							t.Errorf("recorded %v", r)
						}
					}
					if string(first.GetArguments().GetHead()) != `{"text":"hi"}` || first.GetResult() != nil {
						t.Errorf("the first record says %v", first)
					}
					l := second.GetLatency()
					parts := l.GetDecision().AsDuration() + l.GetRecord().AsDuration() + l.GetCredential().AsDuration() + l.GetUpstream().AsDuration()
					if l.GetDecision().AsDuration() <= 0 || l.GetRecord().AsDuration() <= 0 || l.GetUpstream().AsDuration() <= 0 || parts > second.GetDuration().AsDuration() || l.GetApproval() != nil {
						t.Errorf("of %s went %v", second.GetDuration().AsDuration(), l)
					}
					if second.GetRequestBytes() < 100 || second.GetRequestBytes() != first.GetRequestBytes() || second.GetResponseBytes() != uint64(len(strings.TrimSpace(sentOf(got)))) {
						t.Errorf("%d bytes were asked and %d answered: %q", second.GetRequestBytes(), second.GetResponseBytes(), got.body)
					}
					if (second.GetSession() == "") != a.revision.Stateless() || first.GetSession() != second.GetSession() {
						t.Errorf("the session is %q", second.GetSession())
					}
					if second.GetOutcome() != auditv1.Outcome_OUTCOME_OK || !strings.Contains(string(second.GetResult().GetHead()), "said hi") || second.GetDuration().AsDuration() <= 0 || second.GetUpstreamDuration().AsDuration() <= 0 {
						t.Errorf("the second record says %v", second)
					}
				})
			}
		}
	}
}

// sentOf is the message in an answer, without the framing of events.
func sentOf(a answer) string {
	if _, data, framed := strings.Cut(a.body, "data: "); framed {
		return strings.TrimSpace(data)
	}
	return a.body
}

func TestACallOfAServiceAccountIsRecordedAsOne(t *testing.T) {
	w := newWorld(t, &options{})
	bot := userEntry(ada, true, 1)
	bot.GetUser().Service = true
	w.set(bot)
	if got := w.stateless(ada, "/mcp/demo").call("echo", `{"text":"hi"}`); got.status != http.StatusOK {
		t.Fatalf("got %+v", got)
	}
	if got := w.stateless(ada, "/mcp/demo").call("forbidden", `{}`); strings.Contains(got.body, "said") {
		t.Fatalf("got %+v", got)
	}
	for _, r := range w.settled(3) {
		if a := r.GetActor(); a.GetKind() != auditv1.ActorKind_ACTOR_KIND_SERVICE_ACCOUNT || a.GetId() != ada.String() || r.GetPersonId() != ada.String() {
			t.Errorf("recorded %v", r)
		}
	}
}

func TestAResultThatSaysItIsAnErrorIsRecordedAsOne(t *testing.T) {
	w := newWorld(t, &options{})
	if got := w.stateless(ada, "/mcp/demo").call("fail", `{}`); !strings.Contains(got.body, "it does not work") {
		t.Errorf("got %+v", got)
	}
	if r := w.settled(2)[1]; r.GetOutcome() != auditv1.Outcome_OUTCOME_TOOL_ERROR {
		t.Errorf("recorded %v", r)
	}
}

func TestAnUpstreamThatCannotBeReachedIsRecordedAndSaid(t *testing.T) {
	w := newWorld(t, &options{})
	w.demo.CloseClientConnections()
	w.demo.Close()
	got := w.stateless(ada, "/mcp/demo").call("echo", `{"text":"hi"}`)
	if !strings.Contains(got.body, "unreachable") || strings.Contains(got.body, "127.0.0.1") {
		t.Errorf("got %+v", got)
	}
	if r := w.settled(2)[1]; r.GetOutcome() != auditv1.Outcome_OUTCOME_UPSTREAM_ERROR || strings.Contains(r.GetError(), "127.0.0.1") {
		t.Errorf("recorded %v", r)
	}
}

func TestARefusedCallReachesNoUpstreamAndLeavesOneRecord(t *testing.T) {
	w := newWorld(t, &options{})
	agents := append(w.eras("/mcp/demo"), w.eras("/mcp")...)
	block := func(b *policyv1.Block) *fleetv1.Entry {
		b.Id = "b"
		return blockEntry(b)
	}
	for _, tc := range []struct {
		name, tool, arguments string
		block                 *fleetv1.Entry
		reason                auditv1.Reason
	}{
		{"a rule denies", "forbidden", `{}`, nil, auditv1.Reason_REASON_RULE_DENIED},
		{"a rule denies, whatever the arguments", "forbidden", `{"text":5}`, nil, auditv1.Reason_REASON_RULE_DENIED},
		{"nothing allows", "unlisted", `{}`, nil, auditv1.Reason_REASON_NOTHING_ALLOWS},
		{"the tool is not pinned", "nonsense", `{}`, nil, auditv1.Reason_REASON_TOOL_UNKNOWN},
		{"the arguments do not fit", "echo", `{"text":5}`, nil, auditv1.Reason_REASON_ARGUMENTS_INVALID},
		{"an argument is in another case", "echo", `{"Text":"x"}`, nil, auditv1.Reason_REASON_ARGUMENTS_INVALID},
		{"the person is blocked", "echo", `{}`, block(&policyv1.Block{Target: &policyv1.Block_PersonId{PersonId: ada.String()}}), auditv1.Reason_REASON_BLOCKED},
		{"the client is blocked", "echo", `{}`, block(&policyv1.Block{Target: &policyv1.Block_ClientId{ClientId: "agent"}}), auditv1.Reason_REASON_BLOCKED},
		{"the connector is blocked", "echo", `{}`, block(&policyv1.Block{Target: &policyv1.Block_Connector{Connector: "demo"}}), auditv1.Reason_REASON_BLOCKED},
		{"the tool is blocked", "echo", `{}`, block(&policyv1.Block{Target: &policyv1.Block_Tool{Tool: &policyv1.ConnectorTool{Connector: "demo", Tool: "echo"}}}), auditv1.Reason_REASON_BLOCKED},
		{"the region is blocked", "echo", `{}`, block(&policyv1.Block{Target: &policyv1.Block_Region{Region: "test"}, Until: in(time.Hour)}), auditv1.Reason_REASON_BLOCKED},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.block != nil {
				w.set(tc.block)
				defer func() { w.plane.WaitAcked(t, w.plane.Remove(tc.block)) }()
			}
			for _, a := range agents {
				tool := tc.tool
				if a.path == "/mcp" {
					tool = "demo__" + tool
				}
				got := a.call(tool, tc.arguments)
				if tc.reason == auditv1.Reason_REASON_TOOL_UNKNOWN {
					if got.field("error", "code") != float64(mcp.CodeInvalidParams) {
						t.Errorf("%s: got %+v", a.revision, got)
					}
				} else if got.status != http.StatusOK || got.field("result", "isError") != true || got.field("id") != 7.0 {
					t.Errorf("%s: got %+v", a.revision, got)
				}
				r := w.settled(1)[0]
				if r.GetPhase() != auditv1.Phase_PHASE_REFUSED || r.GetDecision().GetVerdict() != auditv1.Verdict_VERDICT_DENIED || r.GetDecision().GetReason() != tc.reason ||
					r.GetPersonId() != ada.String() || r.GetConnector() != "demo" || r.GetTool() != tc.tool || string(r.GetArguments().GetHead()) != tc.arguments {
					t.Errorf("%s: recorded %v", a.revision, r)
				}
			}
		})
	}
	if got := w.demo.got(""); len(got) != 0 {
		t.Errorf("the upstream was sent %+v", got)
	}
}

func TestWithoutAPolicyEverythingIsRefusedAndRecorded(t *testing.T) {
	w := newWorld(t, &options{unwelcome: true, plane: fleettest.ControlPlane{Lease: time.Nanosecond}})
	a := w.stateless(ada, "/mcp/demo")
	got := a.call("echo", `{"text":"hi"}`)
	if got.status != http.StatusServiceUnavailable || got.header.Get("Retry-After") == "" {
		t.Errorf("got %+v", got)
	}
	if r := w.settled(1)[0]; r.GetPhase() != auditv1.Phase_PHASE_REFUSED || r.GetDecision().GetReason() != auditv1.Reason_REASON_STALE {
		t.Errorf("recorded %v", r)
	}
	if got := w.request(http.MethodGet, "/readyz", nil, ""); got.status != http.StatusServiceUnavailable {
		t.Errorf("readyz: %+v", got)
	}
	if got := w.demo.got(""); len(got) != 0 {
		t.Errorf("the upstream was sent %+v", got)
	}
}

func TestWhenTheLeaseIsOverCallsAreRefusedAndThoseInFlightAreCut(t *testing.T) {
	w := newWorld(t, &options{plane: fleettest.ControlPlane{Lease: time.Second}})
	a := w.stateless(ada, "/mcp/demo")
	s := a.open(http.MethodPost, a.header("tools/call", "wait"), a.message("7", "tools/call", `{"name":"wait","arguments":{}}`))
	s.wants("waiting")
	w.plane.SetSilent(true)
	if last := s.ends(); !strings.Contains(last, "access was taken away") {
		t.Errorf("the stream ended with %q", last)
	}
	if got := a.call("echo", `{}`); got.status != http.StatusServiceUnavailable {
		t.Errorf("got %+v", got)
	}
	records := w.settled(3)
	if records[1].GetOutcome() != auditv1.Outcome_OUTCOME_REVOKED || records[2].GetDecision().GetReason() != auditv1.Reason_REASON_STALE {
		t.Errorf("recorded %v", records)
	}
	w.plane.SetSilent(false)
	w.eventually("a control plane that is heard again ends it", func() bool { return a.call("echo", `{"text":"hi"}`).status == http.StatusOK })
}

func TestACallThatCannotBeRecordedIsNotMade(t *testing.T) {
	for _, tc := range []struct {
		name string
		fill func(*testing.T, *spool.Spool)
	}{
		{"closed", func(t *testing.T, s *spool.Spool) {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}},
		{"full", func(t *testing.T, s *spool.Spool) {
			for range 100_000 {
				if s.Append(&auditv1.AuditRecord{Method: "fill"}) != nil {
					return
				}
			}
			t.Fatal("the spool is never full")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, &options{undelivered: true, spool: spool.Config{MaxBytes: 64 << 10}})
			tc.fill(t, w.spool)
			for _, a := range []*agent{w.stateless(ada, "/mcp/demo"), w.opened(ada, "/mcp/demo", "2025-06-18")} {
				got := a.call("echo", `{"text":"hi"}`)
				if got.field("result", "isError") != true || !strings.Contains(got.body, "cannot record") {
					t.Errorf("got %+v", got)
				}
			}
			if got := w.demo.got(""); len(got) != 0 {
				t.Errorf("the upstream was sent %+v", got)
			}
		})
	}
}

func TestACallThatTheControlPlaneDidNotAcknowledgeIsNotMade(t *testing.T) {
	w := newWorld(t, &options{undelivered: true, spool: spool.Config{Durability: spool.Central, ConfirmWithin: 20 * time.Millisecond}})
	got := w.stateless(ada, "/mcp/demo").call("echo", `{"text":"hi"}`)
	if got.field("result", "isError") != true || !strings.Contains(got.body, "cannot record") || len(w.demo.got("")) != 0 {
		t.Errorf("got %+v", got)
	}
	if err := w.spool.Append(&auditv1.AuditRecord{Method: "mark"}); err != nil { // what waits is written before it
		t.Fatal(err)
	}
	if n := w.spool.Stats().OpenCalls; n != 0 {
		t.Errorf("%d calls are open", n)
	}
}
