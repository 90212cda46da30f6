package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func require(duty policyv1.Duty, globs ...string) *policyv1.Rule {
	return with(&policyv1.Rule{Require: duty, Tools: globs})
}

// with completes a rule's review.
func with(r *policyv1.Rule) *policyv1.Rule {
	if dutyOf(r) == policyv1.Duty_DUTY_REVIEW && r.Review == nil {
		r.Review = &policyv1.Review{Approvers: []string{"leads"}}
	}
	return r
}

func after(r *policyv1.Rule, duty policyv1.Duty) *policyv1.Rule {
	r.After = duty
	return with(r)
}

func hinted(r *policyv1.Rule, h *policyv1.Hints) *policyv1.Rule {
	r.Hints = h
	return r
}

func until(r *policyv1.Rule, t time.Time) *policyv1.Rule {
	r.Until = timestamppb.New(t)
	return r
}

const (
	confirm = policyv1.Duty_DUTY_CONFIRM
	review  = policyv1.Duty_DUTY_REVIEW
	client  = policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_CLIENT
	browser = policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER
)

// annotatedTool is one without arguments, with annotations.
func annotatedTool(name, annotations string) *policyv1.Tool {
	return &policyv1.Tool{Name: name, Definition: fmt.Appendf(nil, `{"name":%q,"inputSchema":{"type":"object"},"annotations":%s}`, name, annotations)}
}

