package gateway_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/mcp"
)

func TestWithoutATokenAnAgentIsToldWhereToGetOne(t *testing.T) {
	w := newWorld(t, &options{})
	for _, endpoint := range []string{"/mcp", "/mcp/demo"} {
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
			got := w.request(method, endpoint, nil, "")
			challenge := got.header.Get("WWW-Authenticate")
			where := w.url + "/.well-known/oauth-protected-resource" + endpoint
			if got.status != http.StatusUnauthorized || challenge != `Bearer resource_metadata="`+where+`"` {
				t.Errorf("%s %s: got %+v", method, endpoint, got)
			}
		}
		got := w.request(http.MethodGet, "/.well-known/oauth-protected-resource"+endpoint, nil, "")
		servers, _ := got.field("authorization_servers").([]any)
		if got.status != http.StatusOK || got.field("resource") != w.url+endpoint || len(servers) != 1 || servers[0] != w.issuer.URL || got.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: got %+v", endpoint, got)
		}
	}
	if got := w.request(http.MethodGet, "/.well-known/oauth-protected-resource", nil, ""); got.field("resource") != w.url+"/mcp" {
		t.Errorf("got %+v", got)
	}
	if got := w.request(http.MethodGet, "/.well-known/oauth-protected-resource/mcp/nowhere", nil, ""); got.status != http.StatusNotFound {
		t.Errorf("a connector that is not there: %+v", got)
	}
	w.settled(0) // who only asks where to get a token has done nothing
}

func TestATokenThatIsNotGoodIsRefusedAndRecorded(t *testing.T) {
	w := newWorld(t, &options{})
	good := w.stateless(ada, "/mcp/demo")
	for _, tc := range []struct {
		name, token string
		reason      auditv1.Reason
	}{
		{"nonsense", "nonsense", auditv1.Reason_REASON_TOKEN_INVALID},
		{"forged", good.token[:len(good.token)-8] + "AAAAAAAA", auditv1.Reason_REASON_TOKEN_INVALID},
		{"for another connector", w.token(ada, "/mcp/other", "agent"), auditv1.Reason_REASON_TOKEN_INVALID},
		{"for another resource", w.token(ada, "/elsewhere", "agent"), auditv1.Reason_REASON_TOKEN_INVALID},
		{"of nobody known", w.token(uuid.UUID{15: 9}, "/mcp/demo", "agent"), auditv1.Reason_REASON_PERSON_UNKNOWN},
	} {
		got := good.with(func(a *agent) { a.token = tc.token }).call("echo", `{}`)
		challenge := got.header.Get("WWW-Authenticate")
		if got.status != http.StatusUnauthorized || !strings.Contains(challenge, `error="invalid_token"`) || !strings.Contains(challenge, `resource_metadata="`) {
			t.Errorf("%s: got %+v", tc.name, got)
		}
		if strings.Contains(got.body+challenge, tc.token) {
			t.Errorf("%s: the token is in the answer", tc.name)
		}
		if r := w.settled(1)[0]; r.GetDecision().GetReason() != tc.reason || r.GetPhase() != auditv1.Phase_PHASE_REFUSED || r.GetMethod() != "authenticate" {
			t.Errorf("%s: recorded %v", tc.name, r)
		}
	}
	// A token in the URL is none.
	h := good.header("tools/list", "")
	h.Del("Authorization")
	if got := w.request(http.MethodPost, "/mcp/demo?access_token="+good.token, h, good.message("1", "tools/list", `{}`)); got.status != http.StatusUnauthorized {
		t.Errorf("in the URL: %+v", got)
	}
	// One for the endpoint of all is good for each.
	if got := good.with(func(a *agent) { a.token = w.token(ada, "/mcp", "agent") }).call("echo", `{}`); got.status != http.StatusOK {
		t.Errorf("for all: %+v", got)
	}
	if calls := w.demo.got("tools/call"); len(calls) != 1 {
		t.Errorf("the upstream was sent %+v", calls)
	}
}

