package signin_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/protobuf/types/known/durationpb"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

// site is a sign-in server over a real engine, with a page that needs somebody and two directories.
type site struct {
	*enginetest.Plane
	t    *testing.T
	web  *httptest.Server
	okta *signintest.Provider
	ann  *core.User

	mu       sync.Mutex
	need     signin.Need
	outcomes []string
	skew     time.Duration
	// stopped is where the clock stands still, if it does.
	stopped time.Time
}

func (s *site) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopped.IsZero() {
		return s.stopped
	}
	return time.Now().Add(s.skew)
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Plane: enginetest.New(t).Start(nil), t: t}
	s.Directory("okta")
	s.ann = s.User("okta", "ann@example.com")
	s.okta = signintest.NewProvider(t, "ext-ann@example.com")
	s.setSignIn("okta", s.okta, &policyv1.SignIn{EmailDomains: []string{"example.com"}, Contact: "the IT desk"})
	var server *signin.Server
	mux := http.NewServeMux()
	s.web = enginetest.Serve(t, mux)
	server, err := signin.New(signin.Config{
		Engine: s.Engine, Store: s.Shared, Secrets: s.Vault, URL: s.web.URL, Log: s.Log,
		Now: s.now,
		Record: func(_ context.Context, e signin.Event) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.outcomes = append(s.outcomes, e.Outcome)
		},
	})
	enginetest.Must(t, err)
	mux.Handle("/", server.Handler())
	mux.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		need := s.need
		s.mu.Unlock()
		if who, ok := server.Require(w, r, need); ok {
			fmt.Fprintf(w, "hello %s amr %v form %s", who.User.UserName, who.AMR, who.Form("x"))
		}
	})
	return s
}

func (s *site) setSignIn(directory string, p *signintest.Provider, in *policyv1.SignIn) {
	s.t.Helper()
	in.Issuer, in.ClientId = p.URL, signintest.ClientID
	var err error
	in.SecretId, err = s.Vault.PutSignInSecret(s.t.Context(), directory, signintest.Secret)
	enginetest.Must(s.t, err)
	s.Do(core.NewSetSignIn(directory, in))
}

func (s *site) needs(n signin.Need) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.need = n
}

// last is what became of the last sign-in.
func (s *site) last() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.outcomes) == 0 {
		return ""
	}
	return s.outcomes[len(s.outcomes)-1]
}

func (s *site) signedIn(b *signintest.Browser) bool {
	status, body, _ := b.Get(s.web.URL + "/page?a=1")
	return status == http.StatusOK && strings.HasPrefix(body, "hello ")
}

func TestAPersonIsSignedInAtTheProviderAndComesBackToTheSamePage(t *testing.T) {
	s := newSite(t)
	b := signintest.NewBrowser(t)
	status, body, end := b.Get(s.web.URL + "/page?a=1&b=%2F")
	if status != http.StatusOK || !strings.HasPrefix(body, "hello ann@example.com amr [pwd]") || end.URL.RequestURI() != "/page?a=1&b=%2F" {
		t.Fatalf("status %d at %s: %s", status, end.URL, body)
	}
	asked := s.okta.Asked()
	for name, want := range map[string]string{"response_type": "code", "code_challenge_method": "S256", "redirect_uri": s.web.URL + "/signin/callback/okta"} {
		if asked.Get(name) != want {
			t.Errorf("%s = %q", name, asked.Get(name))
		}
	}
	if asked.Get("nonce") == "" || asked.Get("state") == "" || asked.Get("code_challenge") == "" || !strings.Contains(asked.Get("scope"), "openid") {
		t.Errorf("asked %v", asked)
	}
	s.okta.Down(true) // a session does not need the provider
	if !s.signedIn(b) {
		t.Error("the session did not outlive the provider")
	}
}

