package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/authority"
	"sallyport.dev/scripts/demo/quickstart"
)

// vendor is the part of a company's authorization server that is its own, beside what every such server has.
func vendor(t *testing.T, routes map[string]http.HandlerFunc) string {
	t.Helper()
	mux := http.NewServeMux()
	for pattern, handler := range routes {
		mux.HandleFunc(pattern, handler)
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

// to hands requests on to a path of another server.
func to(t *testing.T, base, path string) http.HandlerFunc {
	t.Helper()
	at, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	return (&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(at); r.Out.URL.Path = path }}).ServeHTTP
}

// TestKitsAreWhatTheirVendorsSay: each against a server that has that vendor's gaps and ways. GitHub's has no metadata, gives tokens without end to clients with a
// secret in the body, and ends them by an API of its own; Salesforce's takes a while to know a new app, and gives JWTs; Atlassian's has its metadata and sends back whom
// an organisation does not allow. What became of each is in the receipt.
func TestKitsAreWhatTheirVendorsSay(t *testing.T) {
	t.Parallel()
	v := &vaulted{office: newOffice(t, "", "--log-level", "debug"), seen: map[string]string{}}
	const secret = "planted-kit-secret-4be7"
	v.planted.add("a client's secret", secret)
	servers := map[string]*authority.Server{}
	for _, id := range []string{"github-com", "salesforce", "atlassian"} {
		s := authority.New("ada-at-"+id, authority.Client{ID: "gateway", Secret: secret, JWT: id == "salesforce", Redirects: []string{"http://" + v.cp.signin + "/connect/" + id + "/callback"}})
		end, err := s.Start(t.Context(), "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(end)
		servers[id] = s
	}

	// GitHub.
	var asked atomic.Int64
	var mu sync.Mutex
	ended := map[string]bool{}
	api := vendor(t, map[string]http.HandlerFunc{"DELETE /applications/{client}/grant": func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Token string `json:"access_token"`
		}
		id, given, _ := r.BasicAuth()
		if r.PathValue("client") != "gateway" || id != "gateway" || given != secret || json.NewDecoder(r.Body).Decode(&body) != nil || body.Token == "" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if asked.Add(1) == 1 { // it is tried again
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		mu.Lock()
		ended[body.Token] = true
		mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}})
	github := servers["github-com"]
	v.connector("github-com", whoami(t, func(_ string, next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			who, err := github.Subject(r.Context(), token)
			if err != nil {
				w.WriteHeader(http.StatusUnauthorized) // and it does not say where tokens come from
				return
			}
			v.planted.add("a token of GitHub's", token)
			v.mu.Lock()
			v.seen["github-com"] = token
			v.mu.Unlock()
			r.Header.Set(authority.CallerHeader, who)
			next.ServeHTTP(w, r)
		})
	}), fmt.Sprintf("{type: oauth, kit: github, client: {id: gateway}, scopes: [openid], server: {issuer: %q, authorizationEndpoint: %q, tokenEndpoint: %q, revocationEndpoint: %q}}",
		github.URL, github.URL+"/authorize", github.URL+"/oauth/token", api+"/applications/{client_id}/grant"))

	// Salesforce.
	salesforce := servers["salesforce"]
	var known atomic.Bool
	token := to(t, salesforce.URL, "/oauth/token")
	login := vendor(t, map[string]http.HandlerFunc{
		"POST /services/oauth2/token": func(w http.ResponseWriter, r *http.Request) {
			if !known.Load() {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusBadRequest)
				_, _ = w.Write([]byte(`{"error":"invalid_client_id","error_description":"client identifier invalid"}`))
				return
			}
			token(w, r)
		},
		"POST /services/oauth2/revoke": to(t, salesforce.URL, "/revoke"),
	})
	v.connector("salesforce", whoami(t, func(base string, next http.Handler) http.Handler {
		return salesforce.Protect(base, next, "/mcp", func(_, token string) {
			v.planted.add("a token of Salesforce's", token)
			v.mu.Lock()
			defer v.mu.Unlock()
			v.seen["salesforce"] = token
		})
	}), fmt.Sprintf("{type: oauth, kit: salesforce, client: {id: gateway}, scopes: [openid, mcp_api, refresh_token, offline_access], server: {issuer: %q, authorizationEndpoint: %q, tokenEndpoint: %q, revocationEndpoint: %q}}",
		salesforce.URL, salesforce.URL+"/authorize", login+"/services/oauth2/token", login+"/services/oauth2/revoke"))

	// Atlassian.
	atlassian := servers["atlassian"]
	v.connector("atlassian", whoami(t, func(base string, next http.Handler) http.Handler { return atlassian.Protect(base, next, "/mcp", nil) }),
		"{type: oauth, kit: atlassian, client: {id: gateway}, scopes: [openid], server: {revocation: none}}")

	for id, want := range map[string]string{"github-com": "by GitHub's API", "salesforce": "by RFC 7009", "atlassian": "end by their time"} {
		v.fails(1, "missing", "connectors", "check", id)
		v.fails(1, "not approved yet", "connectors", "check", id)
		v.says(nil, "secrets", "set", "--connector", id, "--value-file", v.file(secret))
		v.says([]string{"gets its tokens from " + servers[id].URL}, "connectors", "trust", id, "--yes")
		v.fails(1, want, "connectors", "check", id) // an admin's token is nobody for whom tools could be listed
		v.fails(1, "as gateway", "connectors", "check", id, "-o", "json")
	}
	v.cp.enforced()
	var err error
	if v.browser, err = agent.NewBrowser(quickstart.Employee(ada)); err != nil {
		t.Fatal(err)
	}
	v.signInAgain()
	v.link("github-com")
	v.known("github-com", "ada-at-github-com")

	declined := func(id, want string) {
		t.Helper()
		page, err := v.browser.Open(t.Context(), connectLink.FindString(v.call(id).Text))
		if err != nil || !strings.Contains(page.Title+page.Text, want) {
			t.Errorf("%s: the page says %q %q, %v", id, page.Title, page.Text, err)
		}
		v.sent = append(v.sent, page.Text...)
	}
	declined("salesforce", "did not finish") // the app was made a minute ago
	known.Store(true)
	v.link("salesforce")
	v.known("salesforce", "ada-at-salesforce")
	if parts := strings.Count(v.token("salesforce"), "."); parts != 2 {
		t.Errorf("the token is no JWT: it has %d dots", parts)
	}
	atlassian.Refuse("access_denied") // the organisation's admin did not allow Sallyport's domain
	declined("atlassian", "access_denied")
	atlassian.Refuse("")
	v.link("atlassian")
	v.known("atlassian", "ada-at-atlassian")

	if _, err := v.org.Deactivate(t.Context(), ada); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"github-com": "REVOKED", "salesforce": "REVOKED", "atlassian": "NO_REVOCATION"}
	eventually(t, func() error {
		out, problem, _ := v.run("receipt", "--person", ada, "-o", "json")
		var receipt struct {
			Person struct {
				Withdrawn []struct {
					ConnectorID string `json:"connector_id"`
					Outcome     string `json:"outcome"`
					DestroyedAt string `json:"destroyed_at"`
				}
			}
		}
		if err := json.Unmarshal([]byte(out), &receipt); err != nil {
			return fmt.Errorf("%w: %s", err, problem)
		}
		became := map[string]string{}
		for _, c := range receipt.Person.Withdrawn {
			if c.DestroyedAt != "" {
				became[c.ConnectorID] = strings.TrimPrefix(c.Outcome, "CREDENTIAL_OUTCOME_")
			}
		}
		if !maps.Equal(became, want) {
			return fmt.Errorf("the receipt says %v:\n%s", became, out)
		}
		return nil
	})
	v.says([]string{"cannot be revoked there: ends by its time"}, "receipt", "--person", ada)
	mu.Lock()
	defer mu.Unlock()
	if !ended[v.token("github-com")] {
		t.Errorf("the receipt says that GitHub's is revoked, and it was not: %d others were", len(ended))
	}
	if _, err := salesforce.Subject(t.Context(), v.token("salesforce")); err == nil {
		t.Error("the receipt says that Salesforce's is revoked, and it still counts")
	}
	v.planted.look(t, "what agents and admins were shown", v.sent)
	v.planted.lookBelow(t, v.cp.data(), v.east.data())
}
