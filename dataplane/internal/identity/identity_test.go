package identity

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

const resource = "https://mcp.example.com/mcp"

// provider is an OIDC provider's discovery and keys on loopback, with a way to sign.
type provider struct {
	*httptest.Server
	mu      sync.Mutex
	keys    map[string]crypto.Signer
	fetches atomic.Int32
	down    atomic.Bool
	jwksURL string
	issuer  string
}

var rsaKey, otherRSA = newRSA(), newRSA()

func newRSA() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}

func newProvider(t testing.TB) *provider {
	p := &provider{keys: map[string]crypto.Signer{"k1": rsaKey}}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		if p.down.Load() {
			http.Error(w, "down", http.StatusBadGateway)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": p.issuer, "jwks_uri": p.jwksURL})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		p.fetches.Add(1)
		p.mu.Lock()
		defer p.mu.Unlock()
		var set jose.JSONWebKeySet
		for id, k := range p.keys {
			set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: id, Use: "sig"})
		}
		_ = json.NewEncoder(w).Encode(set)
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	p.issuer, p.jwksURL = p.URL, p.URL+"/keys"
	return p
}

func (p *provider) setKeys(keys map[string]crypto.Signer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

// sign makes a token. Claims that are nil are left out.
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, header, claims map[string]any) string {
	t.Helper()
	o := (&jose.SignerOptions{}).WithType("at+jwt")
	for k, v := range header {
		o.WithHeader(jose.HeaderKey(k), v)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := s.Sign(body)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

var now = time.Unix(1790000000, 0)

func (p *provider) claims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": p.issuer, "aud": resource, "sub": "ada@example.com", "uid": "00u1", "cid": "agent-1", "jti": "t1",
		"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(),
	}
	maps.Copy(c, change)
	return c
}

func (p *provider) token(t testing.TB, change map[string]any) string {
	return sign(t, jose.RS256, rsaKey, map[string]any{"kid": "k1"}, p.claims(change))
}

// snapshot is what a table is compiled from.
type snapshot struct {
	issuers map[string]*fleetv1.Issuer
	users   map[string]*fleetv1.User // by directory/subject
}

func issuer(directory, claim, audience string) *fleetv1.Issuer {
	return &fleetv1.Issuer{Directory: directory, Issuer: &policyv1.Issuer{UserClaim: claim, Audience: audience}}
}

func user(n byte, directory, subject string) *fleetv1.User {
	return &fleetv1.User{Id: append(make([]byte, 15), n), Active: true, Generation: 3, Directory: directory, Subject: subject}
}

const ada, impostor, stranger = 1, 2, 3

func (p *provider) snapshot() *snapshot {
	return &snapshot{
		issuers: map[string]*fleetv1.Issuer{p.issuer: issuer("okta", "uid", "")},
		users: map[string]*fleetv1.User{
			"ada": user(ada, "okta", "00u1"), "impostor": user(impostor, "okta", "ada@example.com"), "stranger": user(stranger, "other", "00u1"),
		},
	}
}

