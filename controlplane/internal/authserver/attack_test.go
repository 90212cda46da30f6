package authserver_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport.dev/controlplane/internal/authserver"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/signin/signintest"
)

// wantRecord runs what must be refused, and expects a record of it.
func (s *site) wantRecord(t *testing.T, action string, attack func()) {
	t.Helper()
	before := s.audit.told(action)
	attack()
	if s.audit.told(action) == before {
		t.Errorf("audit has no record %q of it", action)
	}
}

// wantPage runs an authorization request that must end on a page and lead nowhere.
func (s *site) wantPage(t *testing.T, at, says string) {
	t.Helper()
	away, status, body := s.visit(s.browser, at)
	if away != nil || status < 400 || !strings.Contains(body, says) {
		t.Errorf("led to %v, status %d: %s", away, status, body)
	}
}

func TestARedirectIsComparedToTheLetter(t *testing.T) {
	s := newSite(t)
	for registered, asked := range map[string][]string{
		"https://agent.example/cb": {
			"", "https://agent.example/cb/", "https://agent.example/cb/x", "https://agent.example/", "https://agent.example/CB", "https://agent.example/cb?x=1",
			"https://agent.example/cb#x", "https://agent.example/cb#", "https://agent.example/x/../cb", "https://agent.example/./cb", "https://agent.example/%63b",
			"https://agent.example/cb%2f..%2fevil", "https://agent.example/cb%00", "https://agent.example//cb", `https://agent.example\cb`,
			"https://user@agent.example/cb", "https://agent.example@evil.example/cb", "https://agent.example:443/cb", "https://agent.example:8443/cb",
			"https://agent.example./cb", "https://AGENT.example/cb", "https://agent.example.evil.example/cb", "https://evil.example/https://agent.example/cb",
			"https://evilagent.example/cb", "https://sub.agent.example/cb", "https://аgent.example/cb", "https://xn--gent-8cd.example/cb", "https://agent。example/cb",
			"http://agent.example/cb", "HTTPS://agent.example/cb", "https:agent.example/cb", "//agent.example/cb", "/cb", "https://*/cb", "https://agent.example/*",
			"javascript:alert(1)", "data:text/html,x", " https://agent.example/cb", "https://agent.example/cb\n",
		},
		"http://127.0.0.1:33418/callback": {
			"http://localhost:33418/callback", "http://[::1]:33418/callback", "http://127.1:33418/callback", "http://127.0.0.2:33418/callback", "http://0x7f000001:33418/callback",
			"http://2130706433:33418/callback", "http://0177.0.0.1:33418/callback", "http://127.0.0.1.:33418/callback", "http://127.0.0.1.evil.example/callback",
			"http://127.0.0.1@evil.example/callback", "http://127.0.0.1:33418@evil.example/callback", "http://x@127.0.0.1:33418/callback", "http://[::ffff:127.0.0.1]:33418/callback",
			"http://127.0.0.1:/callback", "http://127.0.0.1:0/callback", "http://127.0.0.1:99999/callback", "http://127.0.0.1:3341800/callback", "http://127.0.0.1:+1/callback",
			"http://127.0.0.1:33418/Callback", "http://127.0.0.1:33418/callback/..", "http://127.0.0.1:33418/callback?x", "https://127.0.0.1:33418/callback", "http://0.0.0.0:33418/callback",
			"HTTP://127.0.0.1:33418/callback",
		},
		"http://localhost/cb":      {"http://localhost./cb", "http://LOCALHOST/cb", "http://localhost.evil.example/cb", "http://127.0.0.1/cb", "http://localhost:80@evil.example/cb"},
		"com.example.app:/cb":      {"com.example.app:/cb/x", "com.example.apps:/cb", "COM.EXAMPLE.APP:/cb", "com.example.app:cb"},
		"cursor://anysphere/oauth": {"cursor://evil/oauth", "vscode://anysphere/oauth", "cursor://anysphere/oauth/../x"},
	} {
		a := s.register("x", registered)
		for _, uri := range asked {
			t.Run(registered+" "+uri, func(t *testing.T) {
				s.wantRecord(t, "redirect_refused", func() { s.wantPage(t, a.authorizeURL("redirect_uri", uri), "not one of its own") })
			})
		}
	}
	// What must work: any port on loopback (RFC 8252, section 7.3).
	for registered, asked := range map[string]string{
		"http://127.0.0.1:33418/callback": "http://127.0.0.1:50000/callback", "http://localhost/cb": "http://localhost:50000/cb", "http://[::1]:1/cb": "http://[::1]:50000/cb",
	} {
		a := s.register("works", registered)
		if away, status, body := s.visit(s.browser, a.authorizeURL("redirect_uri", asked)); away == nil && !strings.Contains(body, "Let a program in?") {
			t.Errorf("%s for %s: status %d", asked, registered, status)
		}
	}
}

