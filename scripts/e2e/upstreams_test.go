package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	"sallyport.dev/scripts/demo/servers"
)

// moody is an MCP server that behaves until it is told not to.
type moody struct {
	*httptest.Server
	bad atomic.Bool
}

func newMoody(t testing.TB, misbehave http.HandlerFunc) *moody {
	m := &moody{}
	well := servers.NewGitHub().Handler()
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.bad.Load() {
			misbehave(w, r)
			return
		}
		well.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		m.CloseClientConnections()
		m.Close()
	})
	return m
}

// TestUpstreamThatMisbehavesHarmsItsOwnCallsAlone: the agent is told what happened in words without addresses, the
// audit says that the upstream failed, and other connectors go on.
func TestUpstreamThatMisbehavesHarmsItsOwnCallsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newProxy(t, w.cp, "us-east")

	elsewhere := atomic.Int64{}
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	t.Cleanup(target.Close)
	answer := func(contentType, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, body)
		}
	}
	cases := map[string]http.HandlerFunc{
		"down": nil, // its listener is closed
		"slow": func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		},
		"garbage":      answer("application/json", "\x00\x01 this is {not] JSON"),
		"html":         answer("text/html", "<html>a proxy's error page</html>"),
		"other-answer": answer("application/json", `{"jsonrpc":"2.0","id":"another","result":{}}`),
		"no-http": func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "220 mail.example ESMTP\r\n")
				_ = conn.Close()
			}
		},
		"cut-json": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Content-Length", "5000")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{"content":[`)
			panic(http.ErrAbortHandler)
		},
		"cut-stream": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "event: message\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":\"call-cut-stream__list_branches\",\"progress\":1}}\n\n")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"redirecting": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target.URL+"/mcp", http.StatusTemporaryRedirect)
		},
		"unauthorized": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+target.URL+`"`)
			http.Error(w, "who are you", http.StatusUnauthorized)
		},
		"failing": func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "stack trace at "+r.Host, http.StatusInternalServerError)
		},
	}
	for name, misbehave := range cases {
		m := newMoody(t, misbehave)
		path := servers.StatelessPath
		if len(name)%2 == 0 {
			path = servers.SessionPath // both eras
		}
		w.connect(name, m.URL+path, "timeout: 1s\n")
		w.cp.enforced()
		s := w.session(p, ada)
		if res := s.Call(t.Context(), name+"__list_branches", payments); !res.OK {
			t.Fatalf("%s, while it behaves: %s", name, res.Text)
		}
		m.bad.Store(true)
		if misbehave == nil {
			m.CloseClientConnections()
			m.Close()
		}
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			res := s.Call(t.Context(), name+"__list_branches", payments)
			if res.OK || res.Text == "" {
				t.Errorf("the call's result is %+v", res)
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("it took %s", took)
			}
			if !strings.Contains(res.Text, "connector "+name) {
				t.Errorf("%q does not name the connector", res.Text)
			}
			secretive(t, res.Text, m.Server, target)
			if err := works(t.Context(), s); err != nil {
				t.Errorf("another connector: %v", err)
			}
			eventually(t, func() error {
				got, err := w.audit(&adminv1.AuditFilter{Person: ada, Connector: name})
				if err != nil {
					return err
				}
				if err := got.twoPhases(2); err != nil {
					return err
				}
				if o := got.outcomes(); o[auditv1.Outcome_OUTCOME_UPSTREAM_ERROR] != 1 || o[auditv1.Outcome_OUTCOME_OK] != 1 {
					return fmt.Errorf("outcomes: %v", o)
				}
				for _, phases := range got {
					for _, r := range phases[auditv1.Phase_PHASE_COMPLETED] {
						secretive(t, r.GetError(), m.Server, target)
					}
				}
				return nil
			})
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d requests followed a redirect", n)
	}
}
