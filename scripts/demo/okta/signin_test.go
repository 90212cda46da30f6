package okta_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

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

func login(issuer, email string) agent.Login {
	return agent.Login{Issuer: issuer, ClientID: okta.DefaultClientID, RedirectPath: okta.RedirectPath, Email: email, Password: okta.Password}
}

func TestAccessTokenIsWhatACustomServerIssues(t *testing.T) {
	org, issuer := startOrg(t)
	tokens, err := agent.SignIn(t.Context(), login(issuer, maya))
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
	first, err := agent.SignIn(t.Context(), login(issuer, maya))
	if err != nil {
		t.Fatal(err)
	}
	second, err := agent.Refresh(t.Context(), login(issuer, maya), first.Refresh)
	if err != nil {
		t.Fatal(err)
	}
	if second.Refresh == first.Refresh || second.Access == first.Access {
		t.Error("the tokens were not rotated")
	}
	if _, err := agent.Refresh(t.Context(), login(issuer, maya), first.Refresh); err == nil {
		t.Error("a used refresh token works again")
	}
	if err := org.Suspend(maya); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Refresh(t.Context(), login(issuer, maya), second.Refresh); err == nil {
		t.Error("a suspended person's refresh token works")
	}
}

func TestSignInIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		prepare func(*okta.Org) error
		login   func(agent.Login) agent.Login
	}{
		"to suspended people": {prepare: func(o *okta.Org) error { return o.Suspend(maya) }},
		"to deactivated people": {prepare: func(o *okta.Org) error {
			_, err := o.Deactivate(context.Background(), maya)
			return err
		}},
		"to strangers":                  {login: func(l agent.Login) agent.Login { l.Email = "nobody@acme.example"; return l }},
		"with a wrong password":         {login: func(l agent.Login) agent.Login { l.Password = "guess"; return l }},
		"to an unknown client":          {login: func(l agent.Login) agent.Login { l.ClientID = "0oaother"; return l }},
		"with an unregistered redirect": {login: func(l agent.Login) agent.Login { l.RedirectPath = "/elsewhere"; return l }},
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
			if _, err := agent.SignIn(t.Context(), l); !errors.Is(err, agent.ErrRefused) {
				t.Errorf("error = %v, want ErrRefused", err)
			}
		})
	}
}

func TestUnsuspendedPeopleSignInAgain(t *testing.T) {
	org, issuer := startOrg(t)
	if err := org.Suspend(maya); err != nil {
		t.Fatal(err)
	}
	if err := org.Unsuspend(maya); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.SignIn(t.Context(), login(issuer, maya)); err != nil {
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
