package policy

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// TestOutlookHoldsOfEveryCall: what is never allowed is allowed to no call, what always is to each, nothing is asked of a call that is
// less than the outlook says, and what is listed is all that is not never.
func TestOutlookHoldsOfEveryCall(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := randomWorld(t)
		table := w.table(t)
		listed := map[string]bool{}
		for _, tool := range table.List(Request{Person: ann, Connector: "github", Now: now}) {
			listed[tool.Name] = true
		}
		for _, tool := range someTools {
			o := table.Outlook(Request{Person: ann, Connector: "github", Tool: tool, Now: now})
			if listed[tool] != (o.Access != Never) {
				t.Fatalf("%s is listed: %v, and its outlook is %+v", tool, listed[tool], o)
			}
			if o.Access != Never && (len(o.By) == 0 || o.Reason != 0) || o.Access == Never && o.Reason == 0 {
				t.Fatalf("the outlook of %s does not say why: %+v", tool, o)
			}
			for _, region := range someRegions {
				for _, raw := range someArguments[tool] {
					a, err := table.Arguments("github", tool, []byte(raw))
					if err != nil {
						t.Fatal(err)
					}
					acr := rapid.SampledFrom([]string{"", "strong"}).Draw(t, "acr")
					is := w.reference(tool, region, acr, a)
					asked := policyv1.Duty(0)
					switch {
					case is.steps != "":
						asked = review
					case is.confirm != 0:
						asked = confirm
					}
					known := table.Outlook(Request{Person: ann, Connector: "github", Tool: tool, Now: now, Region: region, From: &Origin{ACR: acr, AuthTime: now}})
					for _, o := range []Outlook{o, known} {
						if o.Access != Never {
							termsHold(t, tool+" "+raw, o.Terms, is)
						}
						if o.Certain && (o.Access == Sometimes || is.allowed != (o.Access == Always) || is.allowed && asked != o.Duty) {
							t.Fatalf("%s %s in %s: the reference says %+v, and the outlook is certain of %+v", tool, raw, region, is, o)
						}
					}
					if is.allowed && (o.Access == Never || asked < o.Duty) || !is.allowed && o.Access == Always {
						t.Fatalf("%s %s in %s: the reference says %+v, the outlook %+v", tool, raw, region, is, o)
					}
				}
			}
		}
	})
}

// termsHold: what is certain to be limited, taken out or asked for is so of a call, and no more is than the terms say.
func termsHold(t *rapid.T, call string, terms Terms, is judgement) {
	within := func(what, of string, certain, possible []string) {
		for _, one := range certain {
			if !slices.Contains(strings.Fields(of), one) {
				t.Fatalf("%s: %s %q is certain, and the reference has %q", call, what, one, of)
			}
		}
		for _, one := range strings.Fields(of) {
			if !slices.Contains(possible, one) {
				t.Fatalf("%s: the reference has %s %q, and the terms only %q", call, what, one, possible)
			}
		}
	}
	var certain, possible []string
	for _, b := range terms.Limits {
		if possible = append(possible, b.Limit.Budget); b.Certain {
			certain = append(certain, b.Limit.Budget)
		}
	}
	if is.allowed {
		within("the budget", is.limited, certain, possible)
		if is.confirm < terms.Confirm && is.steps == "" || len(terms.Steps) > 0 && is.steps == "" {
			t.Fatalf("%s: %+v is asked for, and the terms say %+v", call, is, terms)
		}
	}
	certain, possible = nil, nil
	for _, one := range terms.Taken {
		if possible = append(possible, one.Path); one.Certain {
			certain = append(certain, one.Path)
		}
	}
	within("the argument", is.redacted, certain, possible)
}

func TestOutlookTellsWordsOfRulesApart(t *testing.T) {
	tools := []*policyv1.Tool{tool("push_files", `"branch":{"type":"string"}`, `"branch"`)}
	rules := func(rules ...*policyv1.Rule) Outlook {
		return site(t, tools, "", rules...).Outlook(Request{Person: ann, Connector: "github", Tool: "push_files", Now: now})
	}
	x, y := when(allow("*"), `args.branch == "x"`), when(allow("*"), `args.branch == "y"`)
	if rules(x).Rules == rules(y).Rules {
		t.Error("other conditions have the same digest")
	}
	if rules(x, y).Rules != rules(y, x).Rules {
		t.Error("the order of rules makes another digest")
	}
	if o := rules(x); o.Access != Sometimes {
		t.Errorf("a condition on the arguments gives %+v", o)
	}
}