// site is a table of one connector with tools and one person in one group.
func site(t testing.TB, tools []*policyv1.Tool, attributes string, rules ...*policyv1.Rule) *Table {
	t.Helper()
	u := user(ann, 1)
	u.GetUser().Attributes = []byte(attributes)
	table, err := Compile(1, slices.Values([]*fleetv1.Entry{
		{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Title: "GitHub", Url: "https://up.example"}}},
		{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "github", Tools: tools}}},
		u, groupEntry(1, "okta/Engineers"), grantOf(1, rules...),
	}))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestWhatIsRequiredIsAddedToTheMostPermissiveAllow(t *testing.T) {
	reviewed := func(rules ...*policyv1.Rule) string {
		return site(t, []*policyv1.Tool{annotatedTool("read", `{"readOnlyHint":true}`)}, "", rules...).Decide(
			Request{Person: ann, Connector: "github", Tool: "read", Arguments: NoArguments, Now: now}).Duties.Review()
	}
	leads := reviewed(after(allow("*"), review))
	for name, c := range map[string]struct {
		rules   []*policyv1.Rule
		reason  auditv1.Reason
		confirm policyv1.ConfirmationAssurance
		review  string
	}{
		"allowed after confirm": {[]*policyv1.Rule{after(allow("*"), confirm)}, auditv1.Reason_REASON_CONFIRM_REQUIRED, client, ""},
		"in the browser, where a rule says so": {
			[]*policyv1.Rule{{Allow: []string{"*"}, After: confirm, Assurance: browser}}, auditv1.Reason_REASON_CONFIRM_REQUIRED, browser, "",
		},
		"allowed after review":                      {[]*policyv1.Rule{after(allow("*"), review)}, auditv1.Reason_REASON_REVIEW_REQUIRED, 0, leads},
		"at once wins":                              {[]*policyv1.Rule{after(allow("*"), review), allow("r*"), after(allow("*"), confirm)}, auditv1.Reason_REASON_RULE_ALLOWED, 0, ""},
		"confirm before review, whatever the order": {[]*policyv1.Rule{after(allow("*"), review), after(allow("*"), confirm)}, auditv1.Reason_REASON_CONFIRM_REQUIRED, client, ""},
		"the client before the browser": {
			[]*policyv1.Rule{{Allow: []string{"*"}, After: confirm, Assurance: browser}, after(allow("*"), confirm)}, auditv1.Reason_REASON_CONFIRM_REQUIRED, client, "",
		},
		"no grant lifts what is required": {[]*policyv1.Rule{allow("*"), require(review, "r*")}, auditv1.Reason_REASON_REVIEW_REQUIRED, 0, leads},
		"required of others":              {[]*policyv1.Rule{allow("*"), require(review, "w*")}, auditv1.Reason_REASON_RULE_ALLOWED, 0, ""},
		"required by condition":           {[]*policyv1.Rule{allow("*"), when(require(review, "*"), `tool.readOnly`)}, auditv1.Reason_REASON_REVIEW_REQUIRED, 0, leads},
		"not required by condition":       {[]*policyv1.Rule{allow("*"), when(require(review, "*"), `tool.destructive`)}, auditv1.Reason_REASON_RULE_ALLOWED, 0, ""},
		"one that fails counts":           {[]*policyv1.Rule{allow("*"), when(require(confirm, "*"), `user.title == "x"`)}, auditv1.Reason_REASON_CONFIRM_REQUIRED, client, ""},
		"both":                            {[]*policyv1.Rule{after(allow("*"), confirm), require(review, "*")}, auditv1.Reason_REASON_CONFIRM_REQUIRED, client, leads},
		"a deny wins":                     {[]*policyv1.Rule{after(allow("*"), confirm), require(review, "*"), deny("*")}, auditv1.Reason_REASON_RULE_DENIED, 0, ""},
		"nothing allows what is required": {[]*policyv1.Rule{require(confirm, "*")}, auditv1.Reason_REASON_NOTHING_ALLOWS, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			table := site(t, []*policyv1.Tool{annotatedTool("read", `{"readOnlyHint":true}`)}, "", c.rules...)
			ask := Request{Person: ann, Connector: "github", Tool: "read", Arguments: NoArguments, Now: now}
			d := table.Decide(ask)
			if d.Allowed != (c.reason == auditv1.Reason_REASON_RULE_ALLOWED) || d.Reason != c.reason {
				t.Fatalf("allowed %v because of %v: %s", d.Allowed, d.Reason, d.Text())
			}
			if d.Duties == nil {
				if c.confirm != 0 || c.review != "" {
					t.Fatal("nothing is asked for")
				}
				return
			}
			if d.Duties.Confirm != c.confirm || d.Duties.Review() != c.review {
				t.Fatalf("asked for %v and %q", d.Duties.Confirm, d.Duties.Review())
			}
			ask.Confirmed, ask.Reviewed = d.Duties.Confirm, d.Duties.Review()
			if done := table.Decide(ask); !done.Allowed {
				t.Fatalf("all was done, and still %s", done.Text())
			}
			if ask.Confirmed--; c.confirm > client && table.Decide(ask).Allowed {
				t.Fatal("less than what is asked for is enough")
			}
			if ask.Confirmed, ask.Reviewed = d.Duties.Confirm, "another"; c.review != "" && table.Decide(ask).Allowed {
				t.Fatal("what was approved is not what is asked for, and enough")
			}
		})
	}
}

func TestReviewsAreNamedByWhoMustApproveInWhateverOrder(t *testing.T) {
	by := func(approvals uint32, groups ...string) *policyv1.Review {
		return &policyv1.Review{Approvers: groups, Approvals: approvals}
	}
	rule := func(r *policyv1.Review) *policyv1.Rule {
		return &policyv1.Rule{Allow: []string{"*"}, After: review, Review: r}
	}
	also := func(r *policyv1.Review) *policyv1.Rule {
		return &policyv1.Rule{Require: review, Tools: []string{"*"}, Review: r}
	}
	name := func(rules ...*policyv1.Rule) string {
		table := site(t, []*policyv1.Tool{annotatedTool("a", `{}`)}, "", rules...)
		return table.Decide(Request{Person: ann, Connector: "github", Tool: "a", Arguments: NoArguments, Now: now}).Duties.Review()
	}
	one := name(rule(by(1, "leads", "owners")), also(by(2, "security")))
	if other := name(also(by(2, "security")), rule(by(0, "owners", "leads")), also(by(2, "security"))); other != one {
		t.Error("the same approvals have another name in another order")
	}
	seen := map[string]bool{one: true}
	for i, rules := range [][]*policyv1.Rule{
		{rule(by(1, "leads", "owners"))},
		{rule(by(1, "leads", "owners")), also(by(1, "security"))},
		{rule(by(1, "leads")), rule(by(1, "owners")), also(by(2, "security"))}, // two alternatives, not one choice
		{rule(&policyv1.Review{Approvers: []string{"leads", "owners"}, Self: true}), also(by(2, "security"))},
	} {
		if n := name(rules...); seen[n] {
			t.Errorf("%d: another review has the same name", i)
		} else {
			seen[n] = true
		}
	}
}

