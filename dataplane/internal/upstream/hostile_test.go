package upstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
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

const secret = "hunter2-token"

// hostile starts an upstream that answers every request with raw bytes, whatever they are, and then closes the connection.
func hostile(t *testing.T, answer func(c net.Conn, r *http.Request)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				if _, err := io.Copy(io.Discard, r.Body); err == nil {
					answer(c, r)
				}
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return "http://" + l.Addr().String() + "/secret-path"
}

func raw(text string) func(net.Conn, *http.Request) {
	return func(c net.Conn, _ *http.Request) { _, _ = io.WriteString(c, text) }
}

// jsonAnswer is a whole HTTP answer of JSON.
func jsonAnswer(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
}

func streamAnswer(body string) string {
	return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + body
}

// try makes one call, reads its answer to the end, and returns what went wrong.
func try(ctx context.Context, t *testing.T, u *upstream.Upstream) (string, error) {
	t.Helper()
	r, err := u.Call(ctx, upstream.Call{
		Message: message(t, "2026-07-28", "1", "tools/call", `{"name":"x","arguments":{}}`), Revision: "2026-07-28",
		Party: upstream.Party{Credential: upstream.Credential{Header: "Authorization", Value: "Bearer " + secret}},
	})
	if err != nil {
		return "", err
	}
	defer func() { _ = r.Close() }()
	if !r.Stream {
		length := r.Len()
		b, err := io.ReadAll(r)
		if err == nil && length >= 0 && length != int64(len(b)) {
			t.Errorf("it has %d bytes, and was said to have %d", len(b), length)
		}
		return string(b), err
	}
	var all strings.Builder
	for {
		e, err := r.Next()
		if err == nil && e.Message.Kind == mcp.Request {
			r.Refuse(e.Message.ID, mcp.MethodNotFound())
			continue
		}
		if errors.Is(err, io.EOF) {
			return all.String(), nil
		}
		if err != nil {
			return all.String(), err
		}
		all.Write(e.Data)
	}
}

