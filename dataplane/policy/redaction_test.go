package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protowire"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func redact(arguments string, globs ...string) *policyv1.Rule {
	return &policyv1.Rule{Require: policyv1.Duty_DUTY_REDACT, Tools: globs, Redact: &policyv1.Redaction{Arguments: []string{arguments}}}
}

// redactedOf is what is left of {"branch":"b","note":"n"}.
func redactedOf(t testing.TB, r *Redaction) string {
	t.Helper()
	if r == nil {
		return `{"branch":"b","note":"n"}`
	}
	out, _, err := r.Arguments.Redact([]byte(`{"branch":"b","note":"n"}`))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// connectorSite is a table with one tool, and with redactions of the connector's own.
func connectorSite(t testing.TB, redactions []*policyv1.Redaction, rules []*policyv1.Rule, more ...*fleetv1.Entry) *Table {
	t.Helper()
	entries := []*fleetv1.Entry{
		{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Url: "https://up.example", Redactions: redactions}}},
		{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "github", Tools: []*policyv1.Tool{tool("push", `"branch":{"type":"string"},"note":{"type":"string"}`, `"branch"`)}}}},
		user(ann, 1), groupEntry(1, "okta/Engineers"), grantOf(1, rules...),
	}
	table, err := Compile(1, slices.Values(append(entries, more...)))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestWhatIsRedactedIsSoWhateverTheVerdict(t *testing.T) {
	const whole, without = `{"branch":"b","note":"n"}`, `{"branch":"[redacted]","note":"n"}`
	everywhere := []*policyv1.Redaction{{Arguments: []string{"branch"}}}
	for name, c := range map[string]struct {
		connector []*policyv1.Redaction
		rules     []*policyv1.Rule
		ask       func(*Request)
		reason    auditv1.Reason
		want      string
	}{
		"by a rule":                          {nil, []*policyv1.Rule{allow("*"), redact("branch", "push")}, nil, auditv1.Reason_REASON_RULE_ALLOWED, without},
		"of another tool":                    {nil, []*policyv1.Rule{allow("*"), redact("branch", "pull")}, nil, auditv1.Reason_REASON_RULE_ALLOWED, whole},
		"denied, whatever comes":             {nil, []*policyv1.Rule{deny("*"), redact("branch", "*")}, nil, auditv1.Reason_REASON_RULE_DENIED, without},
		"nothing allows":                     {nil, []*policyv1.Rule{redact("branch", "*")}, nil, auditv1.Reason_REASON_NOTHING_ALLOWS, without},
		"no other grant lifts it":            {nil, []*policyv1.Rule{redact("branch", "*"), allow("*"), allow("push")}, nil, auditv1.Reason_REASON_RULE_ALLOWED, without},
		"both of two":                        {nil, []*policyv1.Rule{allow("*"), redact("branch", "*"), redact("note", "*")}, nil, auditv1.Reason_REASON_RULE_ALLOWED, `{"branch":"[redacted]","note":"[redacted]"}`},
		"its condition holds":                {nil, []*policyv1.Rule{allow("*"), when(redact("branch", "*"), `args.branch == "b"`)}, nil, auditv1.Reason_REASON_RULE_ALLOWED, without},
		"its condition does not":             {nil, []*policyv1.Rule{allow("*"), when(redact("branch", "*"), `args.branch == "x"`)}, nil, auditv1.Reason_REASON_RULE_ALLOWED, whole},
		"its condition fails":                {nil, []*policyv1.Rule{allow("*"), when(redact("branch", "*"), `user.title == "x"`)}, nil, auditv1.Reason_REASON_RULE_ALLOWED, without},
		"it has ended":                       {nil, []*policyv1.Rule{allow("*"), until(redact("branch", "*"), now)}, nil, auditv1.Reason_REASON_RULE_ALLOWED, whole},
		"arguments that could not be read":   {nil, []*policyv1.Rule{allow("*"), when(redact("branch", "*"), `args.branch == "x"`)}, func(r *Request) { r.Arguments = Arguments{} }, auditv1.Reason_REASON_ARGUMENTS_INVALID, without},
		"a blocked client":                   {nil, []*policyv1.Rule{allow("*"), redact("branch", "*")}, func(r *Request) { r.Client = "bad" }, auditv1.Reason_REASON_BLOCKED, without},
		"a tool that is not there":           {nil, []*policyv1.Rule{allow("*"), when(redact("branch", "pus*"), `args.branch == "x"`)}, func(r *Request) { r.Tool = "pusher" }, auditv1.Reason_REASON_TOOL_UNKNOWN, without},
		"by the connector":                   {everywhere, []*policyv1.Rule{allow("*")}, nil, auditv1.Reason_REASON_RULE_ALLOWED, without},
		"of a person whom nobody knows":      {everywhere, []*policyv1.Rule{allow("*")}, func(r *Request) { r.Person = uuid.New() }, auditv1.Reason_REASON_PERSON_UNKNOWN, without},
		"the connector and a rule":           {everywhere, []*policyv1.Rule{allow("*"), redact("note", "*")}, nil, auditv1.Reason_REASON_RULE_ALLOWED, `{"branch":"[redacted]","note":"[redacted]"}`},
		"the connector, of other tools":      {[]*policyv1.Redaction{{Tools: []string{"pull"}, Arguments: []string{"branch"}}}, []*policyv1.Rule{allow("*")}, nil, auditv1.Reason_REASON_RULE_ALLOWED, whole},
		"a path that a newer build may know": {[]*policyv1.Redaction{{Arguments: []string{"$[?@.a]"}}}, []*policyv1.Rule{allow("*")}, nil, auditv1.Reason_REASON_RULE_ALLOWED, `"[redacted]"`},
	} {
		t.Run(name, func(t *testing.T) {
			table := connectorSite(t, c.connector, c.rules, blockEntry(&policyv1.Block{Id: "b", Target: &policyv1.Block_ClientId{ClientId: "bad"}}))
			ask := Request{Person: ann, Connector: "github", Tool: "push", Now: now}
			var err error
			if ask.Arguments, err = table.Arguments("github", "push", []byte(`{"branch":"b"}`)); err != nil {
				t.Fatal(err)
			}
			if c.ask != nil {
				c.ask(&ask)
			}
			d := table.Decide(ask)
			if d.Reason != c.reason {
				t.Fatalf("decided %v", d.Reason)
			}
			if got := redactedOf(t, d.Redaction); got != c.want {
				t.Errorf("left is %s, want %s", got, c.want)
			}
			if got := redactedOf(t, table.Redaction(ask)); got != c.want {
				t.Errorf("made from nothing, left is %s, want %s", got, c.want)
			}
			if e := table.Explain(ask); redactedOf(t, e.Redaction) != c.want || c.want != whole && len(e.Redaction.Because) == 0 {
				t.Errorf("explained as %v", e.Redaction)
			}
		})
	}
}

