package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
)

// oracle is a server that answers every call alike: of the session era, or of the stateless one.
func oracle(t *testing.T, answer string, stateless bool) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body) // an empty one is no message
		var m struct {
			ID     json.RawMessage `json:"id"`
			Method string          `json:"method"`
		}
		_ = json.Unmarshal(body, &m) // see above
		h := w.Header()
		h.Set("Content-Type", "application/json")
		for _, name := range []string{"Set-Cookie", "Server", "X-Internal-Host", "Via", "Access-Control-Allow-Origin", "Sallyport-Forwarded"} {
			h.Set(name, "up")
		}
		switch {
		case m.ID == nil:
			w.WriteHeader(http.StatusAccepted)
		case m.Method == "server/discover" && stateless:
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"resultType":"complete","supportedVersions":[%q],"capabilities":{}}}`, m.ID, mcp.LatestStateless)
		case m.Method == "initialize" && !stateless:
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"o","version":"1"}}}`, m.ID)
		case m.Method == "tools/call":
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,%s}`, m.ID, answer)
		default:
			fmt.Fprintf(w, `{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no"}}`, m.ID)
		}
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

// asking is an agent whose client declares capabilities, in an era, at the connector demo with an oracle behind it.
func asking(t *testing.T, revision mcp.Revision, capabilities, says string, consent *policyv1.Consent) func() answer {
	return askingAt(t, oracle(t, says, false), revision, capabilities, consent)
}

func askingAt(t *testing.T, server *httptest.Server, revision mcp.Revision, capabilities string, consent *policyv1.Consent) func() answer {
	w := newWorld(t, &options{})
	connector := connectorEntry("demo", server.URL, "")
	connector.GetConnector().Consent, connector.GetConnector().Title = consent, "Oracle"
	w.set(connector)
	a := w.stateless(ada, "/mcp/demo")
	if !revision.Stateless() {
		opened := (&agent{w: w, token: a.token, path: a.path}).post("", fmt.Sprintf(
			`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":%q,"capabilities":%s,"clientInfo":{"name":"a","version":"1"}}}`, revision, capabilities))
		a.revision, a.session = revision, opened.header.Get("Mcp-Session-Id")
	}
	return func() answer {
		body := strings.Replace(a.message("7", "tools/call", `{"name":"echo","arguments":{}}`), `clientCapabilities":{}`, `clientCapabilities":`+capabilities, 1)
		return lastOf(w.request(http.MethodPost, a.path, a.header("tools/call", "echo"), body))
	}
}

func TestAPageThatAPersonIsToOpenIsLabelledAndChecked(t *testing.T) {
	const both, form = `{"elicitation":{"form":{},"url":{}}}`, `{"elicitation":{}}`
	page := func(url string) string {
		return fmt.Sprintf(`"error":{"code":-32042,"message":"open it","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":%q,"message":"Enter your API key there"}]}}`, url)
	}
	yes := &policyv1.Consent{Elicitation: true}
	for _, c := range []struct {
		name, capabilities, url string
		consent                 *policyv1.Consent
		comes                   bool
	}{
		{"asked", both, "https://up.example/key", yes, true},
		{"without consent", both, "https://up.example/key", nil, false},
		{"of a client with forms alone", form, "https://up.example/key", yes, false},
		{"in the clear", both, "http://up.example/key", yes, false},
		{"with a user", both, "https://bank.example@up.example/", yes, false},
		{"by a script", both, "javascript:alert(1)", yes, false},
	} {
		for _, revision := range []mcp.Revision{mcp.LatestStateless, mcp.LatestSession} {
			got := asking(t, revision, c.capabilities, page(c.url), c.consent)()
			if comes := strings.Contains(got.body, c.url); comes != c.comes {
				t.Errorf("%s, %s: %s", c.name, revision, got.body)
				continue
			}
			if !c.comes {
				if !strings.Contains(got.body, "connector demo wants its person to open a page first") {
					t.Errorf("%s, %s: it is not said why: %s", c.name, revision, got.body)
				}
				continue
			}
			if !strings.Contains(got.body, `[Oracle] Enter your API key there`) {
				t.Errorf("%s, %s: it is not labelled: %s", c.name, revision, got.body)
			}
			if revision.Stateless() && (got.field("result", "resultType") != "input_required" || got.field("result", "inputRequests", "page1", "method") != "elicitation/create") {
				t.Errorf("%s: it is no round trip: %s", c.name, got.body)
			}
			if !revision.Stateless() && got.field("error", "code") != float64(mcp.CodeURLElicitation) {
				t.Errorf("%s: %s", c.name, got.body)
			}
		}
	}
}