func TestHintsAreThoseOfThePinnedDefinitionWithTheProtocolsDefaults(t *testing.T) {
	tools := []*policyv1.Tool{
		annotatedTool("says_nothing", `{}`), annotatedTool("reads", `{"readOnlyHint":true,"destructiveHint":true}`),
		annotatedTool("adds", `{"readOnlyHint":false,"destructiveHint":false}`), annotatedTool("sets", `{"idempotentHint":true}`),
		annotatedTool("local", `{"openWorldHint":false}`), annotatedTool("lies", `{"readOnlyHint":"true"}`),
	}
	for name, c := range map[string]struct {
		hints *policyv1.Hints
		want  []string
	}{
		"read-only":     {&policyv1.Hints{ReadOnly: new(true)}, []string{"reads"}},
		"writing":       {&policyv1.Hints{ReadOnly: new(false)}, []string{"adds", "lies", "local", "says_nothing", "sets"}},
		"destructive":   {&policyv1.Hints{Destructive: new(true)}, []string{"lies", "local", "says_nothing", "sets"}},
		"harmless":      {&policyv1.Hints{Destructive: new(false)}, []string{"adds", "reads"}},
		"idempotent":    {&policyv1.Hints{Idempotent: new(true)}, []string{"reads", "sets"}},
		"not open":      {&policyv1.Hints{OpenWorld: new(false)}, []string{"local"}},
		"two at a time": {&policyv1.Hints{ReadOnly: new(false), Idempotent: new(true)}, []string{"sets"}},
		"none":          {&policyv1.Hints{}, []string{"adds", "lies", "local", "reads", "says_nothing", "sets"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, tool := range site(t, tools, "", hinted(allow("*"), c.hints)).List(Request{Person: ann, Connector: "github", Now: now}) {
				got = append(got, tool.Name)
			}
			if !slices.Equal(got, c.want) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
		})
	}
	// A call is made again of what only reads: what sets something sets it back where somebody else changed it meanwhile.
	for _, tool := range tools {
		if table := site(t, tools, ""); table.Repeatable("github", tool.GetName()) != (tool.GetName() == "reads") {
			t.Errorf("a call of %s may be repeated, or one that only reads may not", tool.GetName())
		}
	}
	// What the rule says and what a condition reads is the same.
	for _, tool := range tools {
		for condition, h := range map[string]*policyv1.Hints{
			"tool.readOnly": {ReadOnly: new(true)}, "tool.destructive": {Destructive: new(true)}, "tool.idempotent": {Idempotent: new(true)}, "tool.openWorld": {OpenWorld: new(true)},
		} {
			ask := Request{Person: ann, Connector: "github", Tool: tool.GetName(), Arguments: NoArguments, Now: now}
			if site(t, tools, "", when(allow("*"), condition)).Decide(ask).Allowed != site(t, tools, "", hinted(allow("*"), h)).Decide(ask).Allowed {
				t.Errorf("%s: %s differs from the hint", tool.GetName(), condition)
			}
		}
	}
}

