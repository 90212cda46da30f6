package upstream_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/upstream"
)

// legacy is a real server of HTTP+SSE.
func legacy(t *testing.T) (*httptest.Server, *sync.Map) {
	m := sdk.NewServer(&sdk.Implementation{Name: "legacy", Version: "1"}, nil)
	over := make(chan struct{}) // the server waits for its tools, which a lost stream does not end
	type in struct {
		Text string `json:"text"`
	}
	sdk.AddTool(m, &sdk.Tool{Name: "echo"}, func(ctx context.Context, r *sdk.CallToolRequest, a in) (*sdk.CallToolResult, any, error) {
		_ = r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Message: "soon"})
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "said " + a.Text}}}, nil, nil
	})
	sdk.AddTool(m, &sdk.Tool{Name: "wait"}, func(ctx context.Context, _ *sdk.CallToolRequest, _ in) (*sdk.CallToolResult, any, error) {
		select {
		case <-ctx.Done():
		case <-over:
		}
		return nil, nil, context.Canceled
	})
	handler := sdk.NewSSEHandler(func(*http.Request) *sdk.Server { return m }, nil)
	seen := &sync.Map{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Method+" "+r.Header.Get("Authorization"), true)
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		close(over)
		s.CloseClientConnections()
		s.Close()
	})
	return s, seen
}

func say(t *testing.T, u *upstream.Upstream, id int, text string) string {
	t.Helper()
	params := fmt.Sprintf(`{"name":"echo","arguments":{"text":%q}}`, text)
	r, err := u.Call(t.Context(), upstream.Call{
		Message: message(t, "2025-11-25", fmt.Sprint(id), "tools/call", params), Revision: mcp.LatestSession,
		Party: upstream.Party{Credential: upstream.Credential{Header: "Authorization", Value: "Bearer s"}, Session: "one"},
	})
	if err != nil {
		return err.Error()
	}
	defer r.Close() //nolint:errcheck // what mattered was read
	var all strings.Builder
	for {
		e, err := r.Next()
		if err != nil {
			return all.String()
		}
		all.Write(e.Data)
	}
}

func TestAServerOfHTTPAndSSEIsCalledAsAnyOther(t *testing.T) {
	s, seen := legacy(t)
	u := open(t, newPool(t), upstream.Target{URL: s.URL, Legacy: true})
	if got := say(t, u, 1, "one"); !strings.Contains(got, "said one") || !strings.Contains(got, `"id":1`) {
		t.Fatalf("got %s", got)
	}
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if got := say(t, u, 100+i, fmt.Sprint("call ", i)); !strings.Contains(got, fmt.Sprintf(`said call %d"`, i)) || !strings.Contains(got, fmt.Sprintf(`"id":%d`, 100+i)) {
				t.Errorf("call %d got %s", i, got)
			}
		})
	}
	all.Wait()
	if _, ok := seen.Load("GET Bearer s"); !ok {
		t.Error("the event stream was opened without the credential")
	}
	// The stream is lost: whoever waits is told, and the next call opens another.
	waiting := make(chan error, 1)
	go func() {
		r, err := u.Call(t.Context(), upstream.Call{
			Message: message(t, "2025-11-25", "7", "tools/call", `{"name":"wait","arguments":{"text":""}}`), Revision: mcp.LatestSession,
			Party: upstream.Party{Credential: upstream.Credential{Header: "Authorization", Value: "Bearer s"}, Session: "one"},
		})
		if err == nil {
			_, err = r.Next()
			_ = r.Close()
		}
		waiting <- err
	}()
	for {
		s.CloseClientConnections()
		select {
		case err := <-waiting:
			if err == nil {
				t.Fatal("the call had an answer")
			}
		default:
			continue
		}
		break
	}
	// For a moment what the server ended may still look open.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		got := say(t, u, 8, "again")
		if strings.Contains(got, "said again") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %s", got)
		}
	}
}

func TestAnEndpointOfAnotherOriginIsRefused(t *testing.T) {
	for _, endpoint := range []string{"http://evil.example/post", "//evil.example/post", "https://127.0.0.1/post", "http://user@127.0.0.1/", "\x00", ""} {
		posted := make(chan struct{}, 1)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				posted <- struct{}{}
				return
			}
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "event: endpoint\ndata: "+endpoint+"\n\n")
		}))
		u := open(t, newPool(t), upstream.Target{URL: s.URL, Legacy: true})
		_, err := u.Call(t.Context(), upstream.Call{Message: message(t, "2025-11-25", "1", "tools/call", `{"name":"x"}`), Revision: mcp.LatestSession})
		if err == nil {
			t.Errorf("%q was taken", endpoint)
		}
		select {
		case <-posted:
			if endpoint != "" {
				t.Errorf("%q: a message was sent", endpoint)
			}
		default:
		}
		s.CloseClientConnections()
		s.Close()
	}
}
