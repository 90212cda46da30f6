package credentials_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

// ownClient sets the gateway's client at the upstream's authorization server.
func (s *site) ownClient() {
	s.t.Helper()
	s.upstream.set(func() { s.upstream.clients["gateway"] = authorityClient{secret: "gateway's own"} })
	id, err := s.Vault.PutConnectorSecret(s.t.Context(), "demo", "gateway's own")
	enginetest.Must(s.t, err)
	s.Do(core.SetConnectorSecret{Connector: "demo", SecretID: id})
}

func gateway() *policyv1.UpstreamClient { return &policyv1.UpstreamClient{Id: "gateway"} }

func TestATokenOfThePersonsProviderIsExchanged(t *testing.T) {
	s := newSite(t, &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_TokenExchange{TokenExchange: &policyv1.TokenExchange{Client: gateway()}}})
	s.ownClient()
	s.connect(credentials.Ask{}) // a fresh sign-in
	issued := s.must(credentials.Ask{})
	token := strings.TrimPrefix(issued.Value, "Bearer ")
	if !s.upstream.good(token) || s.upstream.access[token].subject != s.okta.Access() {
		t.Error("the token was exchanged for another than the person's")
	}
	if again := s.must(credentials.Ask{}); again.Value != issued.Value {
		t.Error("a token that is good was exchanged again")
	}
	// The provider's token is renewed when it is over, and then exchanged anew.
	s.later(2 * time.Hour)
	renewed := s.must(credentials.Ask{})
	if renewed.Value == issued.Value || s.okta.Renewals() != 1 || s.upstream.access[strings.TrimPrefix(renewed.Value, "Bearer ")].subject != s.okta.Access() {
		t.Errorf("%d renewals at the provider", s.okta.Renewals())
	}
	if files := enginetest.OnDisk(t, s.Dir, []byte(s.okta.Access())); len(files) > 0 {
		t.Errorf("the provider's token is on disk, in %v", files)
	}
	s.deactivate()
	enginetest.Eventually(t, "all to be revoked and destroyed", func() bool {
		names, err := s.Vault.Names(t.Context(), "credential.")
		return err == nil && len(names) == 0 && s.Engine.State().OpenWithdrawals() == 0
	})
	if s.upstream.good(strings.TrimPrefix(renewed.Value, "Bearer ")) {
		t.Error("the upstream's token was not revoked")
	}
	if !s.okta.Revoked(s.okta.Refresh()) {
		t.Error("the provider's tokens were not revoked")
	}
}

func TestAProviderVouchesForThePersonAtTheUpstream(t *testing.T) {
	s := newSite(t, &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_IdentityAssertion{IdentityAssertion: &policyv1.IdentityAssertion{Client: gateway(), Scopes: []string{"read"}}}})
	s.ownClient()
	s.upstream.set(func() { s.upstream.trusted, s.upstream.issuer = s.okta.Key(), s.okta.URL })
	s.connect(credentials.Ask{})
	issued := s.must(credentials.Ask{})
	token := strings.TrimPrefix(issued.Value, "Bearer ")
	if !s.upstream.good(token) || s.upstream.access[token].subject != "ext-ann@example.com" {
		t.Error("the token is not of the person")
	}
	if asked := s.okta.Exchanged(); asked.Get("audience") != s.upstream.URL || asked.Get("resource") != s.upstream.URL+"/mcp" || asked.Get("scope") != "read" ||
		asked.Get("requested_token_type") != "urn:ietf:params:oauth:token-type:id-jag" || asked.Get("subject_token_type") != "urn:ietf:params:oauth:token-type:id_token" {
		t.Errorf("the provider was asked %v", asked)
	}
	s.upstream.set(func() { s.upstream.issuer = "https://another.example" })
	s.later(time.Minute)
	if _, err := s.issue(s.keeper, s.ann, credentials.Ask{Rejected: digest(issued.Value)}); err == nil {
		t.Error("an upstream that does not trust the provider gave a token")
	}
}

func TestThePersonsOwnTokenIsPassedForItsAudienceAlone(t *testing.T) {
	pass := func(audience string) *policyv1.UpstreamAuth {
		return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_PassThrough{PassThrough: &policyv1.PassThrough{Audience: audience, Token: policyv1.IdentityToken_IDENTITY_TOKEN_ID}}}
	}
	s := newSite(t, pass(signintest.ClientID))
	s.connect(credentials.Ask{})
	issued := s.must(credentials.Ask{})
	if claims := signintest.Claims(t, strings.TrimPrefix(issued.Value, "Bearer ")); claims["sub"] != "ext-ann@example.com" || time.Until(issued.Expires) > 10*time.Minute {
		t.Errorf("passed %v, until %s", claims, issued.Expires)
	}
	s.connector(pass("api://another"))
	if _, err := s.issue(s.keeper, s.ann, credentials.Ask{}); err == nil || !strings.Contains(err.Error(), "api://another") {
		t.Errorf("for an audience that the token is not for: %v", err)
	}
}

func TestWithoutAConnectorThatNeedsThemAProvidersTokensAreNotKept(t *testing.T) {
	s := newSite(t, oauth())
	if status, _, _ := signintest.NewBrowser(t).Get(s.web.URL + "/connect/demo"); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	for c := range s.Engine.State().Credentials() {
		if c.Kind == policyv1.CredentialKind_CREDENTIAL_KIND_IDENTITY {
			t.Error("they are kept")
		}
	}
}