func TestBadAnswersBecomeClearErrors(t *testing.T) {
	const ok = `{"jsonrpc":"2.0","id":1,"result":{}}`
	big := `{"jsonrpc":"2.0","result":{"x":"` + strings.Repeat("y", 200_000) + `"},"id":1`
	for name, c := range map[string]struct {
		answer string
		kind   upstream.Kind
		reason string
	}{
		"garbage":                 {"\x00\x01\x02 hello\r\n\r\n", upstream.BadResponse, "not valid HTTP"},
		"nothing":                 {"", upstream.BadResponse, "ended before the answer"},
		"half a head":             {"HTTP/1.1 200 OK\r\nContent-Type: appl", upstream.BadResponse, "ended before the answer"},
		"huge headers":            {"HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 1<<20) + "\r\n\r\n", upstream.BadResponse, "header is too large"},
		"many headers":            {"HTTP/1.1 200 OK\r\n" + strings.Repeat("X: aaaaaaaa\r\n", 100_000) + "\r\n", upstream.BadResponse, "header is too large"},
		"a redirect":              {"HTTP/1.1 307 X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", upstream.Redirected, ""},
		"a permanent redirect":    {"HTTP/1.1 308 X\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n", upstream.Redirected, ""},
		"not modified":            {"HTTP/1.1 304 X\r\nContent-Length: 0\r\n\r\n", upstream.Redirected, ""},
		"unauthorized":            {"HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm=\"internal.example\"\r\nContent-Length: 0\r\n\r\n", upstream.AuthRejected, "401"},
		"forbidden":               {jsonAnswer(403, `{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}`), upstream.AuthRejected, "403"},
		"an HTML page":            {"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<ht>", upstream.BadResponse, "content type"},
		"no content type":         {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", upstream.BadResponse, "content type"},
		"two content types":       {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\n{}", upstream.BadResponse, "content type"},
		"another charset":         {"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-16\r\nContent-Length: 2\r\n\r\n{}", upstream.BadResponse, "content type"},
		"compressed":              {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", upstream.BadResponse, "encoded"},
		"accepted":                {"HTTP/1.1 202 X\r\nContent-Length: 0\r\n\r\n", upstream.BadResponse, "202"},
		"no content":              {"HTTP/1.1 204 X\r\n\r\n", upstream.BadResponse, "204"},
		"an error page":           {"HTTP/1.1 502 X\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<ht>", upstream.BadResponse, "502"},
		"no JSON":                 {jsonAnswer(200, `<html>`), upstream.BadResponse, "not a valid JSON-RPC"},
		"no JSON-RPC":             {jsonAnswer(200, `{"ok":true}`), upstream.BadResponse, "not a valid JSON-RPC"},
		"a batch":                 {jsonAnswer(200, `[`+ok+`]`), upstream.BadResponse, "not a valid JSON-RPC"},
		"duplicate keys":          {jsonAnswer(200, `{"jsonrpc":"2.0","id":1,"result":{},"result":{"x":1}}`), upstream.BadResponse, "not a valid JSON-RPC"},
		"another id":              {jsonAnswer(200, `{"jsonrpc":"2.0","id":2,"result":{}}`), upstream.BadResponse, "another request"},
		"the id as a string":      {jsonAnswer(200, `{"jsonrpc":"2.0","id":"1","result":{}}`), upstream.BadResponse, "another request"},
		"a request":               {jsonAnswer(200, `{"jsonrpc":"2.0","id":1,"method":"ping"}`), upstream.BadResponse, "another request"},
		"cut JSON":                {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n" + ok, upstream.BadResponse, "within the answer"},
		"cut chunks":              {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"jso\r\n", upstream.BadResponse, "within the answer"},
		"bad chunks":              {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", upstream.BadResponse, "within the answer"},
		"two lengths":             {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 36\r\n\r\n" + ok, upstream.BadResponse, ""},
		"large and cut":           {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 300000\r\n\r\n" + big, upstream.BadResponse, "within the answer"},
		"large, another id":       {jsonAnswer(200, strings.TrimSuffix(big, "1")+`2}`), upstream.BadResponse, "another request"},
		"large without id":        {jsonAnswer(200, strings.TrimSuffix(big, `,"id":1`)+`}`), upstream.BadResponse, "has no id"},
		"large, no JSON":          {jsonAnswer(200, strings.Repeat("<p>", 50_000)), upstream.BadResponse, "not a valid JSON-RPC"},
		"too large":               {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n{", upstream.BadResponse, "too large"},
		"too large, unannounced":  {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + `{"jsonrpc":"2.0","id":1,"result":"` + strings.Repeat("y", 2<<20), upstream.BadResponse, "too large"},
		"a stream that is cut":    {streamAnswer("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n"), upstream.BadResponse, "stream ended before"},
		"cut within an event":     {streamAnswer("data: {\"jsonrpc\":"), upstream.BadResponse, "stream ended before"},
		"garbage in a stream":     {streamAnswer("data: hello\n\n"), upstream.BadResponse, "no valid JSON-RPC"},
		"another id in a stream":  {streamAnswer("data: {\"jsonrpc\":\"2.0\",\"id\":9,\"result\":{}}\n\n"), upstream.BadResponse, "another request"},
		"a request in a stream":   {streamAnswer("data: {\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"sampling/createMessage\",\"params\":{}}\n\n"), upstream.BadResponse, "asks something"},
		"a large event":           {streamAnswer("data: " + strings.Repeat("x", 2<<20)), upstream.BadResponse, "event is too large"},
		"an error of another id":  {jsonAnswer(400, `{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"x"}}`), upstream.BadResponse, "another request"},
		"informational for ever":  {strings.Repeat("HTTP/1.1 103 X\r\nLink: x\r\n\r\n", 100), upstream.BadResponse, ""},
		"an error that is no one": {jsonAnswer(500, `{"error":"db.internal is down"}`), upstream.BadResponse, "500"},
	} {
		t.Run(name, func(t *testing.T) {
			u := open(t, newPool(t), upstream.Target{
				URL: hostile(t, raw(c.answer)), Revision: mcp.Revision20260728, Timeout: 5 * time.Second, MaxResponse: 1 << 20, MaxEvent: 1 << 20,
			})
			got, err := try(t.Context(), t, u)
			var e *upstream.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %.100q, %v", got, err)
			}
			if e.Kind != c.kind || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got %v (%d), want %v with %q", err, e.Kind, c.kind, c.reason)
			}
			for _, never := range []string{"127.0.0.1", "secret-path", secret, "internal", "http://"} {
				if strings.Contains(err.Error(), never) {
					t.Errorf("%q holds %q", err, never)
				}
			}
		})
	}
}

func TestGoodAnswersInOddFormsAreTaken(t *testing.T) {
	big := strings.Repeat(`y\"}],`, 30_000)
	for name, c := range map[string]struct{ answer, want string }{
		"id last":            {jsonAnswer(200, `{"result":{"id":5},"jsonrpc":"2.0","id":1}`), `{"result":{"id":5},"jsonrpc":"2.0","id":1}`},
		"white space":        {jsonAnswer(200, " {\n\"jsonrpc\":\"2.0\", \"id\" : 1 ,\"result\":{} }\n"), "{\n\"jsonrpc\":\"2.0\", \"id\" : 1 ,\"result\":{} }"},
		"large, id first":    {jsonAnswer(200, `{"id": 1 ,"jsonrpc":"2.0","result":{"x":"`+big+`"}}`), `{"id": 1 ,"jsonrpc":"2.0","result":{"x":"` + big + `"}}`},
		"large, id last":     {jsonAnswer(200, `{"jsonrpc":"2.0","result":{"id":7,"x":["`+big+`",{"id":3}]},"id":1}`), `{"jsonrpc":"2.0","result":{"id":7,"x":["` + big + `",{"id":3}]},"id":1}`},
		"an error under 400": {jsonAnswer(400, `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"x"}}`), `{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"x"}}`},
		"an error without id": {jsonAnswer(404, `{"jsonrpc":"2.0","error":{"code":-32601,"message":"x"}}`),
			`{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"x"}}`},
		"charset":          {"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=UTF-8\r\nConnection: close\r\n\r\n" + `{"jsonrpc":"2.0","id":1,"result":{}}`, `{"jsonrpc":"2.0","id":1,"result":{}}`},
		"a stream":         {streamAnswer(": hi\r\n\r\nid: 3\r\ndata\r\n\r\nevent: other\r\ndata: no\r\n\r\ndata: {\"jsonrpc\":\"2.0\",\r\ndata: \"id\":1,\"result\":{}}\r\n\r\nignored"), "{\"jsonrpc\":\"2.0\",\n\"id\":1,\"result\":{}}"},
		"hints come first": {"HTTP/1.1 103 X\r\nLink: x\r\n\r\n" + jsonAnswer(200, `{"jsonrpc":"2.0","id":1,"result":{}}`), `{"jsonrpc":"2.0","id":1,"result":{}}`},
	} {
		t.Run(name, func(t *testing.T) {
			u := open(t, newPool(t), upstream.Target{URL: hostile(t, raw(c.answer)), Revision: mcp.Revision20260728})
			if got, err := try(t.Context(), t, u); err != nil || got != c.want {
				t.Errorf("got %.200q, %v", got, err)
			}
		})
	}
}

func TestALargeAnswerHasALengthIfAllThatChangesComesFirst(t *testing.T) {
	big := `"content":[{"type":"text","text":"` + strings.Repeat("y", 300_000) + `"}]}`
	for name, c := range map[string]struct {
		answer string
		known  bool
	}{
		"id and type first":    {jsonAnswer(200, `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete",`+big+`}`), true},
		"id last":              {jsonAnswer(200, `{"jsonrpc":"2.0","result":{"resultType":"complete",`+big+`,"id":1}`), false},
		"none of the upstream": {"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + `{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete",` + big + `}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			u := open(t, newPool(t), upstream.Target{URL: hostile(t, raw(c.answer)), Revision: mcp.Revision20260728})
			r, err := u.Call(t.Context(), upstream.Call{Message: message(t, "2026-07-28", "1", "tools/call", `{"name":"x","arguments":{}}`), Revision: "2026-07-28"})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = r.Close() }()
			length := r.Len()
			b, err := io.ReadAll(r)
			if err != nil || c.known != (length >= 0) || c.known && length != int64(len(b)) {
				t.Errorf("%d bytes, said to be %d: %v", len(b), length, err)
			}
		})
	}
}

func TestAnUpstreamThatIsDownIsUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for name, c := range map[string]struct{ url, reason string }{
		"refused":                  {"http://" + address, "refused"},
		"an unknown name":          {"http://does-not-exist.invalid", "resolved"},
		"an untrusted certificate": {secure.URL, "TLS certificate"},
		"no TLS":                   {strings.Replace(plain.URL, "http://", "https://", 1), "TLS"},
	} {
		u := open(t, newPool(t), upstream.Target{URL: c.url, ConnectTimeout: 2 * time.Second})
		_, err := try(t.Context(), t, u)
		var e *upstream.Error
		if !errors.As(err, &e) || e.Kind != upstream.Unreachable || !strings.Contains(err.Error(), c.reason) || strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASlowUpstreamIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	slow := func(head string) func(net.Conn, *http.Request) {
		return func(c net.Conn, _ *http.Request) {
			_, _ = io.WriteString(c, head)
			<-release
		}
	}
	for name, head := range map[string]string{
		"no head":     "",
		"half a head": "HTTP/1.1 200 OK\r\n",
		"no body":     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n",
		"half a body": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n\r\n" + `{"jsonrpc":"2.0","id":1,"result":"` + strings.Repeat("x", 100_000),
		"no event":    streamAnswer(""),
		"one event":   streamAnswer("data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\"}\n\n"),
	} {
		u := open(t, newPool(t), upstream.Target{URL: hostile(t, slow(head)), Revision: mcp.Revision20260728, Timeout: 100 * time.Millisecond, Silence: 100 * time.Millisecond})
		begin := time.Now()
		_, err := try(t.Context(), t, u)
		var e *upstream.Error
		if !errors.As(err, &e) || e.Kind != upstream.Timeout {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

func TestABytewiseStreamIsNotGivenUp(t *testing.T) {
	text := "data: {\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}\n\n"
	u := open(t, newPool(t), upstream.Target{URL: hostile(t, func(c net.Conn, _ *http.Request) {
		_, _ = io.WriteString(c, streamAnswer(""))
		for i := range len(text) {
			_, _ = io.WriteString(c, text[i:i+1])
			time.Sleep(10 * time.Millisecond) // the pace is what is tested: longer in sum than the silence that is borne
		}
	}), Revision: mcp.Revision20260728, Silence: 300 * time.Millisecond})
	if got, err := try(t.Context(), t, u); err != nil || !strings.Contains(got, "result") {
		t.Errorf("%q, %v", got, err)
	}
}

func TestADeadUpstreamIsNotAskedByEachWaiterInTurn(t *testing.T) {
	var asked atomic.Int64
	release := make(chan struct{})
	u := open(t, newPool(t), upstream.Target{URL: hostile(t, func(net.Conn, *http.Request) {
		asked.Add(1)
		<-release
	}), Timeout: 300 * time.Millisecond})
	defer close(release)
	results := make(chan error, 50)
	for range 50 {
		go func() {
			_, err := try(t.Context(), t, u)
			results <- err
		}()
	}
	for range 50 {
		if err := <-results; err == nil || !strings.Contains(err.Error(), "in time") {
			t.Errorf("got %v", err)
		}
	}
	if n := asked.Load(); n > 5 {
		t.Errorf("asked %d times", n)
	}
}

func TestAServerThatLosesEverySessionIsReported(t *testing.T) {
	var initialized atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case strings.Contains(string(body), "notifications/"):
			w.WriteHeader(http.StatusAccepted)
		case strings.Contains(string(body), `"initialize"`):
			n := initialized.Add(1)
			w.Header().Set("Mcp-Session-Id", fmt.Sprint("s", n))
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+between(string(body), `"id":`, ",")+`,"result":{"protocolVersion":"2025-06-18"}}`)
		default:
			http.Error(w, "session not found", http.StatusNotFound)
		}
	}))
	defer s.Close()
	u := open(t, newPool(t), upstream.Target{URL: s.URL})
	_, err := try(t.Context(), t, u)
	var e *upstream.Error
	if !errors.As(err, &e) || e.Kind != upstream.SessionLost || initialized.Load() != 2 {
		t.Errorf("%v after %d sessions", err, initialized.Load())
	}
}

// TestACallThatFailedIsNotTakenForALostSession: servers say both by the same code, and the call may have had an effect.
func TestACallThatFailedIsNotTakenForALostSession(t *testing.T) {
	for said, again := range map[string]bool{
		"Bad Request: No valid session ID provided":         true,
		"Bad Request: Mcp-Session-Id header is required":    true,
		"Bad Request: Server not initialized":               true,
		"the transfer was made, but no receipt was written": false,
		"": false,
	} {
		var calls atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			id := between(string(body), `"id":`, ",")
			w.Header().Set("Content-Type", "application/json")
			switch {
			case strings.Contains(string(body), "notifications/"):
				w.WriteHeader(http.StatusAccepted)
			case strings.Contains(string(body), `"initialize"`):
				w.Header().Set("Mcp-Session-Id", "s")
				_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+id+`,"result":{"protocolVersion":"2025-06-18"}}`)
			default:
				calls.Add(1)
				w.WriteHeader(http.StatusBadRequest)
				_, _ = fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32000,"message":%q}}`, id, said)
			}
		}))
		got, err := try(t.Context(), t, open(t, newPool(t), upstream.Target{URL: s.URL, Revision: mcp.Revision20250618}))
		s.Close()
		var e *upstream.Error
		if again != (errors.As(err, &e) && e.Kind == upstream.SessionLost) || !again && !strings.Contains(got, said) || again != (calls.Load() == 2) {
			t.Errorf("%q: called %d times: %s, %v", said, calls.Load(), got, err)
		}
	}
}

