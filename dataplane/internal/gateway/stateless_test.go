package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
)

func TestDiscoverSaysWhatIsSpoken(t *testing.T) {
	got := newAgent(t).ask("server/discover", `{}`)
	versions, _ := got.field("result", "supportedVersions").([]any)
	if got.status != http.StatusOK || len(versions) != len(mcp.Revisions()) || versions[0] != "2026-07-28" || got.field("result", "cacheScope") != "private" || got.field("result", "resultType") != "complete" {
		t.Errorf("got %+v", got)
	}
}

func newAgent(t *testing.T) *agent { return newWorld(t, &options{}).stateless(ada, "/mcp/demo") }

// TestHeadersThatDifferFromTheBodyAreRefused, since what stands before the proxy may decide by them.
func TestHeadersThatDifferFromTheBodyAreRefused(t *testing.T) {
	a := newAgent(t)
	body := a.message("7", "tools/call", `{"name":"echo","arguments":{"text":"hi"}}`)
	for name, change := range map[string]func(http.Header){
		"no method":         func(h http.Header) { h.Del("Mcp-Method") },
		"another method":    func(h http.Header) { h.Set("Mcp-Method", "tools/list") },
		"two methods":       func(h http.Header) { h.Add("Mcp-Method", "tools/call") },
		"no name":           func(h http.Header) { h.Del("Mcp-Name") },
		"another name":      func(h http.Header) { h.Set("Mcp-Name", "wait") },
		"two names":         func(h http.Header) { h.Add("Mcp-Name", "echo") },
		"no version":        func(h http.Header) { h.Del("Mcp-Protocol-Version") },
		"another version":   func(h http.Header) { h.Set("Mcp-Protocol-Version", "2025-11-25") },
		"two versions":      func(h http.Header) { h.Add("Mcp-Protocol-Version", "2026-07-28") },
		"a version to come": func(h http.Header) { h.Set("Mcp-Protocol-Version", "2027-01-01") },
	} {
		h := a.header("tools/call", "echo")
		change(h)
		got := a.w.request(http.MethodPost, a.path, h, body)
		if got.status != http.StatusBadRequest || got.field("error", "code") != float64(mcp.CodeHeaderMismatch) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if got := a.w.demo.got(""); len(got) != 0 {
		t.Errorf("the upstream was sent %+v", got)
	}
	for _, r := range a.w.settled(10) {
		if r.GetPhase() != auditv1.Phase_PHASE_REFUSED || r.GetPersonId() != ada.String() {
			t.Errorf("recorded %v", r)
		}
	}
}

// TestHeadersThatDifferFromTheArgumentsAreRefused, where the pinned schema binds the ones to the others.
func TestHeadersThatDifferFromTheArgumentsAreRefused(t *testing.T) {
	w := newWorld(t, &options{})
	w.set(&fleetv1.Entry{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "demo", Tools: []*policyv1.Tool{{
		Name: "echo", Definition: []byte(`{"name":"echo","inputSchema":{"type":"object","properties":{"text":{"type":"string","x-mcp-header":"Text"}}}}`),
	}}}}})
	for path, tool := range map[string]string{"/mcp/demo": "echo", "/mcp": "demo__echo"} {
		a := w.stateless(ada, path)
		for name, c := range map[string]struct {
			values []string
			made   bool
		}{"equal": {[]string{"hi"}, true}, "other": {[]string{"ho"}, false}, "none": {nil, false}, "two": {[]string{"hi", "hi"}, false}, "of another case": {[]string{"Hi"}, false}} {
			h := a.header("tools/call", tool)
			h["Mcp-Param-Text"] = c.values
			got := lastOf(w.request(http.MethodPost, path, h, a.message("7", "tools/call", fmt.Sprintf(`{"name":%q,"arguments":{"text":"hi"}}`, tool))))
			refused := got.status == http.StatusBadRequest && got.field("error", "code") == float64(mcp.CodeHeaderMismatch)
			if made := strings.Contains(got.body, "said hi"); made != c.made || refused == c.made {
				t.Errorf("%s, %s: %+v", path, name, got)
			}
		}
	}
}

func TestAnUnsupportedRevisionIsAnsweredWithThoseThatAreSpoken(t *testing.T) {
	a := newAgent(t)
	for _, revision := range []mcp.Revision{"2027-01-01", "2024-11-05", "nonsense"} {
		got := a.with(func(a *agent) { a.revision = revision }).ask("tools/list", `{}`)
		supported, _ := got.field("error", "data", "supported").([]any)
		if got.status != http.StatusBadRequest || got.field("error", "code") != float64(mcp.CodeUnsupportedRevision) || !slices.Contains(supported, any("2026-07-28")) || len(supported) != 4 {
			t.Errorf("%s: got %+v", revision, got)
		}
	}
}

func TestUnknownMethodsAreRefusedAndRecorded(t *testing.T) {
	a := newAgent(t)
	for _, method := range []string{"resources/subscribe", "initialize", "ping", "nonsense", "logging/setLevel"} {
		h := a.header(method, "")
		params := `{}`
		if method == "resources/subscribe" {
			params = `{"uri":"a:b"}`
		}
		if method == "initialize" {
			params = `{"protocolVersion":"2025-11-25","capabilities":{}}`
		}
		got := a.w.request(http.MethodPost, a.path, h, a.message("7", method, params))
		if got.status != http.StatusNotFound || got.field("error", "code") != float64(mcp.CodeMethodNotFound) || got.field("id") != 7.0 {
			t.Errorf("%s: got %+v", method, got)
		}
		if r := a.w.settled(1)[0]; r.GetDecision().GetReason() != auditv1.Reason_REASON_METHOD_REFUSED || r.GetMethod() != method {
			t.Errorf("recorded %v", r)
		}
	}
	if got := a.w.demo.got(""); len(got) != 0 {
		t.Errorf("the upstream was sent %+v", got)
	}
}

