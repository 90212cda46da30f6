package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"sallyport.dev/dataplane/internal/socket"
)

// plainWire speaks HTTP/1.1 over TCP without TLS. A call writes and reads on the goroutine that makes it, where net/http's
// transport hands it to two others and back. Answers in their plainest form it reads itself (head.go), and net/http all others.
type plainWire struct {
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	address string
	uri     string
	head    string // of each request, after its URI
	header  int64  // most bytes of an answer's header
	maxIdle int
	maxAge  time.Duration // of a connection without use
	room    chan struct{} // holds one for each connection in use; nil: no bound

	mu     sync.Mutex
	idle   []*plainConn // the one used last is at the end
	expiry *time.Timer  // runs while there are idle ones
}

func newPlainWire(c Config, t Target, to *url.URL) *plainWire {
	w := &plainWire{
		dial: c.Dial, address: to.Host, header: t.MaxHeader, maxIdle: t.MaxIdle, maxAge: t.IdleTimeout,
		uri: to.RequestURI(), head: " HTTP/1.1\r\nHost: " + to.Host + "\r\nUser-Agent: " + c.Client.Name + "/" + c.Client.Version + "\r\n",
	}
	if to.Port() == "" {
		w.address = net.JoinHostPort(to.Hostname(), "80")
	}
	if t.MaxConns > 0 {
		w.room = make(chan struct{}, t.MaxConns)
	}
	return w
}

// plainConn is a connection, used by one call at a time.
type plainConn struct {
	net.Conn
	wire  *plainWire
	out   []byte
	in    *bufio.Reader
	quiet *silence
	left  int64 // how many bytes may still be read; a header is bounded, a body bounds itself
	since time.Time
}

const (
	plainBuffer = 8 << 10
	// keptRequest is the largest request of which a connection keeps the buffer.
	keptRequest = 64 << 10
	// maxInterim bounds the answers 1xx ahead of the one that counts.
	maxInterim = 5
)

var errHeader = errors.New("the response headers exceeded what is allowed")

// Read reads from the network, as far as the bound lets it.
func (c *plainConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errHeader
	}
	n, err := c.Conn.Read(p)
	c.left -= int64(n)
	return n, err
}

// discard ends the connection.
func (c *plainConn) discard() { _ = c.Close() } // what it says is of no use any more

func (w *plainWire) send(ctx context.Context, r *request) (reply, error) {
	if w.room != nil {
		select {
		case w.room <- struct{}{}:
		case <-ctx.Done():
			return reply{}, ctx.Err()
		}
	}
	c, err := w.get(ctx)
	if err != nil {
		w.leave()
		return reply{}, err
	}
	// From the past on, no read or write waits.
	unwatch := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	rep, last, err := c.exchange(r)
	if err != nil {
		unwatch()
		c.discard()
		w.leave()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return reply{}, err
	}
	rep.body = &plainBody{body: rep.body, conn: c, ended: ctx.Err, unwatch: unwatch, last: last}
	return rep, nil
}

// exchange writes a request in one piece and reads the head of its answer. last: the server uses the connection for nothing more.
func (c *plainConn) exchange(r *request) (rep reply, last bool, err error) {
	b := append(append(append(c.out[:0], r.method...), ' '), c.wire.uri...)
	for _, f := range r.fields {
		if f.name == queryField {
			sign := byte('?')
			if strings.Contains(c.wire.uri, "?") {
				sign = '&'
			}
			b = append(append(b, sign), f.value...)
		}
	}
	b = append(b, c.wire.head...)
	for _, f := range r.fields {
		if f.name == queryField {
			continue
		}
		b = append(append(append(append(b, f.name...), ": "...), f.value...), "\r\n"...)
	}
	if len(r.body) > 0 || r.method == http.MethodPost {
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), int64(len(r.body)), 10), "\r\n"...)
	}
	b = append(append(b, "\r\n"...), r.body...)
	r.begun.Store(true)
	if _, err := c.Write(b); err != nil {
		return reply{}, false, fmt.Errorf("writing a request: %w", err)
	}
	if cap(b) <= keptRequest {
		c.out = b
	}
	c.left = c.wire.header + plainBuffer // what is read ahead may be of the body
	if rep, ok := c.plainHead(); ok {
		c.left = 1<<63 - 1
		return rep, false, nil
	}
	for range maxInterim {
		resp, err := http.ReadResponse(c.in, requestOf(r.method)) //nolint:bodyclose // the reply's body, which the caller of send closes
		switch {
		case c.left <= 0:
			return reply{}, false, errHeader
		case err != nil:
			return reply{}, false, fmt.Errorf("reading an answer: %w", err)
		case resp.StatusCode == http.StatusSwitchingProtocols:
			return reply{}, false, errors.New("malformed answer: it switches to a protocol that was not asked for")
		case resp.StatusCode >= 200:
			c.left = 1<<63 - 1
			rep := reply{status: resp.StatusCode, contentType: resp.Header["Content-Type"], length: resp.ContentLength, encoded: resp.Header.Get("Content-Encoding") != "", challenge: resp.Header["Www-Authenticate"], body: resp.Body}
			if ids := resp.Header["Mcp-Session-Id"]; len(ids) == 1 {
				rep.session = ids[0]
			}
			return rep, resp.Close, nil
		}
	}
	return reply{}, false, errors.New("malformed answer: too many before the one that counts")
}

