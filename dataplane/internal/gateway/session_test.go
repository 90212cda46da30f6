package gateway_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/mcp"
)

func (a *agent) with(change func(*agent)) *agent {
	b := *a
	change(&b)
	return &b
}

func TestAMessageOfTheSessionEraNeedsASessionOfItsOwnCaller(t *testing.T) {
	w := newWorld(t, &options{})
	a := w.opened(ada, "/mcp/demo", "2025-11-25")
	if got := a.ask("ping", `{}`); got.status != http.StatusOK || got.body != `{"jsonrpc":"2.0","id":7,"result":{}}` {
		t.Errorf("ping: %+v", got)
	}
	bobs := w.opened(bob, "/mcp/demo", "2025-11-25")
	for _, tc := range []struct {
		name   string
		as     *agent
		status int
	}{
		{"no session", a.with(func(a *agent) { a.session = "" }), http.StatusBadRequest},
		{"nonsense", a.with(func(a *agent) { a.session = "nonsense" }), http.StatusNotFound},
		{"a changed id", a.with(func(a *agent) { a.session = "A" + a.session[1:] + "A" }), http.StatusNotFound},
		{"another person's", a.with(func(a *agent) { a.session = bobs.session }), http.StatusNotFound},
		{"another connector's", w.opened(ada, "/mcp/other", "2025-11-25").with(func(b *agent) { b.session = a.session }), http.StatusNotFound},
		{"the endpoint's of all", w.opened(ada, "/mcp", "2025-11-25").with(func(b *agent) { b.session = a.session }), http.StatusNotFound},
		{"another client's", a.with(func(a *agent) { a.token = w.token(ada, "/mcp/demo", "other agent") }), http.StatusNotFound},
	} {
		for _, method := range []string{"ping", "tools/list"} {
			if got := tc.as.ask(method, `{}`); got.status != tc.status || got.field("error", "code") == nil {
				t.Errorf("%s, %s: got %+v", tc.name, method, got)
			}
		}
		if got := tc.as.call("echo", `{}`); got.status != tc.status {
			t.Errorf("%s, tools/call: got %+v", tc.name, got)
		}
		h := tc.as.header("", "")
		h.Set("Accept", "text/event-stream")
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			if got := w.request(method, tc.as.path, h, ""); got.status != tc.status {
				t.Errorf("%s, %s: got %+v", tc.name, method, got)
			}
		}
	}
	if got := a.ask("ping", `{}`); got.status != http.StatusOK {
		t.Errorf("another's requests harmed the session: %+v", got)
	}
	if got := w.demo.got(""); len(got) != 0 {
		t.Errorf("the upstream was sent %+v", got)
	}
}

func TestASessionExpires(t *testing.T) {
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.SessionFor = time.Nanosecond }})
	if got := w.opened(ada, "/mcp", "2025-11-25").ask("ping", `{}`); got.status != http.StatusNotFound {
		t.Errorf("got %+v", got)
	}
}

func TestASessionDiesWithThePersonsGeneration(t *testing.T) {
	w := newWorld(t, &options{})
	a := w.opened(ada, "/mcp/demo", "2025-11-25")
	again := userEntry(ada, true, 1)
	again.GetUser().Generation = 2
	w.set(again)
	if got := a.ask("ping", `{}`); got.status != http.StatusNotFound {
		t.Errorf("got %+v", got)
	}
}

func TestDeleteEndsTheSessionWithWhatIsOpenInIt(t *testing.T) {
	w := newWorld(t, &options{})
	a, other := w.opened(ada, "/mcp/demo", "2025-11-25"), w.opened(ada, "/mcp/demo", "2025-11-25")
	get, call := a.listen(), a.wait()
	if got := w.request(http.MethodDelete, a.path, a.header("", ""), ""); got.status != http.StatusNoContent {
		t.Fatalf("got %+v", got)
	}
	get.ends()
	call.ends()
	receive(t, w.demo.cancelled, "the upstream was not told")
	if got := a.ask("ping", `{}`); got.status != http.StatusNotFound {
		t.Errorf("got %+v", got)
	}
	if got := other.ask("ping", `{}`); got.status != http.StatusOK {
		t.Errorf("another session ended too: %+v", got)
	}
}

func TestInitializeAgreesOnARevision(t *testing.T) {
	w := newWorld(t, &options{})
	a := &agent{w: w, token: w.token(ada, "/mcp", "agent"), path: "/mcp"}
	for asked, want := range map[string]string{
		"2025-03-26": "2025-03-26", "2025-06-18": "2025-06-18", "2025-11-25": "2025-11-25", "2026-07-28": "2025-11-25", "1999-01-01": "2025-11-25",
	} {
		got := a.post("", `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"`+asked+`","capabilities":{}}}`)
		if got.field("result", "protocolVersion") != want || got.field("result", "capabilities", "tools", "listChanged") != true {
			t.Errorf("%q: got %+v", asked, got)
		}
	}
}

