// Package signintest is an OpenID provider that a test makes say anything, what no honest provider says included, and a
// browser that goes where it is led. A real provider is signed in at in the whole-system tests.
package signintest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// ClientID and Secret are those of the one client that the provider knows.
const (
	ClientID = "sallyport"
	Secret   = "the client's secret"
)

// Provider is an OpenID provider. It signs in whoever comes as Subject, without asking.
type Provider struct {
	*httptest.Server
	t   testing.TB
	key *ecdsa.PrivateKey

	mu sync.Mutex
	// Subject is who comes.
	subject string
	// claims changes an ID token before it is signed; answer changes what the browser is sent back with; token makes the
	// ID token's text.
	claims func(map[string]any)
	answer func(url.Values)
	sign   func(map[string]any) string
	down   bool
	// discovered is how often the metadata were read.
	discovered int
	// redirect is the one redirect URI of the client; empty: any.
	redirect string
	codes    map[string]url.Values
	// Asked are the queries of authorization requests, in their order.
	asked []url.Values
	// What was given last, and how often tokens were renewed.
	access, refresh string
	renewals        int
	exchanged       url.Values
	revoked         map[string]bool
}

// NewProvider starts a provider that signs in a subject.
func NewProvider(t testing.TB, subject string) *Provider {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &Provider{t: t, key: key, subject: subject, codes: map[string]url.Values{}, revoked: map[string]bool{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		p.set(func() { p.discovered++ })
		p.json(w, map[string]any{
			"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"ES256"},
			"authorization_response_iss_parameter_supported": true, "revocation_endpoint": p.URL + "/revoke",
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.json(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "ES256", Use: "sig"}}})
	})
	mux.HandleFunc("GET /authorize", p.authorize)
	mux.HandleFunc("POST /token", p.token)
	mux.HandleFunc("POST /revoke", p.revoke)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		down := p.down
		p.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *Provider) json(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		p.t.Error(err)
	}
}

// Become makes another person the one who comes.
func (p *Provider) Become(subject string) { p.set(func() { p.subject = subject }) }

// Claims has ID tokens changed before they are signed.
func (p *Provider) Claims(change func(map[string]any)) { p.set(func() { p.claims = change }) }

// Answer has the parameters changed with which the browser is sent back.
func (p *Provider) Answer(change func(url.Values)) { p.set(func() { p.answer = change }) }

// Sign has ID tokens made by another than the provider's key.
func (p *Provider) Sign(sign func(map[string]any) string) { p.set(func() { p.sign = sign }) }

// Redirect has the provider know one redirect URI alone.
func (p *Provider) Redirect(uri string) { p.set(func() { p.redirect = uri }) }

// Down makes the provider answer nothing but errors, or well again.
func (p *Provider) Down(down bool) { p.set(func() { p.down = down }) }

// Discovered returns how often the metadata were read.
func (p *Provider) Discovered() (n int) { p.set(func() { n = p.discovered }); return n }

// Asked returns the query of the last authorization request.
func (p *Provider) Asked() url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[len(p.asked)-1]
}

func (p *Provider) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	back, err := url.Parse(q.Get("redirect_uri"))
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || q.Get("client_id") != ClientID || p.redirect != "" && q.Get("redirect_uri") != p.redirect {
		http.Error(w, "unknown client", http.StatusBadRequest)
		return
	}
	if q.Get("prompt") == "none" { // nobody is signed in here
		back.RawQuery = url.Values{"error": {"login_required"}, "state": {q.Get("state")}, "iss": {p.URL}}.Encode()
		http.Redirect(w, r, back.String(), http.StatusFound)
		return
	}
	code := rand.Text()
	p.codes[code] = q
	p.asked = append(p.asked, q)
	answer := url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {p.URL}}
	if p.answer != nil {
		p.answer(answer)
	}
	back.RawQuery = answer.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	id, secret, _ := r.BasicAuth()
	secret, _ = url.QueryUnescape(secret)
	if id == ClientID && secret == Secret && r.PostFormValue("grant_type") != "authorization_code" {
		p.further(w, r)
		return
	}
	q, known := p.codes[r.PostFormValue("code")]
	delete(p.codes, r.PostFormValue("code"))
	if id != ClientID || secret != Secret {
		w.WriteHeader(http.StatusUnauthorized)
		p.json(w, map[string]string{"error": "invalid_client"})
		return
	}
	if !known || Challenge(r.PostFormValue("code_verifier")) != q.Get("code_challenge") ||
		r.PostFormValue("redirect_uri") != q.Get("redirect_uri") {
		w.WriteHeader(http.StatusBadRequest)
		p.json(w, map[string]string{"error": "invalid_grant"})
		return
	}
	now := time.Now()
	claims := map[string]any{
		"iss": p.URL, "aud": ClientID, "sub": p.subject, "nonce": q.Get("nonce"), "iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
		"auth_time": now.Unix(), "amr": []string{"pwd"},
	}
	if p.claims != nil {
		p.claims(claims)
	}
	sign := p.sign
	if sign == nil {
		sign = func(claims map[string]any) string { return Sign(p.t, jose.ES256, p.key, "1", claims) }
	}
	p.give(w, sign(claims))
}

