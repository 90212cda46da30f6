// Package discover asks an upstream MCP server which tools it offers, so that an admin can approve them.
//
// It is off the call path: it speaks through the MCP SDK, in whichever revision the server has. What comes
// back is from outside and is only looked at; what may be pinned is the core's to say.
package discover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/egress"
)

// Limits of what an upstream may answer.
const (
	timeout      = 30 * time.Second
	maxTools     = 5000
	maxEventSize = 16 << 20
)

// Discoverer asks upstreams, at addresses that their connectors allow.
type Discoverer struct{}

// connect opens a session with an upstream, with a header and a query, of which either may be empty. done ends it.
func connect(ctx context.Context, c *policyv1.Connector, header, value, query string, options *mcp.ClientOptions) (session *mcp.ClientSession, done func(), err error) {
	guard, err := egress.New(c.GetAllowedRanges()...)
	if err != nil {
		return nil, nil, err
	}
	transport := guard.Transport()
	client := &http.Client{
		Transport: &authenticated{next: transport, name: header, value: value, query: query},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the upstream redirects: name its final URL")
		},
	}
	var wire mcp.Transport = &mcp.StreamableClientTransport{Endpoint: c.GetUrl(), HTTPClient: client, MaxRetries: -1, DisableStandaloneSSE: options == nil, MaxEventSize: maxEventSize}
	if c.GetTransport() == policyv1.Transport_TRANSPORT_SSE {
		wire = &mcp.SSEClientTransport{Endpoint: c.GetUrl(), HTTPClient: client, MaxEventSize: maxEventSize}
	}
	ctx, cancel := context.WithCancel(ctx) // streams may be of this context
	late := time.AfterFunc(timeout, cancel)
	session, err = mcp.NewClient(&mcp.Implementation{Name: "sallyport", Version: "1"}, options).Connect(ctx, wire, nil)
	late.Stop()
	if err != nil {
		cancel()
		transport.CloseIdleConnections()
		return nil, nil, fmt.Errorf("connecting to the upstream: %w", err)
	}
	return session, func() {
		_ = session.Close() // what was asked for is there
		cancel()
		transport.CloseIdleConnections()
	}, nil
}

// Discover lists an upstream's tools, prompts, resources and templates, with a header and a query, of which either may be empty.
func (Discoverer) Discover(ctx context.Context, c *policyv1.Connector, header, value, query string) ([]*policyv1.Tool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	session, done, err := connect(ctx, c, header, value, query, nil)
	if err != nil {
		return nil, err
	}
	defer done()
	var found offers
	has := session.InitializeResult().Capabilities
	if has == nil {
		has = &mcp.ServerCapabilities{}
	}
	if has.Tools != nil {
		collect(&found, "tools", session.Tools(ctx, nil), policyv1.Kind_KIND_TOOL, func(t *mcp.Tool) string { return t.Name })
	}
	if has.Prompts != nil {
		collect(&found, "prompts", session.Prompts(ctx, nil), policyv1.Kind_KIND_PROMPT, func(p *mcp.Prompt) string { return p.Name })
	}
	if has.Resources != nil {
		collect(&found, "resources", session.Resources(ctx, nil), policyv1.Kind_KIND_RESOURCE, func(r *mcp.Resource) string { return r.URI })
		collect(&found, "resource templates", session.ResourceTemplates(ctx, nil), policyv1.Kind_KIND_RESOURCE_TEMPLATE,
			func(t *mcp.ResourceTemplate) string { return t.URITemplate })
	}
	return found.all, found.failed
}

// offers are what an upstream lists, until something failed.
type offers struct {
	all    []*policyv1.Tool
	failed error
}

// collect adds one of an upstream's lists.
func collect[T any](o *offers, what string, list iter.Seq2[*T, error], kind policyv1.Kind, name func(*T) string) {
	if o.failed != nil {
		return
	}
	for one, err := range list {
		if unsupported(err) && kind == policyv1.Kind_KIND_RESOURCE_TEMPLATE {
			return // servers with resources need not know templates
		}
		if err != nil {
			o.failed = fmt.Errorf("listing the upstream's %s: %w", what, err)
			return
		}
		definition, err := json.Marshal(one)
		if err != nil {
			o.failed = fmt.Errorf("encoding one of the upstream's %s: %w", what, err)
			return
		}
		o.all = append(o.all, &policyv1.Tool{Kind: kind, Name: name(one), Definition: definition})
		if len(o.all) > maxTools {
			o.failed = fmt.Errorf("the upstream lists more than %d tools, prompts and resources", maxTools)
			return
		}
	}
}

// unsupported tells whether the upstream does not know a method.
func unsupported(err error) bool {
	var failed *jsonrpc.Error
	return errors.As(err, &failed) && failed.Code == jsonrpc.CodeMethodNotFound
}

// authenticated sends a credential with each request.
type authenticated struct {
	next               http.RoundTripper
	name, value, query string
}

// RoundTrip sends a request.
func (a *authenticated) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.name != "" && a.value != "" {
		r = r.Clone(r.Context())
		r.Header.Set(a.name, a.value)
	}
	if a.query != "" {
		r = r.Clone(r.Context())
		r.URL.RawQuery = strings.TrimPrefix(r.URL.RawQuery+"&"+a.query, "&")
	}
	return a.next.RoundTrip(r)
}
