package policy

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func redactedBy(t testing.TB, raw string, paths ...string) (string, bool) {
	t.Helper()
	p, err := newPaths(paths)
	if err != nil {
		t.Fatal(err)
	}
	out, found, err := p.Redact([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return string(out), found
}

func TestPathsFindWhatTheySay(t *testing.T) {
	for _, c := range []struct{ path, in, want string }{
		{"ssn", `{"ssn":"1","a":{"SSN":2,"b":[{"ssn":null}]}}`, `{"ssn":"[redacted]","a":{"SSN":"[redacted]","b":[{"ssn":"[redacted]"}]}}`},
		{"$.a.b", `{"a":{"b":{"deep":[1]},"c":1},"b":2}`, `{"a":{"b":"[redacted]","c":1},"b":2}`},
		{"$..b", `{"a":{"b":{"b":1}},"b":2}`, `{"a":{"b":"[redacted]"},"b":"[redacted]"}`},
		{"$['a b'][\"c\"]", `{"a b":{"c":1}}`, `{"a b":{"c":"[redacted]"}}`},
		{`$['it\'s']`, `{"it's":1}`, `{"it's":"[redacted]"}`},
		{`$["\u0061"]`, `{"a":1}`, `{"a":"[redacted]"}`},
		{"$.list[1]", `{"list":[1,2,3]}`, `{"list":[1,"[redacted]",3]}`},
		{"$.list[ 0 , 2 ].x", `{"list":[{"x":1},{"x":2},{"x":3}]}`, `{"list":[{"x":"[redacted]"},{"x":2},{"x":"[redacted]"}]}`},
		{"$.list[*].x", `{"list":[{"x":1},{"y":2}]}`, `{"list":[{"x":"[redacted]"},{"y":2}]}`},
		{"$..[0]", `[[1,2],[3]]`, `["[redacted]",["[redacted]"]]`},
		{"$.*", `{"a":1,"b":[2]}`, `{"a":"[redacted]","b":"[redacted]"}`},
		{"$", `{"a":1}`, `"[redacted]"`},
		{"$.größe", `{"größe":1}`, `{"größe":"[redacted]"}`},
		// However a name is written.
		{"ssn", `{"\u0073\u0073n":"1"}`, `{"\u0073\u0073n":"[redacted]"}`},
		{"ssn", ` { "ssn" : "a\"}" , "b" : [ ] } `, ` { "ssn" : "[redacted]" , "b" : [ ] } `},
		// In JSON in a string, and in a string of that.
		{"$.data.ssn", `{"data":"{\"ssn\":\"1\",\"n\":2}"}`, `{"data":"{\"ssn\":\"[redacted]\",\"n\":2}"}`},
		{"ssn", `{"a":"[{\"b\":\"{\\\"ssn\\\":1}\"}]"}`, `{"a":"[{\"b\":\"{\\\"ssn\\\":\\\"[redacted]\\\"}\"}]"}`},
		{"ssn", `{"a":"the ssn: 1"}`, ``},
		{"$.a", `{"b":{"a":1}}`, ``},
		{"$.a.b", `{"a":"x"}`, ``},
		{"ssn", `"x"`, ``},
	} {
		want := c.want
		if want == "" {
			want = c.in
		}
		if got, found := redactedBy(t, c.in, c.path); got != want || found != (c.want != "") {
			t.Errorf("%s of %s\n got %s %v\nwant %s", c.path, c.in, got, found, want)
		}
	}
}

func TestWhatIsNoPathIsRefusedWithWhatToWrite(t *testing.T) {
	for path, says := range map[string]string{
		"": "neither a name", "a.b": "$.customer.card", "a[0]": "neither", "*": "neither", "$a": "begins with a dot", "$.": "after a dot", "$..": "after a dot",
		"$.card-number": "begins with a dot or a bracket", "$.1a": "['card-number']", "$[-1]": "from the end", "$[1:2]": "slices", "$[?@.a]": "filters", "$[01]": "indexes", "$['a": "does not end", `$['\x']`: "escape",
		"$['a' 'b']": "commas", "$.['a']": "without a dot", "$[99999999999999999999]": "indexes", strings.Repeat("$.a", 300): "at most", "$" + strings.Repeat(".a", 21): "more than 20",
	} {
		if _, err := readPath(path); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, which does not say %q", path, err, says)
		}
	}
}

func TestWhatTwoReadersReadDifferentlyIsNotRedactedButRefused(t *testing.T) {
	p, err := newPaths([]string{"ssn"})
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string]string{
		"a key twice": `{"ssn":1,"ssn":2}`, "a key twice by escapes": `{"ssn":1,"ss\u006e":2}`, "cut": `{"ssn":"1`, "two values": `{} {"ssn":1}`, "no JSON": `ssn=1`,
		"a lone surrogate": `{"a":"\ud800"}`, "too deep": strings.Repeat(`[`, 300) + strings.Repeat(`]`, 300), "invalid UTF-8": "{\"a\":\"\xff\"}",
	} {
		if out, _, err := p.Redact([]byte(raw)); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// TestHugeAndDeepValuesAreWalkedOnce: a walk that went back would not end here.
func TestHugeAndDeepValuesAreWalkedOnce(t *testing.T) {
	deep := strings.Repeat(`{"a":`, 250) + `{"ssn":1}` + strings.Repeat(`}`, 250)
	if got, found := redactedBy(t, deep, "ssn", "$..a..a..a..a..b"); !found || strings.Contains(got, `"ssn":1`) {
		t.Error("what lies deep was not found")
	}
	huge := `[` + strings.Repeat(`{"ssn":"x","b":[1,2,3]},`, 100_000) + `1]`
	if got, _ := redactedBy(t, huge, "ssn", "$..b[1]", "$..*..c"); strings.Contains(got, `"x"`) || strings.Count(got, "[redacted]") != 200_000 {
		t.Error("a huge value was not redacted as a small one is")
	}
	nested := `{"ssn":1}`
	for range 6 {
		again, err := json.Marshal(map[string]string{"a": nested})
		if err != nil {
			t.Fatal(err)
		}
		nested = string(again)
	}
	if got, _ := redactedBy(t, nested, "ssn"); strings.Contains(got, "ssn") {
		t.Errorf("what lies deeper in strings than is looked is to be taken out whole: %s", got)
	}
}

// slowRedact is what paths find, going by each path alone on a decoded value.
func slowRedact(v any, p path) any {
	if len(p) == 0 {
		return "[redacted]"
	}
	s := p[0]
	step := func(child any, name string, index int) any {
		if s.any || index >= 0 && contains(s.indexes, index) || index < 0 && containsFold(s.names, name) {
			child = slowRedact(child, p[1:])
		}
		if s.descend {
			child = slowRedact(child, p)
		}
		return child
	}
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for name, child := range v {
			out[name] = step(child, name, -1)
		}
		return out
	case []any:
		out := []any{}
		for i, child := range v {
			out = append(out, step(child, "", i))
		}
		return out
	}
	return v
}

func contains(all []int, one int) bool {
	for _, i := range all {
		if i == one {
			return true
		}
	}
	return false
}

func containsFold(all []string, one string) bool {
	for _, s := range all {
		if strings.EqualFold(s, one) {
			return true
		}
	}
	return false
}

func randomJSON(t *rapid.T, depth int) any {
	most := 4
	if depth > 3 {
		most = 1
	}
	switch rapid.IntRange(0, most).Draw(t, "kind") {
	case 0:
		return float64(rapid.IntRange(0, 9).Draw(t, "number"))
	case 1:
		return rapid.SampledFrom([]string{"", "x", `"`, `\`, "ü}]"}).Draw(t, "text")
	case 2:
		list := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "length") {
			list = append(list, randomJSON(t, depth+1))
		}
		return list
	}
	object := map[string]any{}
	for range rapid.IntRange(0, 3).Draw(t, "members") {
		object[rapid.SampledFrom([]string{"a", "b", "c", "A", `"`}).Draw(t, "name")] = randomJSON(t, depth+1)
	}
	return object
}

func TestPathsFindWhatTheSlowReferenceDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := randomJSON(t, 0)
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		want := v
		for range rapid.IntRange(1, 3).Draw(t, "paths") {
			text := "$"
			for range rapid.IntRange(1, 4).Draw(t, "steps") {
				text += rapid.SampledFrom([]string{".a", "..a", ".*", "..*", "[0]", "..[1]", "['b','c']", "[*]", `["\""]`, ".b", "..c"}).Draw(t, "step")
			}
			texts = append(texts, text)
			p, err := readPath(text)
			if err != nil {
				t.Fatal(err)
			}
			want = slowRedact(want, p)
		}
		paths, err := newPaths(texts)
		if err != nil {
			t.Fatal(err)
		}
		out, _, err := paths.Redact(raw)
		if err != nil {
			t.Fatal(err)
		}
		var got any
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%s is no longer JSON: %v", out, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%v of %s: got %s, want %s", texts, raw, out, fmt.Sprint(want))
		}
	})
}

func FuzzRedact(f *testing.F) {
	f.Add("$..a", `{"a":"{\"a\":1}"}`)
	f.Add("ssn", `{"ssn":[1,{"x":"y"}]}`)
	f.Fuzz(func(t *testing.T, path, raw string) {
		p, err := newPaths([]string{path})
		if err != nil {
			return
		}
		out, found, err := p.Redact([]byte(raw))
		if err != nil {
			return
		}
		if !json.Valid(out) || found == (string(out) == raw) && !strings.Contains(raw, "[redacted]") {
			t.Fatalf("%q of %s: %s, found %v", path, raw, out, found)
		}
	})
}
