package okta_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
)

// heard is what a receiver was sent.
type heard struct{ path, kind, bearer, body string }

func receiver(t *testing.T, org *okta.Org, status int) <-chan heard {
	t.Helper()
	all := make(chan heard, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		all <- heard{r.URL.Path, r.Header.Get("Content-Type"), strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), string(body)}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	org.ConnectReceiver(okta.Receiver{EventsURL: server.URL + "/events", LogoutURL: server.URL + "/logout", Audience: "https://receiver.example"})
	return all
}

// signed returns the claims of a token that the org signed.
func signed(t *testing.T, org *okta.Org, token string) (claims map[string]any) {
	t.Helper()
	issuer, keys := org.Transmitter()
	verifier := oidc.NewVerifier(issuer, oidc.NewRemoteKeySet(t.Context(), keys), &oidc.Config{SkipClientIDCheck: true, SkipExpiryCheck: true})
	verified, err := verifier.Verify(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	if err := verified.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestASuspensionIsToldAsASecurityEvent(t *testing.T) {
	org, _ := startOrg(t)
	all := receiver(t, org, http.StatusAccepted)
	push, err := org.Suspend(t.Context(), maya)
	if err != nil || push.Requests != 0 || push.Signals != 1 || push.Answered.IsZero() {
		t.Fatalf("%+v, %v", push, err)
	}
	got := <-all
	claims := signed(t, org, got.body)
	person, err := org.Person(maya)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"caep/event-type/session-revoked", `"sub":"` + person.ID + `"`, `"format":"iss_sub"`, `"aud":"https://receiver.example"`, `"jti":`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
	if got.path != "/events" || got.kind != "application/secevent+jwt" {
		t.Errorf("sent %+v", got)
	}
}

func TestALogOutNamesThePersonAndIsSignedForItsReceiver(t *testing.T) {
	org, issuer := startOrg(t)
	all := receiver(t, org, http.StatusNoContent)
	if push, err := org.Control(t.Context(), "log-out", okta.ControlRequest{Login: maya}); err != nil || push.Signals != 1 {
		t.Fatalf("%+v, %v", push, err)
	}
	got := <-all
	if claims := signed(t, org, got.bearer); !strings.HasSuffix(claims["aud"].(string), "/logout") || got.path != "/logout" {
		t.Errorf("sent %+v with %v", got, claims)
	}
	if !strings.Contains(got.body, `"sub_id":{"format":"iss_sub"`) {
		t.Errorf("the body is %s", got.body)
	}
	if _, err := login(issuer, maya).signIn(t.Context()); err != nil {
		t.Errorf("a person who was logged out cannot sign in: %v", err)
	}
}

func TestASignalThatIsRefusedIsAnError(t *testing.T) {
	org, _ := startOrg(t)
	receiver(t, org, http.StatusBadRequest)
	if _, err := org.Suspend(t.Context(), maya); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("error = %v", err)
	}
}

func TestAWebAppSignsPeopleInWithItsSecretAtItsRedirectAlone(t *testing.T) {
	org, issuer := startOrg(t)
	answer, err := agent.ListenForAnswer(t.Context(), "/signin/callback/okta")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Close()
	id, secret := org.CreateWebApp(answer.URL)
	provider, err := oidc.NewProvider(t.Context(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	signIn := func(secret, redirect string) error {
		app := oauth2.Config{ClientID: id, ClientSecret: secret, Endpoint: provider.Endpoint(), RedirectURL: redirect, Scopes: []string{oidc.ScopeOpenID}}
		app.Endpoint.AuthStyle = oauth2.AuthStyleInHeader
		browser, err := agent.NewBrowser(agent.Person{Email: maya, Password: okta.Password})
		if err != nil {
			return err
		}
		verifier := oauth2.GenerateVerifier()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		q, err := answer.Fetch(ctx, browser, app.AuthCodeURL("state", oauth2.S256ChallengeOption(verifier)))
		if err != nil {
			return err
		}
		_, err = app.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(verifier))
		return err
	}
	if err := signIn(secret, answer.URL); err != nil {
		t.Error(err)
	}
	if err := signIn("a guess", answer.URL); err == nil {
		t.Error("another secret is taken")
	}
	if err := signIn(secret, answer.URL+"/more"); err == nil {
		t.Error("another redirect is taken")
	}
}
