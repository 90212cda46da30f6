package authserver_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// forge signs claims under a header. Nil values are left out.
func forge(t *testing.T, alg jose.SignatureAlgorithm, key any, header, claims map[string]any) string {
	t.Helper()
	options := &jose.SignerOptions{}
	for name, value := range header {
		if value != nil {
			options.WithHeader(jose.HeaderKey(name), value)
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options)
	enginetest.Must(t, err)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	payload, err := json.Marshal(claims)
	enginetest.Must(t, err)
	jws, err := signer.Sign(payload)
	enginetest.Must(t, err)
	text, err := jws.CompactSerialize()
	enginetest.Must(t, err)
	return text
}

func TestAForgedAccessTokenCountsForNothing(t *testing.T) {
	s := newSite(t)
	a := s.register("x", loopbackRedirect)
	real, _ := a.signedIn()
	parsed, err := jose.ParseSignedCompact(real, []jose.SignatureAlgorithm{jose.ES256})
	enginetest.Must(t, err)
	kid := parsed.Signatures[0].Protected.KeyID
	claims := func(changes ...any) map[string]any {
		var all map[string]any
		enginetest.Must(t, json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &all))
		for i := 0; i < len(changes); i += 2 {
			all[changes[i].(string)] = changes[i+1]
		}
		return all
	}
	head := func(changes ...any) map[string]any {
		all := map[string]any{"kid": kid, "typ": "at+jwt"}
		for i := 0; i < len(changes); i += 2 {
			all[changes[i].(string)] = changes[i+1]
		}
		return all
	}
	der, err := s.Vault.SigningKey(t.Context(), kid)
	enginetest.Must(t, err)
	private, err := x509.ParsePKCS8PrivateKey(der)
	enginetest.Must(t, err)
	ours := private.(*ecdsa.PrivateKey)
	public, err := x509.MarshalPKIXPublicKey(ours.Public())
	enginetest.Must(t, err)
	jwk, err := json.Marshal(jose.JSONWebKey{Key: ours.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"})
	enginetest.Must(t, err)
	theirs, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(t, err)
	theirs384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	enginetest.Must(t, err)
	theirRSA, err := rsa.GenerateKey(rand.Reader, 2048)
	enginetest.Must(t, err)
	b64 := base64.RawURLEncoding.EncodeToString
	payload, err := json.Marshal(claims())
	enginetest.Must(t, err)
	parts := strings.Split(real, ".")
	now := time.Now()

	// ours signs what is said twice, or at another place, which the library would not sign.
	raw := func(header string) string {
		input := b64([]byte(header)) + "." + b64(payload)
		sum := sha256.Sum256([]byte(input))
		r, v, err := ecdsa.Sign(rand.Reader, ours, sum[:])
		enginetest.Must(t, err)
		return input + "." + b64(append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...))
	}
	if again := forge(t, jose.ES256, ours, head(), claims()); !s.good(again, "jira") {
		t.Fatal("a token as the server makes them is not good: the rest would say nothing")
	}
	if again := raw(`{"alg":"ES256","kid":"` + kid + `","typ":"at+jwt"}`); !s.good(again, "jira") {
		t.Fatal("a token as the server makes them is not good: the rest would say nothing")
	}
	_, admin := s.Token(eventv1.TokenKind_TOKEN_KIND_ADMIN, "root")
	for name, token := range map[string]string{
		"no algorithm":                       b64([]byte(`{"alg":"none","kid":"`+kid+`","typ":"at+jwt"}`)) + "." + b64(payload) + ".",
		"no algorithm, another case":         b64([]byte(`{"alg":"nOnE","kid":"`+kid+`","typ":"at+jwt"}`)) + "." + b64(payload) + ".AA",
		"none said":                          b64([]byte(`{"kid":"`+kid+`","typ":"at+jwt"}`)) + "." + b64(payload) + "." + parts[2],
		"no signature":                       parts[0] + "." + parts[1] + ".",
		"the public key as a secret":         forge(t, jose.HS256, public, head(), claims()),
		"the public key as PEM, as a secret": forge(t, jose.HS256, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), head(), claims()),
		"the public key as JWK, as a secret": forge(t, jose.HS256, jwk, head(), claims()),
		"RS256":                              forge(t, jose.RS256, theirRSA, head(), claims()),
		"PS256":                              forge(t, jose.PS256, theirRSA, head(), claims()),
		"ES384":                              forge(t, jose.ES384, theirs384, head(), claims()),
		"another key":                        forge(t, jose.ES256, theirs, head(), claims()),
		"another key, none named":            forge(t, jose.ES256, theirs, head("kid", nil), claims()),
		"its own key":                        forge(t, jose.ES256, theirs, head("jwk", jose.JSONWebKey{Key: theirs.Public()}), claims()),
		"its own set of keys":                forge(t, jose.ES256, theirs, head("jku", s.docs.URL+"/keys"), claims()),
		"its own certificate":                forge(t, jose.ES256, theirs, head("x5u", s.docs.URL+"/cert"), claims()),
		"its own chain":                      forge(t, jose.ES256, theirs, head("x5c", []string{"AAAA"}), claims()),
		"no key named":                       forge(t, jose.ES256, ours, head("kid", nil), claims()),
		"a key by a path":                    forge(t, jose.ES256, ours, head("kid", "../../../"+kid), claims()),
		"a key of nothing":                   forge(t, jose.ES256, ours, head("kid", "/dev/null"), claims()),
		"a key by SQL":                       forge(t, jose.ES256, ours, head("kid", "x' UNION SELECT '"+kid), claims()),
		"a key with a zero":                  forge(t, jose.ES256, ours, head("kid", kid+"\x00"), claims()),
		"a key in another case":              forge(t, jose.ES256, ours, head("kid", strings.ToLower(kid)), claims()),
		"a huge key id":                      forge(t, jose.ES256, ours, head("kid", strings.Repeat("k", 20<<10)), claims()),
		"a key id twice":                     raw(`{"alg":"ES256","kid":"x","kid":"` + kid + `","typ":"at+jwt"}`),
		"a key id that is a number":          raw(`{"alg":"ES256","kid":7,"typ":"at+jwt"}`),
		"an algorithm twice":                 raw(`{"alg":"none","alg":"ES256","kid":"` + kid + `","typ":"at+jwt"}`),
		"a critical parameter":               raw(`{"alg":"ES256","kid":"` + kid + `","typ":"at+jwt","crit":["x"],"x":1}`),
		"no type":                            forge(t, jose.ES256, ours, head("typ", nil), claims()),
		"an ID token":                        forge(t, jose.ES256, ours, head("typ", "JWT"), claims()),
		"a logout token":                     forge(t, jose.ES256, ours, head("typ", "logout+jwt"), claims()),
		"a proof of possession":              forge(t, jose.ES256, ours, head("typ", "dpop+jwt"), claims()),
		"another payload":                    parts[0] + "." + b64([]byte(strings.Replace(string(payload), `"mcp"`, `"all"`, 1))) + "." + parts[2],
		"another issuer":                     forge(t, jose.ES256, ours, head(), claims("iss", "https://evil.example")),
		"the issuer with a slash":            forge(t, jose.ES256, ours, head(), claims("iss", s.issuer+"/")),
		"another audience":                   forge(t, jose.ES256, ours, head(), claims("aud", "https://evil.example/mcp")),
		"the audience with a slash":          forge(t, jose.ES256, ours, head(), claims("aud", global+"/")),
		"another connector's audience":       forge(t, jose.ES256, ours, head(), claims("aud", global+"/github")),
		"no audience":                        forge(t, jose.ES256, ours, head(), claims("aud", nil)),
		"over":                               forge(t, jose.ES256, ours, head(), claims("exp", now.Add(-time.Second).Unix())),
		"without an end":                     forge(t, jose.ES256, ours, head(), claims("exp", nil)),
		"issued in three minutes":            forge(t, jose.ES256, ours, head(), claims("iat", now.Add(3*time.Minute).Unix())),
		"issued tomorrow":                    forge(t, jose.ES256, ours, head(), claims("iat", now.Add(24*time.Hour).Unix(), "exp", now.Add(25*time.Hour).Unix())),
		"another generation":                 forge(t, jose.ES256, ours, head(), claims("sallyport_gen", 2)),
		"nobody's":                           forge(t, jose.ES256, ours, head(), claims("sub", uuid.NewString())),
		"of nobody by name":                  forge(t, jose.ES256, ours, head(), claims("sub", "ann@example.com")),
		"without a session":                  forge(t, jose.ES256, ours, head(), claims("sid", nil)),
		"huge":                               forge(t, jose.ES256, ours, head(), claims("x", strings.Repeat("x", 20<<10))),
		"in JSON":                            parsed.FullSerialize(),
	} {
		if s.good(token, "jira") {
			t.Errorf("%s: it opens a credential", name)
		}
		if name == "another audience" || name == "another connector's audience" || name == "the audience with a slash" || name == "another generation" || name == "no audience" || name == "nobody's" {
			continue // introspection says whose session it is, which is signed
		}
		if out := s.introspect(admin, token); out["active"] != false {
			t.Errorf("%s: introspected as %v", name, out)
		}
	}
}

