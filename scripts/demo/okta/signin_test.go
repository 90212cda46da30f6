package okta_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/okta"
)

const (
	maya     = "maya.chen@acme.example"
	audience = "http://127.0.0.1:9/mcp"
)

func startOrg(t *testing.T) (org *okta.Org, issuer string) {
	t.Helper()
	org = okta.NewOrg(okta.Config{Audience: audience})
	issuer, _, stop, err := org.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if _, err := org.AddUser(okta.Profile{Login: maya, GivenName: "Maya", FamilyName: "Chen"}); err != nil {
		t.Fatal(err)
	}
	return org, issuer
}

// native is a program on a desk that signs a person in at the org itself.
type native struct {
	issuer, client, path string
	person               agent.Person
}

func login(issuer, email string) native {
	return native{issuer, okta.DefaultClientID, okta.RedirectPath, agent.Person{Email: email, Password: okta.Password}}
}

type tokens struct{ Access, Refresh, Subject string }

func (n native) app(ctx context.Context) (*oidc.Provider, *oauth2.Config, error) {
	provider, err := oidc.NewProvider(ctx, n.issuer)
	if err != nil {
		return nil, nil, err
	}
	endpoint := provider.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInParams
	scopes := []string{oidc.ScopeOpenID, "profile", "email", oidc.ScopeOfflineAccess}
	return provider, &oauth2.Config{ClientID: n.client, Endpoint: endpoint, Scopes: scopes}, nil
}

func (n native) signIn(ctx context.Context) (tokens, error) {
	provider, app, err := n.app(ctx)
	if err != nil {
		return tokens{}, err
	}
	answer, err := agent.ListenForAnswer(ctx, n.path)
	if err != nil {
		return tokens{}, err
	}
	defer answer.Close()
	browser, err := agent.NewBrowser(n.person)
	if err != nil {
		return tokens{}, err
	}
	app.RedirectURL = answer.URL
	verifier := oauth2.GenerateVerifier()
	q, err := answer.Fetch(ctx, browser, app.AuthCodeURL("the state", oidc.Nonce("the nonce"), oauth2.S256ChallengeOption(verifier)))
	if err != nil {
		return tokens{}, err
	}
	if q.Get("state") != "the state" {
		return tokens{}, fmt.Errorf("the state is %q", q.Get("state"))
	}
	token, err := app.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		return tokens{}, err
	}
	raw, _ := token.Extra("id_token").(string)
	id, err := provider.Verifier(&oidc.Config{ClientID: n.client}).Verify(ctx, raw)
	if err != nil {
		return tokens{}, err
	}
	if id.Nonce != "the nonce" {
		return tokens{}, fmt.Errorf("the nonce is %q", id.Nonce)
	}
	return tokens{token.AccessToken, token.RefreshToken, id.Subject}, nil
}

func (n native) refresh(ctx context.Context, refreshToken string) (tokens, error) {
	_, app, err := n.app(ctx)
	if err != nil {
		return tokens{}, err
	}
	token, err := app.TokenSource(ctx, &oauth2.Token{RefreshToken: refreshToken}).Token()
	if err != nil {
		return tokens{}, err
	}
	return tokens{Access: token.AccessToken, Refresh: token.RefreshToken}, nil
}

// suspend is an admin's, with no receiver of events connected.
func suspend(o *okta.Org) error {
	_, err := o.Suspend(context.Background(), maya)
	return err
}

