package policy

import (
	"fmt"
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func TestWhatARuleReadsOfItsPersonIsToldFromWhatLooksLikeIt(t *testing.T) {
	for when, want := range map[string]string{
		`user.id == "x"`: "true false",
		`has(args.x) && (has(user.title) || user.id == "x")`: "true false",
		`"a" in user.groups`: "false true",
		`["a"].exists(g, g in user.groups && args.id == g)`: "false true",
		`args.id == "x" && user.directory == "okta"`:        "false false",
		`args.groups.exists(user, user.id == "x")`:          "false false",
		`args.user.id == "x"`:                               "false false",
		`args.identity == user.title`:                       "false false",
		`tool.name == "user.id"`:                            "false false",
		``:                                                  "false false",
	} {
		id, groups := ReadsOfPerson(&policyv1.Rule{When: when})
		if got := fmt.Sprint(id, groups); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
}
