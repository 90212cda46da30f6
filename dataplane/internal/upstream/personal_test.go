package upstream_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/upstream"
)

// as is a call by somebody, who shows it in a header.
func as(t *testing.T, person string) upstream.Call {
	c := calls(t, person, "quick")
	c.Party.Credential = upstream.Credential{Header: "X-Person", Value: person, Identity: person}
	return c
}

// choosy is a server of the session era that does with eve what a test says.
func choosy(t *testing.T, eve func(w http.ResponseWriter, id string)) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		switch said := string(body); {
		case err != nil, r.Method == http.MethodDelete:
		case strings.Contains(said, "server/discover") && r.Header.Get("X-Person") != "eve":
			w.WriteHeader(http.StatusNotFound)
		case !strings.Contains(said, `"id"`):
			w.WriteHeader(http.StatusAccepted)
		case r.Header.Get("X-Person") == "eve":
			eve(w, idIn(said))
		case strings.Contains(said, `"initialize"`):
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+idIn(said)+`,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}`)
		default:
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+idIn(said)+`,"result":{"content":[]}}`)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestAnUpstreamThatOpensNoSessionForOneIsThereForOthers(t *testing.T) {
	s := choosy(t, func(w http.ResponseWriter, id string) {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+id+`,"error":{"code":-32603,"message":"the program cannot be used"}}`)
	})
	p := newPool(t)
	u := open(t, p, upstream.Target{URL: s.URL, Revision: mcp.LatestSession, Failures: 2})
	for range 5 {
		if _, err := u.Call(t.Context(), as(t, "eve")); kindOf(err) != upstream.BadResponse {
			t.Fatalf("eve: %v", err)
		}
	}
	if h := p.Health(); h[0].Failures != 5 || !h[0].Until.IsZero() {
		t.Errorf("health: %+v", h)
	}
	r, err := u.Call(t.Context(), as(t, "ann"))
	if err != nil {
		t.Fatalf("ann: %v", err)
	}
	_ = r.Close()
}

func TestARefusedCredentialIsNobodyElses(t *testing.T) {
	asked, release := make(chan struct{}, 1), make(chan struct{})
	s := choosy(t, func(w http.ResponseWriter, _ string) {
		asked <- struct{}{}
		<-release
		w.WriteHeader(http.StatusUnauthorized)
	})
	u := open(t, newPool(t), upstream.Target{URL: s.URL})
	call := func(person string) chan error {
		ended := make(chan error, 1)
		go func() {
			r, err := u.Call(t.Context(), as(t, person))
			if err == nil {
				err = r.Close()
			}
			ended <- err
		}()
		return ended
	}
	eve := call("eve") // asks what the server speaks, for all who wait
	<-asked
	ann := call("ann")
	close(release)
	if err := <-eve; kindOf(err) != upstream.AuthRejected {
		t.Errorf("eve: %v", err)
	}
	if err := <-ann; err != nil {
		t.Errorf("ann: %v", err)
	}
}