func TestConditionsReadThePersonTheToolAndTheRequest(t *testing.T) {
	attributes := `{"custom":{"urn:example:User:clearance":"high"},"department":"Sales","entitlements":["a","b"]}`
	from := &Origin{Address: "10.1.2.3", ACR: "phrh", AMR: []string{"pwd", "hwk"}, AuthTime: now.Add(-time.Minute)}
	for condition, holds := range map[string]bool{
		`has(user.department) && user.department == "Sales"`: true,
		`has(user.title)`: false,
		`user.directory == "okta" && user.id == "00000000-0000-0000-0000-000000000001"`:                    true,
		`"okta/Engineers" in user.groups`:                                                                  true,
		`"okta/Sales" in user.groups`:                                                                      false,
		`has(user.entitlements) && "b" in user.entitlements`:                                               true,
		`"urn:example:User:clearance" in user.custom && user.custom["urn:example:User:clearance"]=="high"`: true,
		`"urn:example:User:other" in user.custom`:                                                          false,
		`tool.name == "a" && connector.id == "github" && connector.title == "GitHub"`:                      true,
		`request.region == "us" && request.client == "agent"`:                                              true,
		`cidr("10.0.0.0/8").containsIP(request.address)`:                                                   true,
		`cidr("192.168.0.0/16").containsIP(request.address)`:                                               false,
		`has(request.acr) && request.acr == "phrh" && "hwk" in request.amr`:                                true,
		`has(request.auth_time) && request.time - request.auth_time < duration("5m")`:                      true,
		`has(request.auth_time) && request.time - request.auth_time < duration("30s")`:                     false,
		`request.time < timestamp("2026-12-01T00:00:00Z")`:                                                 true,
		`request.time.getHours("Europe/Berlin") == 10`:                                                     true,
		`request.time.getDayOfWeek() == 0`:                                                                 true,
	} {
		rule := when(allow("*"), condition)
		tools := []*policyv1.Tool{annotatedTool("a", `{}`)}
		if err := Check(rule, tools); err != nil {
			t.Errorf("%s: %v", condition, err)
		}
		table := site(t, tools, attributes, rule)
		d := table.Decide(Request{Person: ann, Client: "agent", Connector: "github", Tool: "a", Region: "us", From: from, Arguments: NoArguments, Now: now})
		if d.Allowed != holds {
			t.Errorf("%s: %v, want %v (%s)", condition, d.Allowed, holds, d.Text())
		}
		listed := len(table.List(Request{Person: ann, Client: "agent", Connector: "github", Region: "us", From: from, Now: now})) == 1
		if listed != holds {
			t.Errorf("%s: listed %v, want %v: nothing of it is unknown", condition, listed, holds)
		}
	}
}

