package upstream_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/upstream"
)

// moody is an upstream that answers calls with a status while it is set, and counts them.
type moody struct {
	*httptest.Server
	status atomic.Int32
	calls  atomic.Int32
}

func newMoody(t *testing.T) *moody {
	m := &moody{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.calls.Add(1)
		if status := m.status.Load(); status != 0 {
			w.WriteHeader(int(status))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}`))
	}))
	t.Cleanup(m.Close)
	return m
}

func request(t *testing.T, safe bool) upstream.Call {
	return upstream.Call{Message: message(t, "2026-07-28", "1", "tools/call", `{"name":"x"}`), Revision: mcp.LatestStateless, Safe: safe}
}

func kindOf(err error) upstream.Kind {
	var e *upstream.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}

func TestAnUpstreamThatFailsIsLeftAloneUntilItIsWell(t *testing.T) {
	m := newMoody(t)
	var now atomic.Int64
	now.Store(time.Now().UnixNano())
	pool := upstream.NewPool(upstream.Config{Now: func() time.Time { return time.Unix(0, now.Load()) }})
	t.Cleanup(func() { _ = pool.Close(t.Context()) })
	u, err := pool.Upstream(upstream.Target{Connector: "moody", Allowed: "127.0.0.0/8", URL: m.URL, Revision: mcp.LatestStateless, Failures: 3, OpenFor: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	call := func() error {
		r, err := u.Call(t.Context(), request(t, false))
		if err == nil {
			_ = r.Close()
		}
		return err
	}
	// A refusal of the credential is an answer, however often it comes.
	m.status.Store(http.StatusForbidden)
	for range 5 {
		if err := call(); kindOf(err) != upstream.AuthRejected {
			t.Fatal(err)
		}
	}
	m.status.Store(http.StatusInternalServerError)
	for range 3 {
		if err := call(); kindOf(err) != upstream.BadResponse {
			t.Fatal(err)
		}
	}
	before := m.calls.Load()
	err = call()
	if kindOf(err) != upstream.LeftAlone || m.calls.Load() != before || !strings.Contains(err.Error(), "moody is left alone") || !strings.Contains(err.Error(), "try again in") {
		t.Fatalf("%v, called %d times", err, m.calls.Load()-before)
	}
	if h := pool.Health(); len(h) != 1 || h[0].Failures != 3 || h[0].Last != upstream.BadResponse || h[0].Until.IsZero() {
		t.Errorf("health: %+v", h)
	}
	// Then one call tries, and no other while it is not known how that went.
	now.Add(int64(11 * time.Second))
	if err := call(); kindOf(err) != upstream.BadResponse {
		t.Fatal(err)
	}
	if err := call(); kindOf(err) != upstream.LeftAlone {
		t.Fatal(err)
	}
	m.status.Store(0)
	now.Add(int64(11 * time.Second))
	for range 3 {
		if err := call(); err != nil {
			t.Fatal(err)
		}
	}
	if h := pool.Health(); h[0].Failures != 0 || !h[0].Until.IsZero() {
		t.Errorf("health: %+v", h)
	}
}

func TestOnlyWhatChangesNothingIsRepeated(t *testing.T) {
	for _, c := range []struct {
		name    string
		status  int
		safe    bool
		retries int
		calls   int32
	}{
		{"what changes something", 503, false, 2, 1},
		{"what changes nothing", 503, true, 2, 3},
		{"what changes nothing, too fast", 429, true, 1, 2},
		{"a refusal of the credential", 401, true, 2, 1},
		{"a request that is wrong", 400, true, 2, 1},
		{"where an admin wants none", 503, true, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMoody(t)
			m.status.Store(int32(c.status))
			u := open(t, newPool(t), upstream.Target{URL: m.URL, Revision: mcp.LatestStateless, Retries: c.retries, Failures: 100})
			if _, err := u.Call(t.Context(), request(t, c.safe)); err == nil {
				t.Fatal("it came through")
			}
			if n := m.calls.Load(); n != c.calls {
				t.Errorf("called %d times instead of %d", n, c.calls)
			}
		})
	}
}

// Many servers break the connection at a header that is too large, which looks as if they were ill.
func TestNoAgentHasAnUpstreamLeftAloneByALargeHeader(t *testing.T) {
	const takes = 16 << 10
	url := hostile(t, func(c net.Conn, r *http.Request) {
		size := 0
		for name, values := range r.Header {
			size += len(name) + len(values[0])
		}
		if size <= takes {
			_, _ = io.WriteString(c, jsonAnswer(200, `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}`))
		}
	})
	long := strings.Repeat("x", 2*takes)
	for name, one := range map[string]struct {
		call  upstream.Call
		taken bool
	}{
		"trace context": {upstream.Call{Message: message(t, "2026-07-28", "1", "tools/call", `{"name":"x"}`), Revision: "2026-07-28", TraceParent: long, TraceState: long}, true},
		"a name":        {upstream.Call{Message: message(t, "2025-11-25", "1", "resources/read", `{"uri":"file:///`+long+`"}`), Revision: "2025-11-25"}, false},
		"an argument": {upstream.Call{
			Message: message(t, "2025-11-25", "1", "tools/call", `{"name":"x","arguments":{"a":"`+long+`"}}`), Revision: "2025-11-25",
			Params: []mcp.ParamHeader{{Header: "Mcp-Param-A", Path: []string{"a"}}},
		}, false},
		"a header": {upstream.Call{
			Message: message(t, "2026-07-28", "1", "tools/call", `{"name":"x"}`), Revision: "2026-07-28", Header: http.Header{"Mcp-Param-Other": {long}},
		}, false},
	} {
		u := open(t, newPool(t), upstream.Target{URL: url, Revision: mcp.LatestStateless, Failures: 2})
		for range 3 {
			response, err := u.Call(t.Context(), one.call)
			var refused *mcp.Error
			if one.taken != (err == nil) || err != nil && !errors.As(err, &refused) {
				t.Errorf("%s: %v", name, err)
			}
			if err == nil {
				_ = response.Close()
			}
		}
		response, err := u.Call(t.Context(), request(t, false))
		if err != nil {
			t.Errorf("after %s: %v", name, err)
			continue
		}
		_ = response.Close()
	}
}

func TestNoAgentHasAnUpstreamLeftAloneByALargeAnswer(t *testing.T) {
	const most = 128 << 10
	for name, answer := range map[string]string{
		"announced":   jsonAnswer(200, `{"jsonrpc":"2.0","id":1,"result":{"x":"`+strings.Repeat("x", most)+`"}}`),
		"unannounced": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + `{"jsonrpc":"2.0","id":1,"result":{"x":"` + strings.Repeat("x", most) + `"}}`,
	} {
		u := open(t, newPool(t), upstream.Target{URL: hostile(t, raw(answer)), Revision: mcp.LatestStateless, Failures: 2, MaxResponse: most})
		for range 4 {
			if _, err := try(t.Context(), t, u); kindOf(err) != upstream.BadResponse || !strings.Contains(err.Error(), "too large") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
