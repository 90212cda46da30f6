package quickstart

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/servers"
)

// loose is a gateway that can be made to fail in each way that a story has to notice. Its GitHub is the real demo server.
type loose struct {
	url    string
	github *servers.GitHub
	// forwards and answers are what becomes of a push to main.
	forwards, answers bool
	// explains is what explain says of it.
	explains auditv1.Verdict
}

func newLoose(t *testing.T) *loose {
	t.Helper()
	l := &loose{github: servers.NewGitHub(), explains: auditv1.Verdict_VERDICT_DENIED}
	upstream, stop, err := l.github.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	behind, err := agent.Connect(t.Context(), upstream, "", agent.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(behind.Close)
	server := mcp.NewServer(&mcp.Implementation{Name: "loose", Version: "1"}, nil)
	server.AddTool(&mcp.Tool{Name: "github__push_files", InputSchema: json.RawMessage(`{"type":"object"}`)},
		func(ctx context.Context, req *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			if l.forwards {
				behind.Call(ctx, "push_files", req.Params.Arguments)
			}
			return &mcp.CallToolResult{IsError: !l.answers, Content: []mcp.Content{&mcp.TextContent{Text: "said"}}}, nil
		})
	web := httptest.NewServer(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil))
	t.Cleanup(web.Close)
	l.url = web.URL
	return l
}

func (l *loose) mcpURL(string) string              { return l.url }
func (l *loose) upstream(string) *servers.Upstream { return l.github.Upstream }

func (l *loose) refresh(context.Context, agent.Tokens) error { return nil }

func (l *loose) signIn(context.Context, string, string) (agent.Tokens, error) {
	return agent.Tokens{}, nil
}

func (l *loose) verdict(context.Context, string, string, string, any) (*auditv1.Decision, error) {
	return &auditv1.Decision{Verdict: l.explains}, nil
}

func TestAttemptIsJudgedByAnswerEffectAndExplanation(t *testing.T) {
	const allowed, denied = auditv1.Verdict_VERDICT_ALLOWED, auditv1.Verdict_VERDICT_DENIED
	for name, c := range map[string]struct {
		forwards, answers bool
		explains          auditv1.Verdict
		may               bool // what the story expects
		want              string
	}{
		"a refusal that is one":                      {false, false, denied, false, ""},
		"a refusal that went through":                {true, true, allowed, false, "should be refused, but was answered"},
		"a refusal in words whose call was made":     {true, false, denied, false, "1 calls reached the server"},
		"a refusal that explain does not know":       {false, false, allowed, false, "explain says VERDICT_ALLOWED"},
		"a call that works":                          {true, true, allowed, true, ""},
		"a call that is refused":                     {false, false, denied, true, "should work"},
		"a call that is answered but was never made": {false, true, allowed, true, "0 calls reached the server"},
		"a call that explain would refuse":           {true, true, denied, true, "explain says VERDICT_DENIED"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLoose(t)
			l.forwards, l.answers, l.explains = c.forwards, c.answers, c.explains
			s := &system{github: l.github}
			var out bytes.Buffer
			r := newRun(l, &printer{out: &out})
			defer r.close()
			me, err := r.sit(t.Context(), maya, usEast, agent.Options{})
			if err != nil {
				t.Fatal(err)
			}
			a := s.pushesToMain("push_files")[0]
			if c.may {
				a.holds = s.grown("acme/payments", "main")
			}
			me.try(t.Context(), a, c.may)
			if c.want == "" && (r.failed != 0 || r.passed != 1) {
				t.Errorf("it failed: %s", out.String())
			}
			if c.want != "" && (r.failed != 1 || !strings.Contains(out.String(), c.want)) {
				t.Errorf("printed %q, want a failure with %q", out.String(), c.want)
			}
			if got := r.asked[maya]; len(got) != 1 || got[0].connector != "github" || got[0].tool != "push_files" || got[0].done != c.answers {
				t.Errorf("remembered %+v", got)
			}
		})
	}
}

func TestEffectOnMainIsNoticed(t *testing.T) {
	l := newLoose(t)
	s := &system{github: l.github}
	unmoved := s.unmoved("acme/payments", "main")
	if err := unmoved(); err != nil {
		t.Error(err)
	}
	l.forwards, l.answers = true, true
	me, err := newRun(l, &printer{out: &bytes.Buffer{}}).sit(t.Context(), maya, usEast, agent.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer me.Close()
	me.call(t.Context(), "github__push_files", in(payments, write("push_files", object{"branch": "main"})))
	if err := unmoved(); err == nil {
		t.Error("a push to main was not noticed")
	}
}

func TestInvestigationComparesCallsWithRecords(t *testing.T) {
	remembered := []asked{
		{connector: "github", tool: "list_branches", args: `{"repo":"payments","owner":"acme"}`, done: true},
		{connector: "github", tool: "push_files", args: `{"branch":"main"}`},
	}
	record := func(call string, phase auditv1.Phase, tool, args, result string) *adminv1.StoredRecord {
		return &adminv1.StoredRecord{Record: &auditv1.AuditRecord{
			CallId: call, Phase: phase, Method: "tools/call", Connector: "github", Tool: tool, At: timestamppb.Now(), Outcome: auditv1.Outcome_OUTCOME_OK,
			Arguments: &auditv1.Payload{Head: []byte(args)}, Result: &auditv1.Payload{Head: []byte(result), Size: uint64(len(result))},
		}}
	}
	const authorized, completed, refused = auditv1.Phase_PHASE_AUTHORIZED, auditv1.Phase_PHASE_COMPLETED, auditv1.Phase_PHASE_REFUSED
	asks := record("1", authorized, "list_branches", `{"owner":"acme", "repo":"payments"}`, "")
	gets := record("1", completed, "list_branches", "", `{"branches":[]}`)
	push := record("2", refused, "push_files", `{"branch":"main"}`, "")
	for name, c := range map[string]struct {
		records []*adminv1.StoredRecord
		ok      bool
	}{
		"all there":                     {[]*adminv1.StoredRecord{push, gets, asks}, true},
		"the refusal is missing":        {[]*adminv1.StoredRecord{gets, asks}, false},
		"the completion is missing":     {[]*adminv1.StoredRecord{push, asks}, false},
		"the authorization is missing":  {[]*adminv1.StoredRecord{push, gets}, false},
		"a record is there twice":       {[]*adminv1.StoredRecord{push, push, gets, asks}, false},
		"the result is missing":         {[]*adminv1.StoredRecord{push, record("1", completed, "list_branches", "", ""), asks}, false},
		"the arguments are others":      {[]*adminv1.StoredRecord{record("2", refused, "push_files", `{"branch":"dev"}`, ""), gets, asks}, false},
		"a call that nobody remembers":  {[]*adminv1.StoredRecord{push, gets, asks, record("3", refused, "delete_branch", "{}", "")}, false},
		"another method does not count": {[]*adminv1.StoredRecord{push, gets, asks, {Record: &auditv1.AuditRecord{Method: "tools/list", Phase: completed}}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := compare(remembered, c.records); (err == nil) != c.ok {
				t.Errorf("error = %v", err)
			}
		})
	}
}

func TestToolsShownMustBeExactlyThoseExpected(t *testing.T) {
	if err := sameTools([]string{"a", "b"}, []string{"b", "a"}); err != nil {
		t.Error(err)
	}
	if err := sameTools([]string{"a", "c"}, []string{"a", "b"}); err == nil || err.Error() != "does not see b, sees c" {
		t.Errorf("error = %v", err)
	}
}
