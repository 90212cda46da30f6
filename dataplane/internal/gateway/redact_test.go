package gateway_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
)

const secretNumber = "078-05-1120"

// registry is an upstream whose every answer holds a number that is to be taken out, each in another way.
func registry(t testing.TB, stateless bool) *server {
	m := sdk.NewServer(&sdk.Implementation{Name: "registry", Version: "1"}, nil)
	type in struct {
		Text string `json:"text,omitempty"`
	}
	person := map[string]any{"name": "Ann", "ssn": secretNumber}
	whole := `{"name":"Ann","SSN":"` + secretNumber + `"}`
	for name, result := range map[string]*sdk.CallToolResult{
		"structured": {StructuredContent: map[string]any{"people": []any{person}}, Content: []sdk.Content{&sdk.TextContent{Text: whole}}},
		"text":       {Content: []sdk.Content{&sdk.TextContent{Text: whole}}},
		"escaped":    {Content: []sdk.Content{&sdk.TextContent{Text: `{"\u0073sn":"` + secretNumber + `"}`}}},
		"twice":      {Content: []sdk.Content{&sdk.TextContent{Text: `{"a":{"ssn":1,"ssn":"` + secretNumber + `"}}`}}},
		"prose":      {Content: []sdk.Content{&sdk.TextContent{Text: "the number is " + secretNumber}}},
		"mixed":      {Content: []sdk.Content{&sdk.TextContent{Text: "the number is " + secretNumber}, &sdk.TextContent{Text: whole}}},
		"picture":    {Content: []sdk.Content{&sdk.ImageContent{Data: []byte(secretNumber), MIMEType: "image/png"}, &sdk.TextContent{Text: whole}}},
		"error":      {IsError: true, Content: []sdk.Content{&sdk.TextContent{Text: "nobody has " + secretNumber}}},
		"huge":       {Content: []sdk.Content{&sdk.TextContent{Text: `[` + strings.Repeat(whole+",", 20_000) + `1]`}}},
		"linked":     {Content: []sdk.Content{&sdk.ResourceLink{URI: "crm://1", Name: "x", Description: secretNumber}, &sdk.TextContent{Text: "{}"}}},
		"embedded":   {Content: []sdk.Content{&sdk.EmbeddedResource{Resource: &sdk.ResourceContents{URI: "crm://1", Text: whole}}, &sdk.EmbeddedResource{Resource: &sdk.ResourceContents{URI: "crm://2", Blob: []byte(secretNumber)}}}},
	} {
		sdk.AddTool(m, &sdk.Tool{Name: name}, func(ctx context.Context, r *sdk.CallToolRequest, a in) (*sdk.CallToolResult, any, error) {
			if token := r.Params.GetProgressToken(); strings.HasPrefix(a.Text, "stream") { // what it says opens one
				_ = r.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{ProgressToken: token, Message: "found " + secretNumber, Progress: 1})
			}
			return result, nil, nil
		})
	}
	m.AddResource(&sdk.Resource{URI: "crm://ann", Name: "ann"}, func(context.Context, *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: "crm://ann", Text: whole}, {URI: "crm://ann", Text: secretNumber}}}, nil
	})
	return serverOf(t, m, stateless)
}

// serverOf serves an MCP server as an upstream.
func serverOf(t testing.TB, m *sdk.Server, stateless bool) *server {
	handler := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return m }, &sdk.StreamableHTTPOptions{Stateless: stateless})
	s := &server{Server: httptest.NewServer(handler)}
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

var registryTools = []string{"structured", "text", "escaped", "twice", "prose", "mixed", "picture", "error", "huge", "linked", "embedded"}

// registryWorld is a proxy before it whose policy takes numbers out.
func registryWorld(t *testing.T, stateless bool, r *policyv1.Redaction) *world {
	w := newWorld(t, &options{demo: registry(t, stateless)})
	catalogue := catalogueEntry("demo", registryTools...)
	catalogue.GetCatalogue().Tools = append(catalogue.GetCatalogue().GetTools(), &policyv1.Tool{Name: "crm://ann", Kind: policyv1.Kind_KIND_RESOURCE, Definition: []byte(`{"uri":"crm://ann","name":"ann"}`)})
	w.set(catalogue, grantEntry(1, "demo", allow("*", "resource:*"), &policyv1.Rule{Require: policyv1.Duty_DUTY_REDACT, Tools: []string{"*", "resource:*"}, Redact: r}))
	return w
}