func TestWhoHasNoAccessIsToldWhomToAsk(t *testing.T) {
	s := newSite(t)
	for name, c := range map[string]struct {
		subject, outcome, says string
		before                 func()
	}{
		"was never provisioned":           {"ext-nobody", signin.NotProvisioned, "Ask the IT desk", nil},
		"is known by another pair":        {"ann@example.com", signin.NotProvisioned, "Ask the IT desk", nil}, // the userName, which this directory does not match by
		"is known in another directory":   {"ext-eve@example.com", signin.NotProvisioned, "Ask the IT desk", func() { s.Directory("other"); s.User("other", "eve@example.com") }},
		"is deactivated":                  {"ext-bob@example.com", signin.Deactivated, "ask the IT desk", func() { s.deactivate(s.User("okta", "bob@example.com")) }},
		"has a subject with markup in it": {"<script>x</script>", signin.NotProvisioned, "&lt;script&gt;", nil},
	} {
		t.Run(name, func(t *testing.T) {
			if c.before != nil {
				c.before()
			}
			s.okta.Become(c.subject)
			b := signintest.NewBrowser(t)
			status, body, _ := b.Get(s.web.URL + "/page")
			if status != http.StatusForbidden || !strings.Contains(body, c.says) || s.last() != c.outcome {
				t.Errorf("status %d, outcome %q: %s", status, s.last(), body)
			}
			if len(b.Jar.Cookies(&url.URL{Scheme: "http", Host: strings.TrimPrefix(s.web.URL, "http://"), Path: "/"})) > 1 {
				t.Error("a session was opened")
			}
		})
	}
}

func (s *site) deactivate(u *core.User) {
	s.Do(core.UpdateUser{Directory: u.Directory, ID: u.ID, Profile: u.Profile})
}

func TestASessionEndsWithThePersonsGenerationAndWithItsTime(t *testing.T) {
	s := newSite(t)
	for name, end := range map[string]func(){
		"sessions revoked": func() { s.Do(core.RevokeSessions{ID: s.ann.ID}) },
		"time over":        func() { s.mu.Lock(); s.skew = 9 * time.Hour; s.mu.Unlock() },
		"deactivated":      func() { s.deactivate(s.Engine.State().User(s.ann.ID)) },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "time over" {
				defer func() { s.mu.Lock(); s.skew = 0; s.mu.Unlock() }()
			}
			if name == "deactivated" {
				defer func() {
					s.Do(core.UpdateUser{Directory: "okta", ID: s.ann.ID, Profile: s.ann.Profile, Active: true})
				}()
			}
			b := signintest.NewBrowser(t)
			if !s.signedIn(b) {
				t.Fatal("not signed in")
			}
			end()
			if status := b.Location(s.web.URL + "/page").Path; status != "/signin" {
				t.Errorf("the session goes on: led to %q", status)
			}
		})
	}
}

func TestAnAnswerCountsOnceAndOnlyInTheBrowserThatAsked(t *testing.T) {
	s := newSite(t)
	begin := s.web.URL + "/signin?to=/page"

	attacker := signintest.NewBrowser(t)
	answer := attacker.Location(attacker.Location(begin).String()) // the provider signed the attacker in
	victim := signintest.NewBrowser(t)
	if status, body, _ := victim.Get(answer.String()); status != http.StatusBadRequest || s.last() != signin.Forged {
		t.Errorf("login CSRF: status %d: %s", status, body)
	}
	_ = victim.Location(begin) // now it has begun one too
	if status, _, _ := victim.Get(answer.String()); status != http.StatusBadRequest {
		t.Errorf("login CSRF of a browser that begins: status %d", status)
	}
	if status, _, _ := attacker.Get(answer.String()); status != http.StatusOK {
		t.Fatalf("the browser that asked: status %d", status)
	}
	if status, _, _ := attacker.Get(answer.String()); status != http.StatusBadRequest {
		t.Errorf("a second time: status %d", status)
	}
}

func TestACodeOfAnotherSignInCannotBeInjected(t *testing.T) {
	s := newSite(t)
	victim, attacker := signintest.NewBrowser(t), signintest.NewBrowser(t)
	begin := s.web.URL + "/signin?to=/page"
	stolen := victim.Location(victim.Location(begin).String()).Query().Get("code")
	own := attacker.Location(attacker.Location(begin).String())
	q := own.Query()
	q.Set("code", stolen)
	own.RawQuery = q.Encode()
	if status, _, _ := attacker.Get(own.String()); status != http.StatusForbidden || s.last() != signin.Refused {
		t.Errorf("status %d, outcome %q", status, s.last())
	}
}

