package adminsession_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/adminsession"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

// site has an admin, ann, and bob, who is none, at one provider, and a command line that waits at a loopback address.
type site struct {
	*enginetest.Plane
	t        *testing.T
	web, api *httptest.Server
	okta     *signintest.Provider
	ann, bob *core.User
	admins   *core.Group
	sessions *adminsession.Sessions

	state, verifier string
	back            string
	came            chan url.Values
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Plane: enginetest.New(t).Start(nil), t: t, came: make(chan url.Values, 4)}
	s.Directory("okta", "corp")
	s.ann, s.bob = s.User("okta", "ann"), s.User("okta", "bob")
	s.admins = s.Group("okta", "Admins", s.ann)
	s.okta = signintest.NewProvider(t, "ext-ann")
	secret, err := s.Vault.PutSignInSecret(t.Context(), "okta", signintest.Secret)
	enginetest.Must(t, err)
	s.Do(core.NewSetSignIn("okta", &policyv1.SignIn{Issuer: s.okta.URL, ClientId: signintest.ClientID, SecretId: secret}))
	s.Do(core.NameAdminDirectory{Directory: "okta"})
	s.Do(core.SetGroupRole{Group: s.admins.ID, Role: policyv1.Role_ROLE_ADMIN})
	mux := http.NewServeMux()
	s.web = enginetest.Serve(t, mux)
	people, err := signin.New(signin.Config{Engine: s.Engine, Store: s.Shared, Secrets: s.Vault, URL: s.web.URL, Log: s.Log})
	enginetest.Must(t, err)
	s.sessions = &adminsession.Sessions{Engine: s.Engine, Store: s.Shared, People: people, URL: s.web.URL, Now: time.Now}
	mux.Handle("/", people.Handler())
	mux.Handle("/admin/login", s.sessions.PageHandler())
	s.api = enginetest.Serve(t, s.sessions.Handler())
	waiting := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { s.came <- r.URL.Query() }))
	t.Cleanup(waiting.Close)
	s.back, s.state, s.verifier = waiting.URL+"/callback", rand.Text(), rand.Text()+rand.Text()
	return s
}

func (s *site) address(redirect string) string {
	sum := sha256.Sum256([]byte(s.verifier))
	return s.api.URL + "/login?" + url.Values{"redirect_uri": {redirect}, "state": {s.state}, "code_challenge": {base64.RawURLEncoding.EncodeToString(sum[:])}}.Encode()
}

var formField = regexp.MustCompile(`name="form" value="([^"]+)"`)
var action = regexp.MustCompile(`action="([^"]+)"`)

// agreed goes through the browser's part, and returns the code.
func (s *site) agreed(b *signintest.Browser) string {
	s.t.Helper()
	status, body, _ := b.Get(s.address(s.back))
	form, at := formField.FindStringSubmatch(body), action.FindStringSubmatch(body)
	if status != http.StatusOK || form == nil || at == nil {
		s.t.Fatalf("the page: %d %s", status, body)
	}
	if !strings.Contains(body, "ann") || !strings.Contains(body, "<strong>admin</strong>") {
		s.t.Errorf("the page does not say who and what: %s", body)
	}
	b.Post(s.web.URL+html.UnescapeString(at[1]), url.Values{"form": {form[1]}})
	q := <-s.came
	if q.Get("state") != s.state {
		s.t.Errorf("the answer's state is %q", q.Get("state"))
	}
	return q.Get("code")
}

// redeem is the command line's part.
func (s *site) redeem(code, verifier string) (status int, token string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.api.URL+"/login/token", strings.NewReader(url.Values{"code": {code}, "code_verifier": {verifier}}.Encode()))
	enginetest.Must(s.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	enginetest.Must(s.t, err)
	defer res.Body.Close()
	var answer struct{ Token string }
	enginetest.Must(s.t, json.NewDecoder(res.Body).Decode(&answer))
	return res.StatusCode, answer.Token
}

func (s *site) find(token string) *core.AdminPerson {
	s.t.Helper()
	p, err := s.sessions.Find(context.Background(), token, true)
	enginetest.Must(s.t, err)
	return p
}