func TestWhatThePolicyTakesOutReachesNeitherTheAgentNorAudit(t *testing.T) {
	for _, stateless := range []bool{true, false} {
		w := registryWorld(t, stateless, &policyv1.Redaction{Arguments: []string{"text"}, Results: []string{"ssn"}, Agent: true})
		for _, a := range []*agent{w.stateless(ada, "/mcp/demo"), w.opened(ada, "/mcp/demo", "2025-11-25"), w.opened(ada, "/mcp", "2025-06-18")} {
			for _, name := range registryTools {
				for _, how := range []string{"one message", "stream"} {
					t.Run(fmt.Sprintf("%s, upstream stateless=%v, agent=%s%s, %s", name, stateless, a.revision, a.path, how), func(t *testing.T) {
						tool := name
						if a.path == "/mcp" {
							tool = "demo__" + name
						}
						got := w.request(http.MethodPost, a.path, a.header(mcp.MethodCallTool, tool), a.message("7", mcp.MethodCallTool, `{"name":"`+tool+`","arguments":{"text":"`+how+" "+secretNumber+`"}}`))
						if strings.Contains(got.body, secretNumber) || strings.Contains(got.body, "MDc4LTA1LTExMjA") {
							t.Fatalf("the agent got it: %.500s", got.body)
						}
						records := w.settled(2)
						for _, r := range records {
							if strings.Contains(r.String(), secretNumber) || strings.Contains(r.String(), "MDc4LTA1LTExMjA") {
								t.Fatalf("audit has it: %v", r)
							}
						}
						if p := records[0].GetArguments(); string(p.GetHead()) != `{"text":"[redacted]"}` || !p.GetRedacted() || p.GetSize() != uint64(len(p.GetHead())) {
							t.Errorf("of the arguments %v is kept", p)
						}
						switch name {
						case "structured", "text", "escaped", "huge", "mixed", "picture", "linked", "embedded":
							if !strings.Contains(got.body, "[redacted]") && name != "linked" || records[1].GetOutcome() != auditv1.Outcome_OUTCOME_OK || !records[1].GetResult().GetRedacted() {
								t.Errorf("got %.500s, recorded %v", got.body, records[1])
							}
							if name != "linked" && name != "escaped" && !strings.Contains(got.body, "Ann") {
								t.Errorf("more was taken out than was to be: %.500s", got.body)
							}
						default:
							if !strings.Contains(got.body, "withheld the answer") || records[1].GetOutcome() != auditv1.Outcome_OUTCOME_WITHHELD {
								t.Errorf("got %.500s, recorded %v", got.body, records[1])
							}
						}
					})
				}
			}
			uri := "crm://ann"
			if a.path == "/mcp" {
				continue
			}
			got := a.about(mcp.MethodReadResource, uri, `{"uri":"`+uri+`"}`)
			if strings.Contains(got.body, secretNumber) || !strings.Contains(got.body, "[redacted]") {
				t.Errorf("a resource: %s", got.body)
			}
			for _, r := range w.settled(2) {
				if strings.Contains(r.String(), secretNumber) {
					t.Errorf("audit has it of a resource: %v", r)
				}
			}
		}
	}
}

func TestWhatIsRedactedInAuditAloneReachesTheAgentAsItCame(t *testing.T) {
	w := registryWorld(t, true, &policyv1.Redaction{Results: []string{"ssn"}})
	a := w.stateless(ada, "/mcp/demo")
	for _, name := range registryTools {
		got := a.call(name, `{"text":"x"}`)
		if !strings.Contains(got.body, secretNumber) && name != "picture" {
			t.Errorf("%s: the agent got %.300s", name, got.body)
		}
		records := w.settled(2)
		if strings.Contains(records[1].String(), secretNumber) || !records[1].GetResult().GetRedacted() {
			t.Errorf("%s: recorded %v", name, records[1])
		}
		if string(records[0].GetArguments().GetHead()) != `{"text":"x"}` || records[0].GetArguments().GetRedacted() {
			t.Errorf("%s: of the arguments %v is kept", name, records[0].GetArguments())
		}
	}
}

func TestArgumentsOfARefusedCallAreRedactedToo(t *testing.T) {
	w := registryWorld(t, true, &policyv1.Redaction{Arguments: []string{"text"}})
	w.set(&fleetv1.Entry{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{
		Id: "demo", Url: w.demo.URL, AllowedRanges: []string{"127.0.0.0/8"}, Redactions: []*policyv1.Redaction{{Arguments: []string{"text"}}},
	}}})
	for name, call := range map[string]func() answer{
		"by somebody without a grant": func() answer { return w.stateless(bob, "/mcp/demo").call("prose", `{"text":"`+secretNumber+`"}`) },
		"of a tool that is not there": func() answer { return w.stateless(ada, "/mcp/demo").call("nothing", `{"text":"`+secretNumber+`"}`) },
		"that do not fit":             func() answer { return w.stateless(ada, "/mcp/demo").call("prose", `{"text":["`+secretNumber+`"]}`) },
	} {
		call()
		if r := w.settled(1)[0]; strings.Contains(r.String(), secretNumber) || !r.GetArguments().GetRedacted() {
			t.Errorf("%s: recorded %v", name, r)
		}
	}
}
