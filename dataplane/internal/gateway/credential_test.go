package gateway_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/internal/replica/fleettest"
)

// newSlowBody is a body that never comes; end ends it.
func newSlowBody() (body io.Reader, end func()) {
	r, w := io.Pipe()
	return r, func() { _ = w.Close() } // it never fails
}

// issuing is a control plane that issues credentials and keeps what it was asked.
type issuing struct {
	mu    sync.Mutex
	asked []*fleetv1.IssueCredentialRequest
	value string
	err   error
}

func (i *issuing) issue(r *fleetv1.IssueCredentialRequest) (*fleettest.Issued, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.asked = append(i.asked, r)
	if i.err != nil {
		return nil, i.err
	}
	return &fleettest.Issued{Header: "X-Api-Key", Value: i.value, Lifetime: time.Hour}, nil
}

func (i *issuing) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.asked)
}

func TestTheUpstreamSeesItsOwnCredentialAndNothingOfTheAgents(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		i := &issuing{value: "upstream-s3cret"}
		w := newWorld(t, &options{plane: fleettest.ControlPlane{Credential: i.issue}, demo: newServer(t, stateless)})
		w.set(connectorEntry("demo", w.demo.URL, "X-Api-Key"))
		for _, a := range []*agent{w.stateless(ada, "/mcp/demo"), w.opened(ada, "/mcp/demo", "2025-11-25"), w.stateless(ada, "/mcp")} {
			tool := map[string]string{"/mcp": "demo__echo", "/mcp/demo": "echo"}[a.path]
			before := i.count()
			for range 2 { // asked for, then known
				if got := a.call(tool, `{"text":"hi"}`); !strings.Contains(got.body, "said hi") || strings.Contains(got.body, "s3cret") {
					t.Fatalf("got %+v", got)
				}
			}
			i.mu.Lock()
			if asked := i.asked[before:]; len(asked) != 1 || asked[0].GetConnector() != "demo" || asked[0].GetAccessToken() != a.token || asked[0].GetResource() != w.url+a.path {
				t.Errorf("asked %v", asked)
			}
			i.mu.Unlock()
			for _, r := range w.demo.got("") {
				if got := r.header.Values("X-Api-Key"); len(got) != 1 || got[0] != "upstream-s3cret" {
					t.Errorf("%s had the credential %q", r.method, got)
				}
				if r.header.Get("Authorization") != "" || r.header.Get("Mcp-Session-Id") != "" && r.header.Get("Mcp-Session-Id") == a.session {
					t.Errorf("%s was sent the agent's own: %v", r.method, r.header)
				}
				all := r.body
				for name, values := range r.header {
					all += name + strings.Join(values, "")
				}
				if strings.Contains(all, a.token) {
					t.Errorf("the agent's token was sent upstream: %+v", r)
				}
			}
			for _, r := range w.settled(4) {
				if text := r.String(); strings.Contains(text, "s3cret") || strings.Contains(text, a.token) {
					t.Errorf("recorded %v", r)
				}
			}
		}
	}
}

func TestAConnectorWithoutAuthIsSentNoCredential(t *testing.T) {
	w := newWorld(t, &options{})
	w.stateless(ada, "/mcp/demo").call("echo", `{}`)
	for _, r := range w.demo.got("") {
		if len(r.header.Values("Authorization")) != 0 {
			t.Errorf("the upstream was sent %v", r.header)
		}
	}
	if n := w.plane.Issued(); n != 0 {
		t.Errorf("%d credentials were asked for", n)
	}
}

