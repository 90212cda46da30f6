package agent_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport.dev/scripts/demo/agent"
)

type nothing struct{}

// serve is a server with one tool, in one era; it refuses other tokens than "right".
func serve(t *testing.T, stateless bool) (url string, server *mcp.Server) {
	t.Helper()
	server = mcp.NewServer(&mcp.Implementation{Name: "test", Version: "1"}, nil)
	add(server, "first", nil)
	add(server, "fails", context.DeadlineExceeded)
	handler := mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{Stateless: stateless})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer right" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	t.Cleanup(web.CloseClientConnections) // comes first: Close waits for streams
	return web.URL, server
}

func add(server *mcp.Server, name string, err error) {
	mcp.AddTool(server, &mcp.Tool{Name: name}, func(context.Context, *mcp.CallToolRequest, nothing) (*mcp.CallToolResult, nothing, error) {
		return nil, nothing{}, err
	})
}

func TestSessionSeesToolsCallsAndChanges(t *testing.T) {
	for revision, stateless := range map[string]bool{agent.SessionEra: false, agent.Modern: true} {
		t.Run(revision, func(t *testing.T) {
			url, server := serve(t, stateless)
			s, err := agent.Connect(t.Context(), url, "right", agent.Options{Revision: revision, Watch: true})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if s.Revision() != revision {
				t.Errorf("agreed on %s", s.Revision())
			}
			if names, err := s.Tools(t.Context()); err != nil || !slices.Equal(names, []string{"fails", "first"}) {
				t.Errorf("tools = %v, %v", names, err)
			}
			if r := s.Call(t.Context(), "first", nil); !r.OK || r.Took <= 0 {
				t.Errorf("first: %+v", r)
			}
			if r := s.Call(t.Context(), "fails", nil); r.OK || !strings.Contains(r.Text, "deadline") || r.Code != 0 {
				t.Errorf("fails: %+v", r)
			}
			if r := s.Call(t.Context(), "unknown", nil); r.OK || r.Code == 0 {
				t.Errorf("unknown: %+v", r)
			}
			add(server, "second", nil)
			select {
			case <-s.Changed():
			case <-time.After(10 * time.Second):
				t.Fatal("no notice of the new tool")
			}
			if names, err := s.Tools(t.Context()); err != nil || !slices.Contains(names, "second") {
				t.Errorf("tools = %v, %v", names, err)
			}
		})
	}
}

func TestWrongTokenDoesNotConnect(t *testing.T) {
	url, _ := serve(t, false)
	if s, err := agent.Connect(t.Context(), url, "wrong", agent.Options{}); err == nil {
		s.Close()
		t.Error("it connected")
	}
}
