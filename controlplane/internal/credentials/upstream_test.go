package credentials_test

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// authority is an upstream: an MCP endpoint that wants a token, and the authorization server that gives it. It is as strict as its standards
// have it (PKCE, exact redirect URIs, client authentication, rotation of refresh tokens with reuse detection, RFC 7009), and can be made to fail.
type authority struct {
	*httptest.Server
	t *testing.T

	mu      sync.Mutex
	clients map[string]authorityClient
	codes   map[string]url.Values
	// grants are families of tokens: by refresh token and by access token.
	refresh, access map[string]*family
	lives           int // seconds
	refreshes       int
	registrations   int
	revoked         []string
	assertions      []string
	// before is called ahead of a token request, without the lock; its status, if any, is the answer.
	before func(form url.Values) int
	// failRevocation is answered to that many revocations, or all: -1.
	failRevocation int
	// tokenPath names the token endpoint in the metadata.
	tokenPath string
	// trusted is who signs assertions that are taken.
	trusted *jose.JSONWebKey
	issuer  string
	// documents: clients name themselves by metadata documents, and cannot register.
	documents bool
	fetched   int
	// forgets: no client is known at the token endpoint.
	forgets bool
	// clock is how far its clock is ahead.
	clock time.Duration
}

type authorityClient struct {
	secret    string
	key       *jose.JSONWebKey
	redirects []string
	public    bool
}

