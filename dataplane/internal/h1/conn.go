package h1

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// States of a connection. Between requests it may be closed at any time.
const (
	idle int32 = iota
	busy
	over
)

const (
	// whole is how long the rest of a request may take once it has begun; after that it is net/http's, which is more patient.
	whole = time.Second
	// lazily is how long a request is answered before anybody looks whether the agent is still there.
	lazily = 20 * time.Millisecond
	// slack is how much earlier than asked for an idle connection may be ended: its time need not be set anew for each request.
	slack = 10 * time.Second

	firstBuffer = 4 << 10
)

var buffers = sync.Pool{New: func() any { b := make([]byte, firstBuffer); return &b }}

// conn is a connection. One goroutine serves it; another looks after the agent while a request takes longer.
type conn struct {
	server    *Server
	raw       net.Conn  // as accepted
	net       net.Conn  // of plain bytes
	tls       *tls.Conn // nil: it is not encrypted
	encrypted *tls.ConnectionState
	remote    string
	state     atomic.Int32
	until     time.Time // the deadline of reads; zero: it is to be set

	buf        *[]byte // nil: nothing is read and nothing is left
	start, end int     // what was read and not used yet
	head       head
	url        url.URL
	answer     response

	cancel context.CancelFunc
	watch  *time.Timer

	mu       sync.Mutex
	answered bool          // the handler is done
	watching chan struct{} // closed when the watch has ended; nil: there is none
	extra    []byte        // what the watch read of the next request
}

func newConn(s *Server, raw net.Conn) *conn {
	c := &conn{server: s, raw: raw, net: raw, remote: raw.RemoteAddr().String(), answered: true}
	c.answer = response{conn: c, header: http.Header{}}
	return c
}

func (c *conn) serve(base context.Context) {
	ctx, cancel := context.WithCancel(base)
	c.cancel = cancel
	defer cancel()
	if !c.encrypt(ctx) {
		c.close()
		return
	}
	if c.encrypted != nil && c.encrypted.NegotiatedProtocol == "h2" {
		c.handOver(c.tls)
		return
	}
	for first := true; ; first = false {
		size, v := c.next(first)
		if v == other {
			c.handOver(nil)
			return
		}
		if v == short || !c.handle(ctx, size) || c.server.closing.Load() {
			c.close()
			return
		}
		c.state.Store(idle)
	}
}

// encrypt shakes hands where the connection is to be encrypted.
func (c *conn) encrypt(ctx context.Context) bool {
	if c.server.TLS == nil {
		return true
	}
	c.tls = tls.Server(c.raw, c.server.TLS)
	c.net = c.tls
	c.deadline(c.server.HTTP.ReadHeaderTimeout, 0)
	if err := c.tls.HandshakeContext(ctx); err != nil {
		c.server.Log.Debug("a connection could not be encrypted", "address", c.remote, "error", err)
		return false
	}
	state := c.tls.ConnectionState()
	c.encrypted = &state
	return c.raw.SetReadDeadline(time.Time{}) == nil
}

func (c *conn) close() {
	c.state.Store(over)
	c.server.forget(c)
	_ = c.net.Close() // nobody is left to tell
	c.release()
}

// handOver gives the connection to net/http, with what was read of it.
func (c *conn) handOver(as net.Conn) {
	if as == nil {
		r := replayed{Conn: c.net}
		if c.end > c.start {
			r.ahead = append([]byte(nil), (*c.buf)[c.start:c.end]...)
		}
		if as = &r; c.tls != nil {
			as = &replayedTLS{r, c.tls}
		}
	}
	_ = c.raw.SetReadDeadline(time.Time{})
	c.release()
	c.state.Store(busy) // what comes of it counts until net/http has it
	select {
	case c.server.handed <- as:
	case <-c.server.left:
		_ = as.Close() // as all others were
	}
	c.server.forget(c)
}

// next reads the next request, head and body. Short: there will be none.
func (c *conn) next(first bool) (size int, v verdict) {
	if c.start == c.end {
		c.start, c.end = 0, 0
	}
	patience := c.server.HTTP.IdleTimeout
	if first {
		patience = c.server.HTTP.ReadHeaderTimeout
	}
	began := false
	for {
		if c.end > c.start {
			if !began && !c.state.CompareAndSwap(idle, busy) {
				return 0, short // it was closed
			}
			if size, v = c.head.read((*c.buf)[c.start:c.end]); v == other || v == plain && c.end-c.start >= size+c.head.length {
				return size, v
			}
			if !began {
				began = true
				c.deadline(whole, 0)
			}
		} else {
			c.deadline(patience, slack)
		}
		if err := c.fill(); err != nil {
			if began {
				return 0, other // the same will be read there, and said what is wrong
			}
			return 0, short
		}
	}
}

