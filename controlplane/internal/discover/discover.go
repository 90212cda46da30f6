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
	"net/http"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Limits of what an upstream may answer.
const (
	timeout      = 30 * time.Second
	maxTools     = 5000
	maxEventSize = 16 << 20
)

// Discoverer asks upstreams. Its zero value is usable.
type Discoverer struct {
	// Transport reaches upstreams. Default: http.DefaultTransport's settings.
	Transport http.RoundTripper
}

// Discover lists an upstream's tools, with the connector's header where it has one.
func (d Discoverer) Discover(ctx context.Context, c *policyv1.Connector, headerValue string) ([]*policyv1.Tool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	client := &http.Client{
		Transport: &authenticated{next: d.Transport, name: c.GetAuth().GetHeader().GetName(), value: headerValue},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the upstream redirects: name its final URL")
		},
	}
	session, err := mcp.NewClient(&mcp.Implementation{Name: "sallyport", Version: "1"}, nil).Connect(ctx,
		&mcp.StreamableClientTransport{Endpoint: c.GetUrl(), HTTPClient: client, MaxRetries: -1, DisableStandaloneSSE: true, MaxEventSize: maxEventSize}, nil)
	if err != nil {
		return nil, fmt.Errorf("connecting to the upstream: %w", err)
	}
	defer session.Close() //nolint:errcheck // what was asked for is there
	var tools []*policyv1.Tool
	for tool, err := range session.Tools(ctx, nil) {
		if err != nil {
			return nil, fmt.Errorf("listing the upstream's tools: %w", err)
		}
		definition, err := json.Marshal(tool)
		if err != nil {
			return nil, fmt.Errorf("encoding a tool's definition: %w", err)
		}
		tools = append(tools, &policyv1.Tool{Name: tool.Name, Definition: definition})
		if len(tools) > maxTools {
			return nil, fmt.Errorf("the upstream offers more than %d tools", maxTools)
		}
	}
	return tools, nil
}

// authenticated sends the connector's header with each request.
type authenticated struct {
	next        http.RoundTripper
	name, value string
}

// RoundTrip sends a request.
func (a *authenticated) RoundTrip(r *http.Request) (*http.Response, error) {
	next := a.next
	if next == nil {
		next = http.DefaultTransport
	}
	if a.name != "" && a.value != "" {
		r = r.Clone(r.Context())
		r.Header.Set(a.name, a.value)
	}
	return next.RoundTrip(r)
}
