package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// caller is one agent with one connection: its request is built once, and each answer is compared with what it must be.
type caller struct {
	client *http.Client
	url    *url.URL
	asks   []ask // in turn
	next   int
	want   []byte
	length int // of an answer of which only that is known; zero: want is
	buf    bytes.Buffer
}

// ask is what is asked.
type ask struct {
	header http.Header
	body   []byte
}

// errRefused says that a call was answered by a refusal.
var errRefused = errors.New("the call was refused")

// newLister returns the nth caller that asks for the list of tools. What it gets must be as long as want says.
func newLister(endpoint, token string, n, want int) (*caller, error) {
	c, err := newCaller(endpoint, token, n)
	if err != nil {
		return nil, err
	}
	c.asks[0].header.Set("Mcp-Method", "tools/list")
	c.asks[0].header.Del("Mcp-Name")
	c.asks[0].body = fmt.Appendf(nil, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":%q,"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"},"io.modelcontextprotocol/clientCapabilities":{}}}}`, revision)
	c.want, c.length = nil, want
	return c, nil
}

// newCaller returns the nth caller of an endpoint. Close it.
func newCaller(endpoint, token string, n int) (*caller, error) {
	return newCallerOf(endpoint, token, n, []string{toolName}, appendResult)
}

// newCallerOf returns the nth caller of several tools in turn, all of which must give the same result.
func newCallerOf(endpoint, token string, n int, tools []string, result func(id []byte) []byte) (*caller, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("read the endpoint: %w", err)
	}
	id := fmt.Appendf(nil, "%d", n+1)
	c := &caller{
		client: &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1, DisableCompression: true}, Timeout: 20 * time.Second},
		url:    u, want: result(id),
	}
	for _, tool := range tools {
		c.asks = append(c.asks, ask{
			header: http.Header{
				"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
				"Mcp-Protocol-Version": {revision}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {tool}, "User-Agent": {"sallyport-bench"},
			},
			body: fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":{"key":"item/4711","fields":["title","state","labels"],"limit":3},`+
				`"_meta":{"io.modelcontextprotocol/protocolVersion":%q,"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"},"io.modelcontextprotocol/clientCapabilities":{}}}}`, id, tool, revision),
		})
	}
	return c, nil
}

func (c *caller) close() { c.client.CloseIdleConnections() }

// call makes one call. An answer that differs in a byte from the upstream's is an error.
func (c *caller) call(ctx context.Context) error {
	a := &c.asks[c.next]
	c.next = (c.next + 1) % len(c.asks)
	r := (&http.Request{
		Method: http.MethodPost, URL: c.url, Header: a.header, Host: c.url.Host, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Body: io.NopCloser(bytes.NewReader(a.body)), ContentLength: int64(len(a.body)),
	}).WithContext(ctx)
	resp, err := c.client.Do(r)
	if err != nil {
		return fmt.Errorf("call: %w", err)
	}
	c.buf.Reset()
	_, err = c.buf.ReadFrom(io.LimitReader(resp.Body, maxBody))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch {
	case resp.StatusCode == http.StatusOK && c.want != nil && bytes.Equal(c.buf.Bytes(), c.want), resp.StatusCode == http.StatusOK && c.want == nil && c.buf.Len() == c.length:
		return nil
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden || denied(c.buf.Bytes()):
		return fmt.Errorf("%w: status %d: %.200s", errRefused, resp.StatusCode, c.buf.Bytes())
	}
	return fmt.Errorf("a wrong answer: status %d: %.300s", resp.StatusCode, c.buf.Bytes())
}

// denied tells whether an answer is the gateway's no: before the call was made, or by cutting it.
func denied(answer []byte) bool {
	return bytes.Contains(answer, []byte("Sallyport refused this call")) || bytes.Contains(answer, []byte("Sallyport ended this call: access was taken away"))
}

// round is what one load came to.
type round struct {
	calls    int
	rate     float64 // calls per second
	p50, p99 time.Duration
}

// load calls as fast as it can from each caller for a time.
func load(ctx context.Context, callers []*caller, d time.Duration) (round, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	took := make([][]time.Duration, len(callers))
	var group sync.WaitGroup
	begin := time.Now()
	end := begin.Add(d)
	for i, c := range callers {
		group.Go(func() {
			for now := time.Now(); now.Before(end) && ctx.Err() == nil; {
				if err := c.call(ctx); err != nil {
					cancel(err)
					return
				}
				done := time.Now()
				took[i] = append(took[i], done.Sub(now))
				now = done
			}
		})
	}
	group.Wait()
	elapsed := time.Since(begin)
	if err := context.Cause(ctx); err != nil {
		return round{}, err
	}
	var all []time.Duration
	for _, t := range took {
		all = append(all, t...)
	}
	if len(all) == 0 {
		return round{}, errors.New("no call was made")
	}
	return round{calls: len(all), rate: float64(len(all)) / elapsed.Seconds(), p50: median(all), p99: quantile(all, 0.99)}, nil
}