// plainHead reads a head of the plainest form, if it came in one piece.
func (c *plainConn) plainHead() (reply, bool) {
	if _, err := c.in.Peek(1); err != nil {
		return reply{}, false // as whoever reads on is told
	}
	b, _ := c.in.Peek(c.in.Buffered()) // of what is there
	var h plainHead
	size := h.read(b)
	if size == 0 {
		return reply{}, false
	}
	_, _ = c.in.Discard(size) // as above
	rep := reply{status: h.status, contentType: h.contentType, length: h.length, session: h.session, body: http.NoBody}
	if h.length > 0 {
		rep.body = &sized{c.in, h.length}
	}
	return rep, true
}

// requests tell http.ReadResponse which answers have a body.
var postRequest, getRequest, deleteRequest = &http.Request{Method: http.MethodPost}, &http.Request{Method: http.MethodGet}, &http.Request{Method: http.MethodDelete}

func requestOf(method string) *http.Request {
	switch method {
	case http.MethodPost:
		return postRequest
	case http.MethodGet:
		return getRequest
	case http.MethodDelete:
		return deleteRequest
	}
	return &http.Request{Method: method}
}

// plainBody is an answer's body. Read to its end, it gives the connection back.
type plainBody struct {
	body    io.ReadCloser
	conn    *plainConn   // nil once it was given back or ended
	ended   func() error // of the call, where it was ended
	unwatch func() bool
	last    bool // the server uses the connection for nothing more
}

func (b *plainBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err == nil {
		return n, nil
	}
	b.end(errors.Is(err, io.EOF))
	if ended := b.ended(); ended != nil && !errors.Is(err, io.EOF) {
		err = ended
	}
	return n, err
}

func (b *plainBody) Close() error {
	if b.conn != nil && b.body == http.NoBody {
		b.end(true)
	}
	b.end(false)
	return nil
}

// end is done with the connection. It serves on if the answer was read whole, and nothing came that nobody asked for.
func (b *plainBody) end(whole bool) {
	c := b.conn
	if c == nil {
		return
	}
	b.conn = nil
	untouched := b.unwatch()
	if !whole || !untouched || b.last || c.in.Buffered() > 0 || !c.wire.put(c) {
		c.discard()
	}
	c.wire.leave()
}

// leave makes room for another call.
func (w *plainWire) leave() {
	if w.room != nil {
		<-w.room
	}
}

// get returns a connection that is not in use, or a new one.
func (w *plainWire) get(ctx context.Context) (*plainConn, error) {
	for {
		w.mu.Lock()
		n := len(w.idle)
		if n == 0 {
			w.mu.Unlock()
			break
		}
		c := w.idle[n-1]
		w.idle[n-1] = nil
		w.idle = w.idle[:n-1]
		w.mu.Unlock()
		if c.quiet.holds() {
			return c, nil
		}
		c.discard() // the server ended it, or speaks unasked
	}
	conn, err := w.dial(ctx, "tcp", w.address)
	if err != nil {
		return nil, err
	}
	c := &plainConn{Conn: socket.Direct(conn), wire: w, out: make([]byte, 0, 2<<10), quiet: listen(conn)}
	c.in = bufio.NewReaderSize(c, plainBuffer)
	return c, nil
}

// put keeps a connection for the next call, or says that there is no room.
func (w *plainWire) put(c *plainConn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.idle) >= w.maxIdle {
		return false
	}
	c.since = time.Now()
	w.idle = append(w.idle, c)
	if w.expiry == nil {
		w.expiry = time.AfterFunc(w.maxAge, w.expire)
	}
	return true
}

// expire ends what was not used for too long.
func (w *plainWire) expire() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now, old := time.Now(), 0
	for old < len(w.idle) && now.Sub(w.idle[old].since) >= w.maxAge {
		w.idle[old].discard()
		old++
	}
	w.idle = append(w.idle[:0:0], w.idle[old:]...)
	w.expiry = nil
	if len(w.idle) > 0 {
		w.expiry = time.AfterFunc(w.maxAge-now.Sub(w.idle[0].since), w.expire)
	}
}

func (w *plainWire) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.idle {
		c.discard()
	}
	w.idle = nil
	if w.expiry != nil {
		w.expiry.Stop()
		w.expiry = nil
	}
}