func TestRedirectsThatNobodyMayHaveAreNotRegistered(t *testing.T) {
	s := newSite(t)
	for _, uri := range []string{
		"", "javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "vbscript:x", "file:///etc/passwd", "blob:https://x.example/1", "about:blank", "ftp://x.example/", "ws://x.example/",
		"http://agent.example/cb", "http://127.1/cb", "http://0x7f.1/cb", "http://2130706433/cb", "http://0.0.0.0/cb", "http://10.0.0.1/cb", "http://127.0.0.1.nip.io/cb", "http://localhost.evil.example/cb",
		"http://[::ffff:127.0.0.1]/cb", "http://[fe80::1%25eth0]/cb", "http://127.0.0.1:70000/cb",
		"https://", "https:///cb", "https://agent.example/cb#", "https://agent.example/cb#x", "https://u@agent.example/cb", "https://u:p@agent.example/cb", "https://agent.example\\@evil.example/cb",
		"https://*.example/cb", "https://agent.example/*", "https://agent.example/a/../cb", "https://agent.example/%2e%2e/cb", "https://agent.example/.%2E/cb", "https://agent.example/./cb",
		"https://агент.example/cb", "https://agent。example/cb", "https://agent.example./cb", "https://0x7f000001/cb", "https://127.1/cb", "https://017700000001/cb", "https://agent.example:/cb",
		"https://agent.example:0/cb", "https://agent.example:70000/cb", "https://x;frame-ancestors/cb", "https://x,y/cb", "https://x'y/cb", "https://[::1%25lo]/cb", "https://agent.example/c b", "https://agent.example/\u202ecb",
		"https://agent.example/" + strings.Repeat("a", 2000), "nodots://cb", "com.example:/cb#x",
	} {
		t.Run(uri[:min(len(uri), 60)], func(t *testing.T) {
			s.later(2 * time.Second)
			s.wantRecord(t, "registration_refused", func() {
				status, out := s.postJSON("/oauth/register", map[string]any{"client_name": "x", "redirect_uris": []string{"https://good.example/cb", uri}})
				if status != http.StatusBadRequest || out["error"] != "invalid_redirect_uri" {
					t.Errorf("%d %v", status, out)
				}
			})
		})
	}
	for _, uri := range []string{
		"HTTP://evil.example/cb", "http://evil.example/cb", "https://x;y/cb", "javascript:alert(1)", "JavaScript:alert(1)", "data:x", "https://agent.example/*", "com.example:/cb#x", "", "a b:/",
	} {
		if s.server.CheckRedirects([]string{uri}) == nil {
			t.Errorf("%s: an admin may describe a client by it", uri)
		}
	}
}

func TestNoErrorLeadsToAnAddressThatIsNotTheClients(t *testing.T) {
	s := newSite(t)
	a := s.register("x", "https://agent.example/cb")
	evil := []string{"redirect_uri", "https://evil.example/cb"}
	for name, changes := range map[string][]string{
		"nothing else wrong": {}, "no response type": {"response_type", ""}, "no challenge": {"code_challenge", ""}, "another resource": {"resource", "https://evil.example"},
		"no client": {"client_id", ""}, "an unknown client": {"client_id", "dcr_x"}, "prompt none": {"prompt", "none"}, "a request object": {"request_uri", "https://evil.example/r"},
	} {
		s.wantPage(t, a.authorizeURL(append(changes, evil...)...), "cannot be let in")
		if b := signintest.NewBrowser(t).Stay(); true {
			res, err := b.Do(httpGet(t, a.authorizeURL(append(changes, evil...)...)))
			enginetest.Must(t, err)
			_ = res.Body.Close()
			if to := res.Header.Get("Location"); to != "" {
				t.Errorf("%s: led to %s", name, to)
			}
		}
	}
	// A parameter that comes twice is read by nobody.
	for _, name := range []string{"redirect_uri", "client_id", "state", "code_challenge", "response_type"} {
		s.wantRecord(t, "request_refused", func() { s.wantPage(t, a.authorizeURL()+"&"+name+"=x", "more than once") })
	}
	s.wantRecord(t, "request_refused", func() { s.wantPage(t, a.authorizeURL()+"&x=%zz", "cannot be read") })
}

