package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
)

// factory is a server whose tool "build" answers by a task, in one era. No SDK has such a server.
type factory struct {
	*httptest.Server
	stateless bool

	mu      sync.Mutex
	status  string            // of each task
	built   string            // what it comes to, as JSON
	beside  string            // members of what it says when a task is ended
	instead string            // what it says when it is asked for a task, as JSON
	said    map[string]string // the last request by method
}

func newFactory(t *testing.T, stateless bool) *factory {
	f := &factory{stateless: stateless, status: "working", built: `{"content":[{"type":"text","text":"built"}],` + builtBy + `}`, said: map[string]string{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(func() { f.CloseClientConnections(); f.Close() })
	return f
}

func (f *factory) become(status string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = status
}

func (f *factory) last(method string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.said[method]
}

const builtBy = `"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"raw-1"}}`

func (f *factory) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // an empty one is no message
	var m struct {
		ID     json.RawMessage `json:"id"`
		Method string          `json:"method"`
		Params struct {
			TaskID string           `json:"taskId"`
			Task   *json.RawMessage `json:"task"`
		} `json:"params"`
	}
	_ = json.Unmarshal(body, &m) // see above
	f.mu.Lock()
	f.said[m.Method] = r.Header.Get("Mcp-Name") + " " + string(body)
	status, built, beside, instead := f.status, f.built, f.beside, f.instead
	f.mu.Unlock()
	answer := func(result string) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, result)
	}
	refuse := func(code int) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":%d,"message":"no"}}`, m.ID, code)
	}
	ttl := `"ttl":60000,"pollInterval":10`
	if f.stateless {
		ttl = `"ttlMs":60000,"pollIntervalMs":10,"resultType":"complete"`
	}
	task := `{"taskId":"raw-1","status":"` + status + `","createdAt":"2026-01-01T00:00:00Z","lastUpdatedAt":"2026-01-01T00:00:00Z",` + ttl
	switch {
	case m.ID == nil:
		w.WriteHeader(http.StatusAccepted)
	case m.Method == "server/discover" && f.stateless:
		answer(`{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{},"ttlMs":0,"cacheScope":"private"}`)
	case m.Method == "initialize" && !f.stateless:
		w.Header().Set("Mcp-Session-Id", "s")
		answer(`{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"f","version":"1"}}`)
	case m.Method == "tools/call" && f.stateless:
		answer(strings.Replace(task, `"complete"`, `"task"`, 1) + `}`)
	case m.Method == "tools/call" && m.Params.Task != nil:
		answer(`{"task":` + task + `}}`)
	case m.Params.TaskID != "raw-1":
		refuse(mcp.CodeInvalidParams)
	case m.Method == "tasks/get" && instead != "":
		answer(instead)
	case m.Method == "tasks/get" && f.stateless && status == "input_required":
		answer(task + `,"inputRequests":{"name":{"method":"elicitation/create","params":{"message":"Which name?","requestedSchema":{"type":"object","properties":{}}}}}}`)
	case m.Method == "tasks/get" && f.stateless && status == "completed":
		answer(task + `,"result":` + built + `}`)
	case m.Method == "tasks/get", m.Method == "tasks/cancel" && !f.stateless:
		answer(task + beside + `}`)
	case m.Method == "tasks/update" && f.stateless, m.Method == "tasks/cancel":
		answer(`{"resultType":"complete"` + beside + `}`)
	case m.Method == "tasks/result" && !f.stateless && status == "input_required":
		// It asks on the stream, and ends it with the result without waiting.
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":\"q\",\"method\":\"elicitation/create\",\"params\":{\"message\":\"Which name?\",%s}}\n\n", builtBy)
		fmt.Fprintf(w, "data: {\"jsonrpc\":\"2.0\",\"id\":%s,\"result\":%s}\n\n", m.ID, built)
	case m.Method == "tasks/result" && !f.stateless:
		answer(built)
	default:
		refuse(mcp.CodeMethodNotFound)
	}
}

// works is a world whose connector works is a factory.
func works(t *testing.T, f *factory) *world { return worksWith(t, f, &options{}) }

func worksWith(t *testing.T, f *factory, o *options) *world {
	w := newWorld(t, o)
	connector := connectorEntry("works", f.URL, "")
	connector.GetConnector().Consent = &policyv1.Consent{Elicitation: true}
	w.set(connector, &fleetv1.Entry{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "works", Tools: []*policyv1.Tool{{
		Name: "build", Definition: []byte(`{"name":"build","inputSchema":{"type":"object"},"execution":{"taskSupport":"required"}}`),
	}}}}}, grantEntry(1, "works", allow("build")))
	return w
}

const tasksToo = `clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}},"elicitation":{}}`

// about sends a request of an agent that knows tasks.
func (a *agent) about(method, name, params string) answer {
	body := strings.Replace(a.message("7", method, params), `clientCapabilities":{}`, tasksToo, 1)
	return lastOf(a.w.request(http.MethodPost, a.path, a.header(method, name), body))
}

func (a *agent) task(method, id string) answer {
	return a.about(method, id, fmt.Sprintf(`{"taskId":%q}`, id))
}