func TestTheStatelessEraHasPostOnly(t *testing.T) {
	a := newAgent(t)
	h := a.header("", "")
	for _, method := range []string{http.MethodGet, http.MethodDelete} {
		if got := a.w.request(method, a.path, h, ""); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != "POST" {
			t.Errorf("%s: got %+v", method, got)
		}
	}
	for _, method := range []string{http.MethodPut, http.MethodPatch, http.MethodOptions, http.MethodHead} {
		if got := a.w.request(method, a.path, h, ""); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") == "" {
			t.Errorf("%s: got %+v", method, got)
		}
	}
}

func TestTheListIsThePersonsOwn(t *testing.T) {
	w := newWorld(t, &options{})
	for _, tc := range []struct {
		as   *agent
		want []string
	}{
		{w.stateless(ada, "/mcp/demo"), []string{"echo", "fail", "wait"}},
		{w.stateless(bob, "/mcp/demo"), []string{"echo", "wait"}},
		{w.stateless(bob, "/mcp/other"), nil},
		{w.stateless(ada, "/mcp"), []string{"demo__echo", "demo__fail", "demo__wait", "other__echo"}},
		{w.opened(bob, "/mcp", "2025-06-18"), []string{"demo__echo", "demo__wait"}},
	} {
		got := tc.as.ask("tools/list", `{}`)
		tools, _ := got.field("result", "tools").([]any)
		var names []string
		for _, tool := range tools {
			name, _ := tool.(map[string]any)["name"].(string)
			names = append(names, name)
		}
		if slices.Sort(names); !slices.Equal(names, tc.want) {
			t.Errorf("%s: got %v", tc.as.path, names)
		}
		if scope := got.field("result", "cacheScope"); tc.as.revision.Stateless() != (scope == "private") {
			t.Errorf("the list may be kept by %v", scope)
		}
		if tc.as.revision.Stateless() && got.field("result", "ttlMs") == nil {
			t.Errorf("got %+v", got)
		}
	}
	if got := w.stateless(ada, "/mcp/nowhere").ask("tools/list", `{}`); got.status != http.StatusNotFound {
		t.Errorf("a connector that is not there: %+v", got)
	}
	if got := w.stateless(ada, "/mcp").ask("tools/list", `{"cursor":"x"}`); got.field("error", "code") != float64(mcp.CodeInvalidParams) {
		t.Errorf("a cursor: %+v", got)
	}
	if got := w.demo.got(""); len(got) != 0 {
		t.Errorf("the upstream was sent %+v", got)
	}
}

type bearing struct{ token string }

func (b bearing) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.token)
	return http.DefaultTransport.RoundTrip(r)
}

// TestAStandardClientListsCallsAndIsTold: agents are not ours, so that one that is written by others must do.
func TestAStandardClientListsCallsAndIsTold(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		w := newWorld(t, &options{demo: newServer(t, stateless)})
		told := make(chan struct{}, 10)
		client := sdk.NewClient(&sdk.Implementation{Name: "standard", Version: "2"}, &sdk.ClientOptions{
			ToolListChangedHandler: func(context.Context, *sdk.ToolListChangedRequest) { told <- struct{}{} },
		})
		session, err := client.Connect(t.Context(), &sdk.StreamableClientTransport{
			Endpoint: w.url + "/mcp", HTTPClient: &http.Client{Transport: bearing{w.token(ada, "/mcp", "agent")}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = session.Close() }) // the test is over
		list, err := session.ListTools(t.Context(), nil)
		if err != nil || len(list.Tools) != 4 || list.Tools[0].Name != "demo__echo" {
			t.Fatalf("got %+v, %v", list, err)
		}
		result, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "demo__echo", Arguments: map[string]any{"text": "hi"}})
		if err != nil || result.IsError || result.Content[0].(*sdk.TextContent).Text != "said hi" {
			t.Fatalf("got %+v, %v", result, err)
		}
		if r := w.plane.WaitAudit(t, func(all []*auditv1.AuditRecord) bool {
			return slices.ContainsFunc(all, func(r *auditv1.AuditRecord) bool { return r.GetPhase() == auditv1.Phase_PHASE_COMPLETED })
		}); !slices.ContainsFunc(r, func(r *auditv1.AuditRecord) bool {
			return r.GetOutcome() == auditv1.Outcome_OUTCOME_OK && r.GetClient().GetId() == "agent"
		}) {
			t.Errorf("recorded %v", r)
		}
		result, err = session.CallTool(t.Context(), &sdk.CallToolParams{Name: "demo__forbidden", Arguments: map[string]any{}})
		if err != nil || !result.IsError || !strings.Contains(result.Content[0].(*sdk.TextContent).Text, "denies") {
			t.Errorf("got %+v, %v", result, err)
		}
		w.set(grantEntry(1, "demo", allow("echo")))
		receive(t, told, "the client was not told that its list changed")
		if list, err = session.ListTools(t.Context(), nil); err != nil || len(list.Tools) != 2 {
			t.Errorf("got %+v, %v", list, err)
		}
	}
}