func TestAnswersSayWhoseTheyAre(t *testing.T) {
	s := newSite(t)
	a := s.register("x", "https://agent.example/cb?kept=1")
	for name, c := range map[string]struct {
		changes     []string
		err, action string
	}{
		"good":                   {nil, "", ""},
		"no response type":       {[]string{"response_type", ""}, "unsupported_response_type", "request_refused"},
		"implicit":               {[]string{"response_type", "token"}, "unsupported_response_type", "request_refused"},
		"hybrid":                 {[]string{"response_type", "code id_token"}, "unsupported_response_type", "request_refused"},
		"a fragment":             {[]string{"response_mode", "fragment"}, "invalid_request", "request_refused"},
		"a request object":       {[]string{"request", "e30.e30."}, "request_not_supported", "request_refused"},
		"a request URI":          {[]string{"request_uri", "http://169.254.169.254/"}, "request_not_supported", "request_refused"},
		"a long state":           {[]string{"state", strings.Repeat("x", 5000)}, "invalid_request", "request_refused"},
		"no challenge":           {[]string{"code_challenge", ""}, "invalid_request", "pkce_missing"},
		"no challenge, a method": {[]string{"code_challenge", "", "code_challenge_method", "S256"}, "invalid_request", "pkce_missing"},
		"plain":                  {[]string{"code_challenge_method", "plain"}, "invalid_request", "pkce_weak"},
		"no method":              {[]string{"code_challenge_method", ""}, "invalid_request", "pkce_weak"},
		"another case":           {[]string{"code_challenge_method", "s256"}, "invalid_request", "pkce_weak"},
		"a verifier":             {[]string{"code_challenge", verifier}, "invalid_request", "pkce_weak"},
		"a short challenge":      {[]string{"code_challenge", "abc"}, "invalid_request", "pkce_weak"},
		"a padded challenge":     {[]string{"code_challenge", signintest.Challenge(verifier) + "="}, "invalid_request", "pkce_weak"},
		"another resource":       {[]string{"resource", "https://evil.example/mcp"}, "invalid_target", "resource_refused"},
	} {
		t.Run(name, func(t *testing.T) {
			ask := func() {
				q := a.code(c.changes...)
				if q.Get("iss") != s.issuer || q.Get("error") != c.err || q.Get("kept") != "1" || (q.Get("code") != "") != (c.err == "") || c.changes == nil && q.Get("state") != "the state" {
					t.Errorf("answered %v", q)
				}
			}
			if c.action == "" {
				ask()
				return
			}
			s.wantRecord(t, c.action, ask)
		})
	}
}