func TestATableThatIsNotToBeTrustedRedactsEverything(t *testing.T) {
	var none *Table
	if got := redactedOf(t, none.Redaction(Request{Person: ann, Connector: "github", Tool: "push", Now: now})); got != Redacted {
		t.Errorf("left is %s", got)
	}
}

func TestARedactionOfANewerBuildDeniesAsARule(t *testing.T) {
	r := redact("branch", "*")
	r.Redact.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	table := connectorSite(t, nil, []*policyv1.Rule{allow("*"), r})
	a, err := table.Arguments("github", "push", []byte(`{"branch":"b"}`))
	if err != nil {
		t.Fatal(err)
	}
	if d := table.Decide(Request{Person: ann, Connector: "github", Tool: "push", Arguments: a, Now: now}); d.Reason != auditv1.Reason_REASON_RULE_DENIED {
		t.Errorf("decided %v", d.Reason)
	}
}

func TestRedactionsAreCheckedWhenTheyAreWritten(t *testing.T) {
	nested := tool("push", `"branch":{"type":"string"},"who":{"type":"object","properties":{"ssn":{"type":"string"}}},"free":{"type":"object"},"blob":{"type":"string"},"list":{"type":"array","items":{"type":"object","properties":{"card":{"type":"string"}}}}`, ``)
	closed := tool("pull", `"id":{"type":"integer"}`, ``)
	with := func(arguments, results []string, agent bool) *policyv1.Rule {
		return &policyv1.Rule{Require: policyv1.Duty_DUTY_REDACT, Tools: []string{"p*"}, Redact: &policyv1.Redaction{Arguments: arguments, Results: results, Agent: agent}}
	}
	for says, r := range map[string]*policyv1.Rule{
		"says what under redact":       {Require: policyv1.Duty_DUTY_REDACT, Tools: []string{"*"}},
		"no other":                     {Allow: []string{"*"}, Redact: &policyv1.Redaction{Arguments: []string{"branch"}}},
		"what is taken out":            with(nil, nil, false),
		"none of them are named":       with([]string{"branch"}, nil, true),
		"redact.results":               with(nil, []string{"$[?@.a]"}, false),
		"stand under tools":            {Require: policyv1.Duty_DUTY_REDACT, Tools: []string{"*"}, Redact: &policyv1.Redaction{Tools: []string{"x"}, Arguments: []string{"branch"}}},
		`an argument at "$.list.card"`: with([]string{"$.list.card"}, nil, false),
	} {
		if err := Check(r, []*policyv1.Tool{nested}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, which does not say %q", r, err, says)
		}
	}
	for _, path := range []string{"branch", "ssn", "$.who.SSN", "$.free.anything", "$.blob.inside", "card", "$.list[0].card", "$.list[*].card", "$..card", "id"} {
		if err := Check(with([]string{path}, nil, false), []*policyv1.Tool{nested, closed}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := Check(with([]string{"brnch"}, nil, false), []*policyv1.Tool{closed}); err == nil {
		t.Error("a misspelt name passes")
	}
	if err := CheckRedaction(&policyv1.Redaction{Arguments: []string{"brnch"}}, []*policyv1.Tool{closed}); err == nil {
		t.Error("a connector's misspelt name passes")
	}
	if err := CheckRedaction(&policyv1.Redaction{Tools: []string{"a b"}, Arguments: []string{"id"}}, nil); err == nil {
		t.Error("a connector's glob that is none passes")
	}
}
