package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
)

func TestAPlanIsShownWithWhoIsLimitedAndWhatIsRedacted(t *testing.T) {
	always := &adminv1.Outlook{Access: adminv1.Access_ACCESS_ALWAYS, By: []string{"rule 1 of okta/Sales"}}
	term := func(of adminv1.Term, change adminv1.TermChange, before, after string) *adminv1.TermEffect {
		return &adminv1.TermEffect{Term: of, Change: change, Before: before, After: after, By: []string{"rule 2 of okta/Sales"}}
	}
	effects := []*adminv1.AccessEffect{{Count: 5, People: []string{"okta/ada", "okta/bob", "okta/cy"}, Tools: []*adminv1.ToolEffect{
		{Connector: "crm", Tool: "query", Before: always, After: &adminv1.Outlook{Access: adminv1.Access_ACCESS_ALWAYS, Asked: "confirm in the browser", By: always.GetBy()}, Effect: adminv1.Effect_EFFECT_NARROWS, Terms: []*adminv1.TermEffect{
			term(adminv1.Term_TERM_LIMIT, adminv1.TermChange_TERM_CHANGE_COMES, "", "10 calls"),
		}},
		{Connector: "crm", Tool: "read", Before: always, After: always, Terms: []*adminv1.TermEffect{
			term(adminv1.Term_TERM_LIMIT, adminv1.TermChange_TERM_CHANGE_WIDENS, "10 calls", "20 calls"),
			term(adminv1.Term_TERM_REDACTION, adminv1.TermChange_TERM_CHANGE_GOES, "ssn of results, in audit", ""),
		}},
	}}}
	changes := []*adminv1.AppliedChange{{Kind: "Grant", Name: "okta/Sales on crm", Action: adminv1.AppliedAction_APPLIED_ACTION_UPDATED}}
	var out bytes.Buffer
	if err := planTable(7, changes, effects, 5).write(&out); err != nil {
		t.Fatal(err)
	}
	rows := strings.Split(out.String(), "\n")
	for i, row := range rows {
		rows[i] = strings.Join(strings.Fields(row), " ")
	}
	for _, want := range []string{
		"okta/ada, okta/bob, okta/cy and 2 more narrows crm query always always, after confirm in the browser rule 1 of okta/Sales",
		"newly limited crm query - 10 calls rule 2 of okta/Sales",
		"limit widens crm read 10 calls 20 calls rule 2 of okta/Sales",
		"redacted no more crm read ssn of results, in audit - was by rule 2 of okta/Sales",
	} {
		if !slices.Contains(rows, want) {
			t.Errorf("no row is %q:\n%s", want, out.String())
		}
	}
}
