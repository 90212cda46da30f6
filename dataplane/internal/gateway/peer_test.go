package gateway_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/mcp"
)

// region is several proxies that reach each other, and take the same tokens.
func region(t *testing.T, first *world, names ...string) []*world {
	t.Helper()
	all := []*world{first}
	for _, name := range names {
		all = append(all, newWorld(t, &options{beside: first, name: name, gateway: func(c *gateway.Config) { c.Resource = first.url + "/mcp" }}))
	}
	peers := []*fleetv1.Peer{{Proxy: "proxy", Url: first.url}}
	for i, name := range names {
		peers = append(peers, &fleetv1.Peer{Proxy: name, Url: all[i+1].url})
	}
	for _, w := range all {
		w.gateway.Peers(peers)
	}
	return all
}

// at is the same agent, talking to another proxy.
func (a *agent) at(w *world) *agent {
	b := *a
	b.w = w
	return &b
}

// sessions is how many sessions were opened at the upstream.
func (s *server) sessions() int { return len(s.got("initialize")) }

func TestASessionMovesOverThreeProxiesCallByCall(t *testing.T) {
	first := newWorld(t, &options{demo: newServer(t, false)})
	all := region(t, first, "second", "third")
	a := first.opened(ada, "/mcp", mcp.LatestSession)
	for i := range 9 {
		if got := a.at(all[i%3]).call("demo__echo", `{"text":"x"}`); !strings.Contains(got.body, "said x") {
			t.Fatalf("call %d: %+v", i, got)
		}
	}
	if n := first.demo.sessions(); n != 1 {
		t.Errorf("the upstream was initialized %d times", n)
	}
	// Who calls directly is recorded with the address that the first proxy saw.
	for _, r := range first.settled(18) {
		if r.GetClient().GetAddress() != "127.0.0.1" {
			t.Errorf("recorded %v", r)
		}
	}
	// The home goes: calls go on at another, which opens a session of its own at the upstream.
	_ = first.web.Close()
	for i := range 4 {
		got := a.at(all[1+i%2]).call("demo__echo", `{"text":"x"}`)
		if i < 2 && strings.Contains(got.body, "went away during the call") {
			continue // it was sent on before its connection was seen to be closed
		}
		if !strings.Contains(got.body, "said x") {
			t.Fatalf("call %d without the home: %+v", i, got)
		}
	}
}

