package upstream_test

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/upstream"
)

// lost is a connection that takes a request, and then looks as one of which the other side is gone.
type lost struct {
	net.Conn
	calls *atomic.Int32
	once  sync.Once
	taken chan struct{}
}

func (c *lost) Write(b []byte) (int, error) {
	c.once.Do(func() {
		c.calls.Add(1)
		close(c.taken)
	})
	return len(b), nil
}

func (c *lost) Read([]byte) (int, error) {
	<-c.taken
	return 0, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ETIMEDOUT)}
}

func TestACallThatWasSentIsNotTakenForOneThatCouldNotBe(t *testing.T) {
	for name, proxy := range map[string]func(*http.Request) (*url.URL, error){
		"own": nil, "net/http": func(*http.Request) (*url.URL, error) { return nil, nil }, // no proxy, as net/http has it
	} {
		t.Run(name, func(t *testing.T) {
			var calls atomic.Int32
			dial := func(context.Context, string, string) (net.Conn, error) {
				near, far := net.Pipe()
				t.Cleanup(func() { _ = far.Close() })
				return &lost{Conn: near, calls: &calls, taken: make(chan struct{})}, nil
			}
			p := upstream.NewPool(upstream.Config{Dial: dial, Proxy: proxy})
			t.Cleanup(func() { _ = p.Close(t.Context()) })
			u := open(t, p, upstream.Target{URL: "http://127.0.0.1:9/mcp", Revision: mcp.LatestStateless, Retries: 2})
			_, err := u.Call(t.Context(), request(t, false))
			if kindOf(err) != upstream.BadResponse || calls.Load() != 1 {
				t.Errorf("sent %d times, then %v", calls.Load(), err)
			}
		})
	}
}