func TestACodeIsRedeemedByWhoBeganAndOnce(t *testing.T) {
	s := newSite(t)
	a, b := s.register("one", loopbackRedirect), s.register("two", loopbackRedirect)
	for name, c := range map[string]struct {
		attack func(code string) (int, map[string]any)
		action string
		err    string
	}{
		"by another client": {func(code string) (int, map[string]any) { return b.redeem(code) }, "code_injected", "invalid_grant"},
		"for another redirect": {func(code string) (int, map[string]any) {
			return a.redeem(code, "redirect_uri", "http://127.0.0.1:1/callback")
		}, "code_injected", "invalid_grant"},
		"without the verifier":  {func(code string) (int, map[string]any) { return a.redeem(code, "code_verifier", "") }, "code_injected", "invalid_grant"},
		"with another verifier": {func(code string) (int, map[string]any) { return a.redeem(code, "code_verifier", verifier+"x") }, "code_injected", "invalid_grant"},
		"with the challenge for it": {func(code string) (int, map[string]any) {
			return a.redeem(code, "code_verifier", signintest.Challenge(verifier))
		}, "code_injected", "invalid_grant"},
		"for a wider resource":    {func(code string) (int, map[string]any) { return a.redeem(code, "resource", regional) }, "resource_refused", "invalid_target"},
		"a code that is made up":  {func(string) (int, map[string]any) { return a.redeem("x") }, "code_refused", "invalid_grant"},
		"no code":                 {func(string) (int, map[string]any) { return a.redeem("") }, "code_refused", "invalid_grant"},
		"a code as refresh token": {func(code string) (int, map[string]any) { return a.refresh(code) }, "refresh_refused", "invalid_grant"},
		"with a secret":           {func(code string) (int, map[string]any) { return a.redeem(code, "client_secret", "x") }, "client_refused", "invalid_client"},
		"by password": {func(string) (int, map[string]any) {
			return s.token(url.Values{"grant_type": {"password"}, "client_id": {a.id}, "username": {"ann@example.com"}, "password": {"x"}})
		}, "request_refused", "unsupported_grant_type"},
		"with parameters in the URL": {func(code string) (int, map[string]any) {
			res, err := http.PostForm(s.issuer+"/oauth/token?code="+code, a.redeemForm(code))
			enginetest.Must(t, err)
			return read(t, res)
		}, "request_refused", "invalid_request"},
		"with two codes": {func(code string) (int, map[string]any) {
			f := a.redeemForm(code)
			f.Add("code", "x")
			return s.token(f)
		}, "request_refused", "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			code := a.code().Get("code")
			s.wantRecord(t, c.action, func() {
				if status, out := c.attack(code); status < 400 || out["error"] != c.err || out["access_token"] != nil {
					t.Errorf("%d %v", status, out)
				}
			})
			if status, out := a.redeem(code); status != http.StatusOK { // the attempt took nothing from who began
				t.Errorf("afterwards, by who began: %d %v", status, out)
			}
		})
	}
	t.Run("by a challenge of nothing", func(t *testing.T) {
		code := a.code("code_challenge", signintest.Challenge("")).Get("code")
		s.wantRecord(t, "code_injected", func() {
			if _, out := a.redeem(code, "code_verifier", ""); out["error"] != "invalid_grant" {
				t.Error(out)
			}
		})
	})
	t.Run("too late", func(t *testing.T) {
		code := a.code().Get("code")
		s.later(61 * time.Second)
		s.wantRecord(t, "code_refused", func() {
			if _, out := a.redeem(code); out["error"] != "invalid_grant" {
				t.Error(out)
			}
		})
	})
	t.Run("a second time", func(t *testing.T) {
		code := a.code().Get("code")
		_, out := a.redeem(code)
		access, refresh := out["access_token"].(string), out["refresh_token"].(string)
		if !s.good(access, "jira") {
			t.Fatal("the first time it was not good")
		}
		s.wantRecord(t, "code_reused", func() {
			// Whoever saw the code need not have the verifier: that it came again is enough.
			if _, out := a.redeem(code, "code_verifier", ""); out["error"] != "invalid_grant" {
				t.Error(out)
			}
		})
		if s.good(access, "jira") {
			t.Error("the access token goes on")
		}
		if status, _ := a.refresh(refresh); status == http.StatusOK {
			t.Error("the refresh token goes on")
		}
	})
	t.Run("eight times at once", func(t *testing.T) {
		code := a.code().Get("code")
		var mu sync.Mutex
		var got []string
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if status, out := a.redeem(code); status == http.StatusOK {
					mu.Lock()
					defer mu.Unlock()
					got = append(got, out["access_token"].(string))
				}
			})
		}
		all.Wait()
		if len(got) > 1 {
			t.Errorf("it was redeemed %d times", len(got))
		}
		for _, access := range got {
			if s.good(access, "jira") {
				t.Error("what it gave goes on, though it came again")
			}
		}
	})
}

