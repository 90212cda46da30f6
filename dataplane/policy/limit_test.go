package policy

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func limit(l *policyv1.Limit) *policyv1.Rule {
	return &policyv1.Rule{Require: policyv1.Duty_DUTY_LIMIT, Tools: []string{"*"}, Limit: l}
}

func TestLimitsAreCheckedWhenTheyAreWritten(t *testing.T) {
	hour := durationpb.New(time.Hour)
	for says, r := range map[string]*policyv1.Rule{
		"says how much under limit":  {Require: policyv1.Duty_DUTY_LIMIT, Tools: []string{"*"}},
		"no other":                   {Allow: []string{"*"}, Limit: &policyv1.Limit{Budget: "a", Window: hour, Calls: 1}},
		"limits nothing":             limit(&policyv1.Limit{Budget: "a", Window: hour}),
		"names the budget":           limit(&policyv1.Limit{Window: hour, Calls: 1}),
		"and its window":             limit(&policyv1.Limit{Budget: "a", Calls: 1}),
		"for totals":                 limit(&policyv1.Limit{Budget: "a", ResultItems: 1}),
		"a window is":                limit(&policyv1.Limit{Budget: "a", Window: durationpb.New(32 * 24 * time.Hour), Calls: 1}),
		"larger than all":            limit(&policyv1.Limit{Budget: "a", Window: hour, Items: 5, ResultItems: 6}),
		"everyone alone":             limit(&policyv1.Limit{Budget: "a", Window: hour, Calls: 5, Per: []policyv1.Per{policyv1.Per_PER_EVERYONE, policyv1.Per_PER_TOOL}}),
		"what this build does not k": limit(&policyv1.Limit{Budget: "a", Window: hour, Calls: 5, Per: []policyv1.Per{99}}),
	} {
		if err := Check(r, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, which does not say %q", r, err, says)
		}
	}
	for _, l := range []*policyv1.Limit{{ResultBytes: 1}, {Budget: "a", Window: hour, Calls: 1, Per: []policyv1.Per{policyv1.Per_PER_GROUP, policyv1.Per_PER_TOOL}}} {
		if err := Check(limit(l), nil); err != nil {
			t.Errorf("%v: %v", l, err)
		}
	}
}

func TestABudgetIsOfWhatTheRuleSays(t *testing.T) {
	subject := func(per ...policyv1.Per) [4]string {
		table := connectorSite(t, nil, []*policyv1.Rule{allow("*"), limit(&policyv1.Limit{Budget: "b", Window: durationpb.New(time.Hour), Calls: 1, Per: per})})
		a, err := table.Arguments("github", "push", []byte(`{"branch":"b"}`))
		if err != nil {
			t.Fatal(err)
		}
		d := table.Decide(Request{Person: ann, Connector: "github", Tool: "push", Arguments: a, Now: now})
		if !d.Allowed || len(d.Limits) != 1 {
			t.Fatalf("decided %+v", d)
		}
		var s [4]string
		s[0], s[1], s[2], s[3] = d.Limits[0].Subject("ann", "github", "push")
		return s
	}
	for want, per := range map[[4]string][]policyv1.Per{
		{"ann", "", "", ""}:                      nil,
		{"", "okta/Engineers", "", ""}:           {policyv1.Per_PER_GROUP},
		{"", "", "push", "github"}:               {policyv1.Per_PER_TOOL},
		{"ann", "", "", "github"}:                {policyv1.Per_PER_CONNECTOR, policyv1.Per_PER_PERSON},
		{"", "", "", ""}:                         {policyv1.Per_PER_EVERYONE},
		{"", "okta/Engineers", "push", "github"}: {policyv1.Per_PER_GROUP, policyv1.Per_PER_TOOL},
	} {
		if got := subject(per...); got != want {
			t.Errorf("per %v it is of %v, want %v", per, got, want)
		}
	}
}
