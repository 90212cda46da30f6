package scim

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"sallyport.dev/controlplane/internal/core"
)

var seeds = []string{
	`userName eq "ada@example.com"`, `emails[type eq "work" and value co "@x"].value`, `not (a pr) or b.c ge 2.5e3 and d lt null`, `members[value eq "1"]`,
	userSchema + `:userName sw "a"`, enterpriseSchema + ":manager.value", `a eq "\u00e4\""`, `a[b[c eq 1]]`, `active eq False`, "((((", `a eq "`, "name.givenName", ":", ".", "a.b.c eq 1", strings.Repeat("y", 1700), strings.Repeat("y", 900) + " gt true", strings.Repeat("y", 900) + ".x",
}

// refusal checks that what is refused is refused as a client's mistake.
func refusal(t *testing.T, err error) {
	t.Helper()
	var wire *scimError
	if !errors.As(err, &wire) || wire.status != 400 || wire.detail == "" || len(wire.detail) > 500 {
		t.Fatalf("refused with %#v", err)
	}
}

// FuzzFilter: whatever is parsed can be asked of any resource, and one comparison means the same in parentheses.
func FuzzFilter(f *testing.F) {
	for _, s := range seeds {
		f.Add(s)
	}
	resource := object{
		"userName": "Ada", "active": true, "a": 7.0, "name": object{"givenName": "Ada"},
		"emails": []any{object{"value": "ada@x", "type": "work", "primary": true}, "bare", nil}, enterpriseSchema: object{"manager": object{"value": "1"}},
	}
	f.Fuzz(func(t *testing.T, s string) {
		parsed, err := parseFilter(s)
		if err != nil {
			refusal(t, err)
			return
		}
		yes := parsed.matches(resource)
		parsed.matches(object{})
		if name, ok := parsed.equals("userName"); ok && yes && !strings.EqualFold(name, "ada") && !compare("eq", "Ada", name, false) {
			t.Errorf("%q matches, but demands userName %q", s, name)
		}
		if len(s) > maxFilter-10 {
			return
		}
		again, err := parseFilter("(" + s + ")")
		if err != nil {
			var wire *scimError
			if errors.As(err, &wire) && strings.Contains(wire.detail, "deeply") {
				return
			}
			t.Fatalf("%q parses, in parentheses it does not: %v", s, err)
		}
		if again.matches(resource) != yes {
			t.Errorf("%q means something else in parentheses", s)
		}
		if no, err := parseFilter("not (" + s + ")"); err == nil && no.matches(resource) == yes {
			t.Errorf("%q and its negation agree", s)
		}
	})
}

// FuzzPatchPath: whatever is parsed can be applied to a person, and what comes of it can be read or is refused.
func FuzzPatchPath(f *testing.F) {
	for _, s := range seeds {
		f.Add(s, "replace")
		f.Add(s, "remove")
		f.Add(s, "add")
	}
	f.Fuzz(func(t *testing.T, s, op string) {
		path, err := parsePatchPath(s)
		if err != nil {
			refusal(t, err)
			return
		}
		if path.name == "" {
			t.Fatalf("%q names nothing", s)
		}
		for _, value := range []any{"text", true, object{"value": "x", "type": "work"}, []any{object{"value": "x", "primary": true}}, nil} {
			o := object{"userName": "ada", "active": true, "emails": []any{object{"value": "a", "type": "work"}}, "name": object{"givenName": "Ada"}}
			if err := patch(o, operation{op: op, path: path, value: clone(value)}); err != nil {
				refusal(t, err)
				continue
			}
			if _, _, err := readUser(o, true); err != nil {
				refusal(t, err)
			}
		}
	})
}

// FuzzPatch: whatever is read as a PATCH can be made of a person or is refused, what is made can be read, and the same
// made again changes nothing more, where it is replaces alone.
func FuzzPatch(f *testing.F) {
	for _, s := range seeds {
		f.Add(string(must(marshal(object{"schemas": []string{patchSchema}, "Operations": []any{object{"op": "Replace", "path": s, "value": "x"}, object{"op": "add", "value": object{s: object{"value": "y"}}}}}))))
	}
	f.Add(`{"schemas":["` + patchSchema + `"],"operations":[{"OP":"remove","path":"emails[type eq \"work\"]","value":[1,{"value":9007199254740993}]},{"op":"add","value":{"urn:a:1.0":{"b":null}}}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		body, err := decode([]byte(s))
		if err != nil || body == nil {
			return
		}
		operations, err := readPatch(body)
		if err != nil {
			refusal(t, err)
			return
		}
		made := func(o object) object {
			for _, op := range operations {
				op.value = clone(op.value)
				if err := op.permitted(userAttributes); err != nil {
					refusal(t, err)
					return nil
				}
				if err := patch(o, op); err != nil {
					refusal(t, err)
					return nil
				}
			}
			profile, active, err := readUser(o, true)
			if err != nil {
				refusal(t, err)
				return nil
			}
			again, err := attributesOf(&core.User{Profile: profile, Active: active})
			if err != nil {
				t.Fatalf("what a PATCH made cannot be read: %v", err)
			}
			return again
		}
		once := made(parsed(t, `{"userName":"ada","active":true,"emails":[{"value":"a","type":"work","primary":true},{"value":"b","type":"home"}],"name":{"givenName":"Ada"}}`))
		if once == nil || slices.ContainsFunc(operations, func(op operation) bool { return op.op != "replace" }) {
			return
		}
		primary := 0
		list, _ := once["emails"].([]any)
		for _, e := range list {
			if isPrimary(e) {
				primary++
			}
		}
		if primary > 1 {
			t.Errorf("%d addresses are primary: %v", primary, list)
		}
		before := must(marshal(once))
		if twice := made(once); twice != nil && string(must(marshal(twice))) != string(before) {
			t.Errorf("made twice, it is\n%s, once\n%s", must(marshal(twice)), before)
		}
	})
}

func must(data []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return data
}
