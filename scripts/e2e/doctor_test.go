package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
)

// finding is one of the doctor's.
type finding struct {
	Check, Severity, Text, Next string
	People                      []string
}

// diagnosis is what `sallyport doctor okta` found.
type diagnosis struct {
	t     *testing.T
	found []finding
}

// doctor runs the command. With a problem it must fail, and only then.
func (o *office) doctor(t *testing.T, args ...string) diagnosis {
	t.Helper()
	out, err := o.cp.Run(t.Context(), append([]string{"doctor", "okta", "-o", "json"}, args...)...)
	var said struct{ Findings []finding }
	if failed := json.Unmarshal(out, &said); failed != nil {
		t.Fatalf("the doctor says %s (%v): %v", out, err, failed)
	}
	problem := slices.ContainsFunc(said.Findings, func(f finding) bool { return f.Severity == "SEVERITY_PROBLEM" })
	if problem != (err != nil) {
		t.Errorf("there is a problem: %t; the command ends with %v", problem, err)
	}
	for _, f := range said.Findings {
		if f.Severity != "SEVERITY_GOOD" && f.Severity != "SEVERITY_UNKNOWN" && f.Next == "" {
			t.Errorf("it does not say what to do: %+v", f)
		}
	}
	return diagnosis{t, said.Findings}
}

// has fails unless a check found something of a severity, with a word of its text and whom it concerns.
func (d diagnosis) has(check, severity, text string, people ...string) {
	d.t.Helper()
	for _, f := range d.found {
		if f.Check != check || f.Severity != "SEVERITY_"+severity || !strings.Contains(f.Text, text) || len(f.People) != len(people) {
			continue
		}
		if !slices.EqualFunc(f.People, people, strings.Contains) {
			continue
		}
		return
	}
	d.t.Errorf("%s: no %s about %q %v in %+v", check, severity, text, people, d.found)
}