func (s *snapshot) table(t testing.TB) *policy.Table {
	t.Helper()
	var entries []*fleetv1.Entry
	for url, i := range s.issuers {
		i.Issuer.Url = url
		entries = append(entries, &fleetv1.Entry{Value: &fleetv1.Entry_Issuer{Issuer: i}})
	}
	for _, u := range s.users {
		entries = append(entries, &fleetv1.Entry{Value: &fleetv1.Entry_User{User: u}})
	}
	table, err := policy.Compile(1, slices.Values(entries))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func newVerifier(clock func() time.Time) *Verifier {
	return New(Config{Now: clock, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
}

func fixed() time.Time { return now }

func verify(v *Verifier, table Table, token string) (Caller, error) {
	return v.Verify(context.Background(), table, []string{resource, resource + "/github"}, token)
}

func wantKind(t *testing.T, what string, err error, kind Kind) {
	t.Helper()
	if !IsKind(err, kind) {
		t.Errorf("%s: got %v, want %q", what, err, kinds[kind].text)
	}
}

func TestTheCallerIsThePersonThatTheIssuersClaimNames(t *testing.T) {
	p := newProvider(t)
	v, table := newVerifier(fixed), p.snapshot().table(t)
	token := p.token(t, map[string]any{"sid": "s1"})
	for range 2 { // verified, then remembered
		c, err := verify(v, table, token)
		if err != nil {
			t.Fatal(err)
		}
		if c.ID[15] != ada || c.Generation != 3 || c.ClientID != "agent-1" || c.TokenID != "t1" || c.Session != "s1" ||
			c.Issuer != p.issuer || c.Directory != "okta" || !c.Expiry.Equal(now.Add(time.Hour)) {
			t.Errorf("got %+v", c)
		}
	}
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("keys were fetched %d times", n)
	}
}

func TestEachAcceptedAlgorithmVerifies(t *testing.T) {
	p := newProvider(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p.setKeys(map[string]crypto.Signer{"rsa": rsaKey, "ec": ec, "ed": ed})
	v, table := newVerifier(fixed), p.snapshot().table(t)
	for _, tc := range []struct {
		alg jose.SignatureAlgorithm
		kid string
		key any
	}{{jose.RS256, "rsa", rsaKey}, {jose.PS256, "rsa", rsaKey}, {jose.ES256, "ec", ec}, {jose.EdDSA, "ed", ed}} {
		if _, err := verify(v, table, sign(t, tc.alg, tc.key, map[string]any{"kid": tc.kid}, p.claims(nil))); err != nil {
			t.Errorf("%s: %v", tc.alg, err)
		}
		if _, err := verify(v, table, sign(t, tc.alg, tc.key, nil, p.claims(nil))); err != nil {
			t.Errorf("%s without a key id: %v", tc.alg, err)
		}
	}
	_, err = verify(v, table, sign(t, jose.RS512, rsaKey, map[string]any{"kid": "rsa"}, p.claims(nil)))
	wantKind(t, "RS512", err, BadSignature)
}

func TestHostileTokensAreRefused(t *testing.T) {
	p, foreign := newProvider(t), newProvider(t)
	v, table := newVerifier(fixed), p.snapshot().table(t)
	b64 := base64.RawURLEncoding.EncodeToString
	payload, _ := json.Marshal(p.claims(nil))
	public, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	good := p.token(t, nil)
	parts := strings.Split(good, ".")
	kid := map[string]any{"kid": "k1"}
	for _, tc := range []struct {
		name  string
		token string
		kind  Kind
	}{
		{"nothing", "", Missing},
		{"no token at all", "hello", Malformed},
		{"alg none", b64([]byte(`{"alg":"none"}`)) + "." + b64(payload) + ".", BadSignature},
		{"alg None", b64([]byte(`{"alg":"None"}`)) + "." + b64(payload) + ".AA", BadSignature},
		{"no alg", b64([]byte(`{}`)) + "." + b64(payload) + ".AA", BadSignature},
		{"HS256 with the public key", sign(t, jose.HS256, publicPEM, kid, p.claims(nil)), BadSignature},
		{"HS256 with the public key in DER", sign(t, jose.HS256, public, kid, p.claims(nil)), BadSignature},
		{"signed by another", sign(t, jose.RS256, otherRSA, kid, p.claims(nil)), BadSignature},
		{"no signature", parts[0] + "." + parts[1] + ".", BadSignature},
		{"payload changed", parts[0] + "." + b64(payload[:len(payload)-1]) + "." + parts[2], Malformed},
		{"JSON form", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, Malformed},
		{"unknown key id", sign(t, jose.RS256, rsaKey, map[string]any{"kid": "../../k1"}, p.claims(nil)), BadSignature},
		{"key id of SQL", sign(t, jose.RS256, otherRSA, map[string]any{"kid": "x' OR '1'='1"}, p.claims(nil)), BadSignature},
		{"its own key set", sign(t, jose.RS256, otherRSA, map[string]any{"kid": "k1", "jku": foreign.URL + "/keys"}, p.claims(nil)), BadSignature},
		{"critical parameter", sign(t, jose.RS256, rsaKey, map[string]any{"kid": "k1", "crit": []string{"b64"}, "b64": true}, p.claims(nil)), Malformed},
		{"foreign issuer", foreign.token(t, nil), UnknownIssuer},
		{"foreign issuer's key, our issuer", sign(t, jose.RS256, otherRSA, nil, p.claims(nil)), BadSignature},
		{"issuer with a slash", p.token(t, map[string]any{"iss": p.issuer + "/"}), UnknownIssuer},
		{"no issuer", p.token(t, map[string]any{"iss": nil}), UnknownIssuer},
		{"wrong audience", p.token(t, map[string]any{"aud": "https://other.example.com"}), WrongAudience},
		{"audience with a slash", p.token(t, map[string]any{"aud": resource + "/"}), WrongAudience},
		{"no audience", p.token(t, map[string]any{"aud": nil}), WrongAudience},
		{"audience a number", p.token(t, map[string]any{"aud": 7}), Malformed},
		{"expired", p.token(t, map[string]any{"exp": now.Add(-61 * time.Second).Unix()}), Expired},
		{"never expires", p.token(t, map[string]any{"exp": nil}), Malformed},
		{"expiry out of range", p.token(t, map[string]any{"exp": 1e300}), Malformed},
		{"future nbf", p.token(t, map[string]any{"nbf": now.Add(2 * time.Minute).Unix()}), NotYetValid},
		{"future iat", p.token(t, map[string]any{"iat": now.Add(2 * time.Minute).Unix()}), NotYetValid},
		{"no iat", p.token(t, map[string]any{"iat": nil}), Malformed},
		{"ID token by nonce", p.token(t, map[string]any{"nonce": "n"}), WrongType},
		{"ID token by at_hash", p.token(t, map[string]any{"at_hash": "h"}), WrongType},
		{"refresh token", p.token(t, map[string]any{"typ": "Refresh"}), WrongType},
		{"ID token by token_use", p.token(t, map[string]any{"token_use": "id"}), WrongType},
		{"logout token", sign(t, jose.RS256, rsaKey, map[string]any{"kid": "k1", "typ": "logout+jwt"}, p.claims(nil)), WrongType},
		{"ID-JAG", sign(t, jose.RS256, rsaKey, map[string]any{"kid": "k1", "typ": "oauth-id-jag+jwt"}, p.claims(nil)), WrongType},
		{"no user claim: sub does not stand in", p.token(t, map[string]any{"uid": nil}), NoSubject},
		{"user claim a number", p.token(t, map[string]any{"uid": 7}), NoSubject},
		{"user claim empty", p.token(t, map[string]any{"uid": ""}), NoSubject},
		{"nobody's", p.token(t, map[string]any{"uid": "00u9"}), PersonUnknown},
		{"huge", good + strings.Repeat("A", maxToken), TooLarge},
	} {
		_, err := verify(v, table, tc.token)
		wantKind(t, tc.name, err, tc.kind)
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if (e.Code() == "") != (tc.kind == Missing) || e.Status() != 401 || e.Reason() == auditv1.Reason_REASON_UNSPECIFIED {
			t.Errorf("%s: code %q, status %d, reason %v", tc.name, e.Code(), e.Status(), e.Reason())
		}
		for _, part := range strings.Split(tc.token, ".") {
			if len(part) > 8 && strings.Contains(fmt.Sprint(err, errors.Unwrap(err)), part) {
				t.Errorf("%s: the error tells a part of the token", tc.name)
			}
		}
	}
	if n := foreign.fetches.Load(); n != 0 {
		t.Errorf("an issuer that is not trusted was asked %d times", n)
	}
}

func TestClocksMayDifferByAMinute(t *testing.T) {
	p := newProvider(t)
	v, table := newVerifier(fixed), p.snapshot().table(t)
	for _, change := range []map[string]any{
		{"exp": now.Add(-50 * time.Second).Unix()}, {"nbf": now.Add(50 * time.Second).Unix()}, {"iat": now.Add(50 * time.Second).Unix()},
	} {
		if _, err := verify(v, table, p.token(t, change)); err != nil {
			t.Errorf("%v: %v", change, err)
		}
	}
}

func TestWhatTheSnapshotSaysCountsAtOnceForARememberedToken(t *testing.T) {
	p := newProvider(t)
	v, state := newVerifier(fixed), p.snapshot()
	token := p.token(t, nil)
	issued := now.Add(-time.Minute).UnixMilli()
	check := func() (Caller, error) { return verify(v, state.table(t), token) }
	if _, err := check(); err != nil {
		t.Fatal(err)
	}

	state.users["ada"].Active = false
	_, err := check()
	wantKind(t, "deactivated", err, PersonInactive)
	var e *Error
	if errors.As(err, &e); e.Caller.ID[15] != ada || e.Reason() != auditv1.Reason_REASON_PERSON_INACTIVE {
		t.Errorf("the denial names %v for %v", e.Caller.ID, e.Reason())
	}
	state.users["ada"].Active, state.users["ada"].ValidAfterMs = true, issued
	_, err = check()
	wantKind(t, "issued at the revocation", err, Revoked)
	state.users["ada"].ValidAfterMs = issued - 1
	if _, err = check(); err != nil {
		t.Errorf("issued after the revocation: %v", err)
	}
	state.issuers[p.issuer] = issuer("other", "uid", "")
	if c, err := check(); err != nil || c.ID[15] != stranger {
		t.Errorf("another directory: %v %v", c.ID, err)
	}
	state.issuers[p.issuer] = issuer("okta", "", "")
	if c, err := check(); err != nil || c.ID[15] != impostor {
		t.Errorf("another claim: %v %v", c.ID, err)
	}
	state.issuers[p.issuer] = issuer("okta", "", "api://sallyport")
	_, err = check()
	wantKind(t, "another audience", err, WrongAudience)
	delete(state.issuers, p.issuer)
	_, err = check()
	wantKind(t, "no longer trusted", err, UnknownIssuer)
	delete(state.users, "ada")
	state.issuers[p.issuer] = issuer("okta", "uid", "")
	_, err = check()
	wantKind(t, "removed", err, PersonUnknown)
	if errors.As(err, &e); e.Caller.Directory != "okta" || e.Caller.Subject != "00u1" {
		t.Errorf("the denial names %+v", e.Caller)
	}
}

func TestTheConfiguredAudienceReplacesTheResource(t *testing.T) {
	p := newProvider(t)
	v, state := newVerifier(fixed), p.snapshot()
	state.issuers[p.issuer] = issuer("okta", "uid", "api://sallyport")
	table := state.table(t)
	if _, err := verify(v, table, p.token(t, map[string]any{"aud": []string{"x", "api://sallyport"}})); err != nil {
		t.Error(err)
	}
	_, err := verify(v, table, p.token(t, nil))
	wantKind(t, "the resource", err, WrongAudience)
}

func TestARememberedTokenDiesWithItsExpiryAndItsKey(t *testing.T) {
	p := newProvider(t)
	clock := now
	v, table := newVerifier(func() time.Time { return clock }), p.snapshot().table(t)
	token := p.token(t, nil)
	if _, err := verify(v, table, token); err != nil {
		t.Fatal(err)
	}
	p.setKeys(map[string]crypto.Signer{"k2": otherRSA})
	clock = clock.Add(time.Minute)
	if _, err := verify(v, table, sign(t, jose.RS256, otherRSA, map[string]any{"kid": "k2"}, p.claims(nil))); err != nil {
		t.Errorf("a rotated key was not fetched: %v", err)
	}
	_, err := verify(v, table, token)
	wantKind(t, "its key is gone", err, BadSignature)

	fresh := sign(t, jose.RS256, otherRSA, map[string]any{"kid": "k2"}, p.claims(map[string]any{"jti": "t2"}))
	if _, err := verify(v, table, fresh); err != nil {
		t.Fatal(err)
	}
	clock = now.Add(time.Hour + time.Minute)
	_, err = verify(v, table, fresh)
	wantKind(t, "an hour later", err, Expired)
}

func TestUnknownKeysLeadToFewFetches(t *testing.T) {
	p := newProvider(t)
	clock := now
	v, table := newVerifier(func() time.Time { return clock }), p.snapshot().table(t)
	for i := range 50 {
		_, err := verify(v, table, sign(t, jose.RS256, otherRSA, map[string]any{"kid": fmt.Sprint("x", i)}, p.claims(nil)))
		wantKind(t, "unknown key", err, BadSignature)
		_, err = verify(v, table, sign(t, jose.RS256, otherRSA, map[string]any{"kid": "k1"}, p.claims(nil)))
		wantKind(t, "known key, wrong signature", err, BadSignature)
	}
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
	clock = clock.Add(refetchAfter)
	_, _ = verify(v, table, sign(t, jose.RS256, otherRSA, map[string]any{"kid": "x"}, p.claims(nil)))
	if n := p.fetches.Load(); n != 2 {
		t.Errorf("%d fetches after a while", n)
	}
}

func TestKnownKeysGoOnWhileTheIssuerIsDown(t *testing.T) {
	p := newProvider(t)
	clock := now
	v, table := newVerifier(func() time.Time { return clock }), p.snapshot().table(t)
	p.down.Store(true)
	_, err := verify(v, table, p.token(t, nil))
	wantKind(t, "never reached", err, KeysUnavailable)
	var e *Error
	if errors.As(err, &e); e.Status() != http.StatusServiceUnavailable || e.Code() != "" {
		t.Errorf("status %d, code %q", e.Status(), e.Code())
	}
	p.down.Store(false)
	clock = clock.Add(refetchAfter)
	if _, err := verify(v, table, p.token(t, nil)); err != nil {
		t.Fatal(err)
	}
	p.down.Store(true)
	clock = clock.Add(30 * time.Minute)
	_, _ = verify(v, table, sign(t, jose.RS256, otherRSA, map[string]any{"kid": "new"}, p.claims(nil))) // a fetch that fails
	if _, err := verify(v, table, p.token(t, map[string]any{"jti": "t2"})); err != nil {
		t.Errorf("a new token of a known key: %v", err)
	}
}

func TestAnIssuerCannotLeadTheProxyAstray(t *testing.T) {
	elsewhere := newProvider(t)
	for name, handler := range map[string]http.HandlerFunc{
		"redirect elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
		},
		"endless answer": func(w http.ResponseWriter, _ *http.Request) {
			for range 40 {
				if _, err := w.Write([]byte(strings.Repeat(" ", 1<<16))); err != nil {
					return
				}
			}
		},
		"other issuer": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, elsewhere.issuer, elsewhere.jwksURL)
		},
		"garbage": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"keys from a file": func(w http.ResponseWriter, r *http.Request) {
			_, _ = fmt.Fprintf(w, `{"issuer":"http://%s","jwks_uri":"file:///etc/keys"}`, r.Host)
		},
	} {
		server := httptest.NewServer(handler)
		p := &provider{issuer: server.URL}
		_, err := verify(newVerifier(fixed), p.snapshot().table(t), p.token(t, nil))
		wantKind(t, name, err, KeysUnavailable)
		server.Close()
	}
	if n := elsewhere.fetches.Load(); n != 0 {
		t.Errorf("elsewhere was asked for keys %d times", n)
	}
}