// deadline lets reads wait that long, or as much less as is said; zero: for ever.
func (c *conn) deadline(d, less time.Duration) {
	if d <= 0 {
		c.until = time.Time{}
		_ = c.net.SetReadDeadline(time.Time{}) // as below
		return
	}
	now := time.Now()
	if left := c.until.Sub(now); left <= d && left >= d-less && less > 0 {
		return
	}
	c.until = now.Add(d)
	_ = c.net.SetReadDeadline(c.until) // a connection that has none ends otherwise
}

// fill reads more.
func (c *conn) fill() error {
	c.room()
	n, err := c.net.Read((*c.buf)[c.end:])
	c.end += n
	if n > 0 {
		return nil
	}
	return err
}

// room makes some.
func (c *conn) room() {
	if c.buf == nil {
		c.buf = buffers.Get().(*[]byte)
	}
	if c.end < len(*c.buf) {
		return
	}
	if c.start > 0 {
		c.end = copy(*c.buf, (*c.buf)[c.start:c.end])
		c.start = 0
		return
	}
	larger := make([]byte, 2*len(*c.buf)) // a head and a body that are too large end it
	copy(larger, *c.buf)
	c.buf = &larger
}

// release gives the buffer away if nothing is left in it.
func (c *conn) release() {
	if c.buf == nil {
		return
	}
	if len(*c.buf) == firstBuffer {
		buffers.Put(c.buf)
	}
	c.buf, c.start, c.end = nil, 0, 0
}

// handle lets the handler answer a request that was read. False: the connection ends.
func (c *conn) handle(ctx context.Context, size int) (goesOn bool) {
	in := &body{data: (*c.buf)[c.start+size : c.start+size+c.head.length]}
	c.start += size + c.head.length
	if c.start == c.end && c.head.length > 0 {
		in.conn = c
	}
	c.url = url.URL{Path: c.head.target}
	r := (&http.Request{
		Method: http.MethodPost, URL: &c.url, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: c.head.header, Body: in,
		ContentLength: int64(c.head.length), Host: c.head.host, RemoteAddr: c.remote, RequestURI: c.head.target, TLS: c.encrypted,
	}).WithContext(ctx)
	if c.head.length == 0 {
		r.Body = http.NoBody
	}
	c.answer.reset()
	c.begin()
	if !c.call(r) {
		return false
	}
	in.close()
	ended := c.answer.finish()
	return c.done() && ended
}

// call calls the handler. What it panics with ends the connection.
func (c *conn) call(r *http.Request) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			ok = false
			if p != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
				c.server.Log.Error("a request's handler panicked", "panic", p, "stack", string(debug.Stack()))
			}
			c.cancel()
			c.done()
		}
	}()
	c.server.Handler.ServeHTTP(&c.answer, r)
	return true
}

// begin has somebody look after the agent if the answer takes long.
func (c *conn) begin() {
	c.mu.Lock()
	c.answered = false
	c.mu.Unlock()
	if c.watch == nil {
		c.watch = time.AfterFunc(lazily, c.look)
	} else {
		c.watch.Reset(lazily)
	}
}

// look reads until the agent is gone, or begins with the next request, or this one is answered.
func (c *conn) look() {
	c.mu.Lock()
	if c.answered || c.watching != nil || len(c.extra) > 0 {
		c.mu.Unlock()
		return
	}
	ended := make(chan struct{})
	c.watching, c.until = ended, time.Time{}
	_ = c.net.SetReadDeadline(time.Time{}) // before done can set another
	c.mu.Unlock()
	defer close(ended)
	var b [1]byte
	n, err := c.net.Read(b[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 {
		c.extra = append(c.extra, b[0])
	} else if err != nil && !c.answered {
		c.cancel()
	}
}

// done ends the watch, and takes in what it read. False: the agent is gone.
func (c *conn) done() bool {
	c.watch.Stop()
	c.mu.Lock()
	c.answered = true
	watching := c.watching
	if watching != nil {
		_ = c.net.SetReadDeadline(time.Unix(1, 0)) // from the past on, no read waits
	}
	c.mu.Unlock()
	if watching == nil {
		return true
	}
	<-watching
	c.watching = nil
	for _, b := range c.extra {
		c.room()
		(*c.buf)[c.end] = b
		c.end++
	}
	c.extra = nil
	return true
}

// body is a request's, which is here already.
type body struct {
	mu   sync.Mutex
	data []byte
	conn *conn // whose buffer is free once all was read; nil: it is not
	over bool
}

var errBodyOver = errors.New("the request was answered: its body is read no more")

// Read reads on.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errBodyOver
	}
	n := copy(p, b.data)
	if b.data = b.data[n:]; len(b.data) > 0 {
		return n, nil
	}
	b.data = nil
	if b.conn != nil {
		b.conn.release() // an answer may take long
		b.conn = nil
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Close has nothing to close.
func (b *body) Close() error { return nil }

func (b *body) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data, b.conn, b.over = nil, nil, true
}