// TestTheDoctorFindsWhatDoesNotFitBetweenOktaAndSallyport, as the command that an admin runs: nothing where all fits, and each thing
// that does not, with what to do.
func TestTheDoctorFindsWhatDoesNotFitBetweenOktaAndSallyport(t *testing.T) {
	t.Parallel()
	o := newOffice(t, "")
	ctx := t.Context()
	keys, keysURL := o.org.Transmitter()
	o.cp.must("directories", "signals", "okta", "--issuer", keys, "--jwks-url", keysURL, "--audience", "x")
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(oktaAPIToken), 0o600); err != nil {
		t.Fatal(err)
	}
	withAPI := []string{"--okta-url", "http://" + o.idp, "--okta-token-file", file, "--oidc-app", okta.OIDCAppID, "--scim-app", okta.SCIMAppID}

	before := o.doctor(t)
	before.has("pair", "UNKNOWN", "nobody signed in yet")
	before.has("people: never signed in", "UNKNOWN", "never signed in", ada, bob)
	for _, person := range []string{ada, bob} {
		if _, err := o.signIn(ctx, &agent.Program{Name: "agent"}, o.east, person); err != nil {
			t.Fatal(err)
		}
	}
	good := o.doctor(t, withAPI...)
	for _, f := range good.found {
		if f.Severity != "SEVERITY_GOOD" {
			t.Errorf("all fits, and it finds %+v", f)
		}
	}
	for _, check := range []string{
		"scim: token", "scim: reached", "scim: people", "sign-in: issuer", "sign-in: keys", "sign-in: client", "sign-in: secret", "sign-in: lately", "pair", "people", "signals",
		"okta: may sign in, not provisioned", "okta: provisioned, may not sign in", "okta: assigned, not provisioned", "okta: provisioned, not assigned",
	} {
		good.has(check, "GOOD", "")
	}

	// Who could sign in and is not provisioned: by Okta's API, and once they tried.
	const eve = "eve@corp.test"
	if _, err := o.org.AddUser(okta.Profile{Login: eve, GivenName: "Eve", FamilyName: "Person"}); err != nil {
		t.Fatal(err)
	}
	o.doctor(t, withAPI...).has("okta: may sign in, not provisioned", "WARNING", "not provisioned", eve)
	var refused *agent.Refusal
	if _, err := o.signIn(ctx, &agent.Program{Name: "agent"}, o.east, eve); !errors.As(err, &refused) || refused.Page.Status != http.StatusForbidden {
		t.Errorf("somebody who is not provisioned signs in: %v", err)
	}
	o.doctor(t).has("people: not provisioned", "WARNING", "1 signed in")
	if _, err := o.org.AddToGroup(ctx, assigned, eve); err != nil {
		t.Fatal(err)
	}
	provisioned := o.doctor(t, withAPI...)
	provisioned.has("okta: may sign in, not provisioned", "GOOD", "")
	if slices.ContainsFunc(provisioned.found, func(f finding) bool { return f.Check == "people: not provisioned" }) {
		t.Errorf("somebody who is provisioned by now is found: %+v", provisioned.found)
	}

	// Who is provisioned and may not sign in, since another than Okta did it.
	token, err := o.cp.Issue(ctx, "scim", "--directory", "okta")
	if err != nil {
		t.Fatal(err)
	}
	scim := &scimClient{t: t, base: "http://" + o.cp.scim + "/scim/v2", token: token}
	stray := userBody("stray@corp.test")
	stray["externalId"] = "00u1strayabcdefghijk"
	strayID := scim.create("/Users", stray)
	reverse := o.doctor(t, withAPI...)
	reverse.has("okta: provisioned, may not sign in", "WARNING", "not assigned to the OIDC app", "stray@corp.test")
	reverse.has("okta: provisioned, not assigned", "PROBLEM", "not assigned to the SCIM app", "stray@corp.test")
	if status, _, err := scim.send(ctx, http.MethodDelete, "/Users/"+strayID, nil); err != nil || status != http.StatusNoContent {
		t.Fatalf("%d %v", status, err)
	}

	// The sign-in's own fields, each wrong once.
	issuer := "http://" + o.idp + okta.IssuerPath
	id, secret := o.org.CreateWebApp("http://" + o.cp.signin + "/signin/callback/okta")
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	rightSecret, wrongSecret := write("secret", secret), write("wrong", "not the secret")
	elsewhere, elsewhereSecret := o.org.CreateWebApp("http://" + o.cp.signin + "/signin/callback/other")
	for _, c := range []struct {
		name, issuer, client, secret string
		check, severity, text        string
	}{
		{"another issuer", issuer + "/", id, rightSecret, "sign-in: issuer", "PROBLEM", "cannot be read"},
		{"the org's issuer in place of the custom server's", "http://" + o.idp, id, rightSecret, "sign-in: issuer", "PROBLEM", "cannot be read"},
		{"a client that is not there", issuer, "0oanobody00000000000", rightSecret, "sign-in: client", "PROBLEM", "refuses the client or its redirect URI"},
		{"a client with another redirect URI", issuer, elsewhere, write("other", elsewhereSecret), "sign-in: client", "PROBLEM", "refuses the client or its redirect URI"},
		{"another secret", issuer, id, wrongSecret, "sign-in: secret", "PROBLEM", "does not take the secret"},
		{"all is right again", issuer, id, rightSecret, "sign-in: secret", "GOOD", ""},
	} {
		o.cp.must("directories", "sign-in", "okta", "--issuer", c.issuer, "--client-id", c.client, "--client-secret-file", c.secret)
		t.Log(c.name)
		o.doctor(t).has(c.check, c.severity, c.text)
	}
	o.stopOkta()
	o.doctor(t).has("sign-in: issuer", "PROBLEM", "cannot be read")
	o.openOkta()

	// The pair crossed: what the claim holds was sent as the userName.
	eveAtOkta, err := o.org.Person(eve)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range scim.find("/Users", "userName", eve) {
		if status, _, err := scim.send(ctx, http.MethodDelete, "/Users/"+u["id"].(string), nil); err != nil || status != http.StatusNoContent {
			t.Fatalf("%d %v", status, err)
		}
	}
	crossed := userBody(eveAtOkta.ID)
	crossed["externalId"] = eve
	scim.create("/Users", crossed)
	if _, err := o.signIn(ctx, &agent.Program{Name: "agent"}, o.east, eve); !errors.As(err, &refused) || refused.Page.Status != http.StatusForbidden {
		t.Errorf("the pair does not join, and somebody signs in: %v", err)
	}
	pair := o.doctor(t)
	pair.has("pair", "PROBLEM", "is what SCIM sent as userName", eveAtOkta.ID)
	pair.has("pair", "WARNING", "not of Okta's form")

	// A directory that SCIM never reached.
	o.cp.must("directories", "create", "new", "--user-attribute", "externalId")
	fresh := o.doctor(t, "--directory", "new")
	fresh.has("scim: token", "PROBLEM", "no SCIM token")
	fresh.has("scim: reached", "PROBLEM", "never sent anything")
	fresh.has("sign-in: set up", "PROBLEM", "nobody of this directory can sign in")

	// What Okta's API refuses is an error, and the token is not in it.
	for name, args := range map[string][]string{
		"another token": {"--okta-url", "http://" + o.idp, "--okta-token-file", wrongSecret, "--oidc-app", okta.OIDCAppID, "--scim-app", okta.SCIMAppID},
		"another app":   {"--okta-url", "http://" + o.idp, "--okta-token-file", file, "--oidc-app", "0oanobody", "--scim-app", okta.SCIMAppID},
		"half of it":    {"--okta-url", "http://" + o.idp},
	} {
		if _, err := o.cp.Run(ctx, append([]string{"doctor", "okta"}, args...)...); err == nil || strings.Contains(err.Error(), "not the secret") || strings.Contains(err.Error(), oktaAPIToken+" ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