func TestWatchedIssuersKeysAreFetchedBeforeTheyAreNeeded(t *testing.T) {
	p := newProvider(t)
	v := newVerifier(fixed)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	v.Watch([]string{p.issuer})
	deadline := time.Now().Add(10 * time.Second)
	for v.keysOf(p.issuer).keys.Load() == nil && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	token, table := p.token(t, nil), p.snapshot().table(t)
	p.down.Store(true)
	if _, err := verify(v, table, token); err != nil {
		t.Error(err)
	}
	v.Watch(nil) // no longer trusted: what its keys verified is not remembered
	_, err := verify(v, table, token)
	wantKind(t, "no longer watched", err, KeysUnavailable)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	c := newCache(64)
	for i := range 10000 {
		d := digest{byte(i), byte(i >> 8)}
		c.put(&d, &verified{})
	}
	n := 0
	for i := range c.shards {
		n += len(c.shards[i].young) + len(c.shards[i].old)
	}
	if n > 64 {
		t.Errorf("%d entries", n)
	}
}

func TestACredentialIsInOneHeaderOnly(t *testing.T) {
	for _, tc := range []struct {
		values []string
		token  string
		kind   Kind
	}{
		{nil, "", Missing}, {[]string{"Basic abc"}, "", Missing}, {[]string{"bearer abc"}, "abc", 0}, {[]string{"Bearer  abc "}, "abc", 0},
		{[]string{"Bearer"}, "", Malformed}, {[]string{"Bearer "}, "", Malformed}, {[]string{"Bearer a", "Bearer b"}, "", Malformed},
		{[]string{"DPoP abc"}, "abc", 0}, {[]string{"DPoP"}, "", Malformed},
		{[]string{"Bearer " + strings.Repeat("a", maxToken+1)}, "", TooLarge},
	} {
		token, bound, err := Credential(http.Header{"Authorization": tc.values})
		if bound != (len(tc.values) > 0 && strings.HasPrefix(tc.values[0], "DPoP")) {
			t.Errorf("%.40q: bound %v", tc.values, bound)
		}
		if token != tc.token || (err == nil) != (tc.kind == 0) || err != nil && !IsKind(err, tc.kind) {
			t.Errorf("%.40q: %q %v", tc.values, token, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	p := newProvider(f)
	v, table := newVerifier(fixed), p.snapshot().table(f)
	f.Add(p.token(f, nil))
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	good := p.token(f, nil)
	f.Fuzz(func(t *testing.T, token string) {
		c, err := verify(v, table, token)
		if err == nil && token != good && !strings.HasPrefix(token, good[:strings.LastIndexByte(good, '.')]) {
			t.Errorf("%q identified %v", token, c)
		}
	})
}

func BenchmarkVerifyRemembered(b *testing.B) {
	p := newProvider(b)
	v, table := newVerifier(fixed), p.snapshot().table(b)
	token := p.token(b, map[string]any{"scp": strings.Repeat("mcp:tools ", 30)})
	resources := []string{resource}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), table, resources, token); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(token)), "token-bytes")
}

func BenchmarkVerifyFirstTime(b *testing.B) {
	p := newProvider(b)
	v, table := newVerifier(fixed), p.snapshot().table(b)
	token := p.token(b, nil)
	for b.Loop() {
		if _, err := verify(v, table, token); err != nil {
			b.Fatal(err)
		}
		v.cache = newCache(16)
	}
}
