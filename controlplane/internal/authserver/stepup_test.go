package authserver_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestAScopeThatStandsForASignInHasThePersonSignInSo(t *testing.T) {
	s := newSite(t)
	a := s.register("Claude Code", loopbackRedirect)
	says := func(acr string, amr ...string) {
		at := s.now()
		s.idp.Claims(func(c map[string]any) {
			c["acr"], c["amr"], c["auth_time"] = acr, amr, at.Unix()
			c["iat"], c["exp"] = s.now().Unix(), s.now().Add(time.Minute).Unix()
		})
	}
	says("plain", "pwd")
	weak, _ := a.signedIn()
	if c := claimsOf(t, weak); c["acr"] != "plain" || c["scope"] != "mcp" {
		t.Fatalf("the token says %v", c)
	}
	// The browser is still signed in, too weakly for this: the provider is asked for more, and says no more than before.
	scope := "mcp sign-in:acr=phr&acr=phrh&amr=hwk"
	away, status, body := s.visit(s.browser, a.authorizeURL("scope", scope))
	asked := s.idp.Asked()
	if away != nil || asked.Get("acr_values") != "phr phrh" || asked.Get("prompt") != "login" {
		t.Fatalf("led to %v, status %d; the provider was asked %v: %s", away, status, asked, body)
	}
	says("phrh", "pwd", "hwk")
	strong, refresh := a.signedIn("scope", scope)
	c := claimsOf(t, strong)
	if c["acr"] != "phrh" || c["scope"] != scope || !slices.Contains(c["amr"].([]any), any("hwk")) {
		t.Errorf("the token says %v", c)
	}
	// A refreshed token says of the sign-in what there is to say: that of the session.
	_, out := a.refresh(refresh)
	if c := claimsOf(t, out["access_token"].(string)); c["acr"] != "phrh" || c["scope"] != scope {
		t.Errorf("the refreshed token says %v", c)
	}

	// An age: the provider is told so, and what the browser's session is of is not enough.
	s.later(time.Hour)
	after := s.now().Add(-10 * time.Minute).Unix()
	says("phrh", "pwd", "hwk")
	fresh, _ := a.signedIn("scope", fmt.Sprintf("mcp sign-in:after=%d", after))
	if got := s.idp.Asked().Get("max_age"); got != "600" {
		t.Errorf("the provider was asked for max_age %s", got)
	}
	if c := claimsOf(t, fresh); int64(c["auth_time"].(float64)) < after {
		t.Errorf("the token says %v", c)
	}
	// The scope stays true: who has signed in since need not do so again.
	s.later(30 * time.Minute)
	before := s.idp.Asked().Get("state")
	a.signedIn("scope", fmt.Sprintf("mcp sign-in:after=%d", after))
	if s.idp.Asked().Get("state") != before {
		t.Error("the person had to sign in again")
	}
	// RFC 9470 says the same by parameters.
	s.later(time.Hour)
	says("phrh", "pwd", "hwk")
	a.signedIn("max_age", "300", "acr_values", "phrh")
	if asked := s.idp.Asked(); asked.Get("max_age") != "300" || asked.Get("acr_values") != "phrh" {
		t.Errorf("the provider was asked %v", asked)
	}
	// prompt=login asks for a sign-in now, and never for an older one than was asked for beside it.
	for at, more := range map[string][]string{"120": nil, "60": {"max_age", "60"}} {
		s.later(time.Hour)
		says("phrh", "pwd", "hwk")
		a.signedIn(append([]string{"prompt", "login"}, more...)...)
		if got := s.idp.Asked().Get("max_age"); got != at {
			t.Errorf("with prompt=login %v the provider was asked for max_age %q, want %s", more, got, at)
		}
	}
	// Of contexts that exclude each other the last counts: agents put what they were refused for behind what they had.
	says("phrh", "pwd")
	a.signedIn("scope", "mcp sign-in:acr=plain sign-in:acr=phrh")
	if got := s.idp.Asked().Get("acr_values"); got != "phrh" && got != "" {
		t.Errorf("the provider was asked for %q", got)
	}
	says("plain", "pwd")
	if away, _, _ := s.visit(s.browser, a.authorizeURL("scope", "mcp sign-in:acr=phrh sign-in:acr=plain", "max_age", "1")); away == nil || s.idp.Asked().Get("acr_values") != "plain" {
		t.Errorf("led to %v; the provider was asked for %q", away, s.idp.Asked().Get("acr_values"))
	}
}

func TestOnlyScopesThatAreKnownAreGivenAndNotTooMany(t *testing.T) {
	s := newSite(t)
	a := s.register("Claude Code", loopbackRedirect)
	many := "mcp admin sign-in:after=x"
	for i := range 30 {
		many += fmt.Sprintf(" sign-in:after=%d", i)
	}
	access, _ := a.signedIn("scope", many)
	if given := strings.Fields(claimsOf(t, access)["scope"].(string)); len(given) != 10 || given[0] != "mcp" || given[1] != "sign-in:after=0" {
		t.Errorf("given: %v", given)
	}
	m := s.metadata("/.well-known/oauth-authorization-server")
	if got := fmt.Sprint(m["scopes_supported"], m["grant_types_supported"]); got != "[mcp offline_access] [authorization_code refresh_token client_credentials]" {
		t.Errorf("the metadata says %s", got)
	}
}
