package upstream_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/upstream"
)

func benchServer(b *testing.B) string {
	b.Helper()
	body := []byte(`{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"` + string(bytes.Repeat([]byte("x"), 300)) + `"}],"resultType":"complete"}}`)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = w.Write(body)
	}))
	b.Cleanup(s.Close)
	return s.URL
}

// BenchmarkCall is one call over a kept connection, server included. See BenchmarkReverseProxy for what to hold it against.
func BenchmarkCall(b *testing.B) {
	u, err := upstream.NewPool(upstream.Config{}).Upstream(upstream.Target{Connector: "c", Allowed: "127.0.0.0/8", URL: benchServer(b), Revision: mcp.Revision20260728})
	if err != nil {
		b.Fatal(err)
	}
	m := message(b, "2026-07-28", "1", "tools/call", `{"name":"x","arguments":{"a":1}}`)
	b.ReportAllocs()
	for b.Loop() {
		r, err := u.Call(b.Context(), upstream.Call{Message: m, Revision: "2026-07-28"})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			b.Fatal(err)
		}
		_ = r.Close()
	}
}

// BenchmarkReverseProxy is the client half of httputil's reverse proxy, with the same server and message.
func BenchmarkReverseProxy(b *testing.B) {
	to, err := url.Parse(benchServer(b))
	if err != nil {
		b.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	m := message(b, "2026-07-28", "1", "tools/call", `{"name":"x","arguments":{"a":1}}`)
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		proxy.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(m.Raw)))
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}