func TestABrowserMayCallFromItsOwnOriginsOnly(t *testing.T) {
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.Origins = []string{"https://app.example.com"} }})
	a := w.stateless(ada, "/mcp/demo")
	for origin, status := range map[string]int{
		"": 200, w.url: 200, "https://app.example.com": 200, "http://app.example.com": 403, "https://app.example.com.evil.example": 403, "null": 403, "https://evil.example": 403,
	} {
		h := a.header("tools/list", "")
		if origin != "" {
			h.Set("Origin", origin)
		}
		if got := w.request(http.MethodPost, a.path, h, a.message("1", "tools/list", `{}`)); got.status != status {
			t.Errorf("%q: got %+v", origin, got)
		}
	}
	for _, several := range [][]string{{""}, {w.url, "https://evil.example"}, {"", "https://evil.example"}} {
		h := a.header("tools/list", "")
		h["Origin"] = several
		if got := w.request(http.MethodPost, a.path, h, a.message("1", "tools/list", `{}`)); got.status != 403 {
			t.Errorf("%q: got %+v", several, got)
		}
	}
}

func TestBodiesThatAreNotPlainAreRefused(t *testing.T) {
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.MaxBody = 4096 }})
	a := w.stateless(ada, "/mcp/demo")
	good := a.message("7", "tools/call", `{"name":"echo","arguments":{"text":"hi"}}`)
	plain := func(http.Header) {}
	for _, tc := range []struct {
		name   string
		body   string
		change func(http.Header)
		status int
	}{
		{"too large", strings.Replace(good, "hi", strings.Repeat("h", 5000), 1), plain, http.StatusRequestEntityTooLarge},
		{"no type", good, func(h http.Header) { h.Del("Content-Type") }, http.StatusUnsupportedMediaType},
		{"a form", good, func(h http.Header) { h.Set("Content-Type", "application/x-www-form-urlencoded") }, http.StatusUnsupportedMediaType},
		{"plain text", good, func(h http.Header) { h.Set("Content-Type", "text/plain") }, http.StatusUnsupportedMediaType},
		{"another encoding", good, func(h http.Header) { h.Set("Content-Type", "application/json; charset=utf-16") }, http.StatusUnsupportedMediaType},
		{"two types", good, func(h http.Header) { h.Add("Content-Type", "text/plain") }, http.StatusUnsupportedMediaType},
		{"takes no stream", good, func(h http.Header) { h.Set("Accept", "application/json") }, http.StatusNotAcceptable},
		{"a name twice", strings.Replace(good, `"name":"echo"`, `"name":"forbidden","name":"echo"`, 1), plain, http.StatusBadRequest},
		{"a name twice, once escaped", strings.Replace(good, `"name":"echo"`, `"n\u0061me":"forbidden","name":"echo"`, 1), plain, http.StatusBadRequest},
		{"a method twice", strings.Replace(good, `"method":`, `"method":"ping","method":`, 1), plain, http.StatusBadRequest},
		{"arguments twice", strings.Replace(good, `"arguments":`, `"arguments":{},"arguments":`, 1), plain, http.StatusBadRequest},
		{"something after it", good + "{}", plain, http.StatusBadRequest},
		{"cut", good[:len(good)-1], plain, http.StatusBadRequest},
		{"not UTF-8", strings.Replace(good, "hi", "\xff", 1), plain, http.StatusBadRequest},
		{"a response", `{"jsonrpc":"2.0","id":1,"result":{}}`, plain, http.StatusBadRequest},
		{"no version of JSON-RPC", strings.Replace(good, `"jsonrpc":"2.0",`, ``, 1), plain, http.StatusBadRequest},
		{"nothing", "", plain, http.StatusBadRequest},
	} {
		h := a.header("tools/call", "echo")
		tc.change(h)
		got := w.request(http.MethodPost, a.path, h, tc.body)
		if got.status != tc.status || got.field("error", "code") == nil {
			t.Errorf("%s: got %+v", tc.name, got)
		}
	}
	// Duplicates deeper down, in the arguments, are the tool's to be refused: where the model reads it.
	got := a.call("echo", `{"text":"a","text":"b"}`)
	if got.status != http.StatusBadRequest && got.field("result", "isError") != true {
		t.Errorf("an argument twice: %+v", got)
	}
	if sent := w.demo.got(""); len(sent) != 0 {
		t.Errorf("the upstream was sent %+v", sent)
	}
	if got := w.request(http.MethodPost, a.path, a.header("tools/call", "echo"), good); got.status != http.StatusOK {
		t.Errorf("the good one: %+v", got)
	}
}

