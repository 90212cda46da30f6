package gateway_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strconv"
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// steady is an upstream of the stateless era that answers every request alike and allocates nothing for it, so that what is counted
// is the proxy's.
func steady(t testing.TB) string {
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	body := `{"jsonrpc":"2.0","id":7,"result":{"content":[{"type":"text","text":"done"}],"resultType":"complete"}}`
	discover := `{"jsonrpc":"2.0","id":1,"result":{"supportedVersions":["2026-07-28"],"capabilities":{},"resultType":"complete"}}`
	reply := func(body string) []byte {
		return []byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	}
	answers := map[bool][]byte{true: reply(discover), false: reply(body)}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close() // it answers nobody any more
				buf := make([]byte, 16<<10)
				for {
					n, err := conn.Read(buf) // a request comes in one piece
					if err != nil {
						return
					}
					if _, err := conn.Write(answers[bytes.Contains(buf[:n], []byte("server/discover"))]); err != nil {
						return
					}
				}
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}

// sink is a response that nobody reads.
type sink struct {
	header http.Header
	status int
	bytes  int
}

func (s *sink) Header() http.Header { return s.header }

func (s *sink) WriteHeader(status int) { s.status = status }

func (s *sink) Write(b []byte) (int, error) {
	s.bytes += len(b)
	return len(b), nil
}

// caller returns what makes one call of a tool.
func (w *world) caller() func() {
	w.set(connectorEntry("demo", steady(w.t), ""), catalogueEntry("demo", "echo"), grantEntry(1, "demo", &policyv1.Rule{Allow: []string{"echo"}}))
	a := w.stateless(ada, "/mcp/demo")
	body := a.message("7", "tools/call", `{"name":"echo","arguments":{"text":"x"}}`)
	header := a.header("tools/call", "echo")
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+"/mcp/demo", http.NoBody)
	if err != nil {
		w.t.Fatal(err)
	}
	request.Header, request.RemoteAddr, request.ContentLength = header, "127.0.0.1:1", int64(len(body))
	reader := bytes.NewReader(nil)
	return func() {
		reader.Reset([]byte(body))
		request.Body = io.NopCloser(reader)
		out := sink{header: make(http.Header, 4)}
		w.gateway.ServeHTTP(&out, request)
		if out.status != http.StatusOK || out.bytes < 50 {
			w.t.Fatalf("status %d, %d bytes", out.status, out.bytes)
		}
	}
}

// maxAllocs is what a call may allocate, beside what net/http does for the agent's connection: raise it only for what is worth it.
const maxAllocs = 100

func TestACallAllocatesLittle(t *testing.T) {
	call := newWorld(t, &options{undelivered: true}).caller()
	call()
	if n := testing.AllocsPerRun(200, call); n > maxAllocs {
		t.Errorf("a call makes %.0f allocations, more than %d", n, maxAllocs)
	} else {
		t.Logf("%.0f allocations", n)
	}
}

func BenchmarkCall(b *testing.B) {
	call := newWorld(b, &options{undelivered: true}).caller()
	call()
	b.ReportAllocs()
	for b.Loop() {
		call()
	}
}