func TestServersThatCannotBeInitializedAreRefused(t *testing.T) {
	for name, result := range map[string]string{
		"an unknown version":   `"result":{"protocolVersion":"2024-11-05"}`,
		"the stateless era":    `"result":{"protocolVersion":"2026-07-28"}`,
		"no version":           `"result":{}`,
		"an error":             `"error":{"code":-32000,"message":"no"}`,
		"a bad session id":     `"result":{"protocolVersion":"2025-06-18"}`,
		"a large session id":   `"result":{"protocolVersion":"2025-06-18"}`,
		"a refused initialize": "",
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if !strings.Contains(string(body), `"initialize"`) || result == "" {
				http.Error(w, "what?", http.StatusBadRequest)
				return
			}
			switch name {
			case "a bad session id":
				w.Header().Set("Mcp-Session-Id", "a b\tc")
			case "a large session id":
				w.Header().Set("Mcp-Session-Id", strings.Repeat("x", 5000))
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+between(string(body), `"id":`, ",")+`,`+result+`}`)
		}))
		_, err := try(t.Context(), t, open(t, newPool(t), upstream.Target{URL: s.URL}))
		var e *upstream.Error
		if !errors.As(err, &e) || e.Kind != upstream.BadResponse {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
}

func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

func TestAServerOfTheSessionEraIsRefusedWhatItAsks(t *testing.T) {
	answers := make(chan string, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		id := between(string(body), `"id":`, ",")
		switch text := string(body); {
		case strings.Contains(text, "server/discover"):
			http.Error(w, "what?", http.StatusBadRequest)
		case strings.Contains(text, `"initialize"`):
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+id+`,"result":{"protocolVersion":"2025-03-26"}}`)
		case strings.Contains(text, "tools/call"):
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"id\":\"p\",\"method\":\"ping\"}\n\ndata: {\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"sampling/createMessage\"}\n\n")
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "data: "+<-answers+"\n\n") // no response: answers come back as what they are
			_, _ = io.WriteString(w, "data: {\"jsonrpc\":\"2.0\",\"id\":"+id+",\"result\":{}}\n\n")
		default:
			if strings.Contains(text, `"p"`) || strings.Contains(text, `"q"`) {
				answers <- `{"jsonrpc":"2.0","method":"notifications/seen"}`
				answers <- text
			}
			w.WriteHeader(http.StatusAccepted)
		}
	}))
	defer s.Close()
	got, err := try(t.Context(), t, open(t, newPool(t), upstream.Target{URL: s.URL}))
	if err != nil || !strings.Contains(got, "notifications/seen") || !strings.Contains(got, `"id":1`) {
		t.Fatalf("%q, %v", got, err)
	}
	seen := map[bool]int{}
	for range 3 { // two answers and one notice, in either order
		select {
		case text := <-answers:
			if strings.Contains(text, "seen") {
				continue
			}
			seen[strings.Contains(text, `"id":"p","result":{}`) || strings.Contains(text, `"id":"q","error":{"code":-32601`)]++
		case <-time.After(20 * time.Second):
			t.Fatal("the server waits for an answer")
		}
	}
	if seen[true] != 2 || seen[false] != 0 {
		t.Errorf("answers: %v", seen)
	}
}

