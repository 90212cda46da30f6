package credentials_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/signintest"
	"sallyport.dev/controlplane/internal/vault"
)

// site is two control planes' keepers over one real engine, vault and sign-in, with a connector that ann may use.
type site struct {
	*enginetest.Plane
	t        *testing.T
	web      *httptest.Server
	okta     *signintest.Provider
	upstream *authority
	ann      *core.User
	group    *core.Group
	keeper   *credentials.Keeper
	second   *credentials.Keeper
	vault    *breakable
	handler  atomic.Value // of whichever keeper serves the pages

	mu   sync.Mutex
	skew time.Duration
}

// breakable is a vault that a test makes fail.
type breakable struct {
	*vault.Vault
	mu      sync.Mutex
	replace func() error
}

func (b *breakable) Replace(ctx context.Context, name, owner string, secret vault.Secret, revision uint64) error {
	b.mu.Lock()
	fail := b.replace
	b.mu.Unlock()
	if fail != nil {
		if err := fail(); err != nil {
			return err
		}
	}
	return b.Vault.Replace(ctx, name, owner, secret, revision)
}

func (b *breakable) set(replace func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replace = replace
}

var errCrash = errors.New("the control plane died")

func newSite(t *testing.T, auth *policyv1.UpstreamAuth) *site {
	t.Helper()
	s := &site{Plane: enginetest.New(t).Start(nil), t: t, upstream: newAuthority(t)}
	s.Directory("okta")
	s.ann = s.User("okta", "ann@example.com")
	s.User("okta", "bob@example.com")
	s.group = s.Group("okta", "Engineers", s.ann, s.Engine.State().UserByName("okta", "bob@example.com"))
	s.okta = signintest.NewProvider(t, "ext-ann@example.com")
	s.vault = &breakable{Vault: s.Vault}
	mux := http.NewServeMux()
	s.web = enginetest.Serve(t, mux)
	secretID, err := s.Vault.PutSignInSecret(t.Context(), "okta", signintest.Secret)
	enginetest.Must(t, err)
	s.Do(core.NewSetSignIn("okta", &policyv1.SignIn{Issuer: s.okta.URL, ClientId: signintest.ClientID, SecretId: secretID}))
	people, err := signin.New(signin.Config{Engine: s.Engine, Store: s.Shared, Secrets: s.Vault, URL: s.web.URL, Log: s.Log})
	enginetest.Must(t, err)
	config := credentials.Config{
		Engine: s.Engine, Store: s.Shared, Vault: s.vault, People: people, URL: s.web.URL, Every: 10 * time.Millisecond, GiveUp: time.Hour, Log: s.Log,
		Now: func() time.Time { s.mu.Lock(); defer s.mu.Unlock(); return time.Now().Add(s.skew) },
	}
	s.keeper, s.second = credentials.New(config), credentials.New(config)
	people.Keep = s.keeper.KeepIdentity
	mux.Handle("/", people.Handler())
	s.handler.Store(s.keeper.Handler())
	mux.HandleFunc("/connect/", func(w http.ResponseWriter, r *http.Request) { s.handler.Load().(http.Handler).ServeHTTP(w, r) })
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.keeper.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	s.connector(auth)
	return s
}

// connector sets the one connector, and approves its authorization server where it has one.
func (s *site) connector(auth *policyv1.UpstreamAuth) {
	s.t.Helper()
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "demo", Title: "Demo", Url: s.upstream.URL + "/mcp", AllowedRanges: []string{"127.0.0.0/8"}, Auth: auth}},
		[]core.GrantSpec{core.NewGrantSpec(s.group.ID, "demo", []*policyv1.Rule{{Allow: []string{"*"}}})}))
	s.Do(core.NewPinCatalogue("demo", []*policyv1.Tool{{Name: "read", Definition: []byte(`{"name":"read","inputSchema":{"type":"object"}}`)}}))
	if auth.GetHeader() == nil && auth.GetQuery() == nil && auth.GetPassThrough() == nil {
		_, _, err := s.keeper.TrustServer(s.t.Context(), enginetest.Actor, s.Engine.State().Connector("demo"), "")
		enginetest.Must(s.t, err)
	}
}

func (s *site) later(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.skew += d
}

