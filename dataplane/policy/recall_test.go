package policy

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// recallConditions read arguments in all the ways that conditions can.
var recallConditions = []string{
	`has(args.a)`, `has(args.a) && args.a == "x"`, `args.a == "x"`, `has(args.o.b)`, `args.o.b == "x"`, `args["a"] == "x"`, `args["o"]["b"] != "x"`,
	`args.l.all(f, f.p.startsWith("x"))`, `args.l.exists(f, has(f.q) && f.q == args.a)`, `args.l.map(f, f.p).exists(p, p == "x")`, `size(args.l) > 1`, `args.l.size() == 2`,
	`args.l[0].p == "x"`, `args.l.filter(f, f.p == "x").size() > 0`, `args.o.all(k, k != "b")`, `args.o.exists(k, v, v == "x")`, `args.l.exists(i, f, i == 1 && f.p == "x")`,
	`args == {"a": "x"}`, `"a" in args`, `"x" in args.l`, `args.l == ["x"]`, `args.exists(k, k == "a")`, `args[user.id] == "x"`, `args.l.exists(f, f.l.exists(g, g.p == f.p))`,
	`args.a.startsWith("x") || has(args.o)`, `type(args.a) == string`, `string(args.a) == "x"`, `!has(args.zz)`, `args.a + "y" == "xy"`, `{"k": args.a}["k"] == "x"`, `[args.a, args.o.b].exists(v, v == "x")`,
	`args.n > 3`, `args.o.n == 5`, `has(args.l) && args.l.exists_one(f, f == "x")`, `args.l.exists(args, args == "x")`,
}

func randomValue(t *rapid.T, depth int) any {
	switch kind := rapid.IntRange(0, 7).Draw(t, "kind"); {
	case kind <= 2 || depth == 0:
		return rapid.SampledFrom([]string{"x", "y", "", "b"}).Draw(t, "text")
	case kind == 3:
		return rapid.SampledFrom([]float64{3, 5, 7.5}).Draw(t, "number")
	case kind == 4:
		return nil
	case kind == 5:
		list := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "length") {
			list = append(list, randomValue(t, depth-1))
		}
		return list
	}
	return randomObject(t, depth, "a", "b", "p", "q", "l", "n")
}

func randomObject(t *rapid.T, depth int, names ...string) map[string]any {
	object := map[string]any{}
	for _, name := range names {
		if rapid.Bool().Draw(t, name) {
			object[name] = randomValue(t, depth-1)
		}
	}
	return object
}

