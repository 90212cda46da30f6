package bench

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// caller is one agent with one connection. Its requests are bytes that are made once, and it reads no more of an answer's head than
// how long the body is, so that little of what is measured is its own; each answer is compared with what it must be.
type caller struct {
	address string
	asks    [][]byte // requests, in turn
	next    int
	want    []byte // what each answer's body must be
	// check, if there is one, looks at the first body in place of want, which then is that body.
	check func(head, body []byte) error

	conn net.Conn
	in   *bufio.Reader
	head []byte
	body []byte
}

// errRefused says that a call was answered by a refusal.
var errRefused = errors.New("the call was refused")

// newLister returns the nth caller that asks for the list of tools, and takes it compressed as clients do, or as it is. What it gets
// must be as long as want says, and the compressed bytes the same each time: they are opened once.
func newLister(endpoint, token string, n, want int, gzipped bool) (*caller, error) {
	c, u, err := callerOf(endpoint)
	if err != nil {
		return nil, err
	}
	body := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%d,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":%q,"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"},"io.modelcontextprotocol/clientCapabilities":{}}}}`, n%10, revision)
	accept := ""
	if gzipped {
		accept = "Accept-Encoding: gzip, deflate\r\n"
	}
	c.asks = [][]byte{request(u, token, "Mcp-Method: tools/list\r\n"+accept, body)}
	c.check = func(head, body []byte) error {
		if bytes.Contains(head, []byte("Content-Encoding: gzip\r\n")) {
			r, err := gzip.NewReader(bytes.NewReader(body))
			if err != nil {
				return err
			}
			if body, err = io.ReadAll(r); err != nil {
				return err
			}
		}
		if len(body) != want {
			return fmt.Errorf("a list of %d bytes, want %d", len(body), want)
		}
		return nil
	}
	return c, nil
}

// newCaller returns the nth caller of an endpoint. Close it.
func newCaller(endpoint, token string, n int) (*caller, error) {
	return newCallerOf(endpoint, token, n, []string{toolName}, appendResult)
}

// newCallerOf returns the nth caller of several tools in turn, all of which must give the same result.
func newCallerOf(endpoint, token string, n int, tools []string, result func(id []byte) []byte) (*caller, error) {
	c, u, err := callerOf(endpoint)
	if err != nil {
		return nil, err
	}
	id := fmt.Appendf(nil, "%d", n+1)
	c.want = result(id)
	for _, tool := range tools {
		body := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{"name":%q,"arguments":{"key":"item/4711","fields":["title","state","labels"],"limit":3},`+
			`"_meta":{"io.modelcontextprotocol/protocolVersion":%q,"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1.0.0"},"io.modelcontextprotocol/clientCapabilities":{}}}}`, id, tool, revision)
		c.asks = append(c.asks, request(u, token, "Mcp-Method: tools/call\r\nMcp-Name: "+tool+"\r\n", body))
	}
	return c, nil
}

func callerOf(endpoint string) (*caller, *url.URL, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, nil, fmt.Errorf("read the endpoint: %w", err)
	}
	return &caller{address: u.Host}, u, nil
}

func request(u *url.URL, token, fields string, body []byte) []byte {
	head := fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: sallyport-bench\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"+
		"Mcp-Protocol-Version: %s\r\n%sContent-Length: %d\r\n\r\n", u.RequestURI(), u.Host, token, revision, fields, len(body))
	return append(head, body...)
}

func (c *caller) close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
}

// callWithin bounds one call, whatever happens.
const callWithin = 20 * time.Second

// call makes one call. An answer that differs in a byte from the upstream's is an error.
func (c *caller) call(ctx context.Context) error {
	ask := c.asks[c.next]
	c.next = (c.next + 1) % len(c.asks)
	again := c.conn != nil
	status, err := c.exchange(ctx, ask)
	if again && errors.Is(err, errUnanswered) { // the server had ended a connection that was not in use
		status, err = c.exchange(ctx, ask)
	}
	if err != nil {
		c.close()
		return errors.Join(fmt.Errorf("call: %w", err), ctx.Err())
	}
	if status == http.StatusOK && c.check != nil {
		if err := c.check(c.head, c.body); err != nil {
			return fmt.Errorf("a wrong answer: %w", err)
		}
		c.want, c.check = bytes.Clone(c.body), nil
	}
	switch {
	case status == http.StatusOK && bytes.Equal(c.body, c.want):
		return nil
	case status == http.StatusUnauthorized || status == http.StatusForbidden || denied(c.body):
		return fmt.Errorf("%w: status %d: %.200s", errRefused, status, c.body)
	}
	return fmt.Errorf("a wrong answer: status %d: %.300s", status, c.body)
}

// errUnanswered says that a connection ended before a byte of the answer came.
var errUnanswered = errors.New("the connection ended without an answer")

// exchange sends a request and reads its answer into head and body.
func (c *caller) exchange(ctx context.Context, ask []byte) (status int, err error) {
	if c.conn == nil {
		if c.conn, err = new(net.Dialer).DialContext(ctx, "tcp", c.address); err != nil {
			return 0, err
		}
		c.in = bufio.NewReaderSize(c.conn, 64<<10)
	}
	conn := c.conn
	if err := conn.SetDeadline(time.Now().Add(callWithin)); err != nil {
		return 0, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if _, err := conn.Write(ask); err != nil {
		c.close()
		return 0, errUnanswered
	}
	length, last := -1, false
	for c.head = c.head[:0]; ; {
		line, err := c.in.ReadSlice('\n')
		if err != nil && len(c.head)+len(line) == 0 {
			c.close()
			return 0, errUnanswered
		}
		if err != nil {
			return 0, fmt.Errorf("read the answer's head: %w", err)
		}
		c.head = append(c.head, line...)
		if len(line) <= 2 {
			break
		}
		switch value, named := field(line, "Content-Length"); {
		case named:
			if length, err = strconv.Atoi(value); err != nil {
				return 0, fmt.Errorf("read how long the answer is: %w", err)
			}
		default:
			value, named = field(line, "Connection")
			last = last || named && strings.EqualFold(value, "close")
		}
	}
	if len(c.head) > 12 {
		status, err = strconv.Atoi(string(c.head[9:12])) // HTTP/1.1 200 OK
	}
	if status == 0 || err != nil || length < 0 || length > maxBody {
		return 0, fmt.Errorf("an answer without status or length: %.300q", c.head)
	}
	c.body = slices.Grow(c.body[:0], length)[:length]
	if _, err := io.ReadFull(c.in, c.body); err != nil {
		return 0, fmt.Errorf("read the answer: %w", err)
	}
	if last {
		c.close()
	}
	return status, nil
}

// field returns the value of a header's line, if it has that name.
func field(line []byte, name string) (string, bool) {
	if len(line) <= len(name) || line[len(name)] != ':' || !strings.EqualFold(string(line[:len(name)]), name) {
		return "", false
	}
	return strings.TrimSpace(string(line[len(name)+1:])), true
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
