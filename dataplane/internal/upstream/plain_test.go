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
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// scripted answers each connection's requests with raw answers in turn, then closes it.
type scripted struct {
	net.Listener
	connections atomic.Int32
}

func serveScript(t *testing.T, answers ...string) *scripted {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{Listener: l}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			go func() {
				defer func() { _ = conn.Close() }()
				in := bufio.NewReader(conn)
				for _, answer := range answers {
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					if _, err := io.WriteString(conn, answer); err != nil {
						return
					}
				}
			}()
		}
	}()
	return s
}

func (s *scripted) wire(t *testing.T, change func(*Target)) *plainWire {
	t.Helper()
	target := Target{URL: "http://" + s.Addr().String() + "/mcp?x=1"}
	if change != nil {
		change(&target)
	}
	to, err := url.Parse(target.URL)
	if err != nil {
		t.Fatal(err)
	}
	w := newPlainWire(Config{Dial: new(net.Dialer).DialContext}, target.orDefaults(), to)
	t.Cleanup(w.close)
	return w
}

func post(ctx context.Context, w wire) (string, error) {
	rep, err := w.send(ctx, &request{method: http.MethodPost, fields: []field{{"Accept", "application/json"}}, body: []byte("{}")})
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(rep.body)
	return fmt.Sprint(rep.status, " ", string(data)), errors.Join(err, rep.body.Close())
}

const good = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

func TestAConnectionServesOneCallAfterAnother(t *testing.T) {
	s := serveScript(t, good, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n"+good,
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", good)
	w := s.wire(t, nil)
	for i, want := range []string{"200 {}", "202 ", "200 {}", "200 {}", "200 {}"} {
		if got, err := post(t.Context(), w); err != nil || got != want {
			t.Fatalf("call %d: %q, %v", i, got, err)
		}
	}
	if n := s.connections.Load(); n != 1 {
		t.Errorf("%d connections were made", n)
	}
}

func TestAConnectionThatIsNotCleanServesNoOther(t *testing.T) {
	for what, answer := range map[string]string{
		"the server closes":         strings.Replace(good, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1),
		"an answer to no request":   good + good,
		"an answer without its end": "HTTP/1.1 200 OK\r\n\r\n{}",
	} {
		s := serveScript(t, answer)
		w := s.wire(t, nil)
		for range 2 {
			if got, err := post(t.Context(), w); err != nil || got != "200 {}" {
				t.Errorf("%s: %q, %v", what, got, err)
			}
		}
		if n := s.connections.Load(); n != 2 {
			t.Errorf("%s: %d connections were made", what, n)
		}
	}
}

func TestAConnectionThatTheServerEndedIsNotUsed(t *testing.T) {
	s := serveScript(t, good) // it closes after one
	w := s.wire(t, nil)
	for i := range 5 {
		if _, err := post(t.Context(), w); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for w.idle[0].quiet.holds() && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond) // until its end is here
		}
	}
}

func TestAnswersThatAreNoHTTPAreRefused(t *testing.T) {
	for what, answer := range map[string]string{
		"no HTTP":             "SSH-2.0\r\n\r\n",
		"a header too large":  "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 100<<10) + "\r\n\r\n",
		"another protocol":    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
		"no end of interims":  strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 50) + good,
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
		"a length that lies":  "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}",
		"a chunk that lies":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
		"nothing":             "",
		"a header cut in two": "HTTP/1.1 200 OK\r\nContent-",
	} {
		w := serveScript(t, answer).wire(t, nil)
		if got, err := post(t.Context(), w); err == nil {
			t.Errorf("%s: %q", what, got)
		}
		if len(w.idle) != 0 {
			t.Errorf("%s: the connection is kept", what)
		}
	}
}

// TestTheEndOfACallEndsItsConnection: while the answer's head is awaited, and within its body.
func TestTheEndOfACallEndsItsConnection(t *testing.T) {
	for what, answer := range map[string]string{"head": "", "body": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{"} {
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = l.Close() }() //nolint:gocritic // two of them
		ended, begun := make(chan struct{}), make(chan struct{})
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			if r, err := http.ReadRequest(in); err == nil {
				_, _ = io.Copy(io.Discard, r.Body)
			}
			_, _ = io.WriteString(conn, answer)
			close(begun)
			_, _ = in.ReadByte() // ends when the other side does
			close(ended)
		}()
		w := (&scripted{Listener: l}).wire(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { <-begun; cancel() }()
		if _, err := post(ctx, w); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
		<-ended
		if len(w.idle) != 0 {
			t.Errorf("%s: the connection is kept", what)
		}
	}
}

func TestCallsWaitForRoom(t *testing.T) {
	release := make(chan struct{})
	var now, most atomic.Int32
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-release
		now.Add(-1)
		_, _ = io.WriteString(rw, "{}")
	})}
	go func() { _ = server.Serve(l) }()
	defer func() { _ = server.Close() }()
	w := (&scripted{Listener: l}).wire(t, func(target *Target) { target.MaxConns = 2 })
	over := make(chan error)
	for range 6 {
		go func() {
			_, err := post(t.Context(), w)
			over <- err
		}()
	}
	for now.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := post(ctx, w); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without room: %v", err)
	}
	close(release)
	for range 6 {
		if err := <-over; err != nil {
			t.Error(err)
		}
	}
	if most.Load() > 2 {
		t.Errorf("%d at once", most.Load())
	}
}

func TestConnectionsWithoutUseEnd(t *testing.T) {
	s := serveScript(t, good, good)
	w := s.wire(t, func(target *Target) { target.IdleTimeout = 20 * time.Millisecond })
	if _, err := post(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) {
		w.mu.Lock()
		n := len(w.idle)
		w.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("it is kept")
}
