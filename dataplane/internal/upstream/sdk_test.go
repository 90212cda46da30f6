package upstream_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/internal/upstream"
)

// server is a real MCP server, which also counts what it is asked.
type server struct {
	*httptest.Server
	methods   sync.Map      // Mcp-Method or HTTP method → *atomic.Int64
	restart   func()        // loses all sessions
	waiting   chan struct{} // its tool "wait" began
	cancelled chan struct{} // and was ended
	lastToken atomic.Value  // what Authorization said last
}

func (s *server) count(key string) int64 {
	n, ok := s.methods.Load(key)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

// newServer starts a server of one era: stateless speaks both, as the SDK does there.
func newServer(t *testing.T, stateless, json bool) *server {
	t.Helper()
	s := &server{waiting: make(chan struct{}, 10), cancelled: make(chan struct{}, 10)}
	fresh := func() http.Handler {
		m := sdk.NewServer(&sdk.Implementation{Name: "demo", Version: "1"}, nil)
		type in struct {
			Text string `json:"text"`
		}
		sdk.AddTool(m, &sdk.Tool{Name: "echo"}, func(_ context.Context, _ *sdk.CallToolRequest, a in) (*sdk.CallToolResult, any, error) {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "said " + a.Text}}}, nil, nil
		})
		sdk.AddTool(m, &sdk.Tool{Name: "progress"}, func(ctx context.Context, r *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
			for i := range 3 {
				err := r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken(), Progress: float64(i)})
				if err != nil {
					return nil, nil, err
				}
			}
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "done"}}}, nil, nil
		})
		sdk.AddTool(m, &sdk.Tool{Name: "wait"}, func(ctx context.Context, r *sdk.CallToolRequest, _ struct{}) (*sdk.CallToolResult, any, error) {
			// The first event takes the head of the answer with it.
			_ = r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: r.Params.GetProgressToken()}) // not in JSON
			s.waiting <- struct{}{}
			<-ctx.Done()
			s.cancelled <- struct{}{}
			return nil, nil, ctx.Err()
		})
		return sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return m }, &sdk.StreamableHTTPOptions{
			Stateless: stateless, JSONResponse: json, PropagateRequestCancellation: true,
		})
	}
	var handler atomic.Value
	handler.Store(fresh())
	s.restart = func() { handler.Store(fresh()) }
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		key := r.Method
		var m mcp.Message
		if mcp.ReadMessage(body, strictjson.Limits{}, &m) == nil {
			key = m.Method
		}
		n, _ := s.methods.LoadOrStore(key, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
		s.lastToken.Store(r.Header.Get("Authorization"))
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		handler.Load().(http.Handler).ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func newPool(t *testing.T) *upstream.Pool {
	t.Helper()
	p := upstream.NewPool(upstream.Config{})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

func open(t *testing.T, p *upstream.Pool, target upstream.Target) *upstream.Upstream {
	t.Helper()
	if target.Connector == "" {
		target.Connector = "demo"
	}
	target.Allowed = "127.0.0.0/8"
	u, err := p.Upstream(target)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// message reads a request as an agent of one era sends it.
func message(t testing.TB, era mcp.Revision, id, method, params string) *mcp.Message {
	t.Helper()
	if era.Stateless() {
		params = strings.TrimSuffix(params, "}") + `,"_meta":{"io.modelcontextprotocol/protocolVersion":"` + string(era) + `","io.modelcontextprotocol/clientCapabilities":{},"progressToken":"pt"}}`
	} else {
		params = strings.TrimSuffix(params, "}") + `,"_meta":{"progressToken":"pt"}}`
	}
	var m mcp.Message
	if e := mcp.ReadMessage([]byte(`{"jsonrpc":"2.0","id":`+id+`,"method":"`+method+`","params":`+params+`}`), strictjson.Limits{}, &m); e != nil {
		t.Fatal(e)
	}
	return &m
}

// answer reads all messages of a response.
func answer(t testing.TB, r *upstream.Response) (all []string) {
	t.Helper()
	if !r.Stream {
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return []string{string(b)}
	}
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(e.Data))
	}
}

func call(t testing.TB, u *upstream.Upstream, c upstream.Call) []string {
	t.Helper()
	r, err := u.Call(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}()
	return answer(t, r)
}

func TestCallsReachServersOfEachEraFromAgentsOfEachEra(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		for _, json := range []bool{true, false} {
			for _, era := range mcp.Revisions() {
				t.Run(fmt.Sprintf("stateless=%v json=%v agent=%s", stateless, json, era), func(t *testing.T) {
					s := newServer(t, stateless, json)
					u := open(t, newPool(t), upstream.Target{URL: s.URL})
					for i := range 3 {
						id := fmt.Sprintf(`"agent-%d"`, i)
						got := call(t, u, upstream.Call{
							Message: message(t, era, id, "tools/call", `{"name":"gw__echo","arguments":{"text":"hi"}}`), Revision: era, Name: "echo",
							Party: upstream.Party{Credential: upstream.Credential{Header: "authorization", Value: "Bearer s3cret"}},
						})
						last := got[len(got)-1]
						if !strings.Contains(last, `"id":`+id) || !strings.Contains(last, "said hi") {
							t.Fatalf("got %q", got)
						}
					}
					if n := s.count("server/discover"); n != 1 {
						t.Errorf("the era was asked for %d times", n)
					}
					if n := s.count("initialize"); stateless && n != 0 || !stateless && n != 1 {
						t.Errorf("initialized %d times", n)
					}
					if got := s.lastToken.Load(); got != "Bearer s3cret" {
						t.Errorf("the credential arrived as %q", got)
					}
				})
			}
		}
	}
}