func TestACredentialThatTheUpstreamRefusesIsForgotten(t *testing.T) {
	i := &issuing{value: "old"}
	w := newWorld(t, &options{plane: fleettest.ControlPlane{Credential: i.issue}})
	w.set(connectorEntry("demo", w.demo.URL, "X-Api-Key"))
	a := w.stateless(ada, "/mcp/demo")
	a.call("echo", `{}`)
	w.settled(2)
	for n, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		w.demo.status.Store(int32(status))
		if got := a.call("echo", `{}`); got.status != http.StatusOK || got.field("result", "isError") != true || got.header.Get("WWW-Authenticate") != "" {
			t.Errorf("got %+v", got)
		}
		if r := w.settled(2)[1]; r.GetOutcome() != auditv1.Outcome_OUTCOME_UPSTREAM_ERROR || !strings.Contains(r.GetError(), "credential") {
			t.Errorf("recorded %v", r)
		}
		w.demo.status.Store(0)
		i.mu.Lock()
		i.value = "new"
		i.mu.Unlock()
		if got := a.call("echo", `{"text":"hi"}`); !strings.Contains(got.body, "said hi") {
			t.Errorf("got %+v", got)
		}
		w.settled(2)
		if count := i.count(); count != n+3 { // at first, for another after 401, and now
			t.Errorf("credentials were asked for %d times", count)
		}
		calls := w.demo.got("tools/call")
		if got := calls[len(calls)-1].header.Get("X-Api-Key"); got != "new" {
			t.Errorf("the upstream was sent %q", got)
		}
	}
}

func TestWithoutItsCredentialACallIsNotMade(t *testing.T) {
	for _, code := range []connect.Code{connect.CodePermissionDenied, connect.CodeUnavailable} {
		i := &issuing{err: connect.NewError(code, errors.New("hidden detail"))}
		w := newWorld(t, &options{plane: fleettest.ControlPlane{Credential: i.issue}})
		w.set(connectorEntry("demo", w.demo.URL, "X-Api-Key"))
		got := w.stateless(ada, "/mcp/demo").call("echo", `{}`)
		if got.field("result", "isError") != true || !strings.Contains(got.body, "credential") || strings.Contains(got.body, "hidden") {
			t.Errorf("%s: got %+v", code, got)
		}
		if r := w.settled(2)[1]; r.GetOutcome() != auditv1.Outcome_OUTCOME_UPSTREAM_ERROR || !strings.Contains(r.GetError(), "credential") {
			t.Errorf("%s: recorded %v", code, r)
		}
		if sent := w.demo.got(""); len(sent) != 0 {
			t.Errorf("%s: the upstream was sent %+v", code, sent)
		}
	}
}

func TestSecretsInArgumentsAndResultsAreMaskedInTheRecord(t *testing.T) {
	w := newWorld(t, &options{})
	secret := "ghp_" + strings.Repeat("aB3dE6gH9", 4)
	for _, a := range w.eras("/mcp/demo") {
		if got := a.call("echo", `{"text":"push with `+secret+` please"}`); !strings.Contains(got.body, secret) {
			t.Errorf("what the agent is told is changed: %+v", got)
		}
		records := w.settled(2)
		for _, r := range records {
			if strings.Contains(r.String(), secret) {
				t.Errorf("recorded %v", r)
			}
		}
		if p := records[0].GetArguments(); !p.GetMasked() || !strings.Contains(string(p.GetHead()), "[masked]") || !strings.Contains(string(p.GetHead()), "push with") {
			t.Errorf("the arguments: %v", p)
		}
		if p := records[1].GetResult(); !p.GetMasked() || !strings.Contains(string(p.GetHead()), "[masked]") {
			t.Errorf("the result: %v", p)
		}
	}
	for _, call := range w.demo.got("tools/call") {
		if !strings.Contains(call.body, secret) {
			t.Errorf("what the upstream is sent is changed: %s", call.body)
		}
	}
	// So is a refused call's.
	w.stateless(ada, "/mcp/demo").call("forbidden", `{"text":"`+secret+`"}`)
	if r := w.settled(1)[0]; !r.GetArguments().GetMasked() || strings.Contains(r.String(), secret) {
		t.Errorf("recorded %v", r)
	}
}