func TestABatchIsDecidedAndRecordedMessageByMessage(t *testing.T) {
	w := newWorld(t, &options{})
	a := w.opened(ada, "/mcp/demo", "2025-03-26")
	call := func(id, tool, arguments string) string {
		return `{"jsonrpc":"2.0","id":` + id + `,"method":"tools/call","params":{"name":"` + tool + `","arguments":` + arguments + `}}`
	}
	got := a.post("", "["+strings.Join([]string{
		call("1", "echo", `{"text":"one"}`), call(`"two"`, "forbidden", `{}`), call("3", "nonsense", `{}`), `{"jsonrpc":"2.0","method":"notifications/initialized"}`,
		`{"jsonrpc":"2.0","id":4,"method":"ping"}`, `{"jsonrpc":"2.0","id":5,"method":"tasks/list"}`, call("6", "echo", `{"text":"six"}`),
	}, ",")+"]")
	var answers []struct {
		ID     any `json:"id"`
		Result *struct {
			IsError bool `json:"isError"`
			Content []struct {
				Text string `json:"text"`
			} `json:"content"`
		} `json:"result"`
		Error *struct {
			Code int `json:"code"`
		} `json:"error"`
	}
	if err := json.Unmarshal([]byte(got.body), &answers); err != nil || got.status != http.StatusOK || len(answers) != 6 {
		t.Fatalf("got %+v", got)
	}
	if a := answers[0]; a.ID != 1.0 || a.Result == nil || a.Result.IsError || a.Result.Content[0].Text != "said one" {
		t.Errorf("1: %+v", a)
	}
	if a := answers[1]; a.ID != "two" || a.Result == nil || !a.Result.IsError {
		t.Errorf("2: %+v", a)
	}
	if a := answers[2]; a.ID != 3.0 || a.Error == nil || a.Error.Code != mcp.CodeInvalidParams {
		t.Errorf("3: %+v", a)
	}
	if a := answers[3]; a.ID != 4.0 || a.Result == nil {
		t.Errorf("4: %+v", a)
	}
	if a := answers[4]; a.ID != 5.0 || a.Error == nil || a.Error.Code != mcp.CodeMethodNotFound {
		t.Errorf("5: %+v", a)
	}
	if a := answers[5]; a.ID != 6.0 || a.Result == nil || a.Result.Content[0].Text != "said six" {
		t.Errorf("6: %+v", a)
	}
	var told []auditv1.Reason
	for _, r := range w.settled(7) {
		told = append(told, r.GetDecision().GetReason())
	}
	want := []auditv1.Reason{
		auditv1.Reason_REASON_RULE_ALLOWED, auditv1.Reason_REASON_RULE_ALLOWED, auditv1.Reason_REASON_RULE_DENIED, auditv1.Reason_REASON_TOOL_UNKNOWN,
		auditv1.Reason_REASON_METHOD_REFUSED, auditv1.Reason_REASON_RULE_ALLOWED, auditv1.Reason_REASON_RULE_ALLOWED,
	}
	for i := range want {
		if told[i] != want[i] {
			t.Fatalf("recorded %v instead of %v", told, want)
		}
	}
	if calls := w.demo.got("tools/call"); len(calls) != 2 {
		t.Errorf("the upstream was sent %+v", calls)
	}
	if got := a.post("", `[{"jsonrpc":"2.0","method":"notifications/initialized"}]`); got.status != http.StatusAccepted || got.body != "" {
		t.Errorf("notifications alone: %+v", got)
	}
}

func TestBatchesThatAreNoneAreRefusedWhole(t *testing.T) {
	w := newWorld(t, &options{})
	ping := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}`
	for _, revision := range []mcp.Revision{"2025-11-25", "2025-06-18"} {
		a := w.opened(ada, "/mcp/demo", revision)
		if got := a.post("", "["+ping+"]"); got.status != http.StatusBadRequest {
			t.Errorf("%s: got %+v", revision, got)
		}
		if got := a.with(func(a *agent) { a.revision = "" }).post("", "["+ping+"]"); got.status != http.StatusBadRequest {
			t.Errorf("%s, without the header: got %+v", revision, got)
		}
	}
	if got := w.stateless(ada, "/mcp/demo").post("tools/call", "["+ping+"]"); got.status != http.StatusBadRequest {
		t.Errorf("stateless: got %+v", got)
	}
	a := w.opened(ada, "/mcp/demo", "2025-03-26")
	for name, body := range map[string]string{
		"empty": "[]", "an id twice": "[" + ping + "," + ping + "]", "not of messages": "[1]", "within a batch": "[[" + ping + "]]",
		"initialize in it": `[` + ping + `,{"jsonrpc":"2.0","id":2,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{}}}]`,
		"too many":         "[" + strings.Repeat(`{"jsonrpc":"2.0","method":"notifications/initialized"},`, 200) + ping + "]",
	} {
		if got := a.post("", body); got.status != http.StatusBadRequest {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if got := w.demo.got(""); len(got) != 0 {
		t.Errorf("the upstream was sent %+v", got)
	}
}