func TestCredentialsAreNeitherShownNorSmuggled(t *testing.T) {
	u := open(t, newPool(t), upstream.Target{URL: hostile(t, raw("")), Revision: mcp.Revision20260728})
	for _, c := range []upstream.Credential{
		{Header: "Authorization", Value: secret + "\r\nX-Evil: 1"}, {Header: "Host", Value: secret}, {Header: "Content-Length", Value: secret},
		{Header: "transfer-encoding", Value: secret}, {Header: "mcp-name", Value: secret}, {Header: "X Y", Value: secret}, {Header: "X\r\nY", Value: secret},
	} {
		_, err := u.Call(t.Context(), upstream.Call{Message: message(t, "2026-07-28", "1", "tools/list", `{"x":1}`), Revision: "2026-07-28", Party: upstream.Party{Credential: c}})
		if err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "cannot be sent") {
			t.Errorf("%q: %v", c.Header, err)
		}
		if s := fmt.Sprintf("%v %+v %#v %s", c, c, c, c); strings.Contains(s, secret) {
			t.Errorf("formatted as %s", s)
		}
	}
}

func TestURLsThatAreNoneAreRefused(t *testing.T) {
	for _, bad := range []string{"", "x", "ftp://a/", "http://", "http://user:pw@a/", "//a/b", "http://a b/"} {
		if _, err := newPool(t).Upstream(upstream.Target{Connector: "c", URL: bad}); err == nil || bad != "" && strings.Contains(err.Error(), bad) && len(bad) > 1 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// headersOf records the header of each call to a stateless server.
func headersOf(t *testing.T) (url string, seen chan http.Header) {
	t.Helper()
	seen = make(chan http.Header, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen <- r.Header
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"jsonrpc":"2.0","id":`+between(string(body), `"id":`, ",")+`,"result":{}}`)
	}))
	t.Cleanup(s.Close)
	return s.URL, seen
}

func TestHeadersMirrorWhatIsSent(t *testing.T) {
	url, seen := headersOf(t)
	u := open(t, newPool(t), upstream.Target{URL: url, Revision: mcp.Revision20260728})
	for _, era := range []mcp.Revision{"2026-07-28", "2025-11-25"} {
		call(t, u, upstream.Call{
			Message: message(t, era, "1", "tools/call", `{"name":"gw__sql","arguments":{"region":"Zürich","rows":3}}`), Revision: era, Name: "sql",
			Params: []mcp.ParamHeader{{Header: "Mcp-Param-Region", Path: []string{"region"}}, {Header: "Mcp-Param-None", Path: []string{"none"}}},
			Header: http.Header{
				"Mcp-Param-Other": {"kept"}, "Mcp-Param-Region": {"forged"}, "Mcp-Param-None": {"forged"}, "Cookie": {"agent=1"}, "Authorization": {"Bearer agent"},
				"X-Forwarded-For": {"1.2.3.4"}, "Mcp-Session-Id": {"agent"}, "Mcp-Method": {"forged"},
			},
			TraceParent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", TraceState: "a\r\nX: 1",
		})
		h := <-seen
		want := map[string]string{
			"Mcp-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "sql", "Mcp-Param-Region": "=?base64?WsO8cmljaA==?=",
			"Mcp-Param-Other": "kept", "Mcp-Param-None": "", "Cookie": "", "Authorization": "", "X-Forwarded-For": "", "Mcp-Session-Id": "",
			"Traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "Tracestate": "", "Content-Type": "application/json",
		}
		if !era.Stateless() {
			want["Mcp-Param-Other"] = ""
		}
		for name, value := range want {
			if got := h.Get(name); got != value {
				t.Errorf("agent of %s: %s is %q, want %q", era, name, got, value)
			}
		}
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	var opened atomic.Int64
	for _, json := range []bool{true, false} {
		opened.Store(0)
		s := newServer(t, true, json)
		p := upstream.NewPool(upstream.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			opened.Add(1)
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}})
		u := open(t, p, upstream.Target{URL: s.URL})
		for range 20 {
			call(t, u, upstream.Call{Message: message(t, "2026-07-28", "1", "tools/call", `{"name":"echo","arguments":{"text":"x"}}`), Revision: "2026-07-28"})
		}
		if n := opened.Load(); n != 1 {
			t.Errorf("json=%v: %d connections for calls one after the other", json, n)
		}
		if err := p.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestAnUpstreamInsideTheNetworkIsCalledOnlyWhereItIsAllowed(t *testing.T) {
	t.Parallel()
	called := make(chan struct{}, 10)
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called <- struct{}{} }))
	t.Cleanup(s.Close)
	for _, target := range []upstream.Target{
		{URL: s.URL}, {URL: s.URL, Legacy: true}, {URL: strings.Replace(s.URL, "http:", "https:", 1)}, {URL: s.URL, Allowed: "10.0.0.0/8,::1/128"},
	} {
		target.Connector = "inside"
		u, err := newPool(t).Upstream(target)
		if err != nil {
			t.Fatal(err)
		}
		_, err = try(t.Context(), t, u)
		var failed *upstream.Error
		if !errors.As(err, &failed) || failed.Kind != upstream.Unreachable || !strings.Contains(err.Error(), "allowedRanges") {
			t.Errorf("%+v: %v", target, err)
		}
	}
	if len(called) > 0 {
		t.Error("it was called")
	}
	if _, err := newPool(t).Upstream(upstream.Target{Connector: "c", URL: s.URL, Allowed: "127.0.0.1"}); err == nil {
		t.Error("an address was taken for a range")
	}
}