func TestCheckRefusesWhatNobodyHas(t *testing.T) {
	tools := []*policyv1.Tool{tool("push", `"branch":{"type":"string"}`, `"branch"`)}
	for condition, fine := range map[string]bool{
		`user.department == "Sales"`:                             false, // not everyone has one
		`has(user.department) && user.department == "Sales"`:     true,
		`has(user.departmnet)`:                                   false, // nobody ever has
		`user.userName.startsWith("svc-")`:                       true,
		`user == args`:                                           false,
		`user.custom["x"] == "y"`:                                false, // no path
		`user.custom[args.branch] == "y"`:                        false, // not to be known beforehand
		`user.custom["urn:a:b"] == "y"`:                          true,
		`user.custom.exists(k, k == "x")`:                        false,
		`request.acr == "x"`:                                     false, // a token may not say
		`has(request.acr) && request.acr == "x"`:                 true,
		`request.tiem > timestamp("2026-01-01T00:00:00Z")`:       false,
		`request.time > 5`:                                       false,
		`tool.readOnly && args.branch == "x"`:                    true,
		`tool.dangerous`:                                         false,
		`connector.id == "github"`:                               true,
		`args.branch in user.groups`:                             true,
		`args.xs.all(user, user.y)`:                              false,
		`[{"y": true}].all(user, user.y)`:                        true, // another user
		`request.time.getHours() >= 9 && has(request.auth_time)`: true,
	} {
		for _, against := range [][]*policyv1.Tool{tools, nil} {
			if against == nil && condition == `args.xs.all(user, user.y)` {
				continue
			}
			if err := Check(when(allow("*"), condition), against); (err == nil) != fine {
				t.Errorf("%s: got %v, want acceptance %v", condition, err, fine)
			}
		}
	}
	for name, r := range map[string]*policyv1.Rule{
		"after on a deny":            {Deny: []string{"a"}, After: confirm},
		"require with allow":         {Allow: []string{"a"}, Require: confirm, Tools: []string{"a"}},
		"require without tools":      {Require: confirm},
		"tools without require":      {Allow: []string{"a"}, Tools: []string{"a"}},
		"a review by nobody":         {Allow: []string{"a"}, After: review},
		"a review that is none":      {Allow: []string{"a"}, After: confirm, Review: &policyv1.Review{Approvers: []string{"g"}}},
		"assurance of a review":      {Allow: []string{"a"}, After: review, Review: &policyv1.Review{Approvers: []string{"g"}}, Assurance: browser},
		"an unknown duty":            {Allow: []string{"a"}, After: 9},
		"too many approvals":         {Allow: []string{"a"}, After: review, Review: &policyv1.Review{Approvers: []string{"g"}, Approvals: 11}},
		"a rule set that it is from": {Allow: []string{"a"}, RuleSet: "x"},
	} {
		if Check(r, nil) == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestAttributesReadAreThoseThatConditionsName(t *testing.T) {
	for condition, want := range map[string][]string{
		`has(user.department) && user.department == user.title`:                        {"department", "title"},
		`"okta/X" in user.groups && user.directory == "okta"`:                          nil,
		`"urn:a:b" in user.custom && user.custom["urn:a:c"] == "x" || has(user.title)`: {CustomAttribute + "urn:a:b", CustomAttribute + "urn:a:c", "title"},
		`args.user == "x"`: nil,
		`not valid`:        nil,
	} {
		if got := AttributesRead(when(allow("*"), condition)); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", condition, got, want)
		}
	}
}

func TestRulesEndWhenTheySay(t *testing.T) {
	end := now.Add(time.Hour)
	tools := []*policyv1.Tool{annotatedTool("a", `{}`), annotatedTool("b", `{}`)}
	table := site(t, tools, "", until(allow("a"), end), allow("b"), until(deny("b"), end))
	decide := func(tool string, at time.Time) bool {
		return table.Decide(Request{Person: ann, Connector: "github", Tool: tool, Arguments: NoArguments, Now: at}).Allowed
	}
	lists := func(at time.Time) (names []string) {
		for _, tool := range table.List(Request{Person: ann, Connector: "github", Now: at}) {
			names = append(names, tool.Name)
		}
		return names
	}
	before, _ := table.ListKey(ann, now)
	after, _ := table.ListKey(ann, end)
	if !decide("a", now) || decide("b", now) || !slices.Equal(lists(now), []string{"a"}) {
		t.Fatal("before its end a rule does not count")
	}
	if decide("a", end) || !decide("b", end) || !slices.Equal(lists(end), []string{"b"}) {
		t.Fatal("at its end a rule still counts")
	}
	if before == after {
		t.Fatal("lists that differ have the same key")
	}
	if at, ok := table.NextBoundary(now); !ok || !at.Equal(end) {
		t.Fatalf("the next boundary is %v, %v", at, ok)
	}
	if at, ok := table.NextBoundary(end); ok {
		t.Fatalf("after the last end there is a boundary at %v", at)
	}
	if _, err := table.Apply(&fleetv1.Delta{FromVersion: 1, Version: 2}); err == nil {
		t.Fatal("the delta's digest is not that of this table")
	}
}

func TestConditionsOnTimeAreEvaluatedAgainAsOftenAsTheyMayChange(t *testing.T) {
	at := time.Date(2026, 11, 1, 9, 30, 15, 500_000_000, time.UTC)
	for condition, want := range map[string]time.Time{
		`request.time.getHours() < 17`:                                   time.Date(2026, 11, 1, 9, 31, 0, 0, time.UTC),
		`request.time.getDayOfWeek("Asia/Tokyo") == 1`:                   time.Date(2026, 11, 1, 9, 31, 0, 0, time.UTC),
		`request.time < timestamp("2026-12-01T00:00:00Z")`:               time.Date(2026, 11, 1, 9, 30, 16, 0, time.UTC),
		`request.time.getHours() < 17 || request.time.getSeconds() == 0`: time.Date(2026, 11, 1, 9, 30, 16, 0, time.UTC),
		`request.region == "us"`:                                         {},
		`has(args.request)`:                                              {},
	} {
		table := site(t, []*policyv1.Tool{annotatedTool("a", `{}`)}, "", when(allow("*"), condition))
		if got, _ := table.NextBoundary(at); !got.Equal(want) {
			t.Errorf("%s: the next boundary is %v, want %v", condition, got, want)
		}
	}
}

func TestAListShowsWhatSomeRequestMayDo(t *testing.T) {
	tools := []*policyv1.Tool{tool("push", `"branch":{"type":"string"}`, `"branch"`)}
	for condition, c := range map[string]struct{ before, here, elsewhere bool }{
		`request.region == "us"`:                            {true, true, false},
		`request.region == "us" && args.branch == "x"`:      {true, true, false},
		`request.region == "us" || args.branch == "x"`:      {true, true, true},
		`has(user.title) && user.title == args.branch`:      {false, false, false},
		`user.directory == "okta" && args.branch == "x"`:    {true, true, true},
		`user.directory != "okta" && args.branch == "main"`: {false, false, false},
	} {
		table := site(t, tools, "", when(allow("*"), condition))
		list := func(from *Origin, region string) bool {
			return len(table.List(Request{Person: ann, Connector: "github", Region: region, From: from, Now: now})) == 1
		}
		if got := list(nil, ""); got != c.before {
			t.Errorf("%s: before there is a request, listed %v", condition, got)
		}
		if got := list(&Origin{}, "us"); got != c.here {
			t.Errorf("%s: in the region, listed %v", condition, got)
		}
		if got := list(&Origin{}, "eu"); got != c.elsewhere {
			t.Errorf("%s: elsewhere, listed %v", condition, got)
		}
	}
	if _, ok := site(t, tools, "", when(allow("*"), `request.region == "us"`)).ListKey(ann, now); ok {
		t.Error("lists that differ by request have a key by group")
	}
}

func principalGrant(person uuid.UUID, everyone string, rules ...*policyv1.Rule) *fleetv1.Entry {
	key := &fleetv1.PrincipalGrantKey{Connector: "github", To: &fleetv1.PrincipalGrantKey_Everyone{Everyone: everyone}}
	if person != uuid.Nil {
		key.To = &fleetv1.PrincipalGrantKey_Person{Person: person[:]}
	}
	return &fleetv1.Entry{Value: &fleetv1.Entry_PrincipalGrant{PrincipalGrant: &fleetv1.PrincipalGrant{Key: key, Rules: rules}}}
}

func TestGrantsToOnePersonAndToEveryoneCount(t *testing.T) {
	other := user(bob)
	other.GetUser().Directory = "entra"
	base := slices.Concat(github(), []*fleetv1.Entry{user(ann), other})
	extra := map[string]*fleetv1.Entry{
		"everyone": principalGrant(uuid.Nil, "*", allow("read_file")), "okta": principalGrant(uuid.Nil, "okta", allow("push_files")), "bob": principalGrant(bob, "", allow("delete_branch")),
	}
	all := slices.Concat(base, []*fleetv1.Entry{extra["everyone"], extra["okta"], extra["bob"]})
	slices.Reverse(all) // the order of entries does not matter
	table, err := Compile(1, slices.Values(all))
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, want string) {
		t.Helper()
		got := ""
		for _, who := range []uuid.UUID{ann, bob} {
			for _, tool := range []string{"read_file", "push_files", "delete_branch"} {
				d := table.Decide(Request{Person: who, Connector: "github", Tool: tool, Arguments: NoArguments, Now: now})
				if len(d.Groups) != 0 {
					t.Fatalf("groups that nobody made count: %q", d.Groups)
				}
				got += map[bool]string{true: "+", false: "-"}[d.Allowed]
			}
			got += " "
		}
		if got != want {
			t.Fatalf("%s: got %q, want %q", name, got, want)
		}
	}
	check("all", "++- +-+ ")
	version := uint64(1)
	change := func(entries ...*fleetv1.Entry) {
		t.Helper()
		version++
		if _, err := table.Apply(delta(all, entries, version)); err != nil {
			t.Fatal(err)
		}
		all = entries
	}
	change(slices.Concat(base, []*fleetv1.Entry{extra["okta"], extra["bob"]})...)
	check("without everyone's", "-+- --+ ")
	change(slices.Concat(base, []*fleetv1.Entry{extra["okta"]})...)
	check("without bob's own", "-+- --- ")
	change(slices.Concat(base, []*fleetv1.Entry{extra["bob"]})...)
	check("with it again", "--- --+ ")
	change(extra["bob"]) // nobody is left, nor a connector
	change(slices.Concat(base, []*fleetv1.Entry{extra["bob"]})...)
	check("and all back", "--- --+ ")
}

