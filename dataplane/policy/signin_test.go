package policy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func assurance(acr, amr string, age time.Duration) *policyv1.Assurance {
	a := &policyv1.Assurance{}
	if acr != "" {
		a.Acr = []string{acr, acr + "-hardware"}
	}
	if amr != "" {
		a.Amr = []string{amr}
	}
	if age > 0 {
		a.MaxAge = durationpb.New(age)
	}
	return a
}

func signInTable(t *testing.T, rules ...*policyv1.Rule) *Table {
	t.Helper()
	table, err := Compile(1, slices.Values([]*fleetv1.Entry{
		{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: "github", Url: "https://up.example"}}},
		{Value: &fleetv1.Entry_Catalogue{Catalogue: &fleetv1.Catalogue{Connector: "github", Tools: referenceTools()}}},
		groupEntry(1, "okta/Staff"), user(ann, 1), grantOf(1, rules...),
	}))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestARuleAsksForASignIn(t *testing.T) {
	quarter := 15 * time.Minute
	fresh := &Origin{ACR: "phr", AMR: []string{"pwd", "mfa"}, AuthTime: now.Add(-time.Minute)}
	allow := func(a *policyv1.Assurance) *policyv1.Rule { return &policyv1.Rule{Allow: []string{"*"}, SignIn: a} }
	require := func(a *policyv1.Assurance) *policyv1.Rule {
		return &policyv1.Rule{Require: policyv1.Duty_DUTY_SIGN_IN, Tools: []string{"push_*"}, SignIn: a}
	}
	plain := &policyv1.Rule{Allow: []string{"*"}}
	for name, c := range map[string]struct {
		rules []*policyv1.Rule
		from  *Origin
		want  auditv1.Reason
		scope string
	}{
		"as it asks":            {[]*policyv1.Rule{allow(assurance("phr", "mfa", quarter))}, fresh, auditv1.Reason_REASON_RULE_ALLOWED, ""},
		"another context":       {[]*policyv1.Rule{allow(assurance("phrh", "", 0))}, fresh, auditv1.Reason_REASON_SIGN_IN_REQUIRED, "sign-in:acr=phrh&acr=phrh-hardware"},
		"a method less":         {[]*policyv1.Rule{allow(assurance("", "hwk", 0))}, fresh, auditv1.Reason_REASON_SIGN_IN_REQUIRED, "sign-in:amr=hwk"},
		"too long ago":          {[]*policyv1.Rule{allow(assurance("", "", quarter))}, &Origin{AuthTime: now.Add(-17 * time.Minute)}, auditv1.Reason_REASON_SIGN_IN_REQUIRED, "sign-in:after=" + unix(now.Add(-quarter/2))},
		"when is not said":      {[]*policyv1.Rule{allow(assurance("", "", quarter))}, &Origin{}, auditv1.Reason_REASON_SIGN_IN_REQUIRED, "sign-in:after=" + unix(now.Add(-quarter/2))},
		"a clock that is off":   {[]*policyv1.Rule{allow(assurance("", "", quarter))}, &Origin{AuthTime: now.Add(-quarter - 30*time.Second)}, auditv1.Reason_REASON_RULE_ALLOWED, ""},
		"nothing is known":      {[]*policyv1.Rule{allow(assurance("phr", "", 0))}, nil, auditv1.Reason_REASON_SIGN_IN_REQUIRED, "sign-in:acr=phr&acr=phr-hardware"},
		"in the future":         {[]*policyv1.Rule{allow(assurance("", "", quarter))}, &Origin{AuthTime: now.Add(time.Hour)}, auditv1.Reason_REASON_SIGN_IN_REQUIRED, "sign-in:after=" + unix(now.Add(-quarter/2))},
		"fresh when it came":    {[]*policyv1.Rule{allow(assurance("", "", quarter))}, &Origin{AuthTime: now.Add(-time.Hour), At: now.Add(-time.Hour + time.Minute)}, auditv1.Reason_REASON_RULE_ALLOWED, ""},
		"another rule allows":   {[]*policyv1.Rule{allow(assurance("none", "", 0)), plain}, fresh, auditv1.Reason_REASON_RULE_ALLOWED, ""},
		"required of all":       {[]*policyv1.Rule{plain, require(assurance("none", "", 0))}, fresh, auditv1.Reason_REASON_SIGN_IN_REQUIRED, "sign-in:acr=none&acr=none-hardware"},
		"both at once":          {[]*policyv1.Rule{allow(assurance("phr", "", time.Hour)), require(assurance("", "hwk", quarter))}, &Origin{}, auditv1.Reason_REASON_SIGN_IN_REQUIRED, "sign-in:acr=phr&acr=phr-hardware&after=" + unix(now.Add(-quarter/2)) + "&amr=hwk"},
		"required, and is so":   {[]*policyv1.Rule{plain, require(assurance("phr", "", 0))}, fresh, auditv1.Reason_REASON_RULE_ALLOWED, ""},
		"required of nothing":   {[]*policyv1.Rule{require(assurance("none", "", 0))}, fresh, auditv1.Reason_REASON_NOTHING_ALLOWS, ""},
		"and denied":            {[]*policyv1.Rule{allow(assurance("none", "", 0)), {Deny: []string{"*"}}}, fresh, auditv1.Reason_REASON_RULE_DENIED, ""},
		"with an unknown end":   {[]*policyv1.Rule{{Require: policyv1.Duty_DUTY_SIGN_IN, Tools: []string{"*"}}, plain}, fresh, auditv1.Reason_REASON_RULE_DENIED, ""},
		"beside a confirmation": {[]*policyv1.Rule{plain, {Require: confirm, Tools: []string{"*"}, SignIn: assurance("phr", "", 0)}}, fresh, auditv1.Reason_REASON_RULE_DENIED, ""},
	} {
		table := signInTable(t, c.rules...)
		a, err := table.Arguments("github", "push_files", []byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		d := table.Decide(Request{Person: ann, Connector: "github", Tool: "push_files", From: c.from, Arguments: a, Now: now})
		if d.Reason != c.want || d.Allowed != (c.want == auditv1.Reason_REASON_RULE_ALLOWED) {
			t.Errorf("%s: %v, want %v", name, d.Reason, c.want)
			continue
		}
		if d.SignIn == nil {
			if c.scope != "" {
				t.Errorf("%s: it does not say how to sign in", name)
			}
			continue
		}
		if got := d.SignIn.Scope(now); got != c.scope {
			t.Errorf("%s: scope %q, want %q", name, got, c.scope)
		}
		if back, ok := SignInOfScope(c.scope); !ok || !slices.Equal(back.ACR, d.SignIn.ACR) || !slices.Equal(back.AMR, d.SignIn.AMR) || back.After.IsZero() != (d.SignIn.MaxAge == 0) {
			t.Errorf("%s: the scope is read as %+v", name, back)
		}
	}
}

func unix(t time.Time) string {
	return (&SignIn{MaxAge: 2 * time.Second}).Scope(t.Add(time.Second))[len("sign-in:after="):]
}

func TestASignInThatTwoAskForIsAsBothAsk(t *testing.T) {
	early, late := now.Add(-time.Hour), now
	for name, c := range map[string]struct{ a, b, want *SignIn }{
		"one alone":          {nil, &SignIn{ACR: []string{"x"}}, &SignIn{ACR: []string{"x"}}},
		"a context of both":  {&SignIn{ACR: []string{"x", "y"}}, &SignIn{ACR: []string{"y", "z"}}, &SignIn{ACR: []string{"y"}}},
		"no context of both": {&SignIn{ACR: []string{"x"}}, &SignIn{ACR: []string{"z"}}, &SignIn{ACR: []string{"x"}}},
		"all methods":        {&SignIn{AMR: []string{"pwd"}}, &SignIn{AMR: []string{"pwd", "hwk"}}, &SignIn{AMR: []string{"pwd", "hwk"}}},
		"the shorter age":    {&SignIn{MaxAge: time.Hour}, &SignIn{MaxAge: time.Minute}, &SignIn{MaxAge: time.Minute}},
		"the later time":     {&SignIn{After: early}, &SignIn{After: late}, &SignIn{After: late}},
		"a time of one":      {&SignIn{After: late}, &SignIn{After: early}, &SignIn{After: late}},
	} {
		if got := c.a.And(c.b); !slices.Equal(got.ACR, c.want.ACR) || !slices.Equal(got.AMR, c.want.AMR) || got.MaxAge != c.want.MaxAge || !got.After.Equal(c.want.After) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestOtherScopesAreNoSignIn(t *testing.T) {
	for _, scope := range []string{
		"mcp", "sign-in", "sign-in:after=x", "sign-in:after=-1", "sign-in:acr=%zz", "sign-in:after=99999999999999",
		"sign-in:acr=" + strings.Repeat("a", 5000), "sign-in:" + strings.Repeat("&acr=a", 41), "sign-in:" + strings.Repeat("&amr=a", 41),
	} {
		if s, ok := SignInOfScope(scope); ok {
			t.Errorf("%q is read as %+v", scope, s)
		}
	}
}

func TestCheckRefusesASignInThatSaysNothingOrStandsWhereItMeansNothing(t *testing.T) {
	good := assurance("phr", "mfa", time.Minute)
	for name, c := range map[string]struct {
		rule *policyv1.Rule
		ok   bool
	}{
		"of an allow":          {&policyv1.Rule{Allow: []string{"*"}, SignIn: good}, true},
		"required":             {&policyv1.Rule{Require: policyv1.Duty_DUTY_SIGN_IN, Tools: []string{"*"}, SignIn: good}, true},
		"of a deny":            {&policyv1.Rule{Deny: []string{"*"}, SignIn: good}, false},
		"required, but how":    {&policyv1.Rule{Require: policyv1.Duty_DUTY_SIGN_IN, Tools: []string{"*"}}, false},
		"of a confirmation":    {&policyv1.Rule{Require: confirm, Tools: []string{"*"}, SignIn: good}, false},
		"after one":            {&policyv1.Rule{Allow: []string{"*"}, After: policyv1.Duty_DUTY_SIGN_IN, SignIn: good}, false},
		"that says nothing":    {&policyv1.Rule{Allow: []string{"*"}, SignIn: &policyv1.Assurance{}}, false},
		"of less than a while": {&policyv1.Rule{Allow: []string{"*"}, SignIn: assurance("", "", time.Second)}, false},
	} {
		if err := Check(c.rule, nil); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
