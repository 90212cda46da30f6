package policy

import (
	"fmt"
	"strings"
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func schemaTool(schema string) *policyv1.Tool {
	return &policyv1.Tool{Name: "t", Definition: fmt.Appendf(nil, `{"name":"t","inputSchema":%s}`, schema)}
}

// nested is a schema as generators write them: references, alternatives, lists of objects.
const nested = `{"type":"object","properties":{
	"file":{"$ref":"#/$defs/File"},
	"files":{"type":"array","items":{"$ref":"#/$defs/File","description":"one"}},
	"maybe":{"anyOf":[{"type":"array","items":{"$ref":"#/$defs/File"}},{"type":"null"}]},
	"count":{"type":"integer"},"size":{"type":"number"},"any":{}},
	"additionalProperties":{"$ref":"#/$defs/File"},
	"required":["file"],
	"$defs":{"File":{"type":"object","properties":{"path":{"type":"string"},"size":{"type":"number"},"inner":{"$ref":"#/$defs/File"}},"required":["path"]}}}`

func TestKeysThatFoldToAPropertyAreRefusedAtAnyDepth(t *testing.T) {
	tool := newTool("c", schemaTool(nested))
	for args, ok := range map[string]bool{
		`{"file":{"path":"a"}}`:                                    true,
		`{"file":{"path":"a","Path":"b"}}`:                         false,
		`{"file":{"path":"a","inner":{"path":"b","PATH":"c"}}}`:    false,
		`{"file":{"path":"a"},"files":[{"path":"b","pAth":"c"}]}`:  false,
		`{"file":{"path":"a"},"maybe":[{"path":"b","Path":"c"}]}`:  false,
		`{"file":{"path":"a"},"other":{"path":"b","Path":"c"}}`:    false,
		`{"file":{"path":"a"},"File":{"path":"b"}}`:                false,
		`{"file":{"path":"a"},"any":{"Path":"x","path":"y"}}`:      true, // the schema names nothing there
		`{"file":{"path":"a"},"files":[{"path":"b","other":"c"}]}`: true,
	} {
		if _, err := tool.arguments([]byte(args)); (err == nil) != ok {
			t.Errorf("%s: got %v, want acceptance %v", args, err, ok)
		}
	}
}

// TestANumberIsOneValueHoweverItIsWritten and of the type that the condition was checked with.
func TestANumberIsOneValueHoweverItIsWritten(t *testing.T) {
	tool := newTool("c", schemaTool(nested))
	for _, c := range []struct {
		args, condition string
		holds, failed   bool
	}{
		{`"count":5`, `args.count + 1 == 6`, true, false},
		{`"count":5.0`, `args.count + 1 == 6`, true, false},
		{`"count":50e-1`, `args.count + 1 == 6`, true, false},
		{`"size":5`, `args.size * 2.0 == 10.0`, true, false},
		{`"size":5.5`, `args.size * 2.0 == 11.0`, true, false},
		{`"size":5`, `args.size > 4`, true, false},
		{`"size":9007199254740993`, `args.size > 4.0`, false, true},
		{`"count":9007199254740993`, `args.count != 0`, false, true},
		{`"count":1e300`, `args.count > 0`, false, true},
		{`"size":1e300`, `args.size > 0.0`, true, false},
		{`"any":[9007199254740993]`, `args.any[0] == 1`, false, true},
	} {
		a, err := tool.arguments([]byte(`{"file":{"path":"a"},` + c.args + `}`))
		if err != nil {
			t.Errorf("%s: %v", c.args, err)
			continue
		}
		holds, err := newCondition(c.condition).holds(&facts{args: a.values}, &Request{})
		if holds != c.holds || (err != nil) != c.failed {
			t.Errorf("%s on %s: %v, %v", c.condition, c.args, holds, err)
		}
	}
	for _, number := range []string{"1e400000000", "1e-400000000", "-1e1000", strings.Repeat("9", 500)} {
		if _, err := tool.arguments([]byte(`{"file":{"path":"a"},"size":` + number + `}`)); err == nil {
			t.Errorf("%.20s was accepted: to compute with it has no bounds", number)
		}
	}
}

func TestCheckFollowsReferencesAndTypes(t *testing.T) {
	for condition, ok := range map[string]bool{
		`args.file.path == "a"`:                                                       true,
		`args.file.path > 5`:                                                          false,
		`args.file.inner.path == "a"`:                                                 false, // inner may be omitted
		`has(args.file.inner) && args.file.inner.path == "a"`:                         true,
		`has(args.files) && args.files.all(f, f.path != "x")`:                         true,
		`has(args.files) && args.files.all(f, f.nothing != "x")`:                      false,
		`has(args.size) && args.size > 5`:                                             true,
		`has(args.size) && args.size == 5`:                                            false,
		`has(args.size) && args.size == 5.0`:                                          true,
		`has(args.count) && args.count % 2 == 0`:                                      true,
		`has(args.count) && has(args.files) && args.files.all(args, args.count == 1)`: false, // another args
		"args.file.`path` == \"a\"":                                                   true,
		`{"a": args.size}["a"] == 1.0`:                                                false,
	} {
		if err := Check(when(allow("t"), condition), []*policyv1.Tool{schemaTool(nested)}); (err == nil) != ok {
			t.Errorf("%s: got %v, want acceptance %v", condition, err, ok)
		}
	}
	err := Check(when(allow("t"), `args.count == 1`), []*policyv1.Tool{schemaTool(nested)})
	for _, part := range []string{`allows t`, `"t"`, `args.count`, `has(args.count) &&`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v does not say %s", err, part)
		}
	}
	err = Check(when(deny("t"), `has(args.size) && args.size == 5`), []*policyv1.Tool{schemaTool(nested)})
	if err == nil || !strings.Contains(err.Error(), "5.0") {
		t.Errorf("%v does not say what to write instead", err)
	}
}

