package authserver_test

import (
	"crypto"
	"encoding/base64"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/authserver"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// dpop is a proof that the sender of a request to the token endpoint has the key.
func (p *prover) dpop(change map[string]any) string {
	p.s.t.Helper()
	claims := map[string]any{"jti": uuid.NewString(), "htm": "POST", "htu": p.s.web.URL + "/oauth/token", "iat": p.s.now().Unix()}
	maps.Copy(claims, change)
	return signAs(p.s.t, jose.ES256, p.key, claims, map[jose.HeaderKey]any{"typ": "dpop+jwt", "jwk": jose.JSONWebKey{Key: p.key.Public()}})
}

func (p *prover) thumbprint() string {
	p.s.t.Helper()
	sum, err := (&jose.JSONWebKey{Key: p.key.Public()}).Thumbprint(crypto.SHA256)
	enginetest.Must(p.s.t, err)
	return base64.RawURLEncoding.EncodeToString(sum)
}

func boundKey(t *testing.T, access string) any {
	t.Helper()
	cnf, _ := claimsOf(t, access)["cnf"].(map[string]any)
	return cnf["jkt"]
}

func refreshForm(a *agent, token any) url.Values {
	return url.Values{"grant_type": {"refresh_token"}, "client_id": {a.id}, "refresh_token": {token.(string)}}
}

func TestTokensAreBoundToTheKeyThatTheAgentProvesToHave(t *testing.T) {
	s := newSite(t)
	a := s.register("Claude Code", loopbackRedirect)
	h, thief := newProver(s, "", ""), newProver(s, "", "")
	once := h.dpop(nil)
	status, out := s.token(a.redeemForm(a.code().Get("code")), "DPoP", once)
	if status != http.StatusOK || out["token_type"] != "DPoP" || boundKey(t, out["access_token"].(string)) != h.thumbprint() {
		t.Fatalf("status %d: %v", status, out)
	}
	for name, c := range map[string][]string{
		"no proof":                {},
		"a proof that was used":   {"DPoP", once},
		"a proof of another key":  {"DPoP", thief.dpop(nil)},
		"a proof of another day":  {"DPoP", h.dpop(map[string]any{"iat": s.now().Add(-24 * time.Hour).Unix()})},
		"a proof for the gateway": {"DPoP", h.dpop(map[string]any{"htu": global})},
		"nothing of a proof":      {"DPoP", "x"},
	} {
		if status, refused := s.token(refreshForm(a, out["refresh_token"]), c...); status != http.StatusBadRequest || refused["error"] != "invalid_dpop_proof" {
			t.Errorf("%s: status %d: %v", name, status, refused)
		}
	}
	if !s.audit.has("proof_replayed") || !s.audit.has("proof_refused") {
		t.Error("audit does not say so")
	}
	first := out["refresh_token"]
	status, out = s.token(refreshForm(a, first), "DPoP", h.dpop(nil))
	if status != http.StatusOK || boundKey(t, out["access_token"].(string)) != h.thumbprint() {
		t.Fatalf("with the key: status %d: %v", status, out)
	}
	if !s.good(out["access_token"].(string), "jira") {
		t.Error("the token gets no credential")
	}
	// A superseded token that comes without the key was taken from its owner: the session ends.
	s.later(time.Hour)
	if status, _ := s.token(refreshForm(a, first), "DPoP", h.dpop(nil)); status != http.StatusBadRequest || s.audit.has("refresh_stolen") {
		t.Errorf("an agent that slept ends its session: status %d", status)
	}
	if status, _ := s.token(refreshForm(a, first), "DPoP", thief.dpop(nil)); status != http.StatusBadRequest || !s.audit.has("refresh_stolen") {
		t.Errorf("a thief's late token ends nothing: status %d", status)
	}
	if status, _ := s.token(refreshForm(a, out["refresh_token"]), "DPoP", h.dpop(nil)); status != http.StatusBadRequest {
		t.Errorf("the session goes on: status %d", status)
	}
}

func TestACodeIsBoundToTheKeyForWhichItWasAsked(t *testing.T) {
	s := newSite(t)
	a := s.register("Claude Code", loopbackRedirect)
	h, thief := newProver(s, "", ""), newProver(s, "", "")
	code := a.code("dpop_jkt", h.thumbprint()).Get("code")
	for name, header := range map[string][]string{"no proof": {}, "another's": {"DPoP", thief.dpop(nil)}} {
		if status, out := s.token(a.redeemForm(code), header...); status != http.StatusBadRequest || out["error"] != "invalid_dpop_proof" {
			t.Errorf("%s: status %d: %v", name, status, out)
		}
	}
	if status, out := s.token(a.redeemForm(code), "DPoP", h.dpop(nil)); status != http.StatusOK {
		t.Errorf("status %d: %v", status, out)
	}
	// A proof that is not good does not count as none, where none is needed.
	unbound := a.code().Get("code")
	for name, proof := range map[string]string{"nothing of a proof": "x", "of another address": h.dpop(map[string]any{"htu": global}), "of another method": h.dpop(map[string]any{"htm": "GET"})} {
		if status, out := s.token(a.redeemForm(unbound), "DPoP", proof); status != http.StatusBadRequest || out["error"] != "invalid_dpop_proof" {
			t.Errorf("%s: status %d: %v", name, status, out)
		}
	}
	if got := a.code("dpop_jkt", "x").Get("error"); got != "invalid_request" {
		t.Errorf("a thumbprint that is none: %q", got)
	}
}

func TestAClientThatIsToBindItsTokensGetsNoOthers(t *testing.T) {
	s := newSite(t)
	status, out := s.postJSON("/oauth/register", map[string]any{"client_name": "Careful", "redirect_uris": []string{loopbackRedirect}, "dpop_bound_access_tokens": true})
	if status != http.StatusCreated || out["dpop_bound_access_tokens"] != true {
		t.Fatalf("status %d: %v", status, out)
	}
	s.Do(core.NewSetClient(&policyv1.Client{Id: "described", RedirectUris: []string{loopbackRedirect}, DpopBoundAccessTokens: true}))
	for _, id := range []string{out["client_id"].(string), "described"} {
		a := &agent{s: s, id: id, redirect: loopbackRedirect, verifier: verifier}
		code := a.code().Get("code")
		if status, out := a.redeem(code); status != http.StatusBadRequest || out["error"] != "invalid_dpop_proof" {
			t.Errorf("%s: status %d: %v", id, status, out)
		}
		if status, out := s.token(a.redeemForm(code), "DPoP", newProver(s, "", "").dpop(nil)); status != http.StatusOK {
			t.Errorf("%s: status %d: %v", id, status, out)
		}
	}
	// A service account may bind its tokens too.
	_, p := s.robot("nightly")
	status, out = s.token(proofForm(p.sign(p.claims(nil), nil), "grant_type", "client_credentials"), "DPoP", p.dpop(nil))
	if status != http.StatusOK || out["token_type"] != "DPoP" || boundKey(t, out["access_token"].(string)) != p.thumbprint() {
		t.Errorf("status %d: %v", status, out)
	}
	// What another control plane believed is not believed here again: the proof is remembered where all see it.
	once := p.dpop(nil)
	other, err := authserver.New(s.server.Config)
	enginetest.Must(t, err)
	for i, server := range []*authserver.Server{s.server, other} {
		form := proofForm(p.sign(p.claims(nil), nil), "grant_type", "client_credentials")
		req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/oauth/token", strings.NewReader(form.Encode()))
		req.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Dpop": {once}}
		w := httptest.NewRecorder()
		server.Handler().ServeHTTP(w, req)
		if want := []int{http.StatusOK, http.StatusBadRequest}[i]; w.Code != want {
			t.Errorf("control plane %d: status %d, want %d: %s", i+1, w.Code, want, w.Body)
		}
	}
}