func TestAnswersAndTokensThatAreNotGoodAreRefused(t *testing.T) {
	s := newSite(t)
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(t, err)
	claim := func(name string, value any) func() {
		return func() { s.okta.Claims(func(c map[string]any) { c[name] = value }) }
	}
	answer := func(name, value string) func() {
		return func() { s.okta.Answer(func(v url.Values) { v.Set(name, value) }) }
	}
	for name, c := range map[string]struct {
		set     func()
		outcome string
	}{
		"another nonce":          {claim("nonce", "x"), signin.Forged},
		"no nonce":               {claim("nonce", nil), signin.Forged},
		"another issuer":         {claim("iss", "https://evil.example"), signin.Forged},
		"another audience":       {claim("aud", "somebody else"), signin.Forged},
		"two audiences, no azp":  {claim("aud", []string{signintest.ClientID, "x"}), signin.Forged},
		"another azp":            {claim("azp", "x"), signin.Forged},
		"expired":                {claim("exp", time.Now().Add(-time.Hour).Unix()), signin.Forged},
		"issued long ago":        {claim("iat", time.Now().Add(-time.Hour).Unix()), signin.Forged},
		"issued in the future":   {claim("iat", time.Now().Add(time.Hour).Unix()), signin.Forged},
		"authenticated tomorrow": {claim("auth_time", time.Now().Add(time.Hour).Unix()), signin.Forged},
		"a subject of no string": {claim("sub", 7), signin.Forged},
		"an empty subject":       {claim("sub", ""), signin.Forged},
		"amr of another type":    {claim("amr", "pwd"), signin.Forged},
		"at_hash of another":     {claim("at_hash", "AAAAAAAAAAAAAAAAAAAAAA"), signin.Forged},
		"signed by another key": {func() {
			s.okta.Sign(func(c map[string]any) string { return signintest.Sign(t, jose.ES256, foreign, "1", c) })
		}, signin.Forged},
		"signed with a secret": {func() {
			s.okta.Sign(func(c map[string]any) string {
				return signintest.Sign(t, jose.HS256, []byte(signintest.Secret+signintest.Secret), "1", c)
			})
		}, signin.Forged},
		"not signed":              {func() { s.okta.Sign(func(map[string]any) string { return "eyJhbGciOiJub25lIn0.e30." }) }, signin.Forged},
		"an answer of another":    {answer("iss", "https://evil.example"), signin.Forged},
		"an answer of nobody":     {func() { s.okta.Answer(func(v url.Values) { v.Del("iss") }) }, signin.Forged},
		"another state":           {answer("state", "x"), signin.Forged},
		"no state":                {func() { s.okta.Answer(func(v url.Values) { v.Del("state") }) }, signin.Forged},
		"a code that is not one":  {answer("code", "x"), signin.Refused},
		"the person cancelled":    {answer("error", "access_denied"), signin.Refused},
		"an error that is markup": {answer("error", "<script>"), signin.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() { s.okta.Claims(nil); s.okta.Answer(nil); s.okta.Sign(nil) }()
			c.set()
			b := signintest.NewBrowser(t)
			status, body, _ := b.Get(s.web.URL + "/page")
			if status < 400 || s.last() != c.outcome || strings.Contains(body, "<script") {
				t.Errorf("status %d, outcome %q: %s", status, s.last(), body)
			}
			s.okta.Claims(nil)
			s.okta.Answer(nil)
			s.okta.Sign(nil)
			if to := b.Location(s.web.URL + "/page").Path; to != "/signin" {
				t.Error("the browser is signed in")
			}
		})
	}
}

