package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

const ownIssuer = "https://sallyport.example"

// authority is Sallyport's own authorization server, as a snapshot has it.
type authority struct {
	t       *testing.T
	keys    map[string]*ecdsa.PrivateKey
	entries []*fleetv1.Entry
}

func newAuthority(t *testing.T, kids ...string) *authority {
	t.Helper()
	a := &authority{t: t, keys: map[string]*ecdsa.PrivateKey{}}
	server := &fleetv1.AuthorizationServer{Issuer: ownIssuer, Offered: true}
	for _, kid := range kids {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		a.keys[kid] = key
		jwk, err := json.Marshal(jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"})
		if err != nil {
			t.Fatal(err)
		}
		server.Keys = append(server.Keys, &policyv1.SigningKey{Id: kid, Issuer: ownIssuer, Jwk: jwk})
	}
	a.entries = []*fleetv1.Entry{
		{Value: &fleetv1.Entry_AuthorizationServer{AuthorizationServer: server}},
		{Value: &fleetv1.Entry_User{User: user(ada, "okta", "00u1")}},
	}
	return a
}

func (a *authority) table(more ...*fleetv1.Entry) *policy.Table {
	a.t.Helper()
	table, err := policy.Compile(1, slices.Values(append(slices.Clone(a.entries), more...)))
	if err != nil {
		a.t.Fatal(err)
	}
	return table
}

var ownSession = uuid.UUID{15: 9}

func ownClaims(change map[string]any) map[string]any {
	c := map[string]any{
		"iss": ownIssuer, "aud": resource, "sub": uuid.UUID{15: ada}.String(), "client_id": "agent-1", "jti": "t1", "sid": ownSession.String(),
		"iat": now.Add(-time.Minute).Unix(), "exp": now.Add(time.Hour).Unix(), "sallyport_gen": 3, "sallyport_began": now.Add(-time.Hour).UnixMilli(),
	}
	maps.Copy(c, change)
	return c
}

func (a *authority) token(change map[string]any) string {
	return sign(a.t, jose.ES256, a.keys["k1"], map[string]any{"kid": "k1", "typ": "at+jwt"}, ownClaims(change))
}

func TestATokenOfTheAuthorizationServerIsVerifiedWithoutAnyFetch(t *testing.T) {
	a := newAuthority(t, "k1", "k2")
	v := New(Config{Now: fixed, Transport: refusing{}})
	for range 2 { // verified, then remembered
		c, err := verify(v, a.table(), a.token(nil))
		if err != nil || c.ID != (uuid.UUID{15: ada}) || c.ClientID != "agent-1" || c.Session != ownSession.String() || c.Audience != resource {
			t.Fatalf("caller %+v, %v", c, err)
		}
	}
	foreign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	head := map[string]any{"kid": "k1", "typ": "at+jwt"}
	for what, c := range map[string]struct {
		token string
		kind  Kind
	}{
		"another audience":      {a.token(map[string]any{"aud": resource + "/jira"}), WrongAudience},
		"expired":               {a.token(map[string]any{"exp": now.Add(-2 * time.Minute).Unix()}), Expired},
		"issued in the future":  {a.token(map[string]any{"iat": now.Add(5 * time.Minute).Unix()}), NotYetValid},
		"an older generation":   {a.token(map[string]any{"sallyport_gen": 2}), Revoked},
		"a newer generation":    {a.token(map[string]any{"sallyport_gen": 4}), Revoked},
		"no generation":         {a.token(map[string]any{"sallyport_gen": nil}), Revoked},
		"nobody":                {a.token(map[string]any{"sub": uuid.Nil.String()}), PersonUnknown},
		"no id":                 {a.token(map[string]any{"sub": "00u1"}), NoSubject},
		"no session":            {a.token(map[string]any{"sid": nil}), Malformed},
		"another key":           {sign(t, jose.ES256, foreign, head, ownClaims(nil)), BadSignature},
		"a key under another's": {sign(t, jose.ES256, a.keys["k2"], head, ownClaims(nil)), BadSignature},
		"an unknown key":        {sign(t, jose.ES256, a.keys["k1"], map[string]any{"kid": "k3", "typ": "at+jwt"}, ownClaims(nil)), BadSignature},
		"no key id":             {sign(t, jose.ES256, a.keys["k1"], map[string]any{"typ": "at+jwt"}, ownClaims(nil)), BadSignature},
		"a kid that is a path":  {sign(t, jose.ES256, a.keys["k1"], map[string]any{"kid": "../../dev/null", "typ": "at+jwt"}, ownClaims(nil)), BadSignature},
		"another algorithm":     {sign(t, jose.RS256, rsaKey, head, ownClaims(nil)), BadSignature},
		"an ID token's type":    {sign(t, jose.ES256, a.keys["k1"], map[string]any{"kid": "k1", "typ": "JWT"}, ownClaims(nil)), WrongType},
		"a nonce":               {a.token(map[string]any{"nonce": "x"}), WrongType},
		"another issuer":        {a.token(map[string]any{"iss": "https://evil.example"}), UnknownIssuer},
	} {
		_, err := verify(v, a.table(), c.token)
		wantKind(t, what, err, c.kind)
	}
}

func TestAForgedTokenOfTheAuthorizationServerIsRefused(t *testing.T) {
	a := newAuthority(t, "k1", "k2")
	v := New(Config{Now: fixed, Transport: refusing{}}) // nothing that a header names is fetched
	theirs, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	theirs384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ours := a.keys["k1"]
	public, err := x509.MarshalPKIXPublicKey(ours.Public())
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := json.Marshal(jose.JSONWebKey{Key: ours.Public(), KeyID: "k1", Algorithm: "ES256", Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	head := func(change ...any) map[string]any {
		h := map[string]any{"kid": "k1", "typ": "at+jwt"}
		for i := 0; i < len(change); i += 2 {
			h[change[i].(string)] = change[i+1]
		}
		return h
	}
	b64 := base64.RawURLEncoding.EncodeToString
	payload, err := json.Marshal(ownClaims(nil))
	if err != nil {
		t.Fatal(err)
	}
	raw := func(header string) string { // signed by our key, under a header that a library would not make
		input := b64([]byte(header)) + "." + b64(payload)
		sum := sha256.Sum256([]byte(input))
		r, s, err := ecdsa.Sign(rand.Reader, ours, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return input + "." + b64(append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...))
	}
	for what, token := range map[string]string{"as the server makes it": a.token(nil), "as this test makes it": raw(`{"alg":"ES256","kid":"k1","typ":"at+jwt"}`), "with its type in full": raw(`{"alg":"ES256","kid":"k1","typ":"application/at+jwt"}`)} {
		if _, err := verify(v, a.table(), token); err != nil {
			t.Fatalf("%s: %v: the rest would say nothing", what, err)
		}
	}
	for what, c := range map[string]struct {
		token string
		kind  Kind
	}{
		"alg none":                        {b64([]byte(`{"alg":"none","kid":"k1","typ":"at+jwt"}`)) + "." + b64(payload) + ".", BadSignature},
		"alg nOnE":                        {b64([]byte(`{"alg":"nOnE","kid":"k1","typ":"at+jwt"}`)) + "." + b64(payload) + ".AA", BadSignature},
		"HS256 with the public key":       {sign(t, jose.HS256, public, head(), ownClaims(nil)), BadSignature},
		"HS256 with the public key's JWK": {sign(t, jose.HS256, jwk, head(), ownClaims(nil)), BadSignature},
		"RS256 under the key's id":        {sign(t, jose.RS256, rsaKey, head(), ownClaims(nil)), BadSignature},
		"PS256 under the key's id":        {sign(t, jose.PS256, rsaKey, head(), ownClaims(nil)), BadSignature},
		"ES384 under the key's id":        {sign(t, jose.ES384, theirs384, head(), ownClaims(nil)), BadSignature},
		"EdDSA said, ES256 signed":        {raw(`{"alg":"EdDSA","kid":"k1","typ":"at+jwt"}`), BadSignature},
		"its own key in jwk":              {sign(t, jose.ES256, theirs, head("jwk", jose.JSONWebKey{Key: theirs.Public()}), ownClaims(nil)), BadSignature},
		"its own keys in jku":             {sign(t, jose.ES256, theirs, head("jku", "https://evil.example/keys"), ownClaims(nil)), BadSignature},
		"its own certificate in x5u":      {sign(t, jose.ES256, theirs, head("x5u", "https://evil.example/cert"), ownClaims(nil)), BadSignature},
		"a kid of SQL":                    {sign(t, jose.ES256, ours, head("kid", "x' OR '1'='1"), ownClaims(nil)), BadSignature},
		"a kid of a file":                 {sign(t, jose.ES256, ours, head("kid", "/proc/self/environ"), ownClaims(nil)), BadSignature},
		"a kid with a zero":               {sign(t, jose.ES256, ours, head("kid", "k1\x00"), ownClaims(nil)), BadSignature},
		"a huge kid":                      {sign(t, jose.ES256, ours, head("kid", strings.Repeat("k", 8<<10)), ownClaims(nil)), BadSignature},
		"a kid too huge for a token":      {sign(t, jose.ES256, ours, head("kid", strings.Repeat("k", 16<<10)), ownClaims(nil)), TooLarge},
		"two kids":                        {raw(`{"alg":"ES256","kid":"k2","kid":"k1","typ":"at+jwt"}`), Malformed},
		"two algorithms":                  {raw(`{"alg":"none","alg":"ES256","kid":"k1","typ":"at+jwt"}`), Malformed},
		"a kid that is a number":          {raw(`{"alg":"ES256","kid":1,"typ":"at+jwt"}`), Malformed},
		"a critical parameter":            {raw(`{"alg":"ES256","kid":"k1","typ":"at+jwt","crit":["x"],"x":1}`), Malformed},
		"no typ":                          {raw(`{"alg":"ES256","kid":"k1"}`), WrongType},
		"typ jwt":                         {raw(`{"alg":"ES256","kid":"k1","typ":"jwt"}`), WrongType},
		"typ dpop+jwt":                    {raw(`{"alg":"ES256","kid":"k1","typ":"dpop+jwt"}`), WrongType},
		"typ of an ID-JAG":                {raw(`{"alg":"ES256","kid":"k1","typ":"oauth-id-jag+jwt"}`), WrongType},
		"expired by more than a minute":   {a.token(map[string]any{"exp": now.Add(-61 * time.Second).Unix()}), Expired},
		"issued in more than a minute":    {a.token(map[string]any{"iat": now.Add(62 * time.Second).Unix()}), NotYetValid},
		"valid in more than a minute":     {a.token(map[string]any{"nbf": now.Add(62 * time.Second).Unix()}), NotYetValid},
	} {
		_, err := verify(v, a.table(), c.token)
		wantKind(t, what, err, c.kind)
	}
	for what, change := range map[string]map[string]any{
		"expired within a minute": {"exp": now.Add(-50 * time.Second).Unix()}, "issued within a minute": {"iat": now.Add(50 * time.Second).Unix()},
	} {
		if _, err := verify(v, a.table(), a.token(change)); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// refusing reaches nobody.
type refusing struct{}

func (refusing) RoundTrip(r *http.Request) (*http.Response, error) {
	panic("something was fetched: " + r.URL.String())
}

func TestARememberedTokenOfTheAuthorizationServerIsHeldToTheSnapshot(t *testing.T) {
	a := newAuthority(t, "k1")
	v := New(Config{Now: fixed, Transport: refusing{}})
	token := a.token(nil)
	c, err := verify(v, a.table(), token)
	if err != nil || !c.Counts(a.table()) {
		t.Fatal(err)
	}
	deactivated := user(ada, "okta", "00u1")
	deactivated.Active = false
	for what, e := range map[string]struct {
		entry *fleetv1.Entry
		kind  Kind
	}{
		"session ended":      {&fleetv1.Entry{Value: &fleetv1.Entry_RevokedSession{RevokedSession: &fleetv1.RevokedSession{Id: ownSession[:]}}}, Revoked},
		"client's sessions":  {&fleetv1.Entry{Value: &fleetv1.Entry_RevokedClient{RevokedClient: &fleetv1.RevokedClient{ClientId: "agent-1", ValidAfterMs: now.UnixMilli()}}}, Revoked},
		"person deactivated": {&fleetv1.Entry{Value: &fleetv1.Entry_User{User: deactivated}}, PersonInactive},
		"key retired":        {&fleetv1.Entry{Value: &fleetv1.Entry_AuthorizationServer{AuthorizationServer: &fleetv1.AuthorizationServer{Issuer: ownIssuer}}}, Revoked},
	} {
		table := a.table(e.entry)
		_, err := verify(v, table, token)
		wantKind(t, what, err, e.kind)
		if c.Counts(table) {
			t.Errorf("%s: what is in flight goes on", what)
		}
	}
	for what, e := range map[string]*fleetv1.Entry{
		"another session": {Value: &fleetv1.Entry_RevokedSession{RevokedSession: &fleetv1.RevokedSession{Id: make([]byte, 16)}}},
		"earlier ones":    {Value: &fleetv1.Entry_RevokedClient{RevokedClient: &fleetv1.RevokedClient{ClientId: "agent-1", ValidAfterMs: now.Add(-2 * time.Hour).UnixMilli()}}},
		"another client":  {Value: &fleetv1.Entry_RevokedClient{RevokedClient: &fleetv1.RevokedClient{ClientId: "agent-2", ValidAfterMs: now.UnixMilli()}}},
	} {
		if _, err := verify(v, a.table(e), token); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