// begun is the handle of a task that the agent's call became.
func (a *agent) begun(tool string) string {
	a.w.t.Helper()
	params := fmt.Sprintf(`{"name":%q,"arguments":{}}`, tool)
	path := []string{"result", "taskId"}
	if !a.revision.Stateless() {
		params = fmt.Sprintf(`{"name":%q,"arguments":{},"task":{"ttl":60000}}`, tool)
		path = []string{"result", "task", "taskId"}
	}
	got := a.about("tools/call", tool, params)
	id, _ := got.field(path...).(string)
	if id == "" || strings.Contains(got.body, "raw-1") {
		a.w.t.Fatalf("no sealed task: %+v", got)
	}
	return id
}

func TestATaskIsFollowedInEachPairOfErasThatHasThem(t *testing.T) {
	for _, c := range []struct {
		agent    mcp.Revision
		upstream bool
	}{{mcp.LatestStateless, true}, {mcp.LatestStateless, false}, {mcp.LatestSession, false}} {
		t.Run(fmt.Sprintf("agent %s, upstream stateless %v", c.agent, c.upstream), func(t *testing.T) {
			f := newFactory(t, c.upstream)
			w := works(t, f)
			for path, tool := range map[string]string{"/mcp/works": "build", "/mcp": "works__build"} {
				f.become("working")
				a := w.stateless(ada, path)
				if !c.agent.Stateless() {
					a = w.opened(ada, path, c.agent)
				}
				id := a.begun(tool)
				got := a.task("tasks/get", id)
				if got.field("result", "status") != "working" || got.field("result", "taskId") != id {
					t.Fatalf("%s: get: %+v", path, got)
				}
				f.become("completed")
				got = a.task("tasks/get", id)
				if !c.agent.Stateless() {
					if got.field("result", "status") != "completed" {
						t.Fatalf("%s: get: %+v", path, got)
					}
					got = a.task("tasks/result", id)
				}
				if !strings.Contains(got.body, `"built"`) || strings.Contains(got.body, "raw-1") || !strings.Contains(got.body, id) {
					t.Errorf("%s: the result: %+v", path, got)
				}
				if c.agent.Stateless() && (got.field("result", "resultType") != "complete" || got.field("result", "ttlMs") != 60000.0) {
					t.Errorf("%s: the task is not of its era: %s", path, got.body)
				}
				if got := a.task("tasks/cancel", id); got.field("result") == nil || strings.Contains(got.body, "raw-1") {
					t.Errorf("%s: cancel: %+v", path, got)
				}
				if last := f.last("tasks/cancel"); !strings.Contains(last, `"raw-1"`) || strings.Contains(last, id) || c.upstream && !strings.HasPrefix(last, "raw-1 ") {
					t.Errorf("%s: the upstream was sent %s", path, last)
				}
			}
		})
	}
}

