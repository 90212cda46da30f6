package core

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// member is what document.member must find, by reading all.
func slowMember(data []byte, name string) (any, bool) {
	var members map[string]any
	if json.Unmarshal(data, &members) != nil {
		return nil, false
	}
	if v, ok := members[name]; ok {
		return v, true
	}
	for _, key := range slices.Sorted(maps.Keys(members)) {
		if strings.EqualFold(key, name) {
			return members[key], true
		}
	}
	return nil, false
}

func TestAMemberIsFoundAsByReadingAll(t *testing.T) {
	names := []string{"a", "A", "ab", "aB", `q"`, `b\`, "", "é", "É", "k", "K", "\u212a", "urn:x:User", "{", "}", "value\n"}
	rapid.Check(t, func(t *rapid.T) {
		var value func(depth int) any
		value = func(depth int) any {
			switch rapid.IntRange(0, 7-min(depth, 2)).Draw(t, "kind") {
			case 0:
				return nil
			case 1:
				return rapid.Bool().Draw(t, "bool")
			case 2:
				return float64(rapid.IntRange(-5, 5).Draw(t, "number")) / 4
			case 3, 4:
				return rapid.SampledFrom(names).Draw(t, "text")
			case 5:
				return []any{rapid.SampledFrom(names).Draw(t, "element"), 1.0}
			}
			members := map[string]any{}
			for range rapid.IntRange(0, 5).Draw(t, "members") {
				members[rapid.SampledFrom(names).Draw(t, "name")] = value(depth + 1)
			}
			return members
		}
		members := map[string]any{}
		for range rapid.IntRange(0, 6).Draw(t, "members") {
			members[rapid.SampledFrom(names).Draw(t, "name")] = value(0)
		}
		data, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		if rapid.Bool().Draw(t, "spread out") {
			var out bytes.Buffer
			if err := json.Indent(&out, data, " ", "\t"); err != nil {
				t.Fatal(err)
			}
			data = out.Bytes()
		}
		for _, name := range names {
			want, there := slowMember(data, name)
			got := document(data).member(name)
			if there != (got != nil) || fmt.Sprint(got.value()) != fmt.Sprint(want) {
				t.Fatalf("%q of %s: %s, want %v", name, data, got, want)
			}
			if s, is := want.(string); is && s != "" && got.text() != s {
				t.Fatalf("%q of %s says %v, want %q", name, data, got.text(), s)
			}
		}
	})
}

func FuzzDocument(f *testing.F) {
	for _, text := range []string{`{"a":"b"}`, `{"a":`, `{"a":"b\"`, `[{"a":1}]`, `{"a":{"b":[1,"}"]},"A":2}`, "{\"a\" : \"x\" , \"b\":1}", `"a"`, `{,}`, `{"a":}}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got := document(data).member("a")
		if want, there := slowMember(data, "a"); json.Valid(data) && (there != (got != nil) || fmt.Sprint(got.value()) != fmt.Sprint(want)) {
			t.Errorf("%q: %q, want %v", data, got, want)
		}
		_ = got.member("b").text() // nothing panics
	})
}