func TestABodyThatDoesNotArriveInTimeIsRefused(t *testing.T) {
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.ReadBody = 50 * time.Millisecond }})
	a := w.stateless(ada, "/mcp/demo")
	body, end := newSlowBody()
	defer end()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+a.path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = a.header("tools/list", "")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() // nothing is read
	if resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("got %s", resp.Status)
	}
}

func TestNotificationsAreTakenAndNotAnswered(t *testing.T) {
	w := newWorld(t, &options{})
	a := w.opened(ada, "/mcp/demo", "2025-11-25")
	if got := a.post("", `{"jsonrpc":"2.0","method":"notifications/initialized"}`); got.status != http.StatusAccepted || got.body != "" {
		t.Errorf("got %+v", got)
	}
	if got := a.post("", `{"jsonrpc":"2.0","id":1,"result":{}}`); got.status != http.StatusBadRequest || got.field("error", "code") != float64(mcp.CodeInvalidRequest) {
		t.Errorf("a response to nothing: %+v", got)
	}
	if sent := w.demo.got(""); len(sent) != 0 {
		t.Errorf("the upstream was sent %+v", sent)
	}
}

func TestWhoIsAskedForByAnotherNameIsNotServed(t *testing.T) {
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.Hosts = []string{"Balancer.example:8443"} }})
	a := w.stateless(ada, "/mcp/demo")
	for host, status := range map[string]int{
		"localhost": http.StatusOK, "127.0.0.1:99": http.StatusOK, "[::1]": http.StatusOK, "balancer.example": http.StatusOK,
		"evil.example": http.StatusMisdirectedRequest, "127.0.0.1.evil.example": http.StatusMisdirectedRequest, "localhost.": http.StatusMisdirectedRequest,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+a.path, strings.NewReader(a.message("7", "tools/list", `{}`)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header, r.Host = a.header("tools/list", ""), host
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %d", host, resp.StatusCode)
		}
	}
}

func TestOnePersonTakesNoMoreThanTheirShare(t *testing.T) {
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.MaxOpen, c.MaxOpenOfOne = 4, 3 }})
	a := w.stateless(ada, "/mcp/demo")
	for range 3 {
		a.wait()
	}
	w.settled(3)
	if got := a.call("echo", `{}`); !strings.Contains(got.body, "as many calls are in flight") {
		t.Errorf("a fourth call: %+v", got)
	}
	if r := w.settled(1)[0]; r.GetDecision().GetReason() != auditv1.Reason_REASON_LIMIT_REACHED {
		t.Errorf("recorded %v", r)
	}
	b := w.stateless(bob, "/mcp/demo")
	if got := b.call("echo", `{}`); !strings.Contains(got.body, "said") {
		t.Errorf("another person's call: %+v", got)
	}
	b.wait()
	if got := b.call("echo", `{}`); !strings.Contains(got.body, "as many calls are in flight") {
		t.Errorf("one more than the proxy takes: %+v", got)
	}
	if got := b.post("subscriptions/listen", b.message("9", "subscriptions/listen", `{"notifications":{}}`)); got.status != http.StatusTooManyRequests {
		t.Errorf("a stream: %+v", got)
	}
	close(w.demo.release)
}

func TestNothingIsReadBehindABodyOfTwoLengths(t *testing.T) {
	w := newWorld(t, &options{})
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // what mattered was read
	host := strings.TrimPrefix(w.url, "http://")
	two := "POST /mcp HTTP/1.1\r\nHost: " + host + "\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
	if _, err := io.WriteString(conn, two+"GET /healthz HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	if !resp.Close || resp.Body.Close() != nil {
		t.Errorf("the connection goes on behind %s", resp.Status)
	}
	if next, err := http.ReadResponse(in, nil); err == nil {
		_ = next.Body.Close()
		t.Errorf("what follows is answered: %s", next.Status)
	}
}
