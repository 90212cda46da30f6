package scim

import (
	"testing"

	"sallyport.dev/controlplane/internal/core"
)

// TestWhatDirectoriesLookUpIsAnsweredByAnIndex, whatever the form in which they ask: to read a million people takes
// longer than they wait.
func TestWhatDirectoriesLookUpIsAnsweredByAnIndex(t *testing.T) {
	onlyUsers, onlyGroups := kinds{users: true}, kinds{groups: true}
	for expression, of := range map[string]kinds{
		`userName eq "x"`: onlyUsers, userSchema + `:USERNAME eq "x" and active eq true`: onlyUsers, `externalId eq "x"`: onlyUsers, `id eq "x"`: onlyUsers,
		`emails eq "x"`: onlyUsers, `emails.value eq "x"`: onlyUsers, `emails[type eq "work"].value eq "x"`: onlyUsers, `active eq true and emails[value eq "x" and type eq "work"]`: onlyUsers,
		`groups.value eq "x"`: onlyUsers, `groups[value eq "x"]`: onlyUsers,
		`displayName eq "x"`: onlyGroups, `members eq "x"`: onlyGroups, `members[value eq "x"]`: onlyGroups, `(displayName eq "x") and externalId pr`: onlyGroups,
	} {
		f, err := parseFilter(expression)
		if err != nil {
			t.Fatal(err)
		}
		l := &listing{request: &request{}, query: &query{filter: f}, kinds: of, state: core.NewState()}
		if l.indexed() == nil {
			t.Errorf("%s reads everything", expression)
		}
	}
	for _, expression := range []string{`userName ne "x"`, `not (userName eq "x")`, `userName eq "x" or active eq true`, `emails[value eq "x" or type eq "work"]`, `emails.type eq "x"`, `emails.value co "x"`} {
		f, err := parseFilter(expression)
		if err != nil {
			t.Fatal(err)
		}
		l := &listing{request: &request{}, query: &query{filter: f}, kinds: onlyUsers, state: core.NewState()}
		if l.indexed() != nil {
			t.Errorf("%s is looked for in an index, which does not have all that matches", expression)
		}
	}
}
