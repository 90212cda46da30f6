package authserver_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/egress"

	"sallyport.dev/controlplane/internal/authserver"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

const (
	global   = "https://mcp.example.com/mcp"
	regional = "https://eu.mcp.example.com/mcp"
	lease    = 30 * time.Minute
)

// trail keeps what audit is told.
type trail struct {
	mu  sync.Mutex
	all []*auditv1.AuditRecord
}

func (a *trail) Note(r *auditv1.AuditRecord) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = append(a.all, r)
}

func (a *trail) Refuse(r *auditv1.AuditRecord) { a.Note(r) }

func (a *trail) Record(_ context.Context, r *auditv1.AuditRecord) error { a.Note(r); return nil }

// told counts the records of an action.
func (a *trail) told(action string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.all {
		if r.GetAction() == action {
			n++
		}
	}
	return n
}

func (a *trail) records() []*auditv1.AuditRecord {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.all)
}

func (a *trail) has(action string) bool {
	return a.any(func(r *auditv1.AuditRecord) bool { return r.GetAction() == action })
}

func (a *trail) any(is func(*auditv1.AuditRecord) bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.ContainsFunc(a.all, is)
}

// site is an authorization server over a real engine, with a provider at which Ann signs in, and a server for clients'
// documents.
type site struct {
	*enginetest.Plane
	t       *testing.T
	web     *httptest.Server
	idp     *signintest.Provider
	server  *authserver.Server
	audit   *trail
	ann     *core.User
	browser *signintest.Browser
	docs    *httptest.Server
	docMux  *http.ServeMux
	// documents is the client that the server fetches documents with.
	documents *http.Client
	issuer    string

	mu   sync.Mutex
	skew time.Duration
}

func (s *site) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.skew)
}

func (s *site) later(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew += d
}

func newSite(t *testing.T) *site { t.Helper(); return newSiteAt(t, "") }

// newSiteAt has the issuer at a path.
func newSiteAt(t *testing.T, path string) *site {
	t.Helper()
	s := &site{Plane: enginetest.New(t).Start(nil), t: t, audit: &trail{}, docMux: http.NewServeMux()}
	s.Directory("okta")
	s.ann = s.User("okta", "ann@example.com")
	s.idp = signintest.NewProvider(t, "ext-ann@example.com")
	s.idp.Claims(func(c map[string]any) { // its clock goes as ours
		c["iat"], c["auth_time"], c["exp"] = s.now().Unix(), s.now().Unix(), s.now().Add(5*time.Minute).Unix()
	})
	secret, err := s.Vault.PutSignInSecret(t.Context(), "okta", signintest.Secret)
	enginetest.Must(t, err)
	s.Do(core.NewSetSignIn("okta", &policyv1.SignIn{Issuer: s.idp.URL, ClientId: signintest.ClientID, SecretId: secret}))
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "jira", Title: "Jira", Url: "https://jira.example/mcp"}, {Id: "github", Url: "https://github.example/mcp"}}, nil))
	mux := http.NewServeMux()
	s.web = enginetest.Serve(t, mux)
	s.issuer = s.web.URL + path
	people, err := signin.New(signin.Config{Engine: s.Engine, Store: s.Shared, Secrets: s.Vault, URL: s.issuer, Log: s.Log, Now: s.now})
	enginetest.Must(t, err)
	s.docs = httptest.NewTLSServer(s.docMux)
	t.Cleanup(s.docs.Close)
	guard, err := egress.New("127.0.0.1/32")
	enginetest.Must(t, err)
	s.documents = guard.Client(0)
	s.documents.Transport = s.trusting(guard)
	s.server, err = authserver.New(authserver.Config{
		Engine: s.Engine, Store: s.Shared, Keys: s.Vault, People: people, Audit: s.audit, Issuer: s.issuer, Resources: []string{global, regional},
		Lease: lease, Documents: s.documents, Now: s.now, Log: s.Log,
	})
	enginetest.Must(t, err)
	enginetest.Must(t, s.server.Prepare(t.Context()))
	mux.Handle("/", people.Handler())
	mux.Handle(path+"/oauth/", s.server.Handler())
	mux.Handle("/.well-known/", s.server.Handler())
	if path != "" {
		mux.Handle(path+"/.well-known/", s.server.Handler())
	}
	s.browser = signintest.NewBrowser(t)
	return s
}

// count counts what is kept under a prefix.
func (s *site) count(prefix string) (n int) {
	s.t.Helper()
	enginetest.Must(s.t, s.Shared.Each(s.t.Context(), prefix, func(kv.Entry) error { n++; return nil }))
	return n
}

// clientAt sends from an address of loopback.
func clientAt(t *testing.T, address string) *http.Client {
	t.Helper()
	transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}).DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// trusting is a guard's transport that trusts the certificate of the documents' server.
func (s *site) trusting(guard *egress.Guard) *http.Transport {
	transport := guard.Transport()
	transport.TLSClientConfig = &tls.Config{RootCAs: s.docs.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, MinVersion: tls.VersionTLS12}
	return transport
}

// agent is an agent's program.
type agent struct {
	s        *site
	id       string
	redirect string
	verifier string
}

const verifier = "a-verifier-of-forty-three-characters-or-more-0123"

// register registers a program by DCR.
func (s *site) register(name, redirect string) *agent {
	s.t.Helper()
	status, out := s.postJSON("/oauth/register", map[string]any{"client_name": name, "redirect_uris": []string{redirect}, "token_endpoint_auth_method": "none"})
	if status != http.StatusCreated {
		s.t.Fatalf("registering: %d %v", status, out)
	}
	return &agent{s: s, id: out["client_id"].(string), redirect: redirect, verifier: verifier}
}