func TestConsentIsGivenOnItsOwnPageByWhoIsAsked(t *testing.T) {
	s := newSite(t)
	a, evil := s.register("Good", loopbackRedirect), s.register("Evil", "https://evil.example/cb")
	_, _, page := s.visit(s.browser, evil.authorizeURL())
	_, _, other := s.visit(s.browser, a.authorizeURL())
	stranger := signintest.NewBrowser(t)
	_, _, theirs := s.visit(stranger, evil.authorizeURL())
	form := attribute(page, `name="form" value="`)
	for name, c := range map[string]struct {
		browser *signintest.Browser
		at      string
		form    string
		header  []string
		status  int
	}{
		"no form token":             {s.browser, evil.authorizeURL(), "", nil, http.StatusForbidden},
		"another browser's":         {s.browser, evil.authorizeURL(), attribute(theirs, `name="form" value="`), nil, http.StatusForbidden},
		"another program's":         {s.browser, evil.authorizeURL(), attribute(other, `name="form" value="`), nil, http.StatusForbidden},
		"for another resource":      {s.browser, evil.authorizeURL("resource", global+"/jira"), form, nil, http.StatusForbidden},
		"with another challenge":    {s.browser, evil.authorizeURL("code_challenge", signintest.Challenge("x")), form, nil, http.StatusForbidden},
		"with another state":        {s.browser, evil.authorizeURL("state", "x"), form, nil, http.StatusForbidden},
		"from another site":         {s.browser, evil.authorizeURL(), form, []string{"Origin", "https://evil.example"}, http.StatusForbidden},
		"from a frame of another":   {s.browser, evil.authorizeURL(), form, []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		"from a sister of its host": {s.browser, evil.authorizeURL(), form, []string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		"by nobody":                 {signintest.NewBrowser(t), evil.authorizeURL(), form, nil, http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			send := func() {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.at, strings.NewReader(url.Values{"form": {c.form}, "answer": {"yes"}}.Encode()))
				enginetest.Must(t, err)
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				for i := 0; i < len(c.header); i += 2 {
					req.Header.Set(c.header[i], c.header[i+1])
				}
				if away, status, body := s.follow(c.browser, req); away != nil || status != c.status {
					t.Errorf("led to %v, status %d: %s", away, status, body)
				}
			}
			if c.status == http.StatusUnauthorized {
				send()
				return
			}
			s.wantRecord(t, "consent_forged", send)
		})
	}
	s.wantRecord(t, "consent_refused", func() {
		if away, _, _ := s.answer(s.browser, page, "no"); away == nil || away.Query().Get("error") != "access_denied" || away.Query().Get("code") != "" || away.Query().Get("iss") != s.issuer {
			t.Errorf("no is answered with %v", away)
		}
	})
	if away, _, _ := s.answer(s.browser, page, "yes"); away == nil || away.Query().Get("code") == "" {
		t.Errorf("yes is answered with %v", away)
	}
}

func TestTheConsentPageCannotBeFramedAndItsCookiesStayAtHome(t *testing.T) {
	s := newSite(t)
	a := s.register("x", "https://agent.example/cb")
	c := *s.browser.Client
	res, err := c.Do(httpGet(t, a.authorizeURL()))
	enginetest.Must(t, err)
	_ = res.Body.Close()
	policy := res.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self' https://agent.example;"} {
		if !strings.Contains(policy, want) {
			t.Errorf("the policy %q lacks %q", policy, want)
		}
	}
	if res.Header.Get("X-Frame-Options") != "DENY" || !strings.Contains(res.Header.Get("Cache-Control"), "no-store") {
		t.Errorf("headers %v", res.Header)
	}
	at, err := url.Parse(s.issuer)
	enginetest.Must(t, err)
	if len(s.browser.Jar.Cookies(at)) == 0 {
		t.Fatal("the browser has no cookie")
	}
	fresh := signintest.NewBrowser(t)
	seen := 0
	fresh.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
		if next.Response != nil {
			for _, k := range next.Response.Cookies() {
				if seen++; !k.HttpOnly || k.SameSite != http.SameSiteLaxMode || k.Path != "/" || k.Domain != "" {
					t.Errorf("cookie %+v", k)
				}
			}
		}
		return nil
	}
	if _, err = fresh.Do(httpGet(t, a.authorizeURL())); err != nil || seen == 0 {
		t.Errorf("saw %d cookies, %v", seen, err)
	}
}

