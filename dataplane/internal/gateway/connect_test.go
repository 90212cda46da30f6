package gateway_test

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/internal/replica/fleettest"
)

// raw calls a tool with parameters as they are given.
func (a *agent) raw(tool, params string) answer {
	a.w.t.Helper()
	return lastOf(a.w.request(http.MethodPost, a.path, a.header("tools/call", tool), a.message("7", "tools/call", params)))
}

// linking is a control plane whose person must open a page first.
type linking struct {
	mu     sync.Mutex
	linked bool
}

const connectURL = "https://sallyport.example/connect/demo?t=ticket"

func (l *linking) issue(*fleetv1.IssueCredentialRequest) (*fleettest.Issued, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.linked {
		return &fleettest.Issued{Connect: &fleetv1.ConnectRequired{Url: connectURL, Reason: "Sallyport has no access to Demo for you yet", ElicitationId: "e1"}}, nil
	}
	return &fleettest.Issued{Header: "Authorization", Value: "Bearer linked", Identity: "ada", Lifetime: time.Hour}, nil
}

func TestAPersonIsLedToThePageInWhicheverFormTheAgentHas(t *testing.T) {
	const page = `{"elicitation":{"url":{}}}`
	l := &linking{}
	w := newWorld(t, &options{plane: fleettest.ControlPlane{Credential: l.issue}})
	w.set(connectorEntry("demo", w.demo.URL, "Authorization"))

	stateless := w.stateless(ada, "/mcp/demo")
	stateless.capabilities = page
	got := stateless.call("echo", `{"text":"hi"}`)
	if got.field("result", "resultType") != "input_required" || got.field("result", "inputRequests", "sallyport-connect", "params", "url") != connectURL ||
		got.field("result", "inputRequests", "sallyport-connect", "method") != "elicitation/create" || got.field("result", "inputRequests", "sallyport-connect", "params", "mode") != "url" {
		t.Fatalf("2026-07-28: %+v", got)
	}
	session := w.openedWith(ada, "/mcp/demo", "2025-11-25", page)
	if got := session.call("echo", `{"text":"hi"}`); got.field("error", "code") != float64(-32042) || !strings.Contains(got.body, connectURL) || !strings.Contains(got.body, `"elicitationId":"e1"`) {
		t.Errorf("2025-11-25: %+v", got)
	}
	for name, a := range map[string]*agent{"without elicitation": w.stateless(ada, "/mcp/demo"), "2025-03-26": w.opened(ada, "/mcp/demo", "2025-03-26")} {
		if got := a.call("echo", `{"text":"hi"}`); got.field("result", "isError") != true || !strings.Contains(got.body, connectURL) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	// Who said no is told in words, and not asked again.
	declined := stateless.raw("echo", `{"name":"echo","arguments":{"text":"hi"},"inputResponses":{"sallyport-connect":{"action":"decline"}}}`)
	if declined.field("result", "isError") != true || !strings.Contains(declined.body, connectURL) {
		t.Errorf("declined: %+v", declined)
	}
	if sent := w.demo.got("tools/call"); len(sent) != 0 {
		t.Fatalf("the upstream was sent %+v", sent)
	}
	l.mu.Lock()
	l.linked = true
	l.mu.Unlock()
	done := stateless.raw("echo", `{"name":"echo","arguments":{"text":"hi"},"inputResponses":{"sallyport-connect":{"action":"accept"}}}`)
	if !strings.Contains(done.body, "said hi") {
		t.Errorf("after the link: %+v", done)
	}
	sent := w.demo.got("tools/call")
	if len(sent) != 1 || sent[0].header.Get("Authorization") != "Bearer linked" || strings.Contains(sent[0].body, "sallyport-connect") || strings.Contains(sent[0].body, "inputResponses") {
		t.Errorf("the upstream was sent %+v", sent)
	}
}

func TestACredentialThatTheUpstreamRefusesIsReplacedWithinTheCall(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		var mu sync.Mutex
		var asked []*fleetv1.IssueCredentialRequest
		w := newWorld(t, &options{demo: newServer(t, stateless), plane: fleettest.ControlPlane{Credential: func(r *fleetv1.IssueCredentialRequest) (*fleettest.Issued, error) {
			mu.Lock()
			defer mu.Unlock()
			asked = append(asked, r)
			value := "Bearer old"
			if len(r.GetRejectedSha256()) > 0 {
				value = "Bearer new"
			}
			return &fleettest.Issued{Header: "Authorization", Value: value, Lifetime: time.Hour}, nil
		}}})
		w.set(connectorEntry("demo", w.demo.URL, "Authorization"))
		a := w.stateless(ada, "/mcp/demo")
		if got := a.call("echo", `{"text":"hi"}`); !strings.Contains(got.body, "said hi") {
			t.Fatalf("got %+v", got)
		}
		w.demo.refused.Store("Bearer old")
		if got := a.call("echo", `{"text":"again"}`); !strings.Contains(got.body, "said again") {
			t.Errorf("after 401: %+v", got)
		}
		sum := sha256.Sum256([]byte("Bearer old"))
		mu.Lock()
		if len(asked) != 2 || string(asked[1].GetRejectedSha256()) != string(sum[:]) {
			t.Errorf("asked %v", asked)
		}
		mu.Unlock()
	}
}

