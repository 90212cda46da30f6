package gateway_test

import (
	"slices"
	"strings"
	"testing"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/mcp"
)

// names are those of the tools in a list or among what was found.
func names(a answer, path ...string) []string {
	all, _ := a.field(path...).([]any)
	var out []string
	for _, one := range all {
		tool, _ := one.(map[string]any)
		name, _ := tool["name"].(string)
		out = append(out, name)
	}
	return out
}

func TestToolsThatAreTooManyForAListAreFoundAndCalled(t *testing.T) {
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.FindTools = 3 }})
	for _, revision := range []mcp.Revision{mcp.LatestStateless, mcp.LatestSession} {
		a := w.stateless(ada, "/mcp")
		if !revision.Stateless() {
			a = w.opened(ada, "/mcp", revision)
		}
		if got := names(a.ask("tools/list", `{}`), "result", "tools"); !slices.Equal(got, []string{"find_tools", "call_tool"}) {
			t.Fatalf("%s: listed %q", revision, got)
		}
		find := func(arguments string) answer { return a.call("find_tools", arguments) }
		if got := names(find(`{"query":"Echo"}`), "result", "structuredContent", "tools"); !slices.Equal(got, []string{"demo__echo", "other__echo"}) {
			t.Errorf("%s: found %q", revision, got)
		}
		if got := names(find(`{"query":"echo other","limit":1}`), "result", "structuredContent", "tools"); !slices.Equal(got, []string{"other__echo"}) {
			t.Errorf("%s: found first %q", revision, got)
		}
		if got := names(find(`{"query":"forbidden unlisted"}`), "result", "structuredContent", "tools"); got != nil {
			t.Errorf("%s: what the person may not use was found: %q", revision, got)
		}
		for _, wrong := range []string{`{}`, `{"query":""}`, `{"query":"a","limit":0}`, `{"query":"a","limit":51}`, `{"query":7}`} {
			if got := find(wrong); got.field("result", "isError") != true {
				t.Errorf("%s: %s: %s", revision, wrong, got.body)
			}
		}
		w.settled(5)
		if got := a.call("call_tool", `{"name":"demo__echo","arguments":{"text":"x"}}`); !strings.Contains(got.body, "said x") {
			t.Errorf("%s: called: %s", revision, got.body)
		}
		for _, r := range w.settled(2) {
			if r.GetConnector() != "demo" || r.GetTool() != "echo" {
				t.Errorf("%s: recorded %v", revision, r)
			}
		}
		// By no other way is there more to be had than by its name.
		if got := a.call("call_tool", `{"name":"demo__forbidden","arguments":{}}`); !strings.Contains(got.body, "Sallyport refused this call") {
			t.Errorf("%s: forbidden: %s", revision, got.body)
		}
		if r := w.settled(1)[0]; r.GetPhase() != auditv1.Phase_PHASE_REFUSED || r.GetTool() != "forbidden" {
			t.Errorf("%s: recorded %v", revision, r)
		}
		if got := a.call("call_tool", `{"name":"call_tool","arguments":{"name":"demo__echo"}}`); got.field("result", "isError") != true {
			t.Errorf("%s: within itself: %s", revision, got.body)
		}
		w.settled(1)
	}
	// One connector has its own list, and a short list is a list.
	if got := names(w.stateless(ada, "/mcp/demo").ask("tools/list", `{}`), "result", "tools"); !slices.Contains(got, "echo") {
		t.Errorf("listed %q", got)
	}
	if got := names(w.stateless(bob, "/mcp").ask("tools/list", `{}`), "result", "tools"); !slices.Equal(got, []string{"demo__echo", "demo__wait"}) {
		t.Errorf("listed %q", got)
	}
}

func TestNothingIsFoundWhereNobodyAskedForIt(t *testing.T) {
	w := newWorld(t, &options{})
	got := w.stateless(ada, "/mcp").call("find_tools", `{"query":"echo"}`)
	if got.field("error", "code") != float64(mcp.CodeInvalidParams) {
		t.Errorf("got %+v", got)
	}
}

func TestAdminsAreToldWhichConnectorsFail(t *testing.T) {
	w := newWorld(t, &options{})
	if got := w.gateway.Troubles().GetTroubles(); len(got) != 0 {
		t.Fatalf("troubles: %v", got)
	}
	w.demo.status.Store(500)
	for range 3 {
		w.stateless(ada, "/mcp/demo").call("echo", `{}`)
	}
	got := w.gateway.Troubles().GetTroubles()
	if len(got) != 1 || got[0].GetConnector() != "demo" || got[0].GetReason() != "gave a bad answer" || got[0].GetSince() == nil || strings.Contains(got[0].String(), "127.0.0.1") {
		t.Fatalf("troubles: %v", got)
	}
	w.demo.status.Store(0)
	if got := w.stateless(ada, "/mcp/demo").call("echo", `{}`); got.field("result") == nil {
		t.Fatalf("got %+v", got)
	}
	if got := w.gateway.Troubles().GetTroubles(); len(got) != 0 {
		t.Errorf("troubles: %v", got)
	}
}