func TestStreamsComeThroughInOrderUnderTheAgentsID(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		s := newServer(t, stateless, false)
		u := open(t, newPool(t), upstream.Target{URL: s.URL})
		got := call(t, u, upstream.Call{Message: message(t, "2026-07-28", "7", "tools/call", `{"name":"progress","arguments":{}}`), Revision: "2026-07-28"})
		if len(got) != 4 || !strings.Contains(got[3], `"id":7`) || !strings.Contains(got[3], "done") {
			t.Fatalf("stateless=%v: %q", stateless, got)
		}
		for i := range 3 {
			if !strings.Contains(got[i], fmt.Sprintf(`"progress":%d`, i)) || !strings.Contains(got[i], `"pt"`) {
				t.Errorf("stateless=%v: %q", stateless, got[i])
			}
		}
	}
}

func TestALostSessionIsOpenedAgainUnnoticed(t *testing.T) {
	s := newServer(t, false, true)
	u := open(t, newPool(t), upstream.Target{URL: s.URL})
	c := func() upstream.Call {
		return upstream.Call{Message: message(t, "2025-11-25", "1", "tools/call", `{"name":"echo","arguments":{"text":"x"}}`), Revision: "2025-11-25"}
	}
	call(t, u, c())
	s.restart()
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() {
			if got := call(t, u, c()); !strings.Contains(got[0], "said x") {
				t.Errorf("got %q", got)
			}
		})
	}
	wait.Wait()
	if n := s.count("initialize"); n != 2 {
		t.Errorf("initialized %d times instead of twice", n)
	}
}

func TestSessionsAreSharedWithinAnIdentityOnly(t *testing.T) {
	s := newServer(t, false, true)
	u := open(t, newPool(t), upstream.Target{URL: s.URL})
	var wait sync.WaitGroup
	for i := range 30 {
		wait.Go(func() {
			c := upstream.Credential{Header: "Authorization", Value: fmt.Sprintf("Bearer %d", i), Identity: fmt.Sprint(i % 3)} // tokens are renewed
			got := call(t, u, upstream.Call{Message: message(t, "2025-11-25", "1", "tools/call", `{"name":"echo","arguments":{"text":"x"}}`), Revision: "2025-11-25", Party: upstream.Party{Credential: c}})
			if !strings.Contains(got[0], `"id":1`) {
				t.Errorf("got %q", got)
			}
		})
	}
	wait.Wait()
	if n := s.count("initialize"); n != 3 {
		t.Errorf("initialized %d times instead of 3", n)
	}
}

func TestCancellationReachesTheServer(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		for _, how := range []string{"context", "close"} {
			t.Run(fmt.Sprintf("stateless=%v by %s", stateless, how), func(t *testing.T) {
				s := newServer(t, stateless, how == "context") // with events, the head comes before the end
				u := open(t, newPool(t), upstream.Target{URL: s.URL})
				call(t, u, upstream.Call{Message: message(t, "2026-07-28", "1", "tools/call", `{"name":"echo","arguments":{"text":"x"}}`), Revision: "2026-07-28"})
				why := errors.New("person deactivated")
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				ended := make(chan error, 1)
				go func() {
					r, err := u.Call(ctx, upstream.Call{Message: message(t, "2026-07-28", "2", "tools/call", `{"name":"wait","arguments":{}}`), Revision: "2026-07-28"})
					if err == nil && how == "close" {
						err = r.Close()
					} else if err == nil {
						_, err = r.Next()
					}
					ended <- err
				}()
				select {
				case <-s.waiting:
				case <-time.After(5 * time.Second):
					t.Fatal("the call does not arrive")
				}
				if how == "context" {
					cancel(why)
				}
				select {
				case err := <-ended:
					if how == "context" && !errors.Is(err, why) {
						t.Errorf("the call ended by %v", err)
					}
				case <-time.After(5 * time.Second):
					t.Fatal("the call does not end")
				}
				select {
				case <-s.cancelled:
				case <-time.After(5 * time.Second):
					t.Error("the server goes on")
				}
			})
		}
	}
}

func TestErrorsOfTheServerComeUnderTheAgentsID(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		s := newServer(t, stateless, true)
		u := open(t, newPool(t), upstream.Target{URL: s.URL})
		got := call(t, u, upstream.Call{Message: message(t, "2026-07-28", `"e"`, "tools/call", `{"name":"nope","arguments":{}}`), Revision: "2026-07-28"})
		if !strings.Contains(got[0], `"id":"e"`) || !strings.Contains(got[0], `"error"`) {
			t.Errorf("stateless=%v: %q", stateless, got)
		}
	}
}

func TestANewTargetStartsAnewAndEndsOldSessions(t *testing.T) {
	s := newServer(t, false, true)
	p := newPool(t)
	u := open(t, p, upstream.Target{URL: s.URL})
	c := upstream.Call{Message: message(t, "2025-11-25", "1", "tools/list", `{"x":1}`), Revision: "2025-11-25"}
	call(t, u, c)
	if open(t, p, upstream.Target{URL: s.URL}) != u {
		t.Error("the same target gave another upstream")
	}
	if open(t, p, upstream.Target{URL: s.URL, Timeout: time.Minute}) == u {
		t.Error("another target gave the same upstream")
	}
	for deadline := time.Now().Add(5 * time.Second); s.count("DELETE") == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the old session is not ended")
		}
		time.Sleep(time.Millisecond)
	}
	call(t, u, c) // a call that still holds the old one goes on
}