func TestAnUpstreamThatWantsMoreScopesHasThePersonAsked(t *testing.T) {
	w := newWorld(t, &options{plane: fleettest.ControlPlane{Credential: func(r *fleetv1.IssueCredentialRequest) (*fleettest.Issued, error) {
		if fmt.Sprint(r.GetNeededScopes()) == "[repo:read repo:write]" {
			return &fleettest.Issued{Connect: &fleetv1.ConnectRequired{Url: connectURL, Reason: "Demo wants more", ElicitationId: "e2"}}, nil
		}
		return &fleettest.Issued{Header: "Authorization", Value: "Bearer narrow", Lifetime: time.Hour}, nil
	}}})
	w.set(connectorEntry("demo", w.demo.URL, "Authorization"))
	w.demo.challenge.Store(`Bearer error="insufficient_scope", scope="repo:read repo:write", resource_metadata="https://x"`)
	w.demo.status.Store(http.StatusForbidden)
	if got := w.stateless(ada, "/mcp/demo").call("echo", `{"text":"hi"}`); !strings.Contains(got.body, connectURL) || !strings.Contains(got.body, "wants more") {
		t.Errorf("got %+v", got)
	}
}

// TestCredentialsNeverMixOverSharedConnections has thousands of people call through one upstream whose connections are reused, in any order:
// each call must carry its own person's credential, and what it gets back must be of its own.
func TestCredentialsNeverMixOverSharedConnections(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		w := newWorld(t, &options{demo: newServer(t, stateless), plane: fleettest.ControlPlane{Credential: func(r *fleetv1.IssueCredentialRequest) (*fleettest.Issued, error) {
			sum := sha256.Sum256([]byte(r.GetAccessToken()))
			return &fleettest.Issued{Header: "Authorization", Value: fmt.Sprintf("Bearer of-%x", sum[:8]), Identity: fmt.Sprintf("%x", sum[:8]), Lifetime: time.Hour}, nil
		}}})
		w.set(connectorEntry("demo", w.demo.URL, "Authorization"))
		people := make([]*agent, map[bool]int{true: 2000, false: 200}[stateless])
		var entries []*fleetv1.Entry
		for i := range people {
			id := uuid.New()
			entries = append(entries, userEntry(id, true, 1))
			people[i] = w.stateless(id, "/mcp/demo")
		}
		for part := range slices.Chunk(entries, 100) { // the test's control plane is taken for gone where it is silent for long
			w.set(part...)
		}
		work := make(chan *agent)
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for a := range work {
					sum := sha256.Sum256([]byte(a.token))
					if got := a.call("echo", fmt.Sprintf(`{"text":"%x"}`, sum[:8])); !strings.Contains(got.body, fmt.Sprintf("said %x", sum[:8])) {
						t.Errorf("got %+v", got)
					}
				}
			})
		}
		for round := range 2 {
			for i := range people {
				work <- people[(i*7919+round)%len(people)]
			}
		}
		close(work)
		wg.Wait()
		calls := w.demo.got("tools/call")
		if len(calls) != 2*len(people) {
			t.Errorf("%d calls", len(calls))
		}
		for _, c := range calls {
			credential, _ := strings.CutPrefix(c.header.Get("Authorization"), "Bearer of-")
			if credential == "" || !strings.Contains(c.body, credential) {
				t.Fatalf("a call of another carried the credential %q: %s", credential, c.body)
			}
		}
	}
}