// introspect asks what a token is, as an admin.
func (s *site) introspect(admin, token string) map[string]any {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.issuer+"/oauth/introspect", strings.NewReader(url.Values{"token": {token}}.Encode()))
	enginetest.Must(s.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Bearer "+admin)
	res, err := http.DefaultClient.Do(req)
	enginetest.Must(s.t, err)
	_, out := read(s.t, res)
	return out
}

func TestWhoIsNoAdminMayNotAskWhatATokenIs(t *testing.T) {
	s := newSite(t)
	a := s.register("x", loopbackRedirect)
	access, _ := a.signedIn()
	for name, bearer := range map[string]string{"nobody": "", "an agent": access} {
		s.wantRecord(t, "introspection_refused", func() {
			if out := s.introspect(bearer, access); out["active"] != nil || out["error"] != "invalid_token" {
				t.Errorf("%s: %v", name, out)
			}
		})
	}
}

func TestTheWholeWayUnderAnIssuerWithAPath(t *testing.T) {
	s := newSiteAt(t, "/gate/eu")
	for _, at := range []string{
		"/.well-known/oauth-authorization-server/gate/eu", "/.well-known/openid-configuration/gate/eu", "/gate/eu/.well-known/openid-configuration", "/gate/eu/.well-known/oauth-authorization-server",
	} {
		if m := s.metadata(at); m["issuer"] != s.issuer || m["authorization_endpoint"] != s.issuer+"/oauth/authorize" || m["introspection_endpoint_auth_methods_supported"].([]any)[0] != "Bearer" {
			t.Errorf("%s: %v", at, m)
		}
	}
	a := s.register("x", loopbackRedirect)
	q := a.code()
	if q.Get("iss") != s.issuer {
		t.Errorf("answered by %q", q.Get("iss"))
	}
	status, out := a.redeem(q.Get("code"))
	if status != http.StatusOK || !s.good(out["access_token"].(string), "jira") {
		t.Fatalf("%d %v", status, out)
	}
	if status, _ := a.refresh(out["refresh_token"].(string)); status != http.StatusOK {
		t.Errorf("refreshed with status %d", status)
	}
	if n := len(s.metadata("/gate/eu/oauth/jwks")["keys"].([]any)); n != 1 {
		t.Errorf("%d keys", n)
	}
}