func TestAQuestionIsAnsweredAtAnotherProxyThanAskedIt(t *testing.T) {
	for _, revision := range []mcp.Revision{mcp.LatestStateless, mcp.LatestSession} {
		t.Run(string(revision), func(t *testing.T) {
			first := shelves(t, false, &policyv1.Consent{Elicitation: true})
			second := region(t, first, "second")[1]
			if revision.Stateless() {
				a := first.stateless(ada, "/mcp")
				ask := func(a *agent, more string) answer {
					body := strings.Replace(a.message("7", "tools/call", `{"name":"lib__elicit","arguments":{}`+more+`}`), `clientCapabilities":{}`, `clientCapabilities":{"elicitation":{}}`, 1)
					return lastOf(a.w.request(http.MethodPost, a.path, a.header("tools/call", "lib__elicit"), body))
				}
				got := ask(a, "")
				state, _ := got.field("result", "requestState").(string)
				if got.field("result", "resultType") != "input_required" || state == "" {
					t.Fatalf("got %+v", got)
				}
				quoted, err := json.Marshal(state)
				if err != nil {
					t.Fatal(err)
				}
				again := `,"inputResponses":{"input":{"action":"accept","content":{"colour":"green"}}},"requestState":` + string(quoted)
				// Another person cannot go on with it, nor can another call.
				b := first.stateless(bob, "/mcp")
				if got := ask(b, again); strings.Contains(got.body, "accept") {
					t.Errorf("another's call went on: %+v", got)
				}
				if got := ask(a.at(second), again); !strings.Contains(got.body, "accept green") {
					t.Errorf("got %+v", got)
				}
				if got := ask(a.at(second), again); !strings.Contains(got.body, "not waiting any more") {
					t.Errorf("it went on twice: %+v", got)
				}
				return
			}
			a := &agent{w: first, token: first.token(ada, "/mcp", "agent"), path: "/mcp"}
			got := a.post("", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"a","version":"1"}}}`)
			a.session, a.revision = got.header.Get("Mcp-Session-Id"), revision
			s := a.at(second).open(http.MethodPost, a.header("", ""), a.message("7", "tools/call", `{"name":"lib__elicit","arguments":{}}`))
			asked, _ := s.next()
			var q struct {
				ID     string `json:"id"`
				Method string `json:"method"`
			}
			if err := json.Unmarshal([]byte(asked), &q); err != nil || q.Method != "elicitation/create" {
				t.Fatalf("asked %s, %v", asked, err)
			}
			say := func(a *agent) int {
				return a.post("", `{"jsonrpc":"2.0","id":"`+q.ID+`","result":{"action":"accept","content":{"colour":"green"}}}`).status
			}
			other := first.opened(ada, "/mcp", mcp.LatestSession)
			if status := say(other.at(second)); status != http.StatusBadRequest {
				t.Errorf("another session answered: %d", status)
			}
			if status := say(a.at(second)); status != http.StatusAccepted {
				t.Errorf("the answer was not taken: %d", status)
			}
			s.wants("accept green")
		})
	}
}

func TestAStreamIsResumedAtAnotherProxy(t *testing.T) {
	first := newWorld(t, &options{})
	second := region(t, first, "second")[1]
	a := first.opened(ada, "/mcp", mcp.LatestSession)
	a.tool = "demo__wait"
	last := a.at(second).hangUp()
	h := a.header("", "")
	h.Set("Last-Event-ID", last)
	s := a.at(second).open(http.MethodGet, h, "")
	s.wants("waiting")
	close(first.demo.release)
	s.wants(`"done"`)
}

// going is a proxy that goes away within its answer to what is sent on to it, or but ends the connection.
func going(t *testing.T, begin string, stays bool) []*fleetv1.Peer {
	t.Helper()
	web := httptest.NewUnstartedServer(nil)
	web.Config.Handler = (http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if begin != "" {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, begin)
			_ = http.NewResponseController(w).Flush()
		}
		if !stays {
			_ = web.Listener.Close()
		}
		panic(http.ErrAbortHandler)
	}))
	web.Start()
	t.Cleanup(web.Close)
	return []*fleetv1.Peer{{Proxy: "proxy", Url: web.URL}}
}

func TestACallWhoseHomeGoesAwayMeanwhileIsAnsweredAllTheSame(t *testing.T) {
	begun := "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\ndata: {\"cut"
	for name, begin := range map[string]string{"before its answer": "", "within its stream": begun} {
		t.Run(name, func(t *testing.T) {
			first := newWorld(t, &options{})
			second := region(t, first, "second")[1]
			a := first.opened(ada, "/mcp", mcp.LatestSession).at(second)
			second.gateway.Peers(going(t, begin, false))
			got := lastOf(a.call("demo__echo", `{"text":"x"}`))
			if got.status != http.StatusOK || got.field("id") != 7.0 || got.field("result", "isError") != true || !strings.Contains(got.body, "what the upstream did is not known") {
				t.Errorf("a call: %+v", got)
			}
			second.gateway.Peers(going(t, begin, false))
			got = lastOf(a.ask("completion/complete", `{"ref":{"type":"ref/prompt","name":"demo__x"},"argument":{"name":"a","value":"b"}}`))
			if got.field("id") != 7.0 || got.field("error", "code") != float64(mcp.CodeInternal) {
				t.Errorf("another request: %+v", got)
			}
		})
	}
	// Where only the connection ended, the agent comes back for the rest.
	first := newWorld(t, &options{})
	second := region(t, first, "second")[1]
	a := first.opened(ada, "/mcp", mcp.LatestSession).at(second)
	second.gateway.Peers(going(t, begun, true))
	if got := a.call("demo__echo", `{"text":"x"}`); strings.Contains(got.body, "is not known") {
		t.Errorf("a call whose home is there: %+v", got)
	}
}

func TestAQuestionOfAProxyThatIsAboutToStopIsAnswered(t *testing.T) {
	first := shelves(t, false, &policyv1.Consent{Elicitation: true})
	second := region(t, first, "second")[1]
	a := &agent{w: first, token: first.token(ada, "/mcp", "agent"), path: "/mcp"}
	got := a.post("", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"a","version":"1"}}}`)
	a.session, a.revision = got.header.Get("Mcp-Session-Id"), mcp.LatestSession
	a = a.at(second)
	s := a.open(http.MethodPost, a.header("", ""), a.message("7", "tools/call", `{"name":"lib__elicit","arguments":{}}`))
	asked, _ := s.next()
	var q struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(asked), &q); err != nil || q.ID == "" {
		t.Fatalf("asked %s, %v", asked, err)
	}
	first.gateway.Leave()
	// Another call of the session is done where it came, from now on.
	if got := a.call("demo__echo", `{"text":"x"}`); got.status != http.StatusOK {
		t.Fatalf("got %+v", got)
	}
	if got := a.post("", `{"jsonrpc":"2.0","id":"`+q.ID+`","result":{"action":"accept","content":{"colour":"green"}}}`); got.status != http.StatusAccepted {
		t.Errorf("the answer was not taken: %+v", got)
	}
	s.wants("accept green")
}

