package servers

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Era is a generation of MCP's transport.
type Era string

// The eras that a server speaks, each at its own path.
const (
	// Sessions is the session era, at SessionPath.
	Sessions Era = "sessions"
	// Stateless is 2026-07-28 (and what of the session era needs no session), at StatelessPath.
	Stateless Era = "stateless"
)

// Paths of the two endpoints.
const (
	SessionPath   = "/mcp"
	StatelessPath = "/stateless/mcp"
)

// Upstream is one MCP server: its tools, its endpoints, the log of its calls.
type Upstream struct {
	// Calls are kept from the server's start.
	Calls *Calls
	// Refused counts requests without the required credential.
	Refused atomic.Int64

	name   string
	era    Era
	header http.Header // required; nil: open to all
	server *mcp.Server
	ended  chan struct{} // closed with the server, for tools that take their time
	end    func()        // closes it, once
}

func newUpstream(name, title string, era Era) *Upstream {
	ended := make(chan struct{})
	u := &Upstream{
		Calls:  &Calls{},
		name:   name,
		era:    era,
		server: mcp.NewServer(&mcp.Implementation{Name: name, Title: title, Version: "1.0.0"}, nil),
		ended:  ended,
		end:    sync.OnceFunc(func() { close(ended) }),
	}
	u.server.AddReceivingMiddleware(u.Calls.record)
	return u
}

// Name is the server's short name, the connector's id in the demo.
func (u *Upstream) Name() string { return u.name }

// Require makes the server refuse requests that lack this header. Call it before Start.
func (u *Upstream) Require(header, value string) {
	if u.header == nil {
		u.header = http.Header{}
	}
	u.header.Set(header, value)
}

// Start serves on a loopback address ("127.0.0.1:0" picks a port). The URL is that of the server's own era.
func (u *Upstream) Start(ctx context.Context, addr string) (url string, stop func(), err error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return "", nil, fmt.Errorf("listen for %s: %w", u.name, err)
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		_ = listener.Close()
		return "", nil, fmt.Errorf("%s listens on loopback only, not on %s", u.name, addr)
	}
	web := &http.Server{Handler: u.Handler(), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("a demo server stopped", "server", u.name, "error", err)
		}
	}()
	stop = func() {
		u.end()
		_ = web.Close()
		<-done
		for session := range u.server.Sessions() {
			_ = session.Close()
		}
	}
	path := SessionPath
	if u.era == Stateless {
		path = StatelessPath
	}
	return "http://" + listener.Addr().String() + path, stop, nil
}

// Handler serves both eras.
func (u *Upstream) Handler() http.Handler {
	get := func(*http.Request) *mcp.Server { return u.server }
	mux := http.NewServeMux()
	mux.Handle(SessionPath, mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{SessionTimeout: 10 * time.Minute}))
	mux.Handle(StatelessPath, mcp.NewStreamableHTTPHandler(get, &mcp.StreamableHTTPOptions{
		Stateless: true, PropagateRequestCancellation: true,
	}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name := range u.header {
			if subtle.ConstantTimeCompare([]byte(r.Header.Get(name)), []byte(u.header.Get(name))) != 1 {
				u.Refused.Add(1)
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+u.name+`"`)
				http.Error(w, "the credential is missing or wrong", http.StatusUnauthorized)
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

// effect is what a tool says that it does, for its annotations.
type effect int

const (
	reads effect = iota
	writes
	destroys
)

// tool adds one tool whose schemas follow from its handler's types.
func tool[In, Out any](u *Upstream, e effect, name, description string, handle func(context.Context, *mcp.CallToolRequest, In) (Out, error)) {
	destructive, closed := e == destroys, false
	definition := &mcp.Tool{
		Name:        name,
		Description: description,
		Annotations: &mcp.ToolAnnotations{ReadOnlyHint: e == reads, DestructiveHint: &destructive, IdempotentHint: e == reads, OpenWorldHint: &closed},
	}
	mcp.AddTool(u.server, definition, func(ctx context.Context, req *mcp.CallToolRequest, in In) (*mcp.CallToolResult, Out, error) {
		out, err := handle(ctx, req, in)
		return nil, out, err
	})
}

// done is the answer of a tool that has nothing to show but that it did it.
type done struct {
	Status string `json:"status" jsonschema:"what was done"`
}