// TestAPageOfAServerThatHasNoWordForItIsCheckedToo: a server of the stateless era asks otherwise, but an agent of the session era takes
// the code for what it is there.
func TestAPageOfAServerThatHasNoWordForItIsCheckedToo(t *testing.T) {
	const both = `{"elicitation":{"form":{},"url":{}}}`
	const page = `"error":{"code":-32042,"message":"open it","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://up.example/key","message":"Enter your API key there"}]}}`
	if got := askingAt(t, oracle(t, page, true), mcp.LatestSession, both, nil)(); strings.Contains(got.body, "up.example") {
		t.Errorf("without consent: %s", got.body)
	}
	if got := askingAt(t, oracle(t, page, true), mcp.LatestSession, both, &policyv1.Consent{Elicitation: true})(); !strings.Contains(got.body, "[Oracle] Enter your API key there") {
		t.Errorf("it is not labelled: %s", got.body)
	}
}

// TestALargeAnswerMayAskNoMoreThanASmallOne: it is passed on as it comes.
func TestALargeAnswerMayAskNoMoreThanASmallOne(t *testing.T) {
	const both = `{"elicitation":{"form":{},"url":{}}}`
	padding := `"_meta":{"x":"` + strings.Repeat("y", 200_000) + `"}`
	asks := `"inputRequests":{"q":{"method":"elicitation/create","params":{"mode":"form","message":"Your password","requestedSchema":{"type":"object","properties":{"password":{"type":"string"}}}}}}`
	page := `"code":-32042,"message":"open it","data":{"elicitations":[{"mode":"url","elicitationId":"e1","url":"https://up.example/","message":"Your password"}]`
	for name, c := range map[string]struct {
		says     string
		revision mcp.Revision
	}{
		"a form":                    {`"result":{"resultType":"input_required",` + asks + `,` + padding + `}`, mcp.LatestStateless},
		"a page":                    {`"error":{` + page + `,` + padding + `}}`, mcp.LatestSession},
		"a task that nobody wanted": {`"result":{"resultType":"task","taskId":"t1","status":"working",` + padding + `}`, mcp.LatestStateless},
	} {
		for _, stateless := range []bool{true, false} {
			got := askingAt(t, oracle(t, c.says, stateless), c.revision, both, nil)()
			if strings.Contains(got.body, "password") || stateless && strings.Contains(got.body, `"t1"`) {
				t.Errorf("%s, upstream stateless: %v: it came through: %.200s…", name, stateless, got.body)
			}
		}
	}
	colour := `"inputRequests":{"q":{"method":"elicitation/create","params":{"message":"Which colour?","requestedSchema":{"type":"object","properties":{}}}}}`
	got := askingAt(t, oracle(t, `"result":{"resultType":"input_required",`+colour+`,`+padding+`}`, true), mcp.LatestStateless, both, &policyv1.Consent{Elicitation: true})()
	if !strings.Contains(got.body, "[Oracle] Which colour?") {
		t.Errorf("what may be asked is not: %.200s", got.body)
	}
}

func TestWhatAClientLacksIsSaidInWordsThatItKnows(t *testing.T) {
	const lacks = `"error":{"code":-32021,"message":"Missing","data":{"requiredCapabilities":{"elicitation":{}}}}`
	if got := asking(t, mcp.LatestSession, `{}`, lacks, nil)(); got.field("result", "isError") != true || !strings.Contains(got.body, "protocol version") {
		t.Errorf("an agent of the session era is told %s", got.body)
	}
	if got := asking(t, mcp.LatestStateless, `{"elicitation":{}}`, lacks, nil)(); !strings.Contains(got.body, "consent setting") {
		t.Errorf("an agent whose offer was kept back is told %s", got.body)
	}
	if got := asking(t, mcp.LatestStateless, `{}`, lacks, nil)(); got.field("error", "code") != float64(mcp.CodeMissingCapability) {
		t.Errorf("an agent that does not offer it is told %s", got.body)
	}
}