func TestAfterASignInNobodyIsLedToAnotherSite(t *testing.T) {
	s := newSite(t)
	for _, to := range []string{
		"https://evil.example/", "//evil.example/", `/\evil.example/`, "/\t/evil.example", "javascript:alert(1)", "/page@evil.example\r\nx: y", "evil", "",
	} {
		_, _, end := signintest.NewBrowser(t).Get(s.web.URL + "/signin?to=" + url.QueryEscape(to))
		if !strings.HasPrefix(end.URL.String(), s.web.URL+"/") {
			t.Errorf("%q led to %s", to, end.URL)
		}
	}
}

func TestAPageMayNeedAStrongerOrFresherSignIn(t *testing.T) {
	s := newSite(t)
	b := signintest.NewBrowser(t)
	if !s.signedIn(b) {
		t.Fatal("not signed in")
	}
	s.needs(signin.Need{ACR: []string{"phr"}, AMR: []string{"mfa"}, MaxAge: time.Minute})
	if status, body, _ := b.Get(s.web.URL + "/page"); status != http.StatusForbidden || s.last() != signin.TooWeak {
		t.Errorf("a provider that does not step up: status %d, %q: %s", status, s.last(), body)
	}
	if asked := s.okta.Asked(); asked.Get("acr_values") != "phr" || asked.Get("max_age") != "60" || asked.Get("prompt") != "login" {
		t.Errorf("asked %v", asked)
	}
	s.okta.Claims(func(c map[string]any) { c["acr"], c["amr"] = "phr", []string{"pwd"} })
	if s.signedIn(b) || s.last() != signin.TooWeak {
		t.Errorf("with a method less: %q", s.last())
	}
	s.okta.Claims(func(c map[string]any) { c["acr"], c["amr"] = "phrh", []string{"pwd", "mfa"} })
	if s.signedIn(b) || s.last() != signin.TooWeak {
		t.Errorf("with another context: %q", s.last())
	}
	s.okta.Claims(func(c map[string]any) { c["acr"], c["amr"] = "phr", []string{"pwd", "mfa"} })
	if !s.signedIn(b) {
		t.Errorf("after stepping up: %q", s.last())
	}
	s.mu.Lock()
	s.skew = 3 * time.Minute
	s.mu.Unlock()
	if to := b.Location(s.web.URL + "/page").Path; to != "/signin" {
		t.Errorf("a sign-in of three minutes ago is fresh enough for one minute: %q", to)
	}
}

func TestADirectorysOwnRequirementHoldsForEachSignIn(t *testing.T) {
	s := newSite(t)
	s.setSignIn("okta", s.okta, &policyv1.SignIn{Assurance: &policyv1.Assurance{Amr: []string{"mfa"}, MaxAge: durationpb.New(time.Hour)}})
	if s.signedIn(signintest.NewBrowser(t)) || s.last() != signin.TooWeak {
		t.Errorf("outcome %q", s.last())
	}
	s.okta.Claims(func(c map[string]any) { c["amr"] = []string{"mfa"}; delete(c, "auth_time") })
	if s.signedIn(signintest.NewBrowser(t)) || s.last() != signin.TooWeak {
		t.Errorf("without auth_time: outcome %q", s.last())
	}
	s.okta.Claims(func(c map[string]any) { c["amr"] = []string{"mfa"} })
	if !s.signedIn(signintest.NewBrowser(t)) {
		t.Errorf("outcome %q", s.last())
	}
	s.setSignIn("okta", s.okta, &policyv1.SignIn{Assurance: &policyv1.Assurance{Acr: []string{"phr"}}})
	if s.signedIn(signintest.NewBrowser(t)) || s.last() != signin.TooWeak {
		t.Errorf("without the context: outcome %q", s.last())
	}
	s.okta.Claims(func(c map[string]any) { c["acr"] = "phr" })
	if !s.signedIn(signintest.NewBrowser(t)) {
		t.Errorf("with the context: outcome %q", s.last())
	}
}