func TestAccessTokenIsWhatACustomServerIssues(t *testing.T) {
	org, issuer := startOrg(t)
	tokens, err := login(issuer, maya).signIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	person, err := org.Person(maya)
	if err != nil {
		t.Fatal(err)
	}
	if len(person.ID) != 20 || !strings.HasPrefix(person.ID, "00u") {
		t.Errorf("user id %q is not of Okta's form", person.ID)
	}
	if tokens.Subject != person.ID {
		t.Errorf("ID token sub = %q, want the user id %q", tokens.Subject, person.ID)
	}

	provider, err := oidc.NewProvider(t.Context(), issuer)
	if err != nil {
		t.Fatal(err)
	}
	verified, err := provider.Verifier(&oidc.Config{ClientID: audience, SupportedSigningAlgs: []string{oidc.RS256}}).Verify(t.Context(), tokens.Access)
	if err != nil {
		t.Fatalf("access token does not verify by the published keys: %v", err)
	}
	var claims struct {
		Version  int      `json:"ver"`
		ID       string   `json:"jti"`
		Subject  string   `json:"sub"`
		UserID   string   `json:"uid"`
		ClientID string   `json:"cid"`
		Scopes   []string `json:"scp"`
		Audience any      `json:"aud"`
	}
	if err := verified.Claims(&claims); err != nil {
		t.Fatal(err)
	}
	if claims.Subject != maya || claims.UserID != person.ID || claims.ClientID != okta.DefaultClientID || claims.Version != 1 {
		t.Errorf("claims = %+v", claims)
	}
	if claims.Audience != audience {
		t.Errorf("aud = %v, want the one string %q", claims.Audience, audience)
	}
	if !strings.HasPrefix(claims.ID, "AT.") || len(claims.Scopes) != 4 {
		t.Errorf("jti = %q, scp = %v", claims.ID, claims.Scopes)
	}
	if life := time.Until(verified.Expiry); life < 59*time.Minute || life > time.Hour {
		t.Errorf("lifetime = %v", life)
	}
	header := map[string]any{}
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(tokens.Access, ".")[0])
	if err != nil || json.Unmarshal(raw, &header) != nil {
		t.Fatalf("header %q: %v", raw, err)
	}
	if header["alg"] != "RS256" || header["kid"] == "" || len(header) != 2 {
		t.Errorf("header = %v, want alg and kid alone", header)
	}
}

func TestRefreshTokenWorksOnceAndForActivePeople(t *testing.T) {
	org, issuer := startOrg(t)
	first, err := login(issuer, maya).signIn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := login(issuer, maya).refresh(t.Context(), first.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	if second.Refresh == first.Refresh || second.Access == first.Access {
		t.Error("the tokens were not rotated")
	}
	if _, err := login(issuer, maya).refresh(t.Context(), first.Refresh); err == nil {
		t.Error("a used refresh token works again")
	}
	if err := suspend(org); err != nil {
		t.Fatal(err)
	}
	if _, err := login(issuer, maya).refresh(t.Context(), second.Refresh); err == nil {
		t.Error("a suspended person's refresh token works")
	}
}

func TestSignInIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*okta.Org) error
		login   func(native) native
	}{
		"to suspended people": {prepare: suspend},
		"to deactivated people": {prepare: func(o *okta.Org) error {
			_, err := o.Deactivate(context.Background(), maya)
			return err
		}},
		"to strangers":                  {login: func(n native) native { n.person.Email = "nobody@acme.example"; return n }},
		"with a wrong password":         {login: func(n native) native { n.person.Password = "guess"; return n }},
		"to an unknown client":          {login: func(n native) native { n.client = "0oaother"; return n }},
		"with an unregistered redirect": {login: func(n native) native { n.path = "/elsewhere"; return n }},
	} {
		t.Run(name, func(t *testing.T) {
			org, issuer := startOrg(t)
			l := login(issuer, maya)
			if c.prepare != nil {
				if err := c.prepare(org); err != nil {
					t.Fatal(err)
				}
			}
			if c.login != nil {
				l = c.login(l)
			}
			if _, err := l.signIn(t.Context()); !errors.Is(err, agent.ErrRefused) {
				t.Errorf("error = %v, want ErrRefused", err)
			}
		})
	}
}

