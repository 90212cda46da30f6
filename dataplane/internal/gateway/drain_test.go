package gateway_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
)

func TestAProxyThatIsAboutToStopHandsOverWithoutLosingACall(t *testing.T) {
	first := newWorld(t, &options{demo: newServer(t, false)})
	second := region(t, first, "second")[1]
	a := first.opened(ada, "/mcp", mcp.LatestSession)
	works := func(a *agent) answer {
		t.Helper()
		got := a.call("demo__echo", `{"text":"x"}`)
		if !strings.Contains(got.body, "said x") {
			t.Fatalf("the call was lost: %+v", got)
		}
		return got
	}
	works(a.at(second)) // at its home
	if n := first.gateway.Open() + second.gateway.Open(); n != 0 {
		t.Fatalf("%d are open", n)
	}
	notices := first.stateless(ada, "/mcp")
	listening := notices.open(http.MethodPost, notices.header("subscriptions/listen", ""), notices.message("9", "subscriptions/listen", `{"notifications":{"toolsListChanged":true}}`))
	listening.wants("acknowledged")
	inFlight := first.stateless(ada, "/mcp")
	waits := inFlight.open(http.MethodPost, inFlight.header("tools/call", "demo__wait"), inFlight.message("8", "tools/call", `{"name":"demo__wait","arguments":{}}`))
	<-first.demo.waiting

	first.gateway.Leave()
	if got := first.request(http.MethodGet, "/readyz", nil, ""); got.status != http.StatusServiceUnavailable {
		t.Errorf("it says that it is ready: %+v", got)
	}
	// What reaches it is served, and told to come by another connection.
	works(first.stateless(ada, "/mcp"))
	said := httptest.NewRecorder()
	first.gateway.ServeHTTP(said, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/healthz", nil))
	if said.Header().Get("Connection") != "close" {
		t.Errorf("the connection stays: %v", said.Header())
	}
	// What another proxy sends on is done there.
	first.settled(2 + 1 + 2)
	for range 3 {
		works(a.at(second))
	}
	first.settled(0)
	first.plane.WaitAudit(t, func(all []*auditv1.AuditRecord) bool {
		done := 0
		for _, r := range all {
			if r.GetProxy() == "second" {
				done++
			}
		}
		return done == 6
	})
	first.gateway.EndStreams()
	if last := listening.ends(); !strings.Contains(last, `"id":9`) || !strings.Contains(last, `"complete"`) {
		t.Errorf("the stream ended with %s", last)
	}
	close(first.demo.release)
	if last := waits.ends(); !strings.Contains(last, "done") {
		t.Errorf("the call in flight ended with %s", last)
	}
}
