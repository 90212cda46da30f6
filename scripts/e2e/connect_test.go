package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport.dev/scripts/demo/servers"
)

// consenting is the authorization server of an upstream whose people always say yes. Its one access token is the upstream's.
type consenting struct {
	url             string
	client, secret  string
	access, refresh string

	mu        sync.Mutex
	challenge string
	revoked   []string
}

func newConsenting(t *testing.T, access, secret string) *consenting {
	c := &consenting{client: "gateway", secret: secret, access: access, refresh: "planted-refresh-token-83ac02"}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		c.mu.Lock()
		c.challenge = q.Get("code_challenge")
		c.mu.Unlock()
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {"planted-code-55de10"}, "state": {q.Get("state")}, "iss": {c.url}}.Encode(), http.StatusFound)
	})
	known := func(r *http.Request) bool {
		id, secret, _ := r.BasicAuth()
		return id == c.client && secret == c.secret
	}
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
		c.mu.Lock()
		defer c.mu.Unlock()
		if !known(r) || r.PostFormValue("code") != "planted-code-55de10" || base64.RawURLEncoding.EncodeToString(sum[:]) != c.challenge {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": c.access, "token_type": "bearer", "expires_in": 3600, "refresh_token": c.refresh})
	})
	mux.HandleFunc("POST /revoke", func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !known(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		c.revoked = append(c.revoked, r.PostFormValue("token"))
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	c.url = s.URL
	return c
}

// signsIn lets the issuer sign a person in with a browser, without asking.
func (i *issuer) signsIn(person string) *httptest.Server {
	mux := http.NewServeMux()
	s := httptest.NewServer(mux)
	i.t.Cleanup(s.Close)
	var mu sync.Mutex
	nonce := ""
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		i.write(w, map[string]any{"issuer": s.URL, "jwks_uri": i.url + "/keys", "authorization_endpoint": s.URL + "/authorize", "token_endpoint": s.URL + "/token", "id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	mux.HandleFunc("GET /authorize", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		mu.Lock()
		nonce = q.Get("nonce")
		mu.Unlock()
		http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {"c"}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		i.write(w, map[string]any{"access_token": "x", "token_type": "Bearer", "id_token": i.sign(claims{
			"iss": s.URL, "aud": "web", "sub": person, "nonce": nonce, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "auth_time": now.Unix(),
		})})
	})
	return s
}

var field = regexp.MustCompile(`name="(form|t)" value="([^"]*)"`)

// TestAPersonLinksAnUpstreamAndTheirOffboardingRevokesIt leads a person from a refused call to the upstream's authorization server and back, calls as
// them, offboards them, and looks for every secret of it in all that was kept.
func TestAPersonLinksAnUpstreamAndTheirOffboardingRevokesIt(t *testing.T) {
	t.Parallel()
	const access, clientSecret = "planted-oauth-token-c1d2e3", "planted-client-secret-f00d77"
	w := newWorld(t, "--log-level", "debug")
	p := newProxy(t, w.cp, "us-east", "--log-level", "debug")
	salesforce := servers.NewSalesforce(access)
	at, end, err := salesforce.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	secret := func(value string, args ...string) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "value")
		if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		w.cp.must(append(args, "--value-file", file)...)
	}
	w.cp.apply(fmt.Sprintf("kind: Connector\nid: salesforce\nurl: %s\nallowedRanges: [127.0.0.0/8]\nauth: {type: header, header: Authorization}\n", at))
	secret("Bearer "+access, "secrets", "set", "--connector", "salesforce")
	w.connect("salesforce", at, "auth: {type: header, header: Authorization}\n")

	as := newConsenting(t, access, clientSecret)
	w.cp.apply(fmt.Sprintf(`kind: Connector
id: salesforce
url: %s
allowedRanges: [127.0.0.0/8]
auth:
  type: oauth
  client: {id: gateway}
  scopes: [api]
  server: {issuer: %q, authorizationEndpoint: %q, tokenEndpoint: %q, revocationEndpoint: %q}
`, at, as.url, as.url+"/authorize", as.url+"/token", as.url+"/revoke"))
	secret(clientSecret, "secrets", "set", "--connector", "salesforce")
	w.cp.must("connectors", "trust", "salesforce", "--yes")
	provider := w.issuer.signsIn(ada)
	w.cp.must("directories", "sign-in", "corp", "--issuer", provider.URL, "--client-id", "web")
	w.cp.enforced()

	s := w.session(p, ada)
	query := map[string]any{"object": "Account"}
	refused := s.Call(t.Context(), "salesforce__query_records", query)
	link := regexp.MustCompile(`http://\S+/connect/salesforce\?t=[A-Za-z0-9_.-]+`).FindString(refused.Text)
	if refused.OK || link == "" {
		t.Fatalf("before the link: %+v", refused)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar}
	read := func(res *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	form := url.Values{}
	page := read(browser.Get(link))
	for _, m := range field.FindAllStringSubmatch(page, -1) {
		form.Set(m[1], html.UnescapeString(m[2]))
	}
	action, _, _ := strings.Cut(link, "?")
	if done := read(browser.PostForm(action, form)); !strings.Contains(done, "is connected") {
		t.Fatalf("the page said %s\nand then %s", page, done)
	}
	if res := s.Call(t.Context(), "salesforce__query_records", query); !res.OK {
		t.Fatalf("after the link: %s", res.Text)
	}
	list, err := w.cp.Run(t.Context(), "credentials", "list", "--person", ada, "-o", "json")
	if err != nil || !bytes.Contains(list, []byte("CREDENTIAL_KIND_OAUTH")) {
		t.Errorf("credentials list: %s, %v", list, err)
	}

	w.scim.deactivate(w.ada)
	eventually(t, func() error {
		as.mu.Lock()
		defer as.mu.Unlock()
		if !slices.Contains(as.revoked, as.access) || !slices.Contains(as.revoked, as.refresh) {
			return fmt.Errorf("revoked so far: %d", len(as.revoked))
		}
		return nil
	})
	var receipt []byte
	eventually(t, func() error {
		var err error
		receipt, err = w.cp.Run(t.Context(), "credentials", "list", "--person", w.ada, "--withdrawn", "-o", "json")
		if err == nil && !bytes.Contains(receipt, []byte("CREDENTIAL_OUTCOME_REVOKED")) {
			err = fmt.Errorf("the receipt: %s", receipt)
		}
		return err
	})
	out, err := w.cp.Run(t.Context(), "audit", "search", "--person", ada, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{"the access token": access, "the refresh token": as.refresh, "the client's secret": clientSecret, "the code": "planted-code-55de10"}
	look := func(where string, data []byte) {
		for name, secret := range secrets {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s is in %s", name, where)
			}
		}
	}
	look("what audit search prints", out)
	look("what credentials list prints", slices.Concat(list, receipt))
	look("what the agent was told", []byte(refused.Text))
	for _, dir := range []string{w.cp.data(), p.data(), filepath.Dir(w.cp.Log), filepath.Dir(p.Log)} {
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			look(path, data)
			return err
		}); err != nil {
			t.Error(err)
		}
	}
}
