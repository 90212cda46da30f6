package upstream_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/upstream"
)

// frames is a server of HTTP/2 that does with the requests it gets, in their order, what a test says: by their stream, on their connection.
type frames struct {
	*httptest.Server
	mu     sync.Mutex
	taken  int
	answer func(number int, f *http2.Framer, stream uint32) (goOn bool)
}

func newFrames(t *testing.T, answer func(number int, f *http2.Framer, stream uint32) bool) *frames {
	s := &frames{answer: answer}
	s.Server = httptest.NewUnstartedServer(http.NotFoundHandler())
	s.EnableHTTP2 = true
	stop := make(chan struct{})
	s.Config.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){"h2": func(_ *http.Server, c *tls.Conn, _ http.Handler) { s.serve(c, stop) }}
	s.StartTLS()
	t.Cleanup(func() {
		close(stop)
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *frames) serve(c *tls.Conn, stop chan struct{}) {
	if _, err := io.ReadFull(c, make([]byte, len(http2.ClientPreface))); err != nil {
		return
	}
	f := http2.NewFramer(c, c)
	_ = f.WriteSettings()
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				_ = f.WritePing(true, frame.Data)
			}
		case *http2.DataFrame:
			if !frame.StreamEnded() {
				continue
			}
			s.mu.Lock()
			s.taken++
			number := s.taken
			s.mu.Unlock()
			if !s.answer(number, f, frame.StreamID) {
				<-stop
				return
			}
		}
	}
}

func (s *frames) got() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

// says answers a request.
func says(f *http2.Framer, stream uint32) bool {
	var head bytes.Buffer
	e := hpack.NewEncoder(&head)
	_ = e.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
	_ = e.WriteField(hpack.HeaderField{Name: "content-type", Value: "application/json"})
	_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head.Bytes(), EndHeaders: true})
	_ = f.WriteData(stream, true, []byte(`{"jsonrpc":"2.0","id":1,"result":{"resultType":"complete"}}`))
	return true
}

func (s *frames) upstream(t *testing.T, timeout time.Duration) *upstream.Upstream {
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	p := upstream.NewPool(upstream.Config{TLS: &tls.Config{RootCAs: roots}})
	t.Cleanup(func() { _ = p.Close(t.Context()) })
	return open(t, p, upstream.Target{URL: s.URL, Revision: mcp.LatestStateless, Retries: 1, Failures: 1000, Timeout: timeout})
}

func TestACallByHTTP2IsMadeAgainOnlyWhereTheServerSaidThatItDidNotTakeIt(t *testing.T) {
	for name, c := range map[string]struct {
		first func(f *http2.Framer, stream uint32) bool
		calls int
	}{
		"refused": {func(f *http2.Framer, stream uint32) bool {
			return f.WriteRSTStream(stream, http2.ErrCodeRefusedStream) == nil
		}, 2},
		"going away": {func(f *http2.Framer, stream uint32) bool { return f.WriteGoAway(stream-2, http2.ErrCodeNo, nil) == nil }, 2},
		"reset, nobody knows why": {func(f *http2.Framer, stream uint32) bool {
			return f.WriteRSTStream(stream, http2.ErrCodeProtocol) == nil
		}, 1},
		"reset by an internal error": {func(f *http2.Framer, stream uint32) bool {
			return f.WriteRSTStream(stream, http2.ErrCodeInternal) == nil
		}, 1},
		"going away, after it was taken": {func(f *http2.Framer, stream uint32) bool {
			_ = f.WriteGoAway(stream, http2.ErrCodeNo, nil)
			return f.WriteRSTStream(stream, http2.ErrCodeProtocol) == nil
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFrames(t, func(number int, f *http2.Framer, stream uint32) bool {
				if number == 2 { // on a connection that is in use
					return c.first(f, stream)
				}
				return says(f, stream)
			})
			u := s.upstream(t, 0)
			for i := range 2 {
				r, err := u.Call(t.Context(), request(t, false))
				if err == nil {
					_, err = io.Copy(io.Discard, r)
					_ = r.Close()
				}
				if again := c.calls == 2; i == 0 && err != nil || i == 1 && (err == nil) != again {
					t.Fatalf("call %d: %v", i+1, err)
				}
			}
			if n := s.got() - 1; n != c.calls {
				t.Errorf("the call was sent %d times instead of %d", n, c.calls)
			}
		})
	}
}

func TestAConnectionOfHTTP2ThatIsDeadIsNotUsedForLong(t *testing.T) {
	s := newFrames(t, func(number int, f *http2.Framer, stream uint32) bool {
		return number > 1 && says(f, stream) // the first connection is not read any more, nor ended
	})
	u := s.upstream(t, time.Second)
	for deadline := time.Now().Add(time.Minute); ; {
		r, err := u.Call(t.Context(), request(t, false))
		if err == nil {
			_ = r.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a minute calls still fail: %v", err)
		}
	}
}