// TestSchemasThatReferToThemselvesEnd: shapes are read once, whatever the cycles.
func TestSchemasThatReferToThemselvesEnd(t *testing.T) {
	for _, schema := range []string{
		`{"type":"object","properties":{"a":{"$ref":"#"}}}`,
		`{"type":"object","properties":{"a":{"$ref":"#/properties/a"}}}`,
		`{"type":"object","properties":{"a":{"$ref":"#/properties/b"},"b":{"$ref":"#/properties/a"}}}`,
		`{"type":"object","allOf":[{"$ref":"#/$defs/x"}],"$defs":{"x":{"anyOf":[{"$ref":"#/$defs/x"},{"properties":{"y":{}}}]}}}`,
		`{"type":"object","properties":{"a":{"type":"array","items":{"$ref":"#/properties/a"}}}}`,
	} {
		tool := newTool("c", schemaTool(schema))
		if _, err := tool.compiled(); err != nil {
			continue // refused is an end too
		}
		_, _ = tool.arguments([]byte(`{"a":[[{"Y":1}]]}`))
		_ = Check(when(allow("*"), `has(args.a)`), []*policyv1.Tool{schemaTool(schema)})
	}
}

func TestSchemasWhoseAlternativesMultiplyAreRefused(t *testing.T) {
	defs := `"$defs":{"a0":{"type":"object"}`
	for i := 1; i <= 30; i++ {
		defs += fmt.Sprintf(`,"a%d":{"anyOf":[{"$ref":"#/$defs/a%d"},{"$ref":"#/$defs/a%d"}]}`, i, i-1, i-1)
	}
	if err := CheckTool(schemaTool(`{"type":"object","allOf":[{"$ref":"#/$defs/a30"}],` + defs + `}}`)); err == nil {
		t.Fatal("arguments would be held against a thousand million schemas")
	}
}

func TestConstantConditionsAreCertainInLists(t *testing.T) {
	for condition, listed := range map[string]bool{
		`false`: false, `1 > 2`: false, `false && args.x`: false, `true`: true, `has(args.branch)`: true, `args.branch == "x"`: true,
	} {
		table := compile(t, user(ann, 1), groupEntry(1, "g"), grantOf(1, when(allow("push_files"), condition)))
		if got := len(table.List(Request{Person: ann, Connector: "github", Region: "us", Now: now})) == 1; got != listed {
			t.Errorf("allowed when %s: listed %v", condition, got)
		}
		table = compile(t, user(ann, 1), groupEntry(1, "g"), grantOf(1, allow("push_files"), when(deny("*"), condition)))
		if got, want := len(table.List(Request{Person: ann, Connector: "github", Region: "us", Now: now})) == 1, condition != `true`; got != want {
			t.Errorf("denied when %s: listed %v", condition, got)
		}
	}
}

func FuzzArguments(f *testing.F) {
	f.Add(nested, `{"file":{"path":"a"},"size":1e3}`)
	f.Add(`{"type":"object","allOf":[{"$ref":"#"}]}`, `{}`)
	f.Add(`{"type":"object","properties":{"a":{"$ref":"#/$defs/%61"}},"$defs":{"a":{"$id":"x"}}}`, `{"A":1}`)
	f.Fuzz(func(t *testing.T, schema, raw string) {
		tool := schemaTool(schema)
		if CheckTool(tool) != nil {
			return
		}
		a, err := newTool("c", tool).arguments([]byte(raw))
		if (err == nil) != (a.values != nil) {
			t.Fatalf("got %v and %v", a.values, err)
		}
	})
}
