package policy

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

var (
	ann = uuid.UUID{15: 1}
	bob = uuid.UUID{15: 2}
	now = time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC)
)

func tool(name, properties, required string) *policyv1.Tool {
	return &policyv1.Tool{Name: name, Definition: fmt.Appendf(nil, `{"name":%q,"inputSchema":{"type":"object","properties":{%s},"required":[%s]}}`, name, properties, required)}
}

func user(id uuid.UUID, groups ...uint32) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_User{User: &fleetv1.User{Id: id[:], Active: true, Generation: 1, Directory: "okta", Subject: id.String(), Groups: groups}}}
}

func groupEntry(no uint32, name string, parents ...uint32) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_Group{Group: &fleetv1.Group{Number: no, Name: name, Parents: parents}}}
}

func grantOf(no uint32, rules ...*policyv1.Rule) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_Grant{Grant: &fleetv1.Grant{Group: no, Connector: "github", Rules: rules}}}
}

func blockEntry(b *policyv1.Block) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_Block{Block: b}}
}

func allow(globs ...string) *policyv1.Rule { return &policyv1.Rule{Allow: globs} }
func deny(globs ...string) *policyv1.Rule  { return &policyv1.Rule{Deny: globs} }

func when(r *policyv1.Rule, condition string) *policyv1.Rule {
	r.When = condition
	return r
}

// github is a connector with tools to read, to push and to delete.
func github() []*fleetv1.Entry {
	return []*fleetv1.Entry{
		{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Url: "https://up.example"}}},
		{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "github", Tools: []*policyv1.Tool{
			tool("delete_branch", `"branch":{"type":"string"}`, `"branch"`),
			tool("push_files", `"branch":{"type":"string"},"count":{"type":"integer"},"size":{"type":"number"}`, ``),
			tool("read_file", `"path":{"type":"string"}`, `"path"`),
		}}}},
	}
}