func TestABatchIsDoneAtItsSessionsHome(t *testing.T) {
	first := newWorld(t, &options{demo: newServer(t, false)})
	second := region(t, first, "second")[1]
	a := first.opened(ada, "/mcp", "2025-03-26")
	a.call("demo__echo", `{"text":"x"}`)
	got := a.at(second).post("", `[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"demo__echo","arguments":{"text":"y"}}}]`)
	if !strings.Contains(got.body, "said y") {
		t.Fatalf("got %+v", got)
	}
	if n := first.demo.sessions(); n != 1 {
		t.Errorf("the upstream was initialized %d times", n)
	}
}

func TestAStreamThatWentWithItsProxyEndsWithAnError(t *testing.T) {
	first := newWorld(t, &options{})
	second := region(t, first, "second")[1]
	a := first.opened(ada, "/mcp", mcp.LatestSession)
	a.tool = "demo__wait"
	last := a.hangUp()
	second.gateway.Peers(nil) // as when it is gone for good
	h := a.header("", "")
	h.Set("Last-Event-ID", last)
	s := a.at(second).open(http.MethodGet, h, "")
	said, _ := s.next()
	var e struct {
		ID    int `json:"id"`
		Error struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if err := json.Unmarshal([]byte(said), &e); err != nil || e.ID != 7 || e.Error.Code != mcp.CodeInternal || !strings.Contains(e.Error.Message, "is not known") {
		t.Errorf("the stream said %q", said)
	}
	// It is a stream of notifications from then on.
	second.set(grantEntry(1, "demo", allow("echo")))
	s.wants("list_changed")
	// What is no event's id, or holds none that can be read, says nothing.
	for _, forged := range []string{"x", "proxy.x.y.1", "proxy." + strings.Repeat("a", 36) + ".eyJ9.0", "....", "proxy.x..0"} {
		h.Set("Last-Event-ID", forged)
		quiet := a.at(second).open(http.MethodGet, h, "")
		second.set(grantEntry(1, "demo", allow("echo", "wait")))
		quiet.wants("list_changed")
		second.set(grantEntry(1, "demo", allow("echo")))
	}
}