func TestUnsuspendedPeopleSignInAgain(t *testing.T) {
	org, issuer := startOrg(t)
	if err := suspend(org); err != nil {
		t.Fatal(err)
	}
	if err := org.Unsuspend(maya); err != nil {
		t.Fatal(err)
	}
	if _, err := login(issuer, maya).signIn(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAuthorizeWithoutPKCEIsRefused(t *testing.T) {
	_, issuer := startOrg(t)
	for name, extra := range map[string]string{
		"no challenge":    "",
		"plain challenge": "&code_challenge=abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz&code_challenge_method=plain",
	} {
		t.Run(name, func(t *testing.T) {
			resp := get(t, noRedirects(t), issuer+"/v1/authorize?response_type=code&scope=openid&state=x&client_id="+okta.DefaultClientID+
				"&redirect_uri="+url.QueryEscape("http://127.0.0.1:1234/callback")+extra)
			at, err := resp.Location()
			if err != nil {
				t.Fatal(err)
			}
			if at.Host != "127.0.0.1:1234" || at.Query().Get("error") == "" || at.Query().Get("code") != "" {
				t.Errorf("redirected to %s, want an error", at)
			}
		})
	}
}

func TestCodeWorksOnceAndWithItsVerifier(t *testing.T) {
	_, issuer := startOrg(t)
	// RFC 7636, appendix B.
	const verifier, challenge = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
	const callback = "http://localhost:1/callback"
	code := func() string {
		browser := noRedirects(t)
		resp := get(t, browser, issuer+"/v1/authorize?response_type=code&scope=openid&state=x&client_id="+okta.DefaultClientID+
			"&redirect_uri="+url.QueryEscape(callback)+"&code_challenge="+challenge+"&code_challenge_method=S256")
		page := get(t, browser, location(t, resp))
		text := body(t, page)
		form := url.Values{"email": {maya}, "password": {okta.Password}}
		for _, name := range []string{"request", "token"} {
			_, after, _ := strings.Cut(text, `name="`+name+`" value="`)
			value, _, _ := strings.Cut(after, `"`)
			form.Set(name, value)
		}
		resp = post(t, browser, page.Request.URL.Scheme+"://"+page.Request.URL.Host+"/login", form)
		resp = get(t, browser, location(t, resp))
		at, err := url.Parse(location(t, resp))
		if err != nil {
			t.Fatal(err)
		}
		return at.Query().Get("code")
	}
	redeem := func(code, verifier string) int {
		return post(t, http.DefaultClient, issuer+"/v1/token", url.Values{
			"grant_type": {"authorization_code"}, "code": {code}, "client_id": {okta.DefaultClientID},
			"redirect_uri": {callback}, "code_verifier": {verifier},
		}).StatusCode
	}
	first := code()
	if got := redeem(first, verifier); got != http.StatusOK {
		t.Fatalf("status %d for the code and its verifier", got)
	}
	if got := redeem(first, verifier); got == http.StatusOK {
		t.Error("a code works twice")
	}
	if got := redeem(code(), strings.Repeat("x", 43)); got == http.StatusOK {
		t.Error("a code works with another verifier")
	}
	if got := redeem(code(), ""); got == http.StatusOK {
		t.Error("a code works without a verifier")
	}
}

func TestLoginFormBelongsToItsBrowser(t *testing.T) {
	_, issuer := startOrg(t)
	base := strings.TrimSuffix(issuer, okta.IssuerPath)
	resp := post(t, noRedirects(t), base+"/login", url.Values{"request": {"x"}, "token": {"x"}, "email": {maya}, "password": {okta.Password}})
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("status %d for a form without its cookie", resp.StatusCode)
	}
}

func TestMetadataNamesIssuerAndS256(t *testing.T) {
	_, issuer := startOrg(t)
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"} {
		var doc struct {
			Issuer  string   `json:"issuer"`
			Token   string   `json:"token_endpoint"`
			Methods []string `json:"code_challenge_methods_supported"`
		}
		if err := json.Unmarshal([]byte(body(t, get(t, http.DefaultClient, issuer+path))), &doc); err != nil {
			t.Fatal(err)
		}
		if doc.Issuer != issuer || doc.Token != issuer+"/v1/token" || len(doc.Methods) != 1 || doc.Methods[0] != "S256" {
			t.Errorf("%s = %+v", path, doc)
		}
	}
}

func noRedirects(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func get(t *testing.T, c *http.Client, target string) *http.Response {
	t.Helper()
	return do(t, c, http.MethodGet, target, nil)
}

func post(t *testing.T, c *http.Client, target string, form url.Values) *http.Response {
	t.Helper()
	return do(t, c, http.MethodPost, target, form)
}

func do(t *testing.T, c *http.Client, method, target string, form url.Values) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, target, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func location(t *testing.T, resp *http.Response) string {
	t.Helper()
	at, err := resp.Location()
	if err != nil {
		t.Fatalf("status %d: %v", resp.StatusCode, err)
	}
	return at.String()
}