// give answers with new tokens. The lock is held.
func (p *Provider) give(w http.ResponseWriter, idToken string) {
	p.access, p.refresh = "idp-access-"+rand.Text(), "idp-refresh-"+rand.Text()
	p.json(w, map[string]any{"access_token": p.access, "token_type": "Bearer", "expires_in": 600, "refresh_token": p.refresh, "id_token": idToken})
}

// further answers what is asked of tokens that were given before: to renew them, or to exchange them for an assertion (ID-JAG). The lock is held.
func (p *Provider) further(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	switch r.PostFormValue("grant_type") {
	case "refresh_token":
		if r.PostFormValue("refresh_token") != p.refresh || p.revoked[p.refresh] {
			break
		}
		p.renewals++
		p.give(w, Sign(p.t, jose.ES256, p.key, "1", map[string]any{"iss": p.URL, "aud": ClientID, "sub": p.subject, "iat": now.Unix(), "exp": now.Add(24 * time.Hour).Unix()}))
		return
	case "urn:ietf:params:oauth:grant-type:token-exchange":
		p.exchanged = r.PostForm
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: p.key}, (&jose.SignerOptions{}).WithType("oauth-id-jag+jwt"))
		if err != nil {
			break
		}
		assertion, err := jwt.Signed(signer).Claims(map[string]any{
			"iss": p.URL, "sub": p.subject, "aud": r.PostFormValue("audience"), "resource": r.PostFormValue("resource"), "client_id": "gateway", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
		}).Serialize()
		if err != nil {
			break
		}
		p.json(w, map[string]any{"access_token": assertion, "issued_token_type": r.PostFormValue("requested_token_type"), "token_type": "N_A", "expires_in": 60})
		return
	}
	w.WriteHeader(http.StatusBadRequest)
	p.json(w, map[string]string{"error": "invalid_grant"})
}

func (p *Provider) revoke(_ http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revoked[r.PostFormValue("token")] = true
}

// Access and Refresh are the tokens that were given last, Renewals how often some were renewed.
func (p *Provider) Access() string { p.mu.Lock(); defer p.mu.Unlock(); return p.access }

// Refresh is the refresh token that was given last.
func (p *Provider) Refresh() string { p.mu.Lock(); defer p.mu.Unlock(); return p.refresh }

// Renewals is how often tokens were renewed.
func (p *Provider) Renewals() int { p.mu.Lock(); defer p.mu.Unlock(); return p.renewals }

// Exchanged is the last request to exchange a token.
func (p *Provider) Exchanged() url.Values { p.mu.Lock(); defer p.mu.Unlock(); return p.exchanged }

// Revoked tells whether a token was revoked.
func (p *Provider) Revoked(token string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.revoked[token]
}

// Key is the public key of what the provider signs.
func (p *Provider) Key() *jose.JSONWebKey { return &jose.JSONWebKey{Key: p.key.Public(), KeyID: "1"} }

// Claims are those of a JWT, unverified.
func Claims(t testing.TB, token string) map[string]any {
	t.Helper()
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := parsed.UnsafeClaimsWithoutVerification(&claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// Sign makes a JWT.
func Sign(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, nil)
	if err != nil {
		t.Error(err)
		return ""
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Error(err)
	}
	return text
}

// Browser follows redirects and keeps cookies, as one does.
type Browser struct {
	*http.Client
	t testing.TB
}

// NewBrowser returns one without any cookies.
func NewBrowser(t testing.TB) *Browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &Browser{&http.Client{Jar: jar}, t}
}

// Get goes to a URL and on to where it is led, and returns what it ends at.
func (b *Browser) Get(at string) (status int, body string, end *http.Request) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, at, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	return b.Send(req)
}

// Post sends a form.
func (b *Browser) Post(at string, form url.Values) (status int, body string, end *http.Request) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodPost, at, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return b.Send(req)
}

// Send sends a request as it is.
func (b *Browser) Send(req *http.Request) (status int, body string, end *http.Request) {
	b.t.Helper()
	res, err := b.Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return res.StatusCode, string(data), res.Request
}

// Stay makes the browser follow no redirect; the answer is the redirect then.
func (b *Browser) Stay() *Browser {
	c := *b.Client
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Browser{&c, b.t}
}

// Location goes to a URL and returns where it leads, without going there.
func (b *Browser) Location(at string) *url.URL {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), http.MethodGet, at, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	res, err := b.Stay().Do(req)
	if err != nil {
		b.t.Fatal(err)
	}
	_ = res.Body.Close()
	to, err := res.Location()
	if err != nil {
		b.t.Fatalf("%s leads nowhere: %s", at, res.Status)
	}
	return to
}