// recallTable has one rule for each condition, in one grant.
func recallTable(t interface{ Fatal(...any) }, conditions ...string) *Table {
	var rules []*policyv1.Rule
	for _, when := range conditions {
		rules = append(rules, &policyv1.Rule{Allow: []string{"push"}, When: when})
	}
	table, err := Compile(1, func(yield func(*fleetv1.Entry) bool) {
		for _, e := range []*fleetv1.Entry{
			{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Url: "https://up.example"}}},
			{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "github", Tools: []*policyv1.Tool{
				{Name: "push", Definition: []byte(`{"name":"push","inputSchema":{"type":"object","properties":{"n":{"type":"number"}}}}`)},
			}}}},
			user(ann, 1), groupEntry(1, "g1"), grantOf(1, rules...),
		} {
			if !yield(e) {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// TestWhatIsRecalledOfArgumentsIsEnoughToDecide: whatever conditions there were when a call was recorded, and whatever there is now, a verdict
// on what was recorded is the verdict on the arguments, or it is said that it is none; and it is one where the conditions are those of then.
func TestWhatIsRecalledOfArgumentsIsEnoughToDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw, err := json.Marshal(randomObject(t, 4, "a", "o", "l", "n", "other"))
		if err != nil {
			t.Fatal(err)
		}
		some := rapid.SliceOfN(rapid.SampledFrom(recallConditions), 1, 3)
		then, now := some.Draw(t, "then"), some.Draw(t, "now")
		withheld := rapid.SampledFrom([]string{"", "", "a", "l"}).Draw(t, "withheld")
		recorded := recallTable(t, then...)
		arguments, err := recorded.Arguments("github", "push", raw)
		if err != nil {
			t.Skip(err)
		}
		ask := Request{Person: ann, Connector: "github", Tool: "push", Arguments: arguments, From: &Origin{}, Now: time.Unix(1, 0)}
		values := recorded.ConditionValues(ask, func(object []byte) bool {
			members := map[string]any{}
			if err := json.Unmarshal(object, &members); err != nil || len(members) != 1 {
				t.Fatalf("%s: %v", object, err)
			}
			_, is := members[withheld]
			return !is
		})
		if values == nil {
			return
		}
		wire, err := proto.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		values = &auditv1.ConditionValues{}
		if err := proto.Unmarshal(wire, values); err != nil {
			t.Fatal(err)
		}
		for name, conditions := range map[string][]string{"then": then, "now": now} {
			table := recallTable(t, conditions...)
			ask.Arguments = arguments
			want := table.Decide(ask)
			if ask.Arguments, err = table.Recalled("github", "push", values); err != nil {
				t.Fatal(err)
			}
			got := table.Decide(ask)
			if got.Missed && name == "then" && withheld == "" {
				t.Fatalf("%s: %q were recorded, and are not enough for %q", raw, values, conditions)
			}
			if !got.Missed && fmt.Sprint(got.Allowed, got.Reason, got.Rule) != fmt.Sprint(want.Allowed, want.Reason, want.Rule) {
				t.Fatalf("%s under %q: %v %v by rule %d, on what was recorded under %q (%q) %v %v by rule %d", raw, conditions, want.Allowed, want.Reason, want.Rule, then, values, got.Allowed, got.Reason, got.Rule)
			}
		}
	})
}

func TestOnlyWhatConditionsReadIsRecorded(t *testing.T) {
	long := `{"branch":"main","note":"private","files":[{"path":"a.go","content":"private"},{"path":"b.go","content":"private"}]}`
	for name, c := range map[string]struct {
		conditions []string
		want       []string
	}{
		"a member":               {[]string{`args.branch == "x"`}, []string{`{"branch":"main"}`}},
		"whether it is there":    {[]string{`has(args.note)`}, []string{`{"note":""}`}},
		"a member of each":       {[]string{`args.files.all(f, f.path.endsWith(".go"))`}, []string{`{"files":[{"path":"a.go"},{"path":"b.go"}]}`}},
		"of several":             {[]string{`args.branch == "x"`, `args.files.exists(f, has(f.mode))`, `user.id == "x"`}, []string{`{"branch":"main"}`, `{"files":[{},{}]}`}},
		"what was not given":     {[]string{`has(args.force) && args.force`}, []string{``}},
		"conditions on people":   {[]string{`user.id == "x"`}, nil},
		"none":                   {[]string{``}, nil},
		"of another name inside": {[]string{`["x"].exists(args, args == "x")`}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			table := recallTable(t, c.conditions...)
			arguments, err := table.Arguments("github", "push", []byte(long))
			if err != nil {
				t.Fatal(err)
			}
			values := table.ConditionValues(Request{Connector: "github", Tool: "push", Arguments: arguments}, func([]byte) bool { return true })
			var got []string
			for _, v := range values.GetValues() {
				got = append(got, string(v.GetObject()))
			}
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("recorded %q, want %q", got, c.want)
			}
		})
	}
	table := recallTable(t, `args.branch == "x"`)
	arguments, err := table.Arguments("github", "push", []byte(long))
	if err != nil {
		t.Fatal(err)
	}
	values := table.ConditionValues(Request{Connector: "github", Tool: "push", Arguments: arguments}, func([]byte) bool { return true })
	values.Definition[0] ^= 1
	if _, err := table.Recalled("github", "push", values); err == nil {
		t.Error("arguments that were held against another definition are recalled")
	}
}
