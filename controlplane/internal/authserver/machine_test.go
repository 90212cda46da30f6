package authserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/authserver"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// prover is a client that proves who it is by a key.
type prover struct {
	s   *site
	id  string
	kid string
	key *ecdsa.PrivateKey
}

func newProver(s *site, id, kid string) *prover {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(s.t, err)
	return &prover{s: s, id: id, kid: kid, key: key}
}

func (p *prover) jwk() []byte {
	data, err := jose.JSONWebKey{Key: p.key.Public(), KeyID: p.kid}.MarshalJSON()
	enginetest.Must(p.s.t, err)
	return data
}

// claims are those of a good assertion, with changes: a nil takes one out.
func (p *prover) claims(changes map[string]any) map[string]any {
	now := p.s.now()
	all := map[string]any{"iss": p.id, "sub": p.id, "aud": p.s.web.URL, "jti": uuid.NewString(), "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

func (p *prover) sign(claims map[string]any, header map[jose.HeaderKey]any) string {
	p.s.t.Helper()
	return signAs(p.s.t, jose.ES256, jose.JSONWebKey{Key: p.key, KeyID: p.kid}, claims, header)
}

func signAs(t *testing.T, alg jose.SignatureAlgorithm, key any, claims any, header map[jose.HeaderKey]any) string {
	t.Helper()
	options := &jose.SignerOptions{}
	for name, value := range header {
		options.WithHeader(name, value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	enginetest.Must(t, err)
	payload, err := json.Marshal(claims)
	enginetest.Must(t, err)
	jws, err := signer.Sign(payload)
	enginetest.Must(t, err)
	text, err := jws.CompactSerialize()
	enginetest.Must(t, err)
	return text
}

func proofForm(assertion string, more ...string) url.Values {
	f := url.Values{"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {assertion}}
	for i := 0; i < len(more); i += 2 {
		f.Set(more[i], more[i+1])
	}
	return f
}

// token asks for one as a service account does.
func (p *prover) token(more ...string) (int, map[string]any) {
	p.s.t.Helper()
	return p.s.token(proofForm(p.sign(p.claims(nil), nil), append([]string{"grant_type", "client_credentials"}, more...)...))
}

// robot makes a service account with a key.
func (s *site) robot(name string) (*core.User, *prover) {
	s.t.Helper()
	s.Do(core.CreateServiceAccount{Name: name})
	account := s.Engine.State().UserByName(core.ServiceDirectory, name)
	p := newProver(s, account.ID.String(), "first")
	s.Do(core.AddServiceKey{Account: account.ID, ID: p.kid, JWK: p.jwk()})
	return account, p
}

func (s *site) verify(access, connector string) error {
	_, _, own, err := s.server.Verify(s.Engine.State(), access, connector)
	if !own {
		s.t.Fatal("it is no token of the server")
	}
	return err
}

func TestAServiceAccountGetsATokenByItsKey(t *testing.T) {
	s := newSite(t)
	account, p := s.robot("nightly")
	status, out := p.token("resource", global+"/jira", "scope", "mcp offline_access other")
	if status != http.StatusOK || out["refresh_token"] != nil || out["scope"] != "mcp" || out["expires_in"] != lease.Seconds() {
		t.Fatalf("status %d: %v", status, out)
	}
	access := out["access_token"].(string)
	claims := claimsOf(t, access)
	for name, want := range map[string]any{"sub": account.ID.String(), "client_id": account.ID.String(), "aud": global + "/jira", "iss": s.web.URL} {
		if claims[name] != want {
			t.Errorf("%s = %v, want %v", name, claims[name], want)
		}
	}
	if s.verify(access, "jira") != nil || s.verify(access, "github") == nil {
		t.Error("the token is not for its resource, or for another")
	}
	if !s.audit.any(func(r *auditv1.AuditRecord) bool {
		return r.GetAction() == "token_issued" && r.GetActor().GetKind() == auditv1.ActorKind_ACTOR_KIND_SERVICE_ACCOUNT && r.GetPersonId() == account.ID.String()
	}) {
		t.Error("audit does not say that a service account was given a token")
	}
	// The account has its sessions as people have, and gives a token back as they do.
	known := 0
	enginetest.Must(t, s.server.Sessions(t.Context(), account.ID, func(*authserver.Session) error { known++; return nil }))
	if known != 1 {
		t.Errorf("%d sessions are known, want 1", known)
	}
	status, _ = s.post("/oauth/revoke", proofForm(p.sign(p.claims(nil), nil), "token", access))
	if status != http.StatusOK || s.verify(access, "jira") == nil {
		t.Errorf("a token that was given back counts on (status %d)", status)
	}
}

func TestAnAssertionThatIsNotGoodProvesNothing(t *testing.T) {
	s := newSite(t)
	_, p := s.robot("nightly")
	_, other := s.robot("other")
	rsaLike := jose.JSONWebKey{Key: p.jwk(), KeyID: p.kid} // the public key as a shared secret
	old := p.sign(p.claims(nil), nil)
	if status, out := s.token(proofForm(old, "grant_type", "client_credentials")); status != http.StatusOK {
		t.Fatalf("status %d: %v", status, out)
	}
	sign := func(changes map[string]any) string { return p.sign(p.claims(changes), nil) }
	now := s.now()
	for name, assertion := range map[string]string{
		"used before":                     old,
		"another's audience":              sign(map[string]any{"aud": "https://other.example"}),
		"the resource for audience":       sign(map[string]any{"aud": global}),
		"several audiences":               sign(map[string]any{"aud": []string{s.web.URL, "https://other.example"}}),
		"no audience":                     sign(map[string]any{"aud": nil}),
		"expired":                         sign(map[string]any{"exp": now.Add(-time.Minute).Unix()}),
		"no end":                          sign(map[string]any{"exp": nil}),
		"too long":                        sign(map[string]any{"exp": now.Add(time.Hour).Unix()}),
		"an end beyond numbers":           sign(map[string]any{"exp": int64(1) << 62}),
		"of the future":                   sign(map[string]any{"iat": now.Add(10 * time.Minute).Unix()}),
		"not yet":                         sign(map[string]any{"nbf": now.Add(10 * time.Minute).Unix()}),
		"no id":                           sign(map[string]any{"jti": nil}),
		"another subject":                 sign(map[string]any{"sub": other.id}),
		"another's key":                   other.sign(p.claims(nil), nil),
		"another's key of the right name": signAs(t, jose.ES256, jose.JSONWebKey{Key: other.key, KeyID: p.kid}, p.claims(nil), nil),
		"a key that it brings along":      signAs(t, jose.ES256, other.key, p.claims(nil), map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: other.key.Public()}, "kid": p.kid}),
		"a shared secret":                 signAs(t, jose.HS256, rsaLike, p.claims(nil), nil),
		"a name of no key":                p.sign(p.claims(nil), map[jose.HeaderKey]any{"kid": "../first"}),
		"a type of its own":               p.sign(p.claims(nil), map[jose.HeaderKey]any{"typ": "at+jwt"}),
		"a critical parameter":            p.sign(p.claims(nil), map[jose.HeaderKey]any{"crit": []string{"x"}, "x": 1}),
		"nothing":                         "x.y.z",
	} {
		status, out := s.token(proofForm(assertion, "grant_type", "client_credentials"))
		if status != http.StatusUnauthorized || out["error"] != "invalid_client" || out["access_token"] != nil {
			t.Errorf("%s: status %d: %v", name, status, out)
		}
	}
	if !s.audit.has("client_assertion_replayed") || !s.audit.has("client_refused") {
		t.Error("audit does not say so")
	}
	good := func() string { return p.sign(p.claims(map[string]any{"aud": s.web.URL + "/oauth/token"}), nil) }
	for name, f := range map[string]url.Values{
		"by name alone":              {"grant_type": {"client_credentials"}, "client_id": {p.id}},
		"another client_id":          proofForm(good(), "grant_type", "client_credentials", "client_id", other.id),
		"a secret beside":            proofForm(good(), "grant_type", "client_credentials", "client_secret", "x"),
		"another type":               proofForm(good(), "grant_type", "client_credentials", "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"),
		"a resource of nobody":       proofForm(good(), "grant_type", "client_credentials", "resource", "https://evil.example/mcp"),
		"a code that is not its own": proofForm(good(), "grant_type", "authorization_code", "code", "x", "code_verifier", verifier),
	} {
		if status, out := s.token(f); status < 400 || out["access_token"] != nil {
			t.Errorf("%s: status %d: %v", name, status, out)
		}
	}
	if status, out := s.token(proofForm(good(), "grant_type", "client_credentials")); status != http.StatusOK {
		t.Errorf("the token endpoint for audience: status %d: %v", status, out)
	}
	a := s.register("Claude Code", loopbackRedirect)
	if status, out := s.token(url.Values{"grant_type": {"client_credentials"}, "client_id": {a.id}}); status != http.StatusBadRequest || out["error"] != "unauthorized_client" {
		t.Errorf("a person's agent gets a token by itself: status %d: %v", status, out)
	}
}

func TestKeysOfAServiceAccountAreChangedOneByOneAndEndWhatTheyBegan(t *testing.T) {
	s := newSite(t)
	account, first := s.robot("nightly")
	second := newProver(s, account.ID.String(), "second")
	s.Do(core.AddServiceKey{Account: account.ID, ID: second.kid, JWK: second.jwk(), ExpiresAt: s.now().Add(time.Hour)})
	access := func(p *prover) string {
		t.Helper()
		status, out := p.token()
		if status != http.StatusOK {
			t.Fatalf("status %d: %v", status, out)
		}
		return out["access_token"].(string)
	}
	one, two := access(first), access(second)
	if s.verify(one, "jira") != nil || s.verify(two, "jira") != nil {
		t.Fatal("with two keys, tokens by one of them do not count")
	}
	s.Do(core.RemoveServiceKey{Account: account.ID, ID: first.kid})
	if status, _ := first.token(); status != http.StatusUnauthorized {
		t.Errorf("the key that was removed is still good: status %d", status)
	}
	if s.verify(one, "jira") == nil {
		t.Error("what was issued before the key was removed counts on")
	}
	three := access(second)
	s.Do(core.UpdateUser{Directory: core.ServiceDirectory, ID: account.ID, Profile: account.Profile})
	if status, out := second.token(); status != http.StatusBadRequest || out["error"] != "invalid_grant" || s.verify(three, "jira") == nil {
		t.Errorf("a disabled account goes on: status %d: %v", status, out)
	}
	s.Do(core.UpdateUser{Directory: core.ServiceDirectory, ID: account.ID, Profile: account.Profile, Active: true})
	access(second)
	s.later(time.Hour + time.Second)
	if status, _ := second.token(); status != http.StatusUnauthorized {
		t.Errorf("an expired key is good: status %d", status)
	}
}

func TestAClientOfPeopleProvesWhoItIsByItsKey(t *testing.T) {
	s := newSite(t)
	p := newProver(s, "crm-portal", "k1")
	set := []byte(`{"keys":[` + string(p.jwk()) + `]}`)
	s.Do(core.NewSetClient(&policyv1.Client{Id: p.id, Name: "CRM", RedirectUris: []string{"https://crm.example/cb"}, Jwks: set}))
	a := &agent{s: s, id: p.id, redirect: "https://crm.example/cb", verifier: verifier}
	code := a.code().Get("code")
	if status, out := a.redeem(code); status != http.StatusUnauthorized {
		t.Fatalf("by its name alone: status %d: %v", status, out)
	}
	with := func(f url.Values) url.Values {
		maps.Copy(f, proofForm(p.sign(p.claims(nil), nil)))
		return f
	}
	status, out := s.token(with(a.redeemForm(code)))
	if status != http.StatusOK {
		t.Fatalf("status %d: %v", status, out)
	}
	refresh := url.Values{"grant_type": {"refresh_token"}, "client_id": {a.id}, "refresh_token": {out["refresh_token"].(string)}}
	if status, _ := s.token(refresh); status != http.StatusUnauthorized {
		t.Errorf("a refresh by its name alone: status %d", status)
	}
	if status, out := s.token(with(refresh)); status != http.StatusOK {
		t.Errorf("status %d: %v", status, out)
	}
}