func TestAnAdminSignsTheCommandLineIn(t *testing.T) {
	s := newSite(t)
	code := s.agreed(signintest.NewBrowser(t))
	if asked := s.okta.Asked(); asked.Get("max_age") == "" {
		t.Error("the provider was not asked for a fresh sign-in")
	}
	if status, _ := s.redeem(code, rand.Text()+rand.Text()); status != http.StatusBadRequest {
		t.Errorf("another's verifier: %d", status)
	}
	status, token := s.redeem(code, s.verifier)
	if status != http.StatusOK {
		t.Fatalf("the code is redeemed with %d", status)
	}
	if status, _ := s.redeem(code, s.verifier); status != http.StatusBadRequest {
		t.Errorf("a code is redeemed twice: %d", status)
	}
	p := s.find(token)
	if p == nil || p.User.ID != s.ann.ID || p.Role != policyv1.Role_ROLE_ADMIN || time.Until(p.Expires) > adminsession.Lasts {
		t.Fatalf("the session is %+v", p)
	}
	if s.find(token[:len(token)-1]+"x") != nil {
		t.Error("a forged token is taken")
	}
	if files := enginetest.OnDisk(t, s.Dir, []byte(token)); len(files) > 0 {
		t.Errorf("the token is on disk, in %v", files)
	}
	s.Do(core.SetGroupRole{Group: s.admins.ID, Role: policyv1.Role_ROLE_VIEWER})
	if got := s.find(token).Role; got != policyv1.Role_ROLE_VIEWER {
		t.Errorf("after the group's role changed: %s", got)
	}
	s.Do(core.RevokeSessions{ID: s.ann.ID})
	if s.find(token) != nil {
		t.Error("the session outlives the person's")
	}
}

func TestASessionEndsWithWhatMadeItsPersonAnAdmin(t *testing.T) {
	for name, end := range map[string]func(*site){
		"the group's role": func(s *site) { s.Do(core.SetGroupRole{Group: s.admins.ID}) },
		"the membership": func(s *site) {
			s.Do(core.UpdateGroup{Directory: "okta", ID: s.admins.ID, Members: []core.MemberChange{{Op: core.ReplaceMembers}}})
		},
		"the person": func(s *site) {
			s.Do(core.UpdateUser{Directory: "okta", ID: s.ann.ID, Profile: s.ann.Profile, Active: false})
		},
		"the directory": func(s *site) { s.Do(core.NameAdminDirectory{Directory: "corp"}) },
		"the hour":      func(s *site) { s.sessions.Now = func() time.Time { return time.Now().Add(adminsession.Lasts) } },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			_, token := s.redeem(s.agreed(signintest.NewBrowser(t)), s.verifier)
			if s.find(token) == nil {
				t.Fatal("there is no session")
			}
			if end(s); s.find(token) != nil {
				t.Error("the session goes on")
			}
		})
	}
}

func TestWhoIsNoAdminGetsAPageAndNothingElse(t *testing.T) {
	s := newSite(t)
	s.okta.Become("ext-bob")
	if status, body, _ := signintest.NewBrowser(t).Get(s.address(s.back)); status != http.StatusForbidden || !strings.Contains(body, "Ask an owner") {
		t.Errorf("somebody who is no admin: %d %s", status, body)
	}
	// A SCIM token alone makes nobody an admin: the one who is put into the group must sign in, and does it as nobody else.
	_, scim := s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "corp")
	if s.find(scim) != nil {
		t.Error("a SCIM token is a session")
	}
	s.Do(core.NameAdminDirectory{})
	if status, body, _ := signintest.NewBrowser(t).Get(s.address(s.back)); status != http.StatusForbidden || !strings.Contains(body, "No directory is named") {
		t.Errorf("without a directory: %d %s", status, body)
	}
}

func TestACodeGoesToALoopbackAddressAndOnlyWhenThePersonAgrees(t *testing.T) {
	s := newSite(t)
	b := signintest.NewBrowser(t)
	for _, redirect := range []string{
		"https://evil.example/callback", "http://evil.example:80/callback", "http://127.0.0.1.evil.example:1/callback", "http://127.0.0.1:1@evil.example:1/callback",
		"http://localhost:1/callback", "http://127.0.0.1:1/elsewhere", "http://127.0.0.1:1/callback?x=1", "http://127.0.0.1:1/callback#f", "javascript:alert(1)", "",
	} {
		if status, _, _ := b.Get(s.address(redirect)); status != http.StatusBadRequest {
			t.Errorf("an answer to %q: %d", redirect, status)
		}
	}
	_, body, _ := b.Get(s.address(s.back))
	at := s.web.URL + html.UnescapeString(action.FindStringSubmatch(body)[1])
	for name, form := range map[string]url.Values{"none": {}, "another browser's": {"form": {"x" + formField.FindStringSubmatch(body)[1][1:]}}} {
		if status, _, _ := b.Post(at, form); status != http.StatusForbidden {
			t.Errorf("a form token, %s: %d", name, status)
		}
	}
	select {
	case q := <-s.came:
		t.Errorf("a code came without consent: %v", q)
	default:
	}
}
