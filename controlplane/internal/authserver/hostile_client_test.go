package authserver_test

import (
	"fmt"
	"html"
	"net/http"
	"strings"
	"testing"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func TestRegistrationsAreLimitedExpireAndCanBeSwitchedOff(t *testing.T) {
	s := newSite(t)
	ask := func(c *http.Client) int {
		t.Helper()
		res, err := c.Post(s.issuer+"/oauth/register", "application/json", strings.NewReader(`{"client_name":"x","redirect_uris":["https://agent.example/cb"]}`))
		enginetest.Must(t, err)
		status, _ := read(t, res)
		if status == http.StatusTooManyRequests && res.Header.Get("Retry-After") == "" {
			t.Error("it does not say when to come again")
		}
		return status
	}
	here, there := clientAt(t, "127.0.0.1"), clientAt(t, "127.0.0.2")
	for i := range 30 {
		if status := ask(here); status != http.StatusCreated {
			t.Fatalf("registration %d: %d", i, status)
		}
	}
	s.wantRecord(t, "registration_refused", func() {
		if status := ask(here); status != http.StatusTooManyRequests {
			t.Errorf("one too many: %d", status)
		}
	})
	if status := ask(there); status != http.StatusCreated {
		t.Errorf("from elsewhere: %d", status)
	}
	for i := range 20 { // from everywhere: what holds for all
		for range 30 {
			ask(clientOf(t, i))
		}
	}
	if status := ask(clientAt(t, "127.0.0.200")); status != http.StatusTooManyRequests {
		t.Errorf("of all: %d", status)
	}
	s.later(2 * time.Minute)

	unused, used := s.register("unused", "https://one.example/cb"), s.register("used", "https://two.example/cb")
	used.signedIn()
	s.later(25 * time.Hour)
	s.wantRecord(t, "client_refused", func() { s.wantPage(t, unused.authorizeURL(), "not known here") })
	if away, status, body := s.visit(s.browser, used.authorizeURL()); away == nil {
		t.Errorf("one that was used is forgotten: %d %s", status, body)
	}
	s.later(91 * 24 * time.Hour)
	s.wantRecord(t, "client_refused", func() { s.wantPage(t, used.authorizeURL(), "not known here") })

	s.Do(core.NewSetAuthorizationPolicy(&policyv1.AuthorizationPolicy{DynamicRegistration: policyv1.Admission_ADMISSION_OFF}))
	s.wantRecord(t, "registration_refused", func() {
		if status := ask(here); status != http.StatusForbidden {
			t.Errorf("switched off: %d", status)
		}
	})
	if m := s.metadata("/.well-known/oauth-authorization-server"); m["registration_endpoint"] != nil {
		t.Error("the metadata goes on offering it")
	}
}

func clientOf(t *testing.T, i int) *http.Client { return clientAt(t, fmt.Sprintf("127.0.1.%d", i+1)) }

func TestARegistrationOfAnotherFormIsRefused(t *testing.T) {
	s := newSite(t)
	for name, c := range map[string]struct{ kind, body, err string }{
		"a form":                     {"application/x-www-form-urlencoded", "redirect_uris=x", "invalid_client_metadata"},
		"no JSON":                    {"application/json", "<html>", "invalid_client_metadata"},
		"redirects that are no list": {"application/json", `{"redirect_uris":"https://agent.example/cb"}`, "invalid_client_metadata"},
		"none":                       {"application/json", `{"client_name":"x"}`, "invalid_redirect_uri"},
		"too many":                   {"application/json", `{"redirect_uris":["https://a.example/"` + strings.Repeat(`,"https://a.example/"`, 50) + `]}`, "invalid_redirect_uri"},
		"too long ones":              {"application/json", `{"redirect_uris":["https://a.example/` + strings.Repeat("a", 1900) + `"` + strings.Repeat(`,"https://a.example/`+strings.Repeat("a", 1900)+`"`, 4) + `]}`, "invalid_redirect_uri"},
		"too large":                  {"application/json", `{"client_name":"` + strings.Repeat("a", 70<<10) + `","redirect_uris":["https://a.example/"]}`, "invalid_client_metadata"},
		"the implicit grant":         {"application/json", `{"redirect_uris":["https://a.example/"],"grant_types":["implicit"]}`, "invalid_client_metadata"},
		"response type token":        {"application/json", `{"redirect_uris":["https://a.example/"],"response_types":["token"]}`, "invalid_client_metadata"},
	} {
		s.later(2 * time.Second)
		before := len(s.audit.records())
		res, err := http.Post(s.issuer+"/oauth/register", c.kind, strings.NewReader(c.body))
		enginetest.Must(t, err)
		if status, out := read(t, res); status != http.StatusBadRequest || out["error"] != c.err {
			t.Errorf("%s: %d %v", name, status, out)
		}
		if len(s.audit.records()) == before {
			t.Errorf("%s: audit has no record of it", name)
		}
	}
}

func TestWhatAProgramCallsItselfIsShownSafely(t *testing.T) {
	s := newSite(t)
	for name, shown := range map[string]string{
		"<script>alert(1)</script>":                  "<script>alert(1)</script>",
		`"><img src=x onerror=alert(1)>`:             `"><img src=x onerror=alert(1)>`,
		"Claude\u202e edoC":                          "Claude edoC",
		"\u2066Claude\u2069\u200f":                   "Claude",
		"Cl\u200baude\u200d\ufeff\u00ad Code":        "Claude Code",
		"Claude\u3164Code\u115f\u2800\ufe0f":         "ClaudeCode",
		"Cla\u0300\u0301\u0302\u0303\u0304\u0305ude": "Clà\u0301\u0302ude",
		"Claude\nis approved by\r\n\tIT":             "Claude is approved by IT",
		"Clau\u0000de\u001b[31m":                     "Claude[31m",
		"  spaces   everywhere ":                     "spaces everywhere",
		"{{.Person}}":                                "{{.Person}}",
		strings.Repeat("very long ", 100):            strings.TrimSpace(strings.Repeat("very long ", 6))[:59] + "…",
		strings.Repeat("\u00e9", 100):                strings.Repeat("é", 59) + "…",
		"Cafe\u0301":                                 "Café",
	} {
		s.later(2 * time.Second)
		a := s.register(name, "https://agent.example/cb")
		_, status, body := s.visit(s.browser, a.authorizeURL())
		if want := "<dd><strong>" + html.EscapeString(shown) + "</strong>"; status != http.StatusOK || !strings.Contains(body, want) {
			_, rest, _ := strings.Cut(body, "<dt>Program</dt>")
			t.Errorf("%q: want %q, got %.200q", name, want, rest)
		}
		if strings.Contains(body, "<script") || strings.Contains(body, "<img") {
			t.Errorf("%q became markup", name)
		}
	}
	// Nothing that can be seen: the id stands for it.
	blind := s.register("\u3164\u200b\u2800", "https://agent.example/cb")
	if _, _, body := s.visit(s.browser, blind.authorizeURL()); !strings.Contains(body, "<strong>"+blind.id+"</strong>") {
		t.Errorf("a program without a name that can be seen: %s", body)
	}
	// Where it is sent is shown as it is written, so that a letter of another script does not pass for one of ours.
	look := s.register("Claude", "https://xn--lude-0ye6c.example/cb")
	if _, _, body := s.visit(s.browser, look.authorizeURL()); !strings.Contains(body, "<dd>xn--lude-0ye6c.example</dd>") || !strings.Contains(body, "Nobody has checked this program") {
		t.Errorf("the page does not say where the program is sent: %s", body)
	}
}