func (s *site) postJSON(path string, v any) (int, map[string]any) {
	s.t.Helper()
	data, err := json.Marshal(v)
	enginetest.Must(s.t, err)
	res, err := http.Post(s.issuer+path, "application/json", strings.NewReader(string(data)))
	enginetest.Must(s.t, err)
	return read(s.t, res)
}

func read(t *testing.T, res *http.Response) (int, map[string]any) {
	t.Helper()
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	enginetest.Must(t, err)
	out := map[string]any{}
	_ = json.Unmarshal(data, &out) // an answer without a body has none
	return res.StatusCode, out
}

// query is the agent's authorization request, with changes: an empty value takes a parameter out.
func (a *agent) query(changes ...string) url.Values {
	q := url.Values{
		"response_type": {"code"}, "client_id": {a.id}, "redirect_uri": {a.redirect}, "state": {"the state"}, "scope": {"mcp"},
		"code_challenge": {signintest.Challenge(a.verifier)}, "code_challenge_method": {"S256"}, "resource": {global},
	}
	for i := 0; i < len(changes); i += 2 {
		if q.Set(changes[i], changes[i+1]); changes[i+1] == "" {
			q.Del(changes[i])
		}
	}
	return q
}

func (a *agent) authorizeURL(changes ...string) string {
	return a.s.issuer + "/oauth/authorize?" + a.query(changes...).Encode()
}

// visit goes to an authorization URL as far as this site leads. It returns where the browser is sent beyond it, or the page.
func (s *site) visit(b *signintest.Browser, at string) (away *url.URL, status int, body string) {
	s.t.Helper()
	return s.follow(b, httpGet(s.t, at))
}

func httpGet(t *testing.T, at string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
	enginetest.Must(t, err)
	return req
}

func (s *site) follow(b *signintest.Browser, req *http.Request) (away *url.URL, status int, body string) {
	s.t.Helper()
	c := *b.Client
	c.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
		if !strings.HasPrefix(next.URL.String(), s.web.URL) && !strings.HasPrefix(next.URL.String(), s.idp.URL) {
			away = next.URL
			return http.ErrUseLastResponse
		}
		return nil
	}
	res, err := c.Do(req)
	enginetest.Must(s.t, err)
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	enginetest.Must(s.t, err)
	return away, res.StatusCode, string(data)
}

func attribute(body, before string) string {
	_, rest, _ := strings.Cut(body, before)
	value, _, _ := strings.Cut(rest, `"`)
	return html.UnescapeString(value)
}

// answer sends the consent page's form.
func (s *site) answer(b *signintest.Browser, body, say string) (away *url.URL, status int, page string) {
	s.t.Helper()
	form := url.Values{"form": {attribute(body, `name="form" value="`)}, "answer": {say}}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.web.URL+attribute(body, `action="`), strings.NewReader(form.Encode()))
	enginetest.Must(s.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", s.web.URL)
	return s.follow(b, req)
}

// code signs Ann in, lets the agent in where she is asked, and returns the answer.
func (a *agent) code(changes ...string) url.Values {
	a.s.t.Helper()
	away, status, body := a.s.visit(a.s.browser, a.authorizeURL(changes...))
	if away == nil && strings.Contains(body, "Let a program in?") {
		away, status, body = a.s.answer(a.s.browser, body, "yes")
	}
	if away == nil {
		a.s.t.Fatalf("status %d: %s", status, body)
	}
	return away.Query()
}

// token asks the token endpoint.
func (s *site) token(form url.Values, header ...string) (int, map[string]any) {
	s.t.Helper()
	return s.post("/oauth/token", form, header...)
}

func (s *site) post(path string, form url.Values, header ...string) (int, map[string]any) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.issuer+path, strings.NewReader(form.Encode()))
	enginetest.Must(s.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	enginetest.Must(s.t, err)
	return read(s.t, res)
}

func (a *agent) redeemForm(code string, changes ...string) url.Values {
	f := url.Values{"grant_type": {"authorization_code"}, "client_id": {a.id}, "code": {code}, "code_verifier": {a.verifier}, "redirect_uri": {a.redirect}, "resource": {global}}
	for i := 0; i < len(changes); i += 2 {
		if f.Set(changes[i], changes[i+1]); changes[i+1] == "" {
			f.Del(changes[i])
		}
	}
	return f
}

func (a *agent) redeem(code string, changes ...string) (int, map[string]any) {
	a.s.t.Helper()
	return a.s.token(a.redeemForm(code, changes...))
}

func (a *agent) refresh(token string, changes ...string) (int, map[string]any) {
	a.s.t.Helper()
	f := url.Values{"grant_type": {"refresh_token"}, "client_id": {a.id}, "refresh_token": {token}}
	for i := 0; i < len(changes); i += 2 {
		f.Set(changes[i], changes[i+1])
	}
	return a.s.token(f)
}

// signedIn returns an agent's tokens.
func (a *agent) signedIn(changes ...string) (access, refresh string) {
	a.s.t.Helper()
	status, out := a.redeem(a.code(changes...).Get("code"), "resource", "")
	if status != http.StatusOK {
		a.s.t.Fatalf("status %d: %v", status, out)
	}
	refresh, _ = out["refresh_token"].(string)
	return out["access_token"].(string), refresh
}

// claimsOf reads a token without believing it.
func claimsOf(t *testing.T, token string) map[string]any {
	t.Helper()
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.ES256})
	enginetest.Must(t, err)
	var claims map[string]any
	enginetest.Must(t, json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &claims))
	return claims
}

// good tells whether an access token would get a credential.
func (s *site) good(access, connector string) bool {
	s.t.Helper()
	user, _, own, err := s.server.Verify(s.Engine.State(), access, connector)
	return own && err == nil && user.ID == s.ann.ID
}