func TestATaskAsksForInputAsACallDoes(t *testing.T) {
	f := newFactory(t, true)
	a := works(t, f).stateless(ada, "/mcp/works")
	id := a.begun("build")
	f.become("input_required")
	if got := a.task("tasks/get", id); got.field("result", "inputRequests", "name", "params", "message") != "[works] Which name?" {
		t.Errorf("get: %+v", got)
	}
	if got := a.about("tasks/update", id, fmt.Sprintf(`{"taskId":%q,"inputResponses":{"name":{"action":"accept"}}}`, id)); got.field("result", "resultType") != "complete" {
		t.Errorf("update: %+v", got)
	}
	if last := f.last("tasks/update"); !strings.Contains(last, `"inputResponses":{"name":{"action":"accept"}}`) || !strings.Contains(last, `"raw-1"`) {
		t.Errorf("the upstream was sent %s", last)
	}

	// In the session era it asks on the stream of its result, and says of which task.
	f = newFactory(t, false)
	w := works(t, f)
	s := &agent{w: w, token: w.token(ada, "/mcp/works", "agent"), path: "/mcp/works"}
	opened := s.post("", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"elicitation":{}},"clientInfo":{"name":"a","version":"1"}}}`)
	s.session, s.revision = opened.header.Get("Mcp-Session-Id"), mcp.LatestSession
	if opened.field("result", "capabilities", "tasks", "requests", "tools", "call") == nil {
		t.Errorf("tasks are not offered: %s", opened.body)
	}
	id = s.begun("build")
	f.become("input_required")
	stream := s.open(http.MethodPost, s.header("", ""), s.message("7", "tasks/result", fmt.Sprintf(`{"taskId":%q}`, id)))
	asked, _ := stream.next()
	if !strings.Contains(asked, "[works] Which name?") || !strings.Contains(asked, id) || strings.Contains(asked, "raw-1") {
		t.Errorf("asked %s", asked)
	}
	if last := stream.ends(); !strings.Contains(last, "built") || !strings.Contains(last, id) || strings.Contains(last, "raw-1") {
		t.Errorf("the result is %s", last)
	}
}

// TestATaskAsksForNothingElse, also where it does not say that it asks, or which one it is.
func TestATaskAsksForNothingElse(t *testing.T) {
	f := newFactory(t, true)
	a := works(t, f).stateless(ada, "/mcp/works")
	id := a.begun("build")
	for _, said := range []string{`"status":"input_required"`, `"status":"working","taskId":"raw-1"`, `"status":"input_required","t\u0061skId":"raw-1"`} {
		for asks, comes := range map[string]bool{
			`"elicitation/create","params":{"message":"Which name?","requestedSchema":{"type":"object","properties":{}}}`:                    true,
			`"elicitation/create","params":{"message":"It","requestedSchema":{"type":"object","properties":{"password":{"type":"string"}}}}`: false,
			`"sampling/createMessage","params":{"messages":[],"maxTokens":1}`:                                                                false,
		} {
			f.mu.Lock()
			f.instead = `{"resultType":"complete",` + said + `,"inputRequests":{"q":{"method":` + asks + `}}}`
			f.mu.Unlock()
			got := a.task("tasks/get", id)
			if came := got.field("result", "inputRequests") != nil; came != comes || comes && !strings.Contains(got.body, "[works] Which name?") || strings.Contains(got.body, "raw-1") {
				t.Errorf("%s: %s", f.instead, got.body)
			}
		}
	}
}

func TestATaskIsItsPersonsConnectorsAndRules(t *testing.T) {
	f := newFactory(t, true)
	w := works(t, f)
	w.set(userEntry(bob, true, 1), connectorEntry("second", f.URL, ""), catalogueEntry("second", "x"), grantEntry(1, "second", allow("*")))
	a := w.stateless(ada, "/mcp/works")
	id := a.begun("build")
	other := a.begun("build")
	w.settled(4)
	none := func(who string, got answer) {
		t.Helper()
		if got.field("error", "code") != float64(mcp.CodeInvalidParams) {
			t.Errorf("%s: %+v", who, got)
		}
	}
	if f.last("tasks/get") != "" {
		t.Fatal("the upstream was asked too early")
	}
	none("another person", w.stateless(bob, "/mcp/works").task("tasks/get", id))
	another := w.stateless(ada, "/mcp/works")
	another.token = w.token(ada, "/mcp/works", "another")
	none("another client", another.task("tasks/get", id))
	none("another connector", w.stateless(ada, "/mcp/second").task("tasks/get", id))
	none("the upstream's own id", a.task("tasks/get", "raw-1"))
	none("a forged handle", a.task("tasks/get", id[:len(id)-2]+"xx"))
	if got := a.ask("tasks/get", fmt.Sprintf(`{"taskId":%q}`, id)); got.field("error", "code") == nil {
		t.Errorf("without the header: %+v", got)
	}
	w.settled(6)

	// Who does not declare the extension is told what to declare.
	plain := a.w.request(http.MethodPost, a.path, a.header("tasks/get", id), a.message("7", "tasks/get", fmt.Sprintf(`{"taskId":%q}`, id)))
	if plain.field("error", "code") != float64(mcp.CodeMissingCapability) || plain.field("error", "data", "requiredCapabilities", "extensions") == nil {
		t.Errorf("undeclared: %+v", plain)
	}
	w.settled(1)

	// Other rules come and go; the one that allowed stands, wherever it does.
	w.set(grantEntry(1, "works", allow("unrelated"), allow("build")))
	if got := a.task("tasks/get", id); got.field("result", "status") != "working" {
		t.Errorf("with another rule beside: %+v", got)
	}
	w.settled(2)
	for name, rules := range map[string][]*policyv1.Rule{
		"without its rule": {}, "with the rule worded otherwise": {allow("buil?")}, "with a deny": {allow("build"), deny("build")},
		"with a deny that is not certain": {allow("build"), {Deny: []string{"build"}, When: `has(args.x)`}},
	} {
		w.set(grantEntry(1, "works", rules...))
		none(name, a.task("tasks/get", other))
		if records := w.settled(1); records[0].GetPhase() != auditv1.Phase_PHASE_REFUSED || records[0].GetMethod() != "tasks/get" || records[0].GetTool() != "build" {
			t.Errorf("%s: recorded %v", name, records)
		}
	}
	w.set(grantEntry(1, "works", allow("build")))
	if got := a.task("tasks/get", other); got.field("result", "status") != "working" {
		t.Errorf("with its rule again: %+v", got)
	}
}

func TestAToolThatAnswersByATaskOnlyIsSaidToAnAgentThatKnowsNone(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		w := works(t, newFactory(t, false))
		a := w.stateless(ada, "/mcp/works")
		if !stateless {
			w = works(t, newFactory(t, true))
			a = w.opened(ada, "/mcp/works", mcp.LatestSession)
		}
		got := a.call("build", `{}`)
		if stateless && got.field("error", "code") != float64(mcp.CodeMissingCapability) {
			t.Errorf("got %+v", got)
		}
		if !stateless && (got.field("result", "isError") != true || !strings.Contains(got.body, "2026-07-28")) {
			t.Errorf("got %+v", got)
		}
		if strings.Contains(got.body, "raw-1") {
			t.Errorf("an upstream's id came through: %s", got.body)
		}
	}
}
