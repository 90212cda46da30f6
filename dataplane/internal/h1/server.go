// Package h1 serves agents' calls over HTTP/1.1 where they come in the one form that nearly all of them have: a POST to an MCP
// endpoint, whole, with a plain head and a body of known length. It reads that form itself, strictly, and gives it to the same
// handler as net/http would, at a fraction of the cost. Whatever is not of that form, HTTP/2 and slow requests among it, it never
// judges: the connection goes to a net/http server, with each byte that was read, and stays there.
package h1

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves connections. Its fields are set before Serve.
type Server struct {
	// Handler answers requests. As net/http wants it, it does not change them, and uses nothing of them after it returned, save header
	// and context. A request's context ends when the agent goes away, or with its connection.
	Handler http.Handler
	// HTTP takes what is not of the plain form, with the same Handler. Its ReadHeaderTimeout and IdleTimeout are kept here too. Serve
	// and Shutdown run and end it.
	HTTP *http.Server
	// TLS is how connections are encrypted. Nil: they are not.
	TLS *tls.Config
	// Base is the context that requests' contexts come from. Default: context.Background().
	Base context.Context //nolint:containedctx // as http.Server's BaseContext
	Log  *slog.Logger

	handed  chan net.Conn
	left    chan struct{} // closed when net/http takes nothing more
	leave   func()
	closing atomic.Bool
	date    atomic.Pointer[date]

	mu       sync.Mutex
	listener net.Listener
	conns    map[*conn]struct{}
}

// New returns a server of handler, of which others may be set.
func New(handler http.Handler, rest *http.Server) *Server {
	s := &Server{
		Handler: handler, HTTP: rest, Base: context.Background(), Log: slog.New(slog.DiscardHandler),
		handed: make(chan net.Conn), left: make(chan struct{}), conns: map[*conn]struct{}{},
	}
	s.leave = sync.OnceFunc(func() { close(s.left) })
	return s
}

// Serve serves what the listener accepts, until Shutdown or Close, and then returns http.ErrServerClosed.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	base := context.WithValue(s.Base, http.ServerContextKey, s.HTTP) // by which handlers know that a server abides by http.ErrAbortHandler
	rest := make(chan error, 1)
	go func() { rest <- s.HTTP.Serve(&handedOver{s, l.Addr()}) }()
	err := s.accept(base, l)
	if !s.closing.Load() {
		_ = s.Close() // the listener failed: nothing else can be done
		if ended := <-rest; !errors.Is(ended, http.ErrServerClosed) {
			err = errors.Join(err, ended)
		}
		return fmt.Errorf("accepting connections: %w", err)
	}
	return <-rest
}

func (s *Server) accept(base context.Context, l net.Listener) error {
	for pause := time.Duration(0); ; {
		raw, err := l.Accept()
		if err == nil {
			pause = 0
			s.begin(base, raw)
			continue
		}
		var passing interface{ Temporary() bool } // too many open files, or a connection that was gone before it was accepted
		if s.closing.Load() || !errors.As(err, &passing) || !passing.Temporary() {
			return err
		}
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		s.Log.Warn("a connection could not be accepted", "error", err)
		time.Sleep(pause)
	}
}

func (s *Server) begin(base context.Context, raw net.Conn) {
	c := newConn(s, raw)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		_ = raw.Close() // it said nothing yet
		return
	}
	s.conns[c] = struct{}{}
	go c.serve(base)
}

// forget is called by a connection that this server serves no more.
func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Shutdown accepts nothing more, closes connections on which nothing is asked, and waits for the rest to be answered, until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.close(false)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for s.closeIdle(false) > 0 { // of these some may still become net/http's
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for requests to end: %w", ctx.Err())
		case <-ticker.C:
		}
	}
	return s.HTTP.Shutdown(ctx)
}

// Close ends all connections at once. Shutdown then waits for their handlers.
func (s *Server) Close() error {
	s.close(true)
	return s.HTTP.Close()
}

func (s *Server) close(all bool) {
	s.closing.Store(true)
	s.mu.Lock()
	if s.listener != nil {
		_ = s.listener.Close() // nothing is accepted any more, either way
	}
	s.mu.Unlock()
	s.closeIdle(all)
}

// closeIdle closes connections on which nothing is asked, or all, and returns how many are left.
func (s *Server) closeIdle(all bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		if all || c.state.CompareAndSwap(idle, over) {
			_ = c.raw.Close() // its goroutine finds out, and forgets it
		}
	}
	return len(s.conns)
}

// handedOver gives net/http's server the connections that are not for this one.
type handedOver struct {
	s    *Server
	addr net.Addr
}

// Accept waits for a connection.
func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.s.handed:
		return c, nil
	case <-h.s.left:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (h *handedOver) Close() error {
	h.s.leave()
	return nil
}

// Addr is the listener's.
func (h *handedOver) Addr() net.Addr { return h.addr }

// replayed is a connection of which something was read already.
type replayed struct {
	net.Conn
	ahead []byte
}

// Read reads first what was read already.
func (r *replayed) Read(p []byte) (int, error) {
	if len(r.ahead) == 0 {
		return r.Conn.Read(p)
	}
	n := copy(p, r.ahead)
	if r.ahead = r.ahead[n:]; len(r.ahead) == 0 {
		r.ahead = nil
	}
	return n, nil
}

// replayedTLS is one that is encrypted: net/http asks it how.
type replayedTLS struct {
	replayed
	tls *tls.Conn
}

// ConnectionState says how it is encrypted.
func (r *replayedTLS) ConnectionState() tls.ConnectionState { return r.tls.ConnectionState() }

// date is the time as answers have it, for the second that it is good.
type date struct {
	second int64
	text   string
}

func (s *Server) now() string {
	now := time.Now()
	if d := s.date.Load(); d != nil && d.second == now.Unix() {
		return d.text
	}
	d := &date{now.Unix(), now.UTC().Format(http.TimeFormat)}
	s.date.Store(d)
	return d.text
}
