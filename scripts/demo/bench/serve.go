package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"encoding/json"
)

// Paths of the servers.
const (
	endpoint = "/mcp"
	healthy  = "/healthy"
	metrics  = "/metrics"
	// At mortal an upstream answers until killing is asked with "dead", and again after "alive".
	mortal  = "/mortal"
	killing = "/killing"
)

// Roles are the parts that Serve plays.
var Roles = []string{"upstream", "reverse-proxy", "bytes", "streams"}

// Serve plays a part on an address until the context ends: "upstream", "reverse-proxy" before the URL that follows, "bytes", as many
// as are asked for, or "streams", which stay open.
func Serve(ctx context.Context, role, addr string, args []string) error {
	var h http.Handler
	switch {
	case role == "upstream" && len(args) == 0:
		h = http.HandlerFunc(upstream)
	case role == "streams" && len(args) == 0:
		h = http.HandlerFunc(stream)
	case role == "reverse-proxy" && len(args) == 1:
		to, err := url.Parse(args[0])
		if err != nil {
			return fmt.Errorf("read the upstream's URL: %w", err)
		}
		h = reverseProxy(to)
	case role == "bytes" && len(args) == 0:
		h = http.HandlerFunc(answerBytes)
	default:
		return fmt.Errorf("there is no server %q with %d arguments", role, len(args))
	}
	mux := http.NewServeMux()
	mux.Handle(endpoint, h)
	mux.Handle(mortal, &weak)
	mux.HandleFunc(killing, weak.kill)
	mux.HandleFunc(healthy, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc(metrics, func(w http.ResponseWriter, _ *http.Request) {
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		_, _ = fmt.Fprintf(w, "go_memstats_mallocs_total %d\n", stats.Mallocs) // the caller may be gone
	})
	server := &http.Server{Addr: addr, Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- server.ListenAndServe() }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", role, err)
	case <-ctx.Done():
	}
	_ = server.Close()
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", role, err)
	}
	return nil
}

var manyBytes = bytes.Repeat([]byte{'x'}, 1<<20)

// answerBytes reads a request and answers with as many bytes as its query says.
func answerBytes(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return // the caller is gone
	}
	n, err := strconv.Atoi(r.URL.RawQuery)
	if err != nil || n < 0 || n > len(manyBytes) {
		http.Error(w, "how many bytes?", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", r.URL.RawQuery)
	_, _ = w.Write(manyBytes[:n]) // as above
}

// reverseProxy is net/http/httputil's with nothing added. Only its idle connections are as many as the load's: with the
// default of two it would dial for most calls, and be no measure of anything.
func reverseProxy(to *url.URL) http.Handler {
	transport := &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Minute}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = to.Scheme, to.Host, to.Host
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Mcp-Name") == largeTool {
			// An upstream that answers at once with more than fits a buffer meets a race: net/http closes the request's body when the
			// answer begins, while the transport still looks for its end, and then gives the upstream's connection up.
			_ = http.NewResponseController(w).EnableFullDuplex() // HTTP/1 always can
		}
		proxy.ServeHTTP(w, r)
	})
}

// The tools that the upstream offers.
const (
	toolName   = "get_item"
	largeTool  = "get_export"
	definition = `{"name":"get_item","description":"Reads an item","inputSchema":{"type":"object","properties":{"key":{"type":"string"},"fields":{"type":"array","items":{"type":"string"}},"limit":{"type":"integer"}},"required":["key"]}}`
	revision   = "2026-07-28"

	largeDefinition = `{"name":"get_export","description":"Reads all items","inputSchema":{"type":"object","properties":{"key":{"type":"string"},"fields":{"type":"array","items":{"type":"string"}},"limit":{"type":"integer"}},"required":["key"]}}`
)

const maxBody = 4 << 20

// upstream is a minimal MCP server of the stateless era. It does as little as one can, so that what lies before it shows.
func upstream(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return // the caller is gone
	}
	var request struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params struct {
			Name string `json:"name"`
		} `json:"params"`
	}
	if r.Method != http.MethodPost || json.Unmarshal(body, &request) != nil || request.ID == nil {
		http.Error(w, "not a JSON-RPC request", http.StatusBadRequest)
		return
	}
	var answer []byte
	switch request.Method {
	case "tools/call":
		if answer = appendResult(request.ID); request.Params.Name == largeTool {
			answer = appendLarge(request.ID)
		}
	case "tools/list":
		answer = fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","tools":[%s,%s],"ttlMs":0,"cacheScope":"private"}}`, request.ID, definition, largeDefinition)
	case "server/discover":
		answer = fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":[%q],"capabilities":{"tools":{}},"ttlMs":0,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"bench","version":"1.0.0"}}}}`, request.ID, revision)
	default:
		answer = fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}`, request.ID)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
	_, _ = w.Write(answer) // the caller may be gone
}

// appendResult is the answer to a call: the same for all but the id, so that every one can be checked whole.
func appendResult(id []byte) []byte {
	out := append([]byte(`{"jsonrpc":"2.0","id":`), id...)
	return append(out, `,"result":{"resultType":"complete","content":[{"type":"text","text":"{\"key\":\"item/4711\",\"title\":\"A ticket\",\"state\":\"open\",\"labels\":[\"payments\",\"urgent\"]}"}],"isError":false}}`...)
}

// large is the result of the large tool, of one megabyte: a table of rows as JSON in a JSON string, as many servers give.
var large = func() []byte {
	text := []byte(`{"resultType":"complete","isError":false,"content":[{"type":"text","text":"[`)
	for i := 0; len(text) < 1<<20-128; i++ {
		text = fmt.Appendf(text, `{\"key\":\"item/%06d\",\"title\":\"A ticket of many, with a title as people write them\",\"state\":\"open\"},`, i)
	}
	return append(text, `null]"}]}}`...)
}()

func appendLarge(id []byte) []byte {
	out := make([]byte, 0, len(large)+64)
	out = append(append(append(out, `{"jsonrpc":"2.0","id":`...), id...), `,"result":`...)
	return append(out, large...)
}

// stream answers with an event stream on which nothing comes but its first event, until the caller goes.
func stream(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return // the caller is gone
	}
	w.Header().Set("Content-Type", "text/event-stream")
	_, err := io.WriteString(w, "data: {}\n\n")
	if err := errors.Join(err, http.NewResponseController(w).Flush()); err != nil {
		return
	}
	<-r.Context().Done()
}

// weak is the upstream at mortal. While it is dead it takes requests and says nothing.
var weak mortalServer

type mortalServer struct{ dead atomic.Bool }

// ServeHTTP answers, or does not.
func (m *mortalServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !m.dead.Load() {
		upstream(w, r)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	<-r.Context().Done()
}

func (m *mortalServer) kill(_ http.ResponseWriter, r *http.Request) {
	m.dead.Store(r.URL.RawQuery == "dead")
}

// freeAddress is a loopback address that was free just now.
func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}
