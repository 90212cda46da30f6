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
	"time"

	"encoding/json"
)

// Paths of the servers.
const (
	endpoint = "/mcp"
	healthy  = "/healthy"
	metrics  = "/metrics"
)

// Serve plays a part on an address until the context ends: "upstream", "reverse-proxy" before the URL that follows, or "bytes", as many
// as follow.
func Serve(ctx context.Context, role, addr string, args []string) error {
	var h http.Handler
	switch {
	case role == "upstream" && len(args) == 0:
		h = http.HandlerFunc(upstream)
	case role == "reverse-proxy" && len(args) == 1:
		to, err := url.Parse(args[0])
		if err != nil {
			return fmt.Errorf("read the upstream's URL: %w", err)
		}
		h = reverseProxy(to)
	case role == "bytes" && len(args) == 1:
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 0 || n > maxBody {
			return fmt.Errorf("%q is no number of bytes up to %d", args[0], maxBody)
		}
		h = answering(bytes.Repeat([]byte{'x'}, n))
	default:
		return fmt.Errorf("there is no server %q with %d arguments", role, len(args))
	}
	mux := http.NewServeMux()
	mux.Handle(endpoint, h)
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

// answering reads a request and answers with the same bytes each time.
func answering(answer []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return // the caller is gone
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		_, _ = w.Write(answer) // as above
	})
}

// reverseProxy is net/http/httputil's with nothing added. Only its idle connections are as many as the load's: with the
// default of two it would dial for most calls, and be no measure of anything.
func reverseProxy(to *url.URL) http.Handler {
	transport := &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Minute}
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = to.Scheme, to.Host, to.Host
		},
	}
}

// The one tool that the upstream offers.
const (
	toolName   = "get_item"
	definition = `{"name":"get_item","description":"Reads an item","inputSchema":{"type":"object","properties":{"key":{"type":"string"},"fields":{"type":"array","items":{"type":"string"}},"limit":{"type":"integer"}},"required":["key"]}}`
	revision   = "2026-07-28"
)

const maxBody = 1 << 20

// upstream is a minimal MCP server of the stateless era. It does as little as one can, so that what lies before it shows.
func upstream(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody))
	if err != nil {
		return // the caller is gone
	}
	var request struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
	}
	if r.Method != http.MethodPost || json.Unmarshal(body, &request) != nil || request.ID == nil {
		http.Error(w, "not a JSON-RPC request", http.StatusBadRequest)
		return
	}
	var answer []byte
	switch request.Method {
	case "tools/call":
		answer = appendResult(request.ID)
	case "tools/list":
		answer = fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","tools":[%s],"ttlMs":0,"cacheScope":"private"}}`, request.ID, definition)
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

// freeAddress is a loopback address that was free just now.
func freeAddress(ctx context.Context) (string, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}