func compile(t testing.TB, entries ...*fleetv1.Entry) *Table {
	t.Helper()
	table, err := Compile(1, slices.Values(slices.Concat(github(), entries)))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// ask decides a call of ann's.
func ask(t testing.TB, table *Table, tool, args string) Decision {
	t.Helper()
	a, err := table.Arguments("github", tool, []byte(args))
	if err != nil {
		t.Fatalf("arguments %s: %v", args, err)
	}
	return table.Decide(Request{Person: ann, Connector: "github", Tool: tool, Region: "us", Arguments: a, Now: now})
}

func TestVerdicts(t *testing.T) {
	agentOnly := `has(args.branch) && args.branch.startsWith("agent/")`
	for _, c := range []struct {
		name   string
		rules  []*policyv1.Rule
		tool   string
		args   string
		allow  bool
		reason auditv1.Reason
	}{
		{"nothing is said", nil, "read_file", `{"path":"a"}`, false, auditv1.Reason_REASON_NOTHING_ALLOWS},
		{"allowed by name", []*policyv1.Rule{allow("read_file")}, "read_file", `{"path":"a"}`, true, auditv1.Reason_REASON_RULE_ALLOWED},
		{"allowed by glob", []*policyv1.Rule{allow("read_*")}, "read_file", `{"path":"a"}`, true, auditv1.Reason_REASON_RULE_ALLOWED},
		{"another tool", []*policyv1.Rule{allow("read_*")}, "push_files", `{}`, false, auditv1.Reason_REASON_NOTHING_ALLOWS},
		{"deny wins, whatever the order", []*policyv1.Rule{deny("read_file"), allow("*")}, "read_file", `{"path":"a"}`, false, auditv1.Reason_REASON_RULE_DENIED},
		{"condition holds", []*policyv1.Rule{when(allow("push_files"), agentOnly)}, "push_files", `{"branch":"agent/x"}`, true, auditv1.Reason_REASON_RULE_ALLOWED},
		{"condition does not hold", []*policyv1.Rule{when(allow("push_files"), agentOnly)}, "push_files", `{"branch":"main"}`, false, auditv1.Reason_REASON_NOTHING_ALLOWS},
		{"a longer name of main", []*policyv1.Rule{when(allow("push_files"), agentOnly)}, "push_files", `{"branch":"refs/heads/main"}`, false, auditv1.Reason_REASON_NOTHING_ALLOWS},
		{"no branch at all", []*policyv1.Rule{when(allow("push_files"), agentOnly)}, "push_files", `{}`, false, auditv1.Reason_REASON_NOTHING_ALLOWS},
		{"an allow that fails does not count", []*policyv1.Rule{when(allow("push_files"), `args.branch == "x"`)}, "push_files", `{}`, false, auditv1.Reason_REASON_NOTHING_ALLOWS},
		{"a deny that fails counts", []*policyv1.Rule{when(deny("push_files"), `args.branch == "x"`), allow("*")}, "push_files", `{}`, false, auditv1.Reason_REASON_RULE_DENIED},
		{"a deny whose condition is false", []*policyv1.Rule{when(deny("push_files"), `args.branch == "x"`), allow("*")}, "push_files", `{"branch":"y"}`, true, auditv1.Reason_REASON_RULE_ALLOWED},
		{"a number that is written with a fraction", []*policyv1.Rule{when(allow("*"), `args.count + 1 == 6`)}, "push_files", `{"count":5.0}`, true, auditv1.Reason_REASON_RULE_ALLOWED},
		{"a number that nobody else would read so", []*policyv1.Rule{when(deny("*"), `args.count > 5`), allow("*")}, "push_files", `{"count":9007199254740993}`, false, auditv1.Reason_REASON_RULE_DENIED},
		{"one that no condition reads", []*policyv1.Rule{allow("*")}, "push_files", `{"count":9007199254740993}`, true, auditv1.Reason_REASON_RULE_ALLOWED},
		{"too much work", []*policyv1.Rule{when(allow("*"), `[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, a+b+c+d > 0))))`)}, "push_files", `{}`, false, auditv1.Reason_REASON_NOTHING_ALLOWS},
		{"unknown tool", []*policyv1.Rule{allow("*")}, "format_disk", `{}`, false, auditv1.Reason_REASON_TOOL_UNKNOWN},
	} {
		t.Run(c.name, func(t *testing.T) {
			entries := []*fleetv1.Entry{user(ann, 1), groupEntry(1, "okta/Engineers")}
			if c.rules != nil {
				entries = append(entries, grantOf(1, c.rules...))
			}
			d := ask(t, compile(t, entries...), c.tool, c.args)
			if d.Allowed != c.allow || d.Reason != c.reason {
				t.Fatalf("got %v because of %v, want %v because of %v", d.Allowed, d.Reason, c.allow, c.reason)
			}
		})
	}
}

func TestEmptyTablesDeny(t *testing.T) {
	empty, err := Compile(0, slices.Values([]*fleetv1.Entry(nil)))
	if err != nil {
		t.Fatal(err)
	}
	for name, table := range map[string]*Table{"nil": nil, "empty": empty} {
		if d := table.Decide(Request{Person: ann, Connector: "github", Tool: "read_file", Now: now}); d.Allowed {
			t.Fatalf("the %s table allows", name)
		}
		if tools := table.List(Request{Person: ann, Region: "us", Now: now}); len(tools) != 0 {
			t.Fatalf("the %s table lists %v", name, tools)
		}
	}
}

func TestNestedGroupsCountAndCyclesEnd(t *testing.T) {
	table := compile(t, user(ann, 1), groupEntry(1, "okta/Inner", 2), groupEntry(2, "okta/Middle", 3), groupEntry(3, "okta/Outer", 1), grantOf(3, allow("read_file")))
	d := ask(t, table, "read_file", `{"path":"a"}`)
	if !d.Allowed || !slices.Equal(d.Groups, []string{"okta/Inner", "okta/Middle", "okta/Outer"}) {
		t.Fatalf("got %+v", d)
	}
}

func TestInactivePersonIsDenied(t *testing.T) {
	u := user(ann, 1)
	u.GetUser().Active = false
	if d := ask(t, compile(t, u, groupEntry(1, "g"), grantOf(1, allow("*"))), "read_file", `{"path":"a"}`); d.Allowed || d.Reason != auditv1.Reason_REASON_PERSON_INACTIVE {
		t.Fatalf("got %+v", d)
	}
}

// TestBlockBeatsEverything guards invariant 9.
func TestBlockBeatsEverything(t *testing.T) {
	for name, b := range map[string]*policyv1.Block{
		"person":    {Target: &policyv1.Block_PersonId{PersonId: ann.String()}},
		"client":    {Target: &policyv1.Block_ClientId{ClientId: "agent"}},
		"connector": {Target: &policyv1.Block_Connector{Connector: "github"}},
		"tool":      {Target: &policyv1.Block_Tool{Tool: &policyv1.ConnectorTool{Connector: "github", Tool: "read_file"}}},
		"region":    {Target: &policyv1.Block_Region{Region: "us"}},
	} {
		t.Run(name, func(t *testing.T) {
			b.Id, b.Until = name, timestamppb.New(now.Add(time.Hour))
			table := compile(t, user(ann, 1), groupEntry(1, "g"), grantOf(1, allow("*")), blockEntry(b))
			r := Request{Person: ann, Client: "agent", Connector: "github", Tool: "read_file", Region: "us", Arguments: NoArguments, Now: now}
			if d := table.Decide(r); d.Allowed || d.Reason != auditv1.Reason_REASON_BLOCKED {
				t.Fatalf("got %+v", d)
			}
			for _, listed := range table.List(Request{Person: ann, Client: "agent", Connector: "github", Region: "us", Now: now}) {
				if listed.Name == "read_file" {
					t.Fatal("a blocked tool is listed")
				}
			}
			if at, ok := table.NextBoundary(now); !ok || !at.Equal(now.Add(time.Hour)) {
				t.Fatalf("the next boundary is %v, %v", at, ok)
			}
			r.Now = now.Add(time.Hour)
			if d := table.Decide(r); !d.Allowed {
				t.Fatalf("after its end the block still stands: %+v", d)
			}
		})
	}
}

func TestArgumentsThatTwoReadersReadDifferentlyAreRefused(t *testing.T) {
	table := compile(t)
	for name, args := range map[string]string{
		"a name twice":          `{"branch":"agent/x","branch":"main"}`,
		"a name twice, escaped": `{"branch":"agent/x","br\u0061nch":"main"}`,
		"another letter case":   `{"Branch":"main"}`,
		"a letter that folds":   `{"ſize":1}`,
		"a control character":   "{\"a\\u0000\":1}",
		"a lone surrogate":      `{"branch":"\ud800"}`,
		"invalid UTF-8":         "{\"branch\":\"\xff\"}",
		"something behind it":   `{"branch":"x"} {}`,
		"no object":             `["branch"]`,
		"another type":          `{"branch":7}`,
		"deeply nested":         `{"x":` + string(bytes.Repeat([]byte("["), 100)) + string(bytes.Repeat([]byte("]"), 100)) + `}`,
	} {
		t.Run(name, func(t *testing.T) {
			if a, err := table.Arguments("github", "push_files", []byte(args)); err == nil {
				t.Fatalf("read as %v", a.values)
			}
		})
	}
	if _, err := table.Arguments("github", "read_file", nil); err == nil {
		t.Fatal("a required argument is missing, and nobody said so")
	}
}

func TestCheckRefusesConditionsThatDoNotFitATool(t *testing.T) {
	tools := []*policyv1.Tool{
		tool("push", `"branch":{"type":"string"},"files":{"type":"array","items":{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}},"meta":{"type":"object","properties":{"who":{"type":"string"}}}`, `"branch","files"`),
		tool("pull", `"branch":{"type":"string"}`, ``),
	}
	for condition, ok := range map[string]bool{
		``:                                       true,
		`true`:                                   true,
		`has(args.branch)`:                       true,
		`has(args.brunch)`:                       true,  // a tool may lack what is asked for
		`args.branch == "x"`:                     false, // pull may omit it
		`has(args.branch) && args.branch == "x"`: true,
		`args.branch == "x" && has(args.branch)`: true, // false && error is false, in either order
		`has(args.branch) || args.branch == "x"`: false,
		`!has(args.branch) || args.branch == "x"`:                            true,
		`has(args.branch) ? args.branch == "x" : false`:                      true,
		`has(args.branch) ? false : args.branch == "x"`:                      false,
		`!(has(args.branch) && args.branch == "x")`:                          true,
		`has(args.files) && args.files.all(f, f.path.startsWith("src/"))`:    true,
		`has(args.files) && args.files.all(f, has(f.mode) && f.mode == "x")`: true,
		`has(args.files) && args.files.all(f, f.mode == "x")`:                false,
		`has(args.meta) && args.meta.who == "x"`:                             false,
		`has(args.meta) && has(args.meta.who) && args.meta.who == "x"`:       true,
		`has(args.branch) && args.branch > 5`:                                false,
		`args.`:                                                              false,
		`"text"`:                                                             false,
		`user.name == "x"`:                                                   false,
	} {
		rule := when(allow("p*"), condition)
		if err := Check(rule, tools); (err == nil) != ok {
			t.Errorf("%q: got %v, want acceptance %v", condition, err, ok)
		}
	}
	for _, r := range []*policyv1.Rule{{}, {Allow: []string{"a"}, Deny: []string{"b"}}, allow(""), allow("a b"), allow("a\nb")} {
		if Check(r, nil) == nil {
			t.Errorf("rule %v was accepted", r)
		}
	}
}

func TestCheckToolRefusesWhatCannotBePinned(t *testing.T) {
	for name, definition := range map[string]string{
		"no object":           `[]`,
		"of another name":     `{"name":"b","inputSchema":{"type":"object"}}`,
		"no schema":           `{"name":"a"}`,
		"not of an object":    `{"name":"a","inputSchema":{"type":"string"}}`,
		"a name twice":        `{"name":"a","name":"a","inputSchema":{"type":"object"}}`,
		"refers to elsewhere": `{"name":"a","inputSchema":{"type":"object","properties":{"x":{"$ref":"http://127.0.0.1:1/x"}}}}`,
		"refers to a file":    `{"name":"a","inputSchema":{"type":"object","properties":{"x":{"$ref":"file:///etc/passwd"}}}}`,
		"no schema at all":    `{"name":"a","inputSchema":{"type":"object","properties":{"x":{"type":"nonsense"}}}}`,
	} {
		if CheckTool(&policyv1.Tool{Name: "a", Definition: []byte(definition)}) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := CheckTool(tool("a", `"x":{"$ref":"#/$defs/y"}`, ``)); err == nil {
		t.Error("a reference to nothing was accepted")
	}
}

func TestDeltaIsSeenWholeAndADriftedTableDeniesAll(t *testing.T) {
	before := slices.Concat(github(), []*fleetv1.Entry{user(ann, 1), groupEntry(1, "g"), grantOf(1, allow("*"))})
	table, err := Compile(1, slices.Values(before))
	if err != nil {
		t.Fatal(err)
	}
	after := slices.Concat(github(), []*fleetv1.Entry{user(ann, 1), groupEntry(1, "g"), user(bob)})
	whole, err := Compile(2, slices.Values(after))
	if err != nil {
		t.Fatal(err)
	}
	effect, err := table.Apply(&fleetv1.Delta{
		FromVersion: 1, Version: 2, Changed: []*fleetv1.Entry{user(bob)},
		Removed: []*fleetv1.EntryKey{{Key: &fleetv1.EntryKey_Grant{Grant: &fleetv1.GrantKey{Group: 1, Connector: "github"}}}}, Digest: whole.Digest(),
	})
	if err != nil || !effect.Everybody || table.Version() != 2 {
		t.Fatalf("got %+v, %v", effect, err)
	}
	if d := ask(t, table, "read_file", `{"path":"a"}`); d.Allowed {
		t.Fatal("the grant that was removed still allows")
	}
	if _, err := table.Apply(&fleetv1.Delta{FromVersion: 2, Version: 3, Changed: []*fleetv1.Entry{grantOf(1, allow("*"))}, Digest: []byte("wrong")}); err == nil {
		t.Fatal("another digest was accepted")
	}
	if d := ask(t, table, "read_file", `{"path":"a"}`); d.Allowed || d.Reason != auditv1.Reason_REASON_STALE {
		t.Fatalf("a drifted table decides: %+v", d)
	}
}

func TestExplainSaysWhatBecameOfEachRule(t *testing.T) {
	table := compile(t, user(ann, 1), groupEntry(1, "g"), grantOf(1, allow("read_file"), when(allow("push_files"), `has(args.branch) && args.branch == "x"`), when(deny("push_files"), `args.count > 1`)))
	a, err := table.Arguments("github", "push_files", []byte(`{"branch":"y"}`))
	if err != nil {
		t.Fatal(err)
	}
	r := Request{Person: ann, Connector: "github", Tool: "push_files", Arguments: a, Now: now}
	e := table.Explain(r)
	if d := table.Decide(r); e.Allowed != d.Allowed || e.Rule != d.Rule || len(e.Rules) != 3 {
		t.Fatalf("got %+v, decided %+v", e, d)
	}
	if !e.Rules[0].OtherTool || e.Rules[1].Matched || e.Rules[1].Err != nil || e.Rules[2].Err == nil {
		t.Fatalf("got %+v", e.Rules)
	}
}

func TestDecidingAllocatesNothingWithoutACondition(t *testing.T) {
	table := compile(t, user(ann, 1), groupEntry(1, "g"), grantOf(1, allow("read_*"), deny("delete_*")))
	r := Request{Person: ann, Client: "c", Connector: "github", Tool: "read_file", Region: "us", Arguments: NoArguments, Now: now}
	table.Decide(r)
	if n := testing.AllocsPerRun(1000, func() {
		if !table.Decide(r).Allowed {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