// issue asks a keeper for a person's credential.
func (s *site) issue(k *credentials.Keeper, user *core.User, ask credentials.Ask) (credentials.Issued, error) {
	state, err := s.Engine.Fence(s.t.Context())
	enginetest.Must(s.t, err)
	return k.Issue(s.t.Context(), state, state.User(user.ID), state.Connector("demo"), ask)
}

// must is a value that must be there.
func (s *site) must(ask credentials.Ask) credentials.Issued {
	s.t.Helper()
	issued, err := s.issue(s.keeper, s.ann, ask)
	if err != nil || issued.Connect != nil {
		s.t.Fatalf("issued %+v, %v", issued.Connect, err)
	}
	return issued
}

// link is the page to which a person is led.
func (s *site) link(ask credentials.Ask) string {
	s.t.Helper()
	issued, err := s.issue(s.keeper, s.ann, ask)
	if err != nil || issued.Connect == nil {
		s.t.Fatalf("issued %q, %v: want a page", issued.Header, err)
	}
	return issued.Connect.URL
}

// visit opens a page and sends its form.
func (s *site) visit(b *signintest.Browser, at string) (status int, body string) {
	s.t.Helper()
	status, body, end := b.Get(at)
	if status != http.StatusOK {
		return status, body
	}
	form := url.Values{}
	for _, name := range []string{"form", "t"} {
		_, rest, _ := strings.Cut(body, `name="`+name+`" value="`)
		value, _, _ := strings.Cut(rest, `"`)
		form.Set(name, html.UnescapeString(value))
	}
	status, body, _ = b.Post(s.web.URL+end.URL.Path, form)
	if _, rest, found := strings.Cut(body, `class="button main" href="`); found && strings.Contains(body, "Continue to") { // led on by a page
		next, _, _ := strings.Cut(rest, `"`)
		status, body, _ = b.Get(html.UnescapeString(next))
	}
	return status, body
}

// connect links the person's account.
func (s *site) connect(ask credentials.Ask) {
	s.t.Helper()
	if status, body := s.visit(signintest.NewBrowser(s.t), s.link(ask)); status != http.StatusOK || !strings.Contains(body, "is connected") {
		s.t.Fatalf("status %d: %s", status, body)
	}
}

func (s *site) deactivate() {
	s.t.Helper()
	s.Do(core.UpdateUser{Directory: "okta", ID: s.ann.ID, Profile: s.Engine.State().User(s.ann.ID).Profile, Active: false})
}

// nothingLeft waits until no credential of the person's is left, here or upstream.
func (s *site) nothingLeft() {
	s.t.Helper()
	enginetest.Eventually(s.t, "all to be revoked and destroyed", func() bool {
		names, err := s.Vault.Names(s.t.Context(), "credential.")
		return err == nil && len(names) == 0 && s.upstream.living() == 0 && s.Engine.State().OpenWithdrawals() == 0
	})
}

// secret sets the connector's own.
func (s *site) secret(value string) {
	s.t.Helper()
	id, err := s.Vault.PutConnectorSecret(s.t.Context(), "demo", value)
	enginetest.Must(s.t, err)
	s.Do(core.SetConnectorSecret{Connector: "demo", SecretID: id})
}

// signingClient is one that proves itself by a key, with the secret that says so.
func signingClient(t *testing.T) (authorityClient, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(t, err)
	private := jose.JSONWebKey{Key: key, KeyID: "1", Algorithm: "ES256"}
	secret, err := private.MarshalJSON()
	enginetest.Must(t, err)
	return authorityClient{key: &private}, string(secret)
}

func serviceAccount(proof policyv1.ClientAuthentication) *policyv1.UpstreamAuth {
	return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_ServiceAccount{ServiceAccount: &policyv1.ServiceAccountAuth{
		Client: &policyv1.UpstreamClient{Id: "gateway", Authentication: proof}, Scopes: []string{"read"},
	}}}
}

func oauth(change ...func(*policyv1.OAuth)) *policyv1.UpstreamAuth {
	o := &policyv1.OAuth{}
	for _, c := range change {
		c(o)
	}
	return &policyv1.UpstreamAuth{Kind: &policyv1.UpstreamAuth_Oauth{Oauth: o}}
}
