package discover

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// TestAnUpstreamThatChangesItsListIsHeard: real servers of both eras say so on a stream of their own; one that cannot is not waited for.
func TestAnUpstreamThatChangesItsListIsHeard(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		t.Run(fmt.Sprintf("stateless %v", stateless), func(t *testing.T) {
			m := mcp.NewServer(&mcp.Implementation{Name: "shop", Version: "1"}, nil)
			sell := func(name string) {
				mcp.AddTool(m, &mcp.Tool{Name: name}, func(context.Context, *mcp.CallToolRequest, struct{}) (*mcp.CallToolResult, any, error) {
					return &mcp.CallToolResult{}, nil, nil
				})
			}
			sell("first")
			server := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return m }, &mcp.StreamableHTTPOptions{Stateless: stateless}))
			defer server.Close()
			defer server.CloseClientConnections()
			c := &policyv1.Connector{Id: "shop", Url: server.URL, AllowedRanges: []string{"127.0.0.0/8"}}
			ctx, stop := context.WithCancelCause(t.Context())
			heard, ended := make(chan struct{}, 100), make(chan error, 1)
			go func() {
				ended <- Discoverer{}.Listen(ctx, c, "", "", "", func() { heard <- struct{}{} })
			}()
			deadline := time.After(20 * time.Second)
			for i := 0; ; i++ { // until it is listened to
				sell(fmt.Sprintf("more%d", i))
				select {
				case <-heard:
				case err := <-ended:
					t.Fatalf("nothing is heard any more: %v", err)
				case <-time.After(100 * time.Millisecond):
					continue
				case <-deadline:
					t.Fatal("nothing was heard")
				}
				break
			}
			over := errors.New("over")
			stop(over)
			if err := <-ended; !errors.Is(err, over) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
	silent := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server {
		return mcp.NewServer(&mcp.Implementation{Name: "silent", Version: "1"}, &mcp.ServerOptions{Capabilities: &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{}}})
	}, &mcp.StreamableHTTPOptions{Stateless: true}))
	defer silent.Close()
	if err := (Discoverer{}).Listen(t.Context(), &policyv1.Connector{Id: "silent", Url: silent.URL, AllowedRanges: []string{"127.0.0.0/8"}}, "", "", "", func() {}); err != nil {
		t.Errorf("one that says nothing: %v", err)
	}
}
