package gateway_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/gateway"
)

// holder is an agent that has a key to which its tokens are bound.
type holder struct {
	t   *testing.T
	key *ecdsa.PrivateKey
}

func newHolder(t *testing.T) *holder {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &holder{t, key}
}

// cnf is what a token says that is bound to the key.
func (h *holder) cnf() map[string]any {
	h.t.Helper()
	sum, err := (&jose.JSONWebKey{Key: h.key.Public()}).Thumbprint(crypto.SHA256)
	if err != nil {
		h.t.Fatal(err)
	}
	return map[string]any{"cnf": map[string]any{"jkt": base64.RawURLEncoding.EncodeToString(sum)}}
}

func (h *holder) proof(token, at string, change map[string]any) string {
	h.t.Helper()
	sum := sha256.Sum256([]byte(token))
	claims := map[string]any{"jti": uuid.NewString(), "htm": http.MethodPost, "htu": at, "iat": time.Now().Unix(), "ath": base64.RawURLEncoding.EncodeToString(sum[:])}
	maps.Copy(claims, change)
	return signed(h.t, h.key, map[jose.HeaderKey]any{"typ": "dpop+jwt", "jwk": jose.JSONWebKey{Key: h.key.Public()}}, claims)
}

func TestATokenThatIsBoundToAKeyIsGoodWithAProofAlone(t *testing.T) {
	w := newWorld(t, &options{})
	a, h, thief := w.authority(), newHolder(t), newHolder(t)
	token, plain := a.token(ada, h.cnf()), a.token(ada, nil)
	at := w.url + "/mcp/demo"
	ask := func(scheme, token, proof string) answer {
		t.Helper()
		agent := w.as(token, "/mcp/demo")
		header := agent.header("tools/list", "")
		header["Authorization"] = []string{scheme + " " + token}
		if proof != "" {
			header["Dpop"] = []string{proof}
		}
		return w.request(http.MethodPost, "/mcp/demo", header, agent.message("7", "tools/list", `{}`))
	}
	once := h.proof(token, at, nil)
	if got := ask("DPoP", token, once); got.status != http.StatusOK {
		t.Fatalf("status %d: %s", got.status, got.body)
	}
	for name, c := range map[string]struct{ scheme, token, proof, code string }{
		"a bound token as Bearer":            {"Bearer", token, "", "invalid_token"},
		"a bound token as Bearer, with one":  {"Bearer", token, h.proof(token, at, nil), "invalid_token"},
		"a token of whoever has it":          {"DPoP", plain, h.proof(plain, at, nil), "invalid_token"},
		"no proof":                           {"DPoP", token, "", "invalid_dpop_proof"},
		"a proof that was used":              {"DPoP", token, once, "invalid_dpop_proof"},
		"a proof of another's key":           {"DPoP", token, thief.proof(token, at, nil), "invalid_dpop_proof"},
		"a proof of another token":           {"DPoP", token, h.proof(plain, at, nil), "invalid_dpop_proof"},
		"a proof of another endpoint":        {"DPoP", token, h.proof(token, w.url+"/mcp", nil), "invalid_dpop_proof"},
		"a proof of another proxy":           {"DPoP", token, h.proof(token, "https://elsewhere.example/mcp/demo", nil), "invalid_dpop_proof"},
		"a proof of another method":          {"DPoP", token, h.proof(token, at, map[string]any{"htm": "GET"}), "invalid_dpop_proof"},
		"a proof of a minute ago":            {"DPoP", token, h.proof(token, at, map[string]any{"iat": time.Now().Add(-2 * time.Minute).Unix()}), "invalid_dpop_proof"},
		"a binding that nobody here knows":   {"Bearer", a.token(ada, map[string]any{"cnf": map[string]any{"x5t#S256": "x"}}), "", "invalid_token"},
		"a binding to no key":                {"Bearer", a.token(ada, map[string]any{"cnf": map[string]any{"jkt": ""}}), "", "invalid_token"},
		"a binding that nobody knows beside": {"DPoP", a.token(ada, map[string]any{"cnf": map[string]any{"jkt": "x", "x5t#S256": "x"}}), "", "invalid_token"},
	} {
		got := ask(c.scheme, c.token, c.proof)
		challenge := got.header.Get("WWW-Authenticate")
		if got.status != http.StatusUnauthorized || !strings.Contains(challenge, `error="`+c.code+`"`) {
			t.Errorf("%s: status %d, %s", name, got.status, challenge)
		}
		if bound := strings.HasPrefix(challenge, "DPoP ") && strings.Contains(challenge, `algs="ES256 ES384 EdDSA PS256 RS256"`); bound != (c.scheme == "DPoP" || c.token == token) {
			t.Errorf("%s: the challenge is %s", name, challenge)
		}
	}
	for _, r := range w.settled(14) {
		if r.GetDecision().GetReason() != auditv1.Reason_REASON_TOKEN_INVALID {
			t.Errorf("the record is %v", r)
		}
	}
	// The method is the request's own.
	for method, want := range map[string]bool{http.MethodPost: false, http.MethodDelete: true} {
		header := w.as(token, "/mcp/demo").header("", "")
		header["Authorization"], header["Dpop"] = []string{"DPoP " + token}, []string{h.proof(token, at, map[string]any{"htm": method})}
		if got := w.request(http.MethodDelete, "/mcp/demo", header, ""); (got.status != http.StatusUnauthorized) != want {
			t.Errorf("a DELETE with a proof of %s: status %d", method, got.status)
		}
	}
	w.settled(1)
	// At the endpoint of all connectors, by its own address, and where a sign-in is asked for, the challenge is DPoP's too.
	w.set(grantEntry(1, "demo", &policyv1.Rule{Allow: []string{"echo"}, SignIn: &policyv1.Assurance{Acr: []string{"phr"}}}))
	agent := w.as(token, "/mcp")
	header := agent.header("tools/call", "demo__echo")
	header["Authorization"], header["Dpop"] = []string{"DPoP " + token}, []string{h.proof(token, w.url+"/mcp", nil)}
	got := w.request(http.MethodPost, "/mcp", header, agent.message("7", "tools/call", `{"name":"demo__echo","arguments":{}}`))
	if got.status != http.StatusForbidden || !strings.HasPrefix(got.header.Get("WWW-Authenticate"), `DPoP error="insufficient_scope"`) {
		t.Errorf("status %d, %s: %s", got.status, got.header.Get("WWW-Authenticate"), got.body)
	}
}

func TestAProofIsOfTheURLThatPeopleAreGivenOrOfTheProxysOwn(t *testing.T) {
	const given = "https://mcp.example/mcp"
	w := newWorld(t, &options{gateway: func(c *gateway.Config) { c.Resource = given }})
	h := newHolder(t)
	token := w.authority().token(ada, h.cnf())
	for _, path := range []string{"", "/demo"} {
		for at, want := range map[string]int{given + path: http.StatusOK, w.url + "/mcp" + path: http.StatusOK, "https://elsewhere.example/mcp" + path: http.StatusUnauthorized, given + path + "x": http.StatusUnauthorized} {
			agent := w.as(token, "/mcp"+path)
			header := agent.header("tools/list", "")
			header["Authorization"], header["Dpop"] = []string{"DPoP " + token}, []string{h.proof(token, at, nil)}
			if got := w.request(http.MethodPost, "/mcp"+path, header, agent.message("7", "tools/list", `{}`)); got.status != want {
				t.Errorf("a proof of %s at /mcp%s: status %d, want %d", at, path, got.status, want)
			}
		}
	}
}