func TestAServiceAccountIsNotEveryone(t *testing.T) {
	bot := user(bob)
	bot.GetUser().Directory, bot.GetUser().Service = "service", true
	table := compile(t, bot, principalGrant(uuid.Nil, "*", allow("read_file")), principalGrant(uuid.Nil, "service", allow("push_files")))
	for tool, want := range map[string]bool{"read_file": false, "push_files": true} {
		if got := table.Decide(Request{Person: bob, Connector: "github", Tool: tool, Arguments: NoArguments, Now: now}).Allowed; got != want {
			t.Errorf("%s: allowed %v", tool, got)
		}
	}
}

// TestWhatABuildDoesNotKnowIsNotLeftOut guards that a rule of a later kind fails closed here.
func TestWhatABuildDoesNotKnowIsNotLeftOut(t *testing.T) {
	unknown := []byte{0xa2, 0x3e, 0x01, 'x'} // field 996
	for name, c := range map[string]struct {
		rules []*policyv1.Rule
		allow bool
	}{
		"an allow gives nothing":         {[]*policyv1.Rule{allow("*")}, false},
		"a deny denies":                  {[]*policyv1.Rule{deny("*"), allow("*")}, false},
		"what is required is not done":   {[]*policyv1.Rule{require(confirm, "*"), allow("*")}, false},
		"nor is it if it is not known":   {[]*policyv1.Rule{{Require: 9, Tools: []string{"*"}}, allow("*")}, false},
		"after what is not known: never": {[]*policyv1.Rule{{Allow: []string{"*"}, After: 9}}, false},
	} {
		c.rules[0].ProtoReflect().SetUnknown(unknown)
		if d := site(t, []*policyv1.Tool{annotatedTool("a", `{}`)}, "", c.rules...).Decide(
			Request{Person: ann, Connector: "github", Tool: "a", Arguments: NoArguments, Confirmed: browser, Now: now}); d.Allowed != c.allow {
			t.Errorf("%s: allowed %v", name, d.Allowed)
		}
	}
}

func TestPeopleWithTheSameAttributesShareThem(t *testing.T) {
	text, err := json.Marshal(map[string]any{"department": "Sales"})
	if err != nil {
		t.Fatal(err)
	}
	a, b := user(ann), user(bob)
	a.GetUser().Attributes, b.GetUser().Attributes = text, slices.Clone(text)
	table := compile(t, a, b)
	if s := table.state(); s.person(ann).attributes != s.person(bob).attributes {
		t.Fatal("each has a copy")
	}
}
