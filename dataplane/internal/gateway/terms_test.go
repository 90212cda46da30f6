package gateway_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"google.golang.org/protobuf/types/known/durationpb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/gateway"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/meter"
)

// archive is a real MCP server whose prompt, template and completions hold what is to be taken out.
func archive(t testing.TB, stateless bool) *server {
	m := sdk.NewServer(&sdk.Implementation{Name: "archive", Version: "1"}, &sdk.ServerOptions{
		CompletionHandler: func(context.Context, *sdk.CompleteRequest) (*sdk.CompleteResult, error) {
			return &sdk.CompleteResult{Completion: sdk.CompletionResultDetails{Values: []string{secretNumber}}}, nil
		},
	})
	whole := `{"name":"Ann","ssn":"` + secretNumber + `"}`
	m.AddPrompt(&sdk.Prompt{Name: "dossier"}, func(context.Context, *sdk.GetPromptRequest) (*sdk.GetPromptResult, error) {
		return &sdk.GetPromptResult{Description: "of " + secretNumber, Messages: []*sdk.PromptMessage{
			{Role: "user", Content: &sdk.TextContent{Text: whole}},
			{Role: "assistant", Content: &sdk.EmbeddedResource{Resource: &sdk.ResourceContents{URI: "crm://1", Text: whole}}},
			{Role: "user", Content: &sdk.TextContent{Text: "she is " + secretNumber}},
		}}, nil
	})
	m.AddResourceTemplate(&sdk.ResourceTemplate{Name: "person", URITemplate: "crm://people/{ssn}"}, func(_ context.Context, r *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: r.Params.URI, Text: whole}}}, nil
	})
	return serverOf(t, m, stateless)
}

// archiveWorld is a proxy before it that allows all of it, with one more rule.
func archiveWorld(t *testing.T, stateless bool, rule *policyv1.Rule, o *options) *world {
	o.demo = archive(t, stateless)
	w := newWorld(t, o)
	catalogue := catalogueEntry("demo", "find")
	catalogue.GetCatalogue().Tools = append(catalogue.GetCatalogue().GetTools(),
		&policyv1.Tool{Kind: policyv1.Kind_KIND_PROMPT, Name: "dossier", Definition: []byte(`{"name":"dossier"}`)},
		&policyv1.Tool{Kind: policyv1.Kind_KIND_RESOURCE_TEMPLATE, Name: "crm://people/{ssn}", Definition: []byte(`{"name":"person","uriTemplate":"crm://people/{ssn}"}`)})
	rule.Tools = []string{"*", "prompt:*", "resource:*"}
	w.set(catalogue, grantEntry(1, "demo", allow("*", "prompt:*", "resource:*"), rule))
	return w
}

// archived are ways to ask for it.
var archived = []struct{ method, name, params string }{
	{mcp.MethodGetPrompt, "dossier", `{"name":"dossier"}`},
	{mcp.MethodReadResource, "crm://people/1", `{"uri":"crm://people/1"}`},
	{mcp.MethodComplete, "", `{"ref":{"type":"ref/resource","uri":"crm://people/{ssn}"},"argument":{"name":"ssn","value":"0"}}`},
	{mcp.MethodComplete, "", `{"ref":{"type":"ref/prompt","name":"dossier"},"argument":{"name":"ssn","value":"0"}}`},
}

func TestWhatThePolicyTakesOutComesByNoOtherMethod(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		rule := &policyv1.Rule{Require: policyv1.Duty_DUTY_REDACT, Redact: &policyv1.Redaction{Results: []string{"ssn"}, Agent: true}}
		w := archiveWorld(t, stateless, rule, &options{})
		for _, a := range []*agent{w.stateless(ada, "/mcp/demo"), w.opened(ada, "/mcp/demo", mcp.LatestSession)} {
			for _, ask := range archived {
				what := fmt.Sprintf("%s %s, upstream stateless %v, agent %s", ask.method, ask.params, stateless, a.revision)
				got := a.about(ask.method, ask.name, ask.params)
				if strings.Contains(got.body, secretNumber) || got.body == "" {
					t.Errorf("%s: the agent got %s", what, got.body)
				}
				if ask.method == mcp.MethodGetPrompt && strings.Count(got.body, "[redacted]") != 2 || ask.method == mcp.MethodReadResource && !strings.Contains(got.body, "[redacted]") {
					t.Errorf("%s: more was taken out than was to be: %s", what, got.body)
				}
				for _, r := range w.settled(2) {
					if strings.Contains(r.String(), secretNumber) {
						t.Errorf("%s: audit has it: %v", what, r)
					}
				}
			}
		}
	}
}

func TestWhatThePolicyTakesOutIsTakenOutOfWhatATaskComesTo(t *testing.T) {
	for _, c := range []struct {
		agent    mcp.Revision
		upstream bool
	}{{mcp.LatestStateless, true}, {mcp.LatestStateless, false}, {mcp.LatestSession, false}} {
		for name, built := range map[string]string{
			"text":       `"content":[{"type":"text","text":` + strconv.Quote(`{"ssn":"`+secretNumber+`","name":"Ann"}`) + `}]`,
			"structured": `"content":[{"type":"text","text":"{}"}],"structuredContent":{"a":[{"ssn":"` + secretNumber + `"}]}`,
			"embedded":   `"content":[{"type":"resource","resource":{"uri":"crm://1","text":` + strconv.Quote(`{"ssn":"`+secretNumber+`"}`) + `}}]`,
			"prose":      `"content":[{"type":"text","text":"she is ` + secretNumber + `"}]`,
		} {
			t.Run(fmt.Sprintf("%s, agent %s, upstream stateless %v", name, c.agent, c.upstream), func(t *testing.T) {
				f := newFactory(t, c.upstream)
				f.built = "{" + built + "," + builtBy + "}"
				w := works(t, f)
				w.set(grantEntry(1, "works", allow("build"), &policyv1.Rule{Require: policyv1.Duty_DUTY_REDACT, Tools: []string{"build"}, Redact: &policyv1.Redaction{Results: []string{"ssn"}, Agent: true}}))
				a := w.stateless(ada, "/mcp/works")
				if !c.agent.Stateless() {
					a = w.opened(ada, "/mcp/works", c.agent)
				}
				id := a.begun("build")
				f.become("completed")
				got := a.task("tasks/get", id)
				records := 4
				if !c.agent.Stateless() {
					got, records = a.task("tasks/result", id), 6
				}
				if strings.Contains(got.body, secretNumber) || name != "prose" && !strings.Contains(got.body, "[redacted]") {
					t.Errorf("the agent got %s", got.body)
				}
				for _, r := range w.settled(records) {
					if strings.Contains(r.String(), secretNumber) {
						t.Errorf("audit has it: %v", r)
					}
				}
			})
		}
	}
}