type family struct {
	client, subject, scope string
	current                string // refresh token
	dead                   bool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, clients: map[string]authorityClient{}, codes: map[string]url.Values{}, refresh: map[string]*family{}, access: map[string]*family{}, lives: 3600, tokenPath: "/token"}
	mux := http.NewServeMux()
	mux.HandleFunc("/mcp", func(w http.ResponseWriter, r *http.Request) {
		if !a.good(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
			w.Header().Set("WWW-Authenticate", `Bearer resource_metadata="`+a.URL+`/.well-known/oauth-protected-resource/mcp"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	mux.HandleFunc("GET /.well-known/oauth-protected-resource/mcp", func(w http.ResponseWriter, _ *http.Request) {
		a.json(w, http.StatusOK, map[string]any{"resource": a.URL + "/mcp", "authorization_servers": []string{a.URL}, "scopes_supported": []string{"read"}})
	})
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", func(w http.ResponseWriter, _ *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		meta := map[string]any{
			"issuer": a.URL, "authorization_endpoint": a.URL + "/authorize", "token_endpoint": a.URL + a.tokenPath, "registration_endpoint": a.URL + "/register", "revocation_endpoint": a.URL + "/revoke",
			"code_challenge_methods_supported": []string{"S256"}, "authorization_response_iss_parameter_supported": true, "token_endpoint_auth_methods_supported": []string{"client_secret_basic", "private_key_jwt"},
		}
		if a.documents {
			delete(meta, "registration_endpoint")
			meta["client_id_metadata_document_supported"] = true
		}
		a.json(w, http.StatusOK, meta)
	})
	mux.HandleFunc("POST /register", a.register)
	mux.HandleFunc("GET /authorize", a.authorize)
	mux.HandleFunc("POST /token", a.token)
	mux.HandleFunc("POST /revoke", a.revoke)
	mux.HandleFunc("GET /me", func(w http.ResponseWriter, r *http.Request) {
		a.json(w, http.StatusOK, map[string]any{"email": "ann@private.example", "orgs": []map[string]string{{"login": "acme"}}})
	})
	a.Server = httptest.NewServer(mux)
	t.Cleanup(a.Close)
	return a
}

func (a *authority) json(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// good tells whether an access token counts.
func (a *authority) good(token string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.access[token]
	return f != nil && !f.dead
}

func (a *authority) register(w http.ResponseWriter, r *http.Request) {
	var m struct {
		Redirects []string `json:"redirect_uris"`
	}
	_ = json.NewDecoder(r.Body).Decode(&m)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.registrations++
	id, secret := "dcr-"+rand.Text(), "dcr-secret-"+rand.Text()
	a.clients[id] = authorityClient{secret: secret, redirects: m.Redirects}
	a.json(w, http.StatusCreated, map[string]any{"client_id": id, "client_secret": secret, "redirect_uris": m.Redirects})
}

func (a *authority) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	a.mu.Lock()
	defer a.mu.Unlock()
	client, known := a.clients[q.Get("client_id")]
	if a.documents {
		client, known = a.document(q.Get("client_id"))
	}
	if !known || !slices.Contains(client.redirects, q.Get("redirect_uri")) || q.Get("code_challenge_method") != "S256" || q.Get("resource") != a.URL+"/mcp" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	code := rand.Text()
	a.codes[code] = q
	back := url.Values{"code": {code}, "state": {q.Get("state")}, "iss": {a.URL}}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

// document reads who a client says that it is, in a document at its own id; the lock is held.
func (a *authority) document(id string) (authorityClient, bool) {
	a.fetched++
	res, err := http.Get(id) //nolint:gosec // a test's own server
	if err != nil {
		return authorityClient{}, false
	}
	defer res.Body.Close()
	var m struct {
		ID        string   `json:"client_id"`
		Redirects []string `json:"redirect_uris"`
		Method    string   `json:"token_endpoint_auth_method"`
	}
	if res.Header.Get("Content-Type") != "application/json" || json.NewDecoder(res.Body).Decode(&m) != nil || m.ID != id || m.Method != "none" {
		return authorityClient{}, false
	}
	a.clients[id] = authorityClient{redirects: m.Redirects, public: true}
	return a.clients[id], true
}

// client authenticates a client; the lock is held.
func (a *authority) client(r *http.Request) (string, bool) {
	id, secret, basic := r.BasicAuth()
	if basic {
		id, _ = url.QueryUnescape(id)
		secret, _ = url.QueryUnescape(secret)
		c, known := a.clients[id]
		return id, known && c.secret != "" && c.secret == secret
	}
	id = r.PostFormValue("client_id")
	c := a.clients[id]
	if c.public {
		return id, true
	}
	if c.key == nil {
		return id, false
	}
	parsed, err := jwt.ParseSigned(r.PostFormValue("client_assertion"), []jose.SignatureAlgorithm{jose.ES256})
	var claims jwt.Claims
	if err != nil || parsed.Claims(c.key.Public().Key, &claims) != nil || claims.Issuer != id || claims.Subject != id || claims.Validate(jwt.Expected{AnyAudience: jwt.Audience{a.URL}, Time: time.Now().Add(a.clock)}) != nil {
		return id, false
	}
	return id, true
}

func (a *authority) token(w http.ResponseWriter, r *http.Request) {
	_ = r.ParseForm()
	a.mu.Lock()
	before := a.before
	a.mu.Unlock()
	if before != nil {
		if status := before(r.PostForm); status != 0 {
			w.WriteHeader(status)
			return
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	refuse := func(code string) { a.json(w, http.StatusBadRequest, map[string]string{"error": code}) }
	id, ok := a.client(r)
	if !ok || a.forgets {
		a.json(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	f := &family{client: id, scope: r.PostFormValue("scope")}
	switch r.PostFormValue("grant_type") {
	case "authorization_code":
		q, known := a.codes[r.PostFormValue("code")]
		delete(a.codes, r.PostFormValue("code"))
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		if !known || q.Get("client_id") != id || q.Get("redirect_uri") != r.PostFormValue("redirect_uri") || q.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || r.PostFormValue("resource") != a.URL+"/mcp" {
			refuse("invalid_grant")
			return
		}
		f.scope, f.current = q.Get("scope"), "rt-"+rand.Text()
	case "refresh_token":
		a.refreshes++
		old := a.refresh[r.PostFormValue("refresh_token")]
		if old == nil || old.dead || old.client != id {
			refuse("invalid_grant")
			return
		}
		if old.current != r.PostFormValue("refresh_token") { // used before: somebody stole it
			old.dead = true
			refuse("invalid_grant")
			return
		}
		f = old
		f.current = "rt-" + rand.Text()
	case "client_credentials":
	case "urn:ietf:params:oauth:grant-type:token-exchange":
		f.subject = r.PostFormValue("subject_token")
	case "urn:ietf:params:oauth:grant-type:jwt-bearer":
		assertion := r.PostFormValue("assertion")
		parsed, err := jwt.ParseSigned(assertion, []jose.SignatureAlgorithm{jose.ES256})
		var claims jwt.Claims
		if err != nil || a.trusted == nil || parsed.Claims(a.trusted.Key, &claims) != nil || parsed.Headers[0].ExtraHeaders["typ"] != "oauth-id-jag+jwt" || claims.Issuer != a.issuer || !claims.Audience.Contains(a.URL) {
			refuse("invalid_grant")
			return
		}
		f.subject = claims.Subject
		a.assertions = append(a.assertions, assertion)
	default:
		refuse("unsupported_grant_type")
		return
	}
	access := "at-" + rand.Text()
	a.access[access] = f
	answer := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": a.lives, "scope": f.scope}
	if f.current != "" {
		a.refresh[f.current] = f
		answer["refresh_token"] = f.current
	}
	a.json(w, http.StatusOK, answer)
}

func (a *authority) revoke(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failRevocation != 0 {
		a.failRevocation--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	id, ok := a.client(r)
	if !ok {
		a.json(w, http.StatusUnauthorized, map[string]string{"error": "invalid_client"})
		return
	}
	token := r.PostFormValue("token")
	for _, f := range []*family{a.refresh[token], a.access[token]} {
		if f != nil && f.client == id {
			f.dead = true
		}
	}
	a.revoked = append(a.revoked, token)
	w.WriteHeader(http.StatusOK)
}

// living counts families whose tokens still count.
func (a *authority) living() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	alive := map[*family]bool{}
	for _, f := range a.access {
		if !f.dead {
			alive[f] = true
		}
	}
	return len(alive)
}

func (a *authority) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

func (a *authority) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return fmt.Sprintf("%d refreshes, %d registrations, %d revoked", a.refreshes, a.registrations, len(a.revoked))
}