func TestAStolenRefreshTokenEndsItsSession(t *testing.T) {
	s := newSite(t)
	for name, c := range map[string]struct {
		attack func(a *agent, first, second string) (int, map[string]any)
		action string
		ends   bool
	}{
		"late, from where it was used": {func(a *agent, first, _ string) (int, map[string]any) {
			s.later(3 * time.Minute)
			return a.refresh(first)
		}, "refresh_reused", false},
		"late, from elsewhere": {func(a *agent, first, _ string) (int, map[string]any) {
			s.later(3 * time.Minute)
			return s.from("127.0.0.9", a, first)
		}, "refresh_stolen", true},
		"the one that counts, by another client": {func(_ *agent, _, second string) (int, map[string]any) {
			return s.register("thief", loopbackRedirect).refresh(second)
		}, "refresh_stolen", true},
		"a superseded one, by another client": {func(_ *agent, first, _ string) (int, map[string]any) {
			return s.register("thief", loopbackRedirect).refresh(first)
		}, "refresh_stolen", true},
		"one that was made up around its session": {func(a *agent, first, _ string) (int, map[string]any) {
			return s.from("127.0.0.9", a, first[:len(first)-20]+strings.Repeat("A", 20))
		}, "refresh_refused", false},
		"one that is none":                 {func(a *agent, _, _ string) (int, map[string]any) { return a.refresh("x") }, "refresh_refused", false},
		"one for a resource that is wider": {func(a *agent, _, second string) (int, map[string]any) { return a.refresh(second, "resource", regional) }, "resource_refused", false},
	} {
		t.Run(name, func(t *testing.T) {
			a := s.register("x", loopbackRedirect)
			_, first := a.signedIn()
			_, out := a.refresh(first)
			access, second := out["access_token"].(string), out["refresh_token"].(string)
			s.wantRecord(t, c.action, func() {
				want := "invalid_grant"
				if c.action == "resource_refused" {
					want = "invalid_target"
				}
				if status, out := c.attack(a, first, second); status != http.StatusBadRequest || out["error"] != want {
					t.Errorf("%d %v", status, out)
				}
			})
			if s.good(access, "jira") == c.ends {
				t.Errorf("the access token goes on: %t", !c.ends)
			}
			if status, _ := a.refresh(second); (status != http.StatusOK) != c.ends {
				t.Errorf("whose it is goes on with status %d", status)
			}
		})
	}
}

// from refreshes from another address of loopback.
func (s *site) from(address string, a *agent, token string) (int, map[string]any) {
	s.t.Helper()
	f := url.Values{"grant_type": {"refresh_token"}, "client_id": {a.id}, "refresh_token": {token}}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.issuer+"/oauth/token", strings.NewReader(f.Encode()))
	enginetest.Must(s.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := clientAt(s.t, address).Do(req)
	enginetest.Must(s.t, err)
	return read(s.t, res)
}

func TestATokenOfAnotherIsNotGivenBack(t *testing.T) {
	s := newSite(t)
	a, b := s.register("one", loopbackRedirect), s.register("two", loopbackRedirect)
	access, refresh := a.signedIn()
	revoke := func(client, token string) (int, map[string]any) {
		t.Helper()
		res, err := http.PostForm(s.issuer+"/oauth/revoke", url.Values{"client_id": {client}, "token": {token}})
		enginetest.Must(t, err)
		return read(t, res)
	}
	for _, token := range []string{access, refresh} {
		s.wantRecord(t, "revocation_refused", func() {
			if status, out := revoke(b.id, token); status != http.StatusBadRequest || out["error"] != "invalid_grant" {
				t.Errorf("%d %v", status, out)
			}
		})
	}
	for name, token := range map[string]string{"made up": refresh[:len(refresh)-8] + "AAAAAAAA", "of nobody": "x"} {
		if status, out := revoke(a.id, token); status != http.StatusOK { // RFC 7009, section 2.2
			t.Errorf("%s: %d %v", name, status, out)
		}
	}
	if status, out := revoke(a.id, ""); status != http.StatusBadRequest || out["error"] != "invalid_request" {
		t.Errorf("none: %d %v", status, out)
	}
	if status, out := revoke("dcr_x", refresh); status != http.StatusUnauthorized || out["error"] != "invalid_client" {
		t.Errorf("by nobody: %d %v", status, out)
	}
	if !s.good(access, "jira") {
		t.Error("the session is over")
	}
}

func TestAnErasedPersonLeavesNothingWithSignIn(t *testing.T) {
	s := newSite(t)
	a := s.register("x", loopbackRedirect)
	a.signedIn()
	uses := authserver.NewUses(s.Shared)
	uses.Seen(s.ann.ID.String(), a.id, "eu", time.Now())
	uses.Tell(t.Context())
	left := func() (n int) {
		t.Helper()
		for _, prefix := range []string{"session.", "consent.", "use."} {
			n += s.count(prefix + s.ann.ID.String() + ".")
		}
		return n
	}
	if n := left(); n != 3 {
		t.Fatalf("before, %d things are kept", n)
	}
	s.Do(core.EraseUser{ID: s.ann.ID})
	enginetest.Must(t, s.server.ForgetPerson(t.Context(), s.ann.ID))
	if n := left(); n != 0 {
		t.Errorf("%d things are kept", n)
	}
}