func TestOfSeveralDirectoriesOneIsChosen(t *testing.T) {
	s := newSite(t)
	s.Directory("corp")
	corp := signintest.NewProvider(t, "ext-cy@corp.example")
	s.setSignIn("corp", corp, &policyv1.SignIn{EmailDomains: []string{"corp.example"}, Title: "Corp & Co"})
	s.User("corp", "cy@corp.example")
	b := signintest.NewBrowser(t)
	status, body, _ := b.Get(s.web.URL + "/page?x=1")
	if status != http.StatusOK || !strings.Contains(body, "Corp &amp; Co") || !strings.Contains(body, ">okta<") {
		t.Fatalf("status %d: %s", status, body)
	}
	_, rest, _ := strings.Cut(body, `name="to" value="`)
	to, _, _ := strings.Cut(rest, `"`)
	form := url.Values{"to": {html.UnescapeString(to)}, "ask": {"1"}, "hint": {"Cy@CORP.example"}}
	status, body, _ = b.Get(s.web.URL + "/signin?" + form.Encode())
	_, rest, _ = strings.Cut(body, `href="`)
	next, _, _ := strings.Cut(rest, `"`)
	if status != http.StatusOK || !strings.HasPrefix(html.UnescapeString(next), corp.URL+"/authorize?") {
		t.Fatalf("by email address: status %d: %s", status, body)
	}
	status, body, end := b.Get(html.UnescapeString(next))
	if status != http.StatusOK || !strings.HasPrefix(body, "hello cy@corp.example") || end.URL.RequestURI() != "/page?x=1" {
		t.Errorf("status %d: %s", status, body)
	}
	if corp.Asked().Get("login_hint") != "Cy@CORP.example" {
		t.Errorf("asked %v", corp.Asked())
	}
	s.needs(signin.Need{Directory: "okta"})
	if status, body, _ := b.Get(s.web.URL + "/page"); status != http.StatusOK || !strings.HasPrefix(body, "hello ann") {
		t.Errorf("a page that needs somebody of okta: status %d: %s", status, body)
	}
}

func TestWhileAProviderIsDownNewSignInsFailWithAClearPage(t *testing.T) {
	s := newSite(t)
	b := signintest.NewBrowser(t)
	if !s.signedIn(b) {
		t.Fatal("not signed in")
	}
	s.okta.Down(true)
	s.mu.Lock()
	s.skew = 2 * time.Second // that it could be reached this long ago does not help a browser
	s.mu.Unlock()
	status, body, _ := signintest.NewBrowser(t).Get(s.web.URL + "/page")
	if status != http.StatusBadGateway || !strings.Contains(body, "cannot be reached") || s.last() != signin.Unreachable {
		t.Errorf("status %d, %q: %s", status, s.last(), body)
	}
	if !s.signedIn(b) {
		t.Error("who was signed in is not any more")
	}
}

func TestManyPeopleAtOnceAreOneLookAtTheProvider(t *testing.T) {
	s := newSite(t)
	s.mu.Lock()
	s.stopped = time.Now()
	s.mu.Unlock()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if at := signintest.NewBrowser(t).Location(s.web.URL + "/signin?to=/page"); !strings.HasPrefix(at.String(), s.okta.URL+"/authorize?") {
				t.Errorf("led to %s", at)
			}
		})
	}
	all.Wait()
	if n := s.okta.Discovered(); n != 1 {
		t.Errorf("the provider was looked at %d times", n)
	}
}

// TestSignInsThatNobodyFinishesAreBounded: each is kept for a while, and whoever comes can begin one.
func TestSignInsThatNobodyFinishesAreBounded(t *testing.T) {
	s := newSite(t)
	s.mu.Lock()
	s.stopped = time.Now()
	s.mu.Unlock()
	refused := 0
	for range 2010 {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/signin?to=/page", nil)
		r.RemoteAddr = "192.0.2.7:1"
		s.web.Config.Handler.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusSeeOther:
		case http.StatusTooManyRequests:
			if refused++; w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "Too many sign-ins") {
				t.Fatalf("refused by %s", w.Body)
			}
		default:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
	}
	if refused != 10 {
		t.Errorf("%d of 2010 are refused", refused)
	}
	if !s.signedIn(signintest.NewBrowser(t)) { // from elsewhere
		t.Error("others are held with it")
	}
}

