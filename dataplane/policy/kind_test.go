package policy

import (
	"slices"
	"strings"
	"testing"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// library has a tool and a prompt of the same name, two resources and a template.
func library(t *testing.T, more []*fleetv1.Entry, rules ...*policyv1.Rule) *Table {
	t.Helper()
	pin := func(kind policyv1.Kind, name, definition string) *policyv1.Tool {
		pinned := &policyv1.Tool{Kind: kind, Name: name, Definition: []byte(definition)}
		if err := CheckTool(pinned); err != nil {
			t.Fatal(err)
		}
		return pinned
	}
	table, err := Compile(1, slices.Values(append(more, []*fleetv1.Entry{
		{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Url: "https://up.example"}}},
		{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "github", Tools: []*policyv1.Tool{
			pin(policyv1.Kind_KIND_RESOURCE_TEMPLATE, "doc://a/{name}", `{"name":"a","uriTemplate":"doc://a/{name}"}`),
			pin(policyv1.Kind_KIND_RESOURCE, "doc://a/1", `{"name":"one","uri":"doc://a/1"}`),
			pin(policyv1.Kind_KIND_RESOURCE, "doc://b/1", `{"name":"other","uri":"doc://b/1"}`),
			pin(policyv1.Kind_KIND_PROMPT, "summary", `{"name":"summary"}`),
			tool("summary", "", ""),
		}}}},
		user(ann, 1), groupEntry(1, "okta/Staff"), grantOf(1, rules...),
	}...)))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestPromptsAndResourcesAreDeniedUnlessARuleNamesThem(t *testing.T) {
	const (
		tool, prompt = "summary", "prompt:summary"
		one, other   = "resource:doc://a/1", "resource:doc://b/1"
		made, up     = "resource:doc://a/made", "resource:doc://a/../b/1"
	)
	all := []string{tool, prompt, one, other, made, up, "prompt:unknown", "resource:"}
	for _, c := range []struct {
		name    string
		rules   []*policyv1.Rule
		allowed []string
	}{
		{"nothing", nil, nil},
		{"a star is of tools", []*policyv1.Rule{allow("*")}, []string{tool}},
		{"a tool's name is no prompt's", []*policyv1.Rule{allow("summary")}, []string{tool}},
		{"a prompt's is no tool's", []*policyv1.Rule{allow("prompt:summary")}, []string{prompt}},
		{"resources by glob, and what templates make", []*policyv1.Rule{allow("resource:doc://a/*")}, []string{one, made}},
		{"all", []*policyv1.Rule{allow("*", "prompt:*", "resource:*")}, []string{tool, prompt, one, other, made}},
		{"a deny wins", []*policyv1.Rule{allow("resource:*"), deny("resource:doc://a/*")}, []string{other}},
		{"a deny of tools denies no resource", []*policyv1.Rule{allow("resource:*"), deny("*")}, []string{one, other, made}},
		{"what is not understood denies all", []*policyv1.Rule{allow("resource:*"), {}}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := library(t, nil, c.rules...)
			var allowed []string
			for _, label := range all {
				a := Arguments{}
				if label == tool {
					a, _ = table.Arguments("github", tool, nil)
				}
				d := table.Decide(Request{Person: ann, Connector: "github", Tool: label, Arguments: a, Now: now})
				if d.Allowed {
					allowed = append(allowed, label)
				}
				if unknown := label == up || label == "prompt:unknown" || label == "resource:"; unknown && d.Reason != auditv1.Reason_REASON_TOOL_UNKNOWN {
					t.Errorf("%s: %v", label, d.Reason)
				}
			}
			if !slices.Equal(allowed, c.allowed) {
				t.Fatalf("allowed %q, want %q", allowed, c.allowed)
			}
		})
	}
}

func TestListsHoldWhatIsAllowedOfTheirKind(t *testing.T) {
	table := library(t, nil, allow("resource:doc://a/*", "prompt:*"), deny("resource:*/1"))
	names := func(kind policyv1.Kind, connector string) string {
		var all []string
		for _, o := range table.Offers(kind, Request{Person: ann, Connector: connector, Now: now}) {
			all = append(all, o.Connector+" "+o.Name)
		}
		return strings.Join(all, ",")
	}
	for _, connector := range []string{"github", ""} {
		if got := names(policyv1.Kind_KIND_RESOURCE, connector); got != "" {
			t.Errorf("resources: %q", got)
		}
		if got := names(policyv1.Kind_KIND_RESOURCE_TEMPLATE, connector); got != "github doc://a/{name}" {
			t.Errorf("templates: %q", got)
		}
		if got := names(policyv1.Kind_KIND_PROMPT, connector); got != "github summary" {
			t.Errorf("prompts: %q", got)
		}
	}
	if tools := table.List(Request{Person: ann, Connector: "github", Now: now}); len(tools) != 0 {
		t.Errorf("tools: %v", tools)
	}
}

func TestABlockOnAPromptIsNotOneOnTheToolOfThatName(t *testing.T) {
	block := blockEntry(&policyv1.Block{Id: "b", Target: &policyv1.Block_Tool{Tool: &policyv1.ConnectorTool{Connector: "github", Tool: "prompt:summary"}}, Reason: "r"})
	next := library(t, []*fleetv1.Entry{block}, allow("*", "prompt:*"))
	a, _ := next.Arguments("github", "summary", nil)
	if d := next.Decide(Request{Person: ann, Connector: "github", Tool: "summary", Arguments: a, Now: now}); !d.Allowed {
		t.Errorf("the tool: %v", d.Reason)
	}
	if d := next.Decide(Request{Person: ann, Connector: "github", Tool: "prompt:summary", Now: now}); d.Reason != auditv1.Reason_REASON_BLOCKED {
		t.Errorf("the prompt: %v", d.Reason)
	}
}

