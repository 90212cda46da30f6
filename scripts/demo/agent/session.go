package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// The revisions to ask for.
const (
	// Modern is the stateless era.
	Modern = "2026-07-28"
	// SessionEra is the last revision with sessions.
	SessionEra = "2025-11-25"
)

// Options of a connection.
type Options struct {
	// Revision to ask for. Default: Modern, falling back to what the server speaks.
	Revision string
	// Name that the agent gives itself. Default: "sallyport-demo-agent".
	Name string
	// Watch asks to be told when the list of tools changes.
	Watch bool
	// SignIn has the person sign in when the gateway asks for it, in place of a token; see Program.Handler.
	SignIn auth.OAuthHandler
	// Confirm is asked where the gateway wants the person's own yes to a call: what it shows, and the page to open where it is said
	// there and not here. Nil: the program cannot ask.
	Confirm func(ctx context.Context, message, page string) bool
}

// Session is a connection to a gateway or a server. Close it.
type Session struct {
	mcp       *mcp.ClientSession
	transport *http.Transport
	streams   *streams
	changed   chan time.Time
	progress  chan time.Time
}

// Result is what a call came to, from the agent's side.
type Result struct {
	// OK says that the tool did it.
	OK bool
	// Text is the answer, or why there is none.
	Text string
	// Structured is the answer's structured part, JSON. Nil: none.
	Structured json.RawMessage
	// Code is the JSON-RPC error code. Zero: no JSON-RPC error.
	Code int64
	Took time.Duration
}

// Connect opens a session with a bearer token, or without one where the options say how to sign in.
func Connect(ctx context.Context, url, token string, o Options) (*Session, error) {
	if o.Name == "" {
		o.Name = "sallyport-demo-agent"
	}
	s := &Session{
		transport: &http.Transport{MaxIdleConnsPerHost: 16, IdleConnTimeout: 30 * time.Second},
		streams:   newStreams(),
		changed:   make(chan time.Time, 64),
		progress:  make(chan time.Time, 1024),
	}
	options := &mcp.ClientOptions{
		Capabilities: &mcp.ClientCapabilities{},
		ProgressNotificationHandler: func(context.Context, *mcp.ProgressNotificationClientRequest) {
			offer(s.progress)
		},
	}
	if o.Watch {
		options.ToolListChangedHandler = func(context.Context, *mcp.ToolListChangedRequest) { offer(s.changed) }
	}
	if o.Confirm != nil {
		options.Capabilities.Elicitation = &mcp.ElicitationCapabilities{Form: &mcp.FormElicitationCapabilities{}, URL: &mcp.URLElicitationCapabilities{}}
		options.ElicitationHandler = func(ctx context.Context, r *mcp.ElicitRequest) (*mcp.ElicitResult, error) {
			switch yes := o.Confirm(ctx, r.Params.Message, r.Params.URL); {
			case !yes:
				return &mcp.ElicitResult{Action: "decline"}, nil
			case r.Params.URL != "":
				return &mcp.ElicitResult{Action: "accept"}, nil
			}
			return &mcp.ElicitResult{Action: "accept", Content: map[string]any{"confirm": true}}, nil
		}
	}
	client := mcp.NewClient(&mcp.Implementation{Name: o.Name, Version: "1.0.0"}, options)
	transport := &mcp.StreamableClientTransport{
		Endpoint: url,
		HTTPClient: &http.Client{
			Transport: &bearer{token: token, next: s.transport, streams: s.streams},
			// The token is for this endpoint alone.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		// A stream that ends is something to see, not to mend.
		MaxRetries:           -1,
		DisableStandaloneSSE: !o.Watch,
		OAuthHandler:         o.SignIn,
	}
	session, err := client.Connect(ctx, transport, &mcp.ClientSessionOptions{ProtocolVersion: o.Revision})
	if err != nil {
		s.transport.CloseIdleConnections()
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	s.mcp = session
	return s, nil
}

// offer puts the time into a channel whose reader may be behind; what does not fit tells nothing new.
func offer(c chan time.Time) {
	select {
	case c <- time.Now():
	default:
	}
}

// Close ends the session. Its error tells nothing where the server ended the session first, so there is none.
func (s *Session) Close() {
	_ = s.mcp.Close()
	s.transport.CloseIdleConnections()
}

// Revision is what was agreed on.
func (s *Session) Revision() string {
	if r := s.mcp.InitializeResult(); r != nil {
		return r.ProtocolVersion
	}
	return ""
}

// Tools lists the tools' names, over all pages.
func (s *Session) Tools(ctx context.Context) ([]string, error) {
	definitions, err := s.Definitions(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(definitions))
	for _, t := range definitions {
		names = append(names, t.Name)
	}
	return names, nil
}

// Definitions lists the tools, over all pages.
func (s *Session) Definitions(ctx context.Context) ([]*mcp.Tool, error) {
	var out []*mcp.Tool
	for t, err := range s.mcp.Tools(ctx, nil) {
		if err != nil {
			return nil, fmt.Errorf("list tools: %w", err)
		}
		out = append(out, t)
	}
	return out, nil
}

// Call calls a tool. Whatever goes wrong is told in the result: an agent sees refusals and failures alike.
func (s *Session) Call(ctx context.Context, tool string, args any) Result {
	begin := time.Now()
	params := &mcp.CallToolParams{Name: tool, Arguments: args}
	params.SetProgressToken("call-" + tool)
	res, err := s.mcp.CallTool(ctx, params)
	out := Result{Took: time.Since(begin)}
	if err != nil {
		out.Text = err.Error()
		var rpc *jsonrpc.Error
		if errors.As(err, &rpc) {
			out.Code, out.Text = rpc.Code, rpc.Message
		}
		return out
	}
	var text strings.Builder
	for _, c := range res.Content {
		if t, ok := c.(*mcp.TextContent); ok {
			text.WriteString(t.Text)
		}
	}
	out.OK, out.Text = !res.IsError, text.String()
	if res.StructuredContent != nil {
		if out.Structured, err = json.Marshal(res.StructuredContent); err != nil {
			return Result{Text: "the structured answer cannot be encoded: " + err.Error(), Took: out.Took}
		}
	}
	return out
}

// Changed gets the time of each notice that the list of tools changed, if the session watches.
func (s *Session) Changed() <-chan time.Time { return s.changed }

// Progress gets the time of each progress notice.
func (s *Session) Progress() <-chan time.Time { return s.progress }

// Ended gets each event stream that ended, whoever ended it.
func (s *Session) Ended() <-chan Stream { return s.streams.ended }

// Open is the number of event streams that are open.
func (s *Session) Open() int { return s.streams.count() }
