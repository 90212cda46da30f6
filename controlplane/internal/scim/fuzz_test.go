package scim

import (
	"errors"
	"strings"
	"testing"
)

var seeds = []string{
	`userName eq "ada@example.com"`, `emails[type eq "work" and value co "@x"].value`, `not (a pr) or b.c ge 2.5e3 and d lt null`, `members[value eq "1"]`,
	userSchema + `:userName sw "a"`, enterpriseSchema + ":manager.value", `a eq "\u00e4\""`, `a[b[c eq 1]]`, `active eq False`, "((((", `a eq "`, "name.givenName", ":", ".", "a.b.c eq 1",
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