func TestCallsAreCountedByWhicheverMethodTheyAreMade(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		for _, ask := range archived[:2] {
			limit := &policyv1.Limit{Budget: "crm", Window: durationpb.New(time.Hour), Calls: 2}
			w := archiveWorld(t, stateless, &policyv1.Rule{Require: policyv1.Duty_DUTY_LIMIT, Limit: limit}, &options{gateway: func(c *gateway.Config) { c.Meter = meter.New(coins(2), nil) }})
			for i, a := range []*agent{w.stateless(ada, "/mcp/demo"), w.opened(ada, "/mcp/demo", mcp.LatestSession), w.stateless(ada, "/mcp/demo"), w.opened(ada, "/mcp/demo", mcp.LatestSession)} {
				got := a.about(ask.method, ask.name, ask.params)
				if had := strings.Contains(got.body, "Ann"); had != (i < 2) {
					t.Errorf("%s, upstream stateless %v: call %d got %s", ask.method, stateless, i+1, got.body)
				}
				records := 2
				if i >= 2 {
					records = 1
				}
				if r := w.settled(records)[0]; i >= 2 && r.GetDecision().GetReason() != auditv1.Reason_REASON_BUDGET_SPENT {
					t.Errorf("%s: recorded %v", ask.method, r)
				}
			}
		}
	}
}

// TestWhatIsRequiredLetsNothingThrough guards invariant 3 for each method: rules that require something of whatever there is allow none of it.
func TestWhatIsRequiredLetsNothingThrough(t *testing.T) {
	all := []string{"*", "prompt:*", "resource:*"}
	asks := append(slices.Clone(archived), struct{ method, name, params string }{mcp.MethodCallTool, "find", `{"name":"find","arguments":{}}`})
	for _, stateless := range []bool{true, false} {
		w := archiveWorld(t, stateless, limited(&policyv1.Limit{ResultItems: 1}), &options{gateway: func(c *gateway.Config) { c.Meter = meter.New(coins(9), nil) }})
		w.set(grantEntry(1, "demo", &policyv1.Rule{Require: policyv1.Duty_DUTY_LIMIT, Tools: all, Limit: &policyv1.Limit{ResultItems: 1}},
			&policyv1.Rule{Require: policyv1.Duty_DUTY_CONFIRM, Tools: all}, &policyv1.Rule{Require: policyv1.Duty_DUTY_REDACT, Tools: all, Redact: &policyv1.Redaction{Results: []string{"ssn"}}}))
		session := w.opened(ada, "/mcp/demo", mcp.LatestSession)
		for _, a := range []*agent{w.stateless(ada, "/mcp/demo"), session} {
			for _, ask := range asks {
				got := a.about(ask.method, ask.name, ask.params)
				if !strings.Contains(got.body, "no rule allows it") {
					t.Errorf("%s %s, agent %s: got %s", ask.method, ask.params, a.revision, got.body)
				}
			}
		}
		if got := session.about(mcp.MethodSubscribe, "crm://people/1", `{"uri":"crm://people/1"}`); !strings.Contains(got.body, "no rule allows it") {
			t.Errorf("a subscription: %s", got.body)
		}
		for _, r := range w.settled(2*len(asks) + 1) {
			if r.GetPhase() != auditv1.Phase_PHASE_REFUSED || r.GetDecision().GetReason() != auditv1.Reason_REASON_NOTHING_ALLOWS {
				t.Errorf("recorded %v", r)
			}
		}
		for _, ask := range asks {
			if n := len(w.demo.got(ask.method)); n > 0 {
				t.Errorf("%d of %s reached the upstream", n, ask.method)
			}
		}
	}
}

// TestNobodyIsAskedForACompletion: where a yes is needed for what it completes, there is none.
func TestNobodyIsAskedForACompletion(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		w := archiveWorld(t, stateless, &policyv1.Rule{Require: policyv1.Duty_DUTY_CONFIRM}, &options{})
		for _, a := range []*agent{w.stateless(ada, "/mcp/demo"), w.opened(ada, "/mcp/demo", mcp.LatestSession)} {
			for _, ask := range archived[2:] {
				if got := a.about(ask.method, ask.name, ask.params); !strings.Contains(got.body, "once the person has confirmed") || strings.Contains(got.body, secretNumber) {
					t.Errorf("%s, agent %s: got %s", ask.params, a.revision, got.body)
				}
				if r := w.settled(1)[0]; r.GetDecision().GetReason() != auditv1.Reason_REASON_CONFIRM_REQUIRED {
					t.Errorf("recorded %v", r)
				}
			}
		}
		if n := len(w.demo.got(mcp.MethodComplete)); n > 0 {
			t.Errorf("%d completions reached the upstream", n)
		}
	}
}
