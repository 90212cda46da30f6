package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// provider is an OpenID provider at which a person signed in with a password an hour ago, and signs in again, as strongly as is
// asked for, where that is not enough.
type provider struct {
	*issuer
	person string

	mu     sync.Mutex
	acr    string
	signed time.Time
	codes  map[string]url.Values
	asked  []url.Values
}

func newProvider(t *testing.T, person string) *provider {
	t.Helper()
	p := &provider{issuer: newIssuer(t), person: person, acr: "pwd", signed: time.Now().Add(-time.Hour), codes: map[string]url.Values{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		p.write(w, map[string]any{
			"issuer": p.url, "jwks_uri": p.url + "/keys", "authorization_endpoint": p.url + "/authorize", "token_endpoint": p.url + "/token",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"},
		})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		p.write(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: p.key.Public(), KeyID: "k1", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("GET /authorize", p.authorize)
	mux.HandleFunc("POST /token", p.redeem)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, q)
	if wanted := strings.Fields(q.Get("acr_values")); len(wanted) > 0 && !slices.Contains(wanted, p.acr) {
		p.acr, p.signed = wanted[0], time.Now()
	}
	if age, err := strconv.Atoi(q.Get("max_age")); err == nil && time.Since(p.signed) > time.Duration(age)*time.Second {
		p.signed = time.Now()
	}
	code := rand.Text()
	p.codes[code] = q
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"code": {code}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
}

func (p *provider) redeem(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.codes[r.PostFormValue("code")]
	delete(p.codes, r.PostFormValue("code"))
	now := time.Now()
	id := p.sign(claims{
		"iss": p.url, "aud": "sallyport", "sub": p.person, "nonce": q.Get("nonce"), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
		"auth_time": p.signed.Unix(), "acr": p.acr, "amr": []string{"pwd"},
	})
	p.write(w, map[string]any{"access_token": rand.Text(), "token_type": "Bearer", "expires_in": 60, "id_token": id})
}

func (p *provider) last() url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[len(p.asked)-1]
}

const agentRedirect = "http://127.0.0.1:1/callback"

// browse goes where a browser is led and says yes to the page that asks whether a program may be let in, as often as consented says.
func browse(ctx context.Context, jar http.CookieJar, at string, consented *int) (*auth.AuthorizationResult, error) {
	var back *url.URL
	client := &http.Client{Jar: jar, CheckRedirect: func(next *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(next.URL.String(), agentRedirect) {
			back = next.URL
			return http.ErrUseLastResponse
		}
		return nil
	}}
	fetch := func(method, to, body string) (string, error) {
		req, err := http.NewRequestWithContext(ctx, method, to, strings.NewReader(body))
		if err != nil {
			return "", err
		}
		if method == http.MethodPost {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
		}
		res, err := client.Do(req)
		if err != nil {
			return "", err
		}
		defer func() { _ = res.Body.Close() }()
		text, err := io.ReadAll(res.Body)
		return string(text), err
	}
	attribute := func(page, before string) string {
		_, rest, _ := strings.Cut(page, before)
		value, _, _ := strings.Cut(rest, `"`)
		return html.UnescapeString(value)
	}
	page, err := fetch(http.MethodGet, at, "")
	if err == nil && back == nil && strings.Contains(page, "Let a program in?") {
		*consented++
		to, _ := url.Parse(at)
		page, err = fetch(http.MethodPost, to.Scheme+"://"+to.Host+attribute(page, `action="`), url.Values{"form": {attribute(page, `name="form" value="`)}, "answer": {"yes"}}.Encode())
	}
	switch {
	case err != nil:
		return nil, err
	case back == nil:
		return nil, errors.New("the browser is not sent back: " + page)
	}
	return &auth.AuthorizationResult{Code: back.Query().Get("code"), State: back.Query().Get("state"), Iss: back.Query().Get("iss")}, nil
}

func TestAnAgentStepsUpByAFreshSignInAndItsCallPasses(t *testing.T) {
	listen := freeAddress(t)
	w := newWorld(t, "--resource", "http://"+listen+"/mcp")
	idp := newProvider(t, ada)
	w.cp.must("directories", "sign-in", "corp", "--issuer", idp.url, "--client-id", "sallyport", "--scope", "profile")
	w.cp.apply("kind: Grant\ngroup: corp/Staff\nconnector: github\nrules:\n  - allow: [list_branches]\n    signIn: {acr: [phr], maxAge: 15m}\n")
	p := &proxy{t: t, name: "eu-west-1", region: "eu-west", listen: listen, dir: t.TempDir(), fleet: "https://" + w.cp.fleet}
	p.invitation = filepath.Join(p.dir, "invitation")
	if err := w.cp.Invite(t.Context(), p.invitation, p.name, p.region); err != nil {
		t.Fatal(err)
	}
	p.start()
	w.cp.enforced()

	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	var scopes []string
	consented := 0
	handler, err := auth.NewAuthorizationCodeHandler(&auth.AuthorizationCodeHandlerConfig{
		RedirectURL: agentRedirect,
		DynamicClientRegistrationConfig: &auth.DynamicClientRegistrationConfig{
			Metadata: &oauthex.ClientRegistrationMetadata{ClientName: "step-up agent", RedirectURIs: []string{agentRedirect}, TokenEndpointAuthMethod: "none"},
		},
		AuthorizationCodeFetcher: func(ctx context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
			if u, err := url.Parse(args.URL); err == nil {
				scopes = append(scopes, u.Query().Get("scope"))
			}
			return browse(ctx, jar, args.URL, &consented)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	client := mcp.NewClient(&mcp.Implementation{Name: "step-up", Version: "1"}, nil)
	s, err := client.Connect(t.Context(), &mcp.StreamableClientTransport{Endpoint: p.url(), OAuthHandler: handler}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	if len(scopes) != 1 || scopes[0] != "mcp" || idp.last().Get("acr_values") != "" {
		t.Fatalf("the agent asked for %q, and the provider was asked %v", scopes, idp.last())
	}
	res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "github__list_branches", Arguments: payments})
	if err != nil || res.IsError {
		t.Fatalf("the call does not pass after a fresh sign-in: %v %s", err, mustJSON(t, res))
	}
	if len(scopes) != 2 || !strings.Contains(scopes[1], "sign-in:acr=phr&after=") || consented != 1 {
		t.Errorf("the agent asked for %q, and the person was asked %d times", scopes, consented)
	}
	age, err := strconv.Atoi(idp.last().Get("max_age"))
	if err != nil || age < 1 || age > 15*60 || idp.last().Get("acr_values") != "phr" {
		t.Errorf("the provider was asked %v", idp.last())
	}
	// The next call needs no other.
	if res, err := s.CallTool(t.Context(), &mcp.CallToolParams{Name: "github__list_branches", Arguments: payments}); err != nil || res.IsError || len(scopes) != 2 {
		t.Errorf("the next call: %v, after %d sign-ins", err, len(scopes))
	}
	eventually(t, func() error {
		records, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Person: "corp/" + ada, Connector: "github"})
		if err != nil {
			return err
		}
		var refused, authorized int
		for _, r := range records {
			switch d := r.GetRecord().GetDecision(); {
			case d.GetReason() == auditv1.Reason_REASON_SIGN_IN_REQUIRED:
				refused++
			case r.GetRecord().GetPhase() == auditv1.Phase_PHASE_AUTHORIZED:
				authorized++
			}
		}
		if refused != 1 || authorized != 2 {
			return errors.New("audit has " + strconv.Itoa(refused) + " refused and " + strconv.Itoa(authorized) + " authorized calls")
		}
		return nil
	})
	// explain says the same of either sign-in.
	for acr, want := range map[string]auditv1.Reason{"pwd": auditv1.Reason_REASON_SIGN_IN_REQUIRED, "phr": auditv1.Reason_REASON_RULE_ALLOWED} {
		out, err := w.cp.Run(t.Context(), "explain", ada, "github", "list_branches", "--args", mustJSON(t, payments), "--acr", acr, "--auth-time", time.Now().UTC().Format(time.RFC3339), "-o", "json")
		var said struct{ Decision struct{ Reason string } }
		if err == nil {
			err = json.Unmarshal(out, &said)
		}
		if err != nil || said.Decision.Reason != want.String() {
			t.Errorf("with acr %s explain says %q: %v", acr, said.Decision.Reason, err)
		}
	}
}