func TestGlobsOfPromptsAndResourcesAreChecked(t *testing.T) {
	for glob, fine := range map[string]bool{
		"resource:file:///docs/*": true, "prompt:*": true, "prompt:a b": true,
		"resource:": false, "prompt:\n": false, "template:x": false, "file:///x": false, "Resource:x": false,
	} {
		if err := Check(allow(glob), nil); (err == nil) != fine {
			t.Errorf("%q: %v", glob, err)
		}
	}
	for condition, fine := range map[string]bool{"true": true, `user.directory == "okta"`: true, `has(args.x)`: false, `tool.readOnly`: false} {
		if err := Check(when(allow("prompt:*"), condition), nil); (err == nil) != fine {
			t.Errorf("a condition %q on prompts: %v", condition, err)
		}
	}
	if err := Check(&policyv1.Rule{Allow: []string{"prompt:*"}, Hints: &policyv1.Hints{ReadOnly: new(true)}}, nil); err == nil {
		t.Error("hints of prompts passed")
	}
}

func TestDefinitionsMustBeOfWhatTheyAreSaidToBe(t *testing.T) {
	for _, c := range []*policyv1.Tool{
		{Kind: policyv1.Kind_KIND_PROMPT, Name: "a", Definition: []byte(`{"name":"b"}`)},
		{Kind: policyv1.Kind_KIND_PROMPT, Name: "a", Definition: []byte(`{"name":"a","name":"b"}`)},
		{Kind: policyv1.Kind_KIND_RESOURCE, Name: "a:b", Definition: []byte(`{"name":"a:b"}`)},
		{Kind: policyv1.Kind_KIND_RESOURCE, Name: "", Definition: []byte(`{"uri":""}`)},
		{Kind: policyv1.Kind_KIND_RESOURCE_TEMPLATE, Name: "a:{b}", Definition: []byte(`[]`)},
		{Kind: 99, Name: "a", Definition: []byte(`{"name":"a"}`)},
	} {
		if CheckTool(c) == nil {
			t.Errorf("%v passed", c)
		}
	}
}

// TestWhatIsRequiredAllowsNothing guards invariant 3: a rule that requires something gives nothing, whatever it names and even once all
// that it asks for was done.
func TestWhatIsRequiredAllowsNothing(t *testing.T) {
	kinds := []policyv1.Kind{policyv1.Kind_KIND_TOOL, policyv1.Kind_KIND_PROMPT, policyv1.Kind_KIND_RESOURCE, policyv1.Kind_KIND_RESOURCE_TEMPLATE}
	labels := []string{"summary", "prompt:summary", "resource:doc://a/1", "resource:doc://b/1", "resource:doc://a/made", "template:doc://a/{name}"}
	duties := func(globs ...string) map[string]*policyv1.Rule {
		return map[string]*policyv1.Rule{
			"confirm": require(confirm, globs...),
			"review":  require(review, globs...),
			"sign-in": {Require: policyv1.Duty_DUTY_SIGN_IN, Tools: globs, SignIn: assurance("phr", "", 0)},
			"redact":  {Require: policyv1.Duty_DUTY_REDACT, Tools: globs, Redact: &policyv1.Redaction{Results: []string{"ssn"}}},
			"limit":   {Require: policyv1.Duty_DUTY_LIMIT, Tools: globs, Limit: &policyv1.Limit{ResultItems: 1}},
		}
	}
	for _, globs := range [][]string{{"*"}, {"prompt:*"}, {"resource:*"}, {"*", "prompt:*", "resource:*"}} {
		for name, rule := range duties(globs...) {
			table := library(t, nil, rule)
			a, _ := table.Arguments("github", "summary", nil)
			for _, label := range labels {
				ask := Request{Person: ann, Connector: "github", Tool: label, Now: now, From: &Origin{ACR: "phr"}}
				if label == "summary" {
					ask.Arguments = a
				}
				ask.Confirmed = browser
				d := table.Decide(ask)
				if ask.Reviewed = d.Duties.Review(); ask.Reviewed != "" {
					d = table.Decide(ask)
				}
				if d.Allowed || d.Reason != auditv1.Reason_REASON_NOTHING_ALLOWS {
					t.Errorf("require %s of %q: %s is %v because of %v", name, globs, label, d.Allowed, d.Reason)
				}
			}
			for _, kind := range kinds {
				if all := table.Offers(kind, Request{Person: ann, Connector: "github", Now: now}); len(all) != 0 {
					t.Errorf("require %s of %q: of %v %d are listed", name, globs, kind, len(all))
				}
			}
		}
		// What one kind is allowed, none of the others is, though all are named.
		for name, rule := range duties(globs...) {
			table := library(t, nil, allow("prompt:*"), rule)
			for _, label := range labels {
				a, _ := table.Arguments("github", "summary", nil)
				ask := Request{Person: ann, Connector: "github", Tool: label, Now: now, Arguments: a}
				if d := table.Decide(ask); label != "prompt:summary" && (d.Allowed || d.Reason != auditv1.Reason_REASON_NOTHING_ALLOWS) {
					t.Errorf("prompts are allowed, require %s of %q: %s is %v because of %v", name, globs, label, d.Allowed, d.Reason)
				}
			}
		}
	}
}
