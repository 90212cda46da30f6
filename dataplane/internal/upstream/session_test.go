package upstream_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/upstream"
)

func TestASessionIsNotEndedWhileACallIsInIt(t *testing.T) {
	for name, end := range map[string]func(p *upstream.Pool, now *atomic.Int64, again func(upstream.Target) *upstream.Upstream, target upstream.Target){
		"it is long": func(p *upstream.Pool, now *atomic.Int64, _ func(upstream.Target) *upstream.Upstream, _ upstream.Target) {
			now.Add(int64(time.Hour))
			p.Sweep()
		},
		"the connector's settings changed": func(_ *upstream.Pool, _ *atomic.Int64, again func(upstream.Target) *upstream.Upstream, target upstream.Target) {
			target.Retries = 7
			again(target)
		},
		"there are too many": func(_ *upstream.Pool, _ *atomic.Int64, again func(upstream.Target) *upstream.Upstream, target upstream.Target) {
			r, err := again(target).Call(t.Context(), calls(t, "another", "quick"))
			if err == nil {
				_ = r.Close()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			waiting, release, deleted := make(chan struct{}, 1), make(chan struct{}), make(chan bool, 10)
			var done atomic.Bool
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				w.Header().Set("Content-Type", "application/json")
				switch said := string(body); {
				case err != nil:
				case r.Method == http.MethodDelete && r.Header.Get("Mcp-Session-Id") == "a":
					deleted <- done.Load()
				case r.Method == http.MethodDelete:
				case strings.Contains(said, `"initialize"`):
					id := "b"
					if strings.Contains(said, `"roots"`) {
						id = "a"
					}
					w.Header().Set("Mcp-Session-Id", id)
					_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+idIn(said)+`,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}`)
				case strings.Contains(said, `"tools/call"`):
					if strings.Contains(said, `"slow"`) {
						waiting <- struct{}{}
						<-release
					}
					_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+idIn(said)+`,"result":{"content":[]}}`)
				default:
					w.WriteHeader(http.StatusAccepted)
				}
			}))
			t.Cleanup(s.Close)
			var now atomic.Int64
			now.Store(time.Now().UnixNano())
			p := upstream.NewPool(upstream.Config{Now: func() time.Time { return time.Unix(0, now.Load()) }})
			t.Cleanup(func() { _ = p.Close(t.Context()) })
			target := upstream.Target{URL: s.URL, Revision: mcp.LatestSession, MaxSessions: 1}
			again := func(target upstream.Target) *upstream.Upstream { return open(t, p, target) }
			u := again(target)
			slow := calls(t, "slow's", "slow")
			slow.Party.Capabilities = []byte(`{"roots":{}}`)
			ended := make(chan error, 1)
			go func() {
				r, err := u.Call(t.Context(), slow)
				if done.Store(true); err == nil {
					err = r.Close()
				}
				ended <- err
			}()
			<-waiting
			end(p, &now, again, target)
			r, err := again(target).Call(t.Context(), calls(t, "another", "quick"))
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Close()
			close(release)
			if err := <-ended; err != nil {
				t.Error(err)
			}
			now.Add(int64(2 * time.Hour))
			p.Sweep()
			if !<-deleted {
				t.Error("the session was ended during the call")
			}
		})
	}
}

// calls is a call of a tool in a session of its own.
func calls(t *testing.T, session, tool string) upstream.Call {
	return upstream.Call{Message: message(t, mcp.LatestSession, "1", "tools/call", `{"name":"`+tool+`"}`), Revision: mcp.LatestSession, Party: upstream.Party{Session: session}}
}

func idIn(said string) string {
	_, rest, _ := strings.Cut(said, `"id":`)
	return rest[:strings.IndexAny(rest, ",}")]
}