func TestFormsAreTheirBrowsersAndPurposesOwn(t *testing.T) {
	s := newSite(t)
	b := signintest.NewBrowser(t)
	_, body, _ := b.Get(s.web.URL + "/")
	_, rest, _ := strings.Cut(body, `name="form" value="`)
	token, _, _ := strings.Cut(rest, `"`)
	other := signintest.NewBrowser(t)
	_, body, _ = other.Get(s.web.URL + "/page")
	_, foreign, _ := strings.Cut(body, "form ")
	for name, form := range map[string]string{"none": "", "another browser's": foreign, "another purpose's": token + "x"} {
		if status, _, _ := b.Post(s.web.URL+"/signin/out", url.Values{"form": {form}}); status != http.StatusForbidden {
			t.Errorf("%s: status %d", name, status)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.web.URL+"/signin/out", strings.NewReader(url.Values{"form": {token}}.Encode()))
	enginetest.Must(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", "https://evil.example")
	if status, _, _ := b.Send(req); status != http.StatusForbidden {
		t.Errorf("of another site: status %d", status)
	}
	if status, _, _ := b.Post(s.web.URL+"/signin/out", url.Values{"form": {token}}); status != http.StatusOK || s.last() != signin.SignedOut {
		t.Errorf("signing out: status %d", status)
	}
	if to := b.Location(s.web.URL + "/page").Path; to != "/signin" {
		t.Error("still signed in")
	}
	if status, _, _ := b.Post(s.web.URL+"/signin/out", url.Values{"form": {token}}); status != http.StatusUnauthorized {
		t.Errorf("a form of somebody who is not signed in: status %d", status)
	}
}

func TestCookiesAreBoundToTheirHostWhereThereIsTLS(t *testing.T) {
	s := newSite(t)
	server, err := signin.New(signin.Config{Engine: s.Engine, Store: s.Shared, Secrets: s.Vault, URL: "https://sallyport.example/gate/"})
	enginetest.Must(t, err)
	w := httptest.NewRecorder()
	server.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "https://sallyport.example/gate/signin?to=/gate/page", nil))
	cookies := w.Result().Cookies()
	if w.Code != http.StatusSeeOther || len(cookies) != 1 {
		t.Fatalf("status %d, cookies %v", w.Code, cookies)
	}
	c := cookies[0]
	if !strings.HasPrefix(c.Name, "__Host-") || !c.Secure || !c.HttpOnly || c.Path != "/" || c.Domain != "" || c.SameSite != http.SameSiteLaxMode {
		t.Errorf("cookie %+v", c)
	}
	if at, _ := url.Parse(w.Header().Get("Location")); at.Query().Get("redirect_uri") != "https://sallyport.example/gate/signin/callback/okta" {
		t.Errorf("led to %s", at)
	}
}

func TestURLsAtWhichNobodyCouldSafelySignInAreRefused(t *testing.T) {
	for _, u := range []string{"", "http://sallyport.example", "ftp://x", "https://x/?a", "https://x/#a", "https://u@x", "https://x/a/../b", "https://x/{a}", "https://"} {
		if _, err := signin.New(signin.Config{URL: u}); err == nil {
			t.Errorf("%q was taken", u)
		}
	}
	for _, u := range []string{"https://x", "https://x/", "https://x/a/b.c", "http://127.0.0.1:7403", "http://localhost", "http://[::1]:1"} {
		if _, err := signin.New(signin.Config{URL: u}); err != nil {
			t.Errorf("%q: %v", u, err)
		}
	}
}

func TestNoSecretLiesInTheStore(t *testing.T) {
	s := newSite(t)
	b := signintest.NewBrowser(t)
	if !s.signedIn(b) {
		t.Fatal("not signed in")
	}
	at, err := url.Parse(s.web.URL)
	enginetest.Must(t, err)
	needles := []string{signintest.Secret, s.okta.Asked().Get("nonce"), s.okta.Asked().Get("state")}
	for _, c := range b.Jar.Cookies(at) {
		needles = append(needles, c.Value)
	}
	for _, needle := range needles {
		if files := enginetest.OnDisk(t, s.Dir, []byte(needle)); len(files) > 0 {
			t.Errorf("%.6s… lies in %v", needle, slices.Compact(files))
		}
	}
}
