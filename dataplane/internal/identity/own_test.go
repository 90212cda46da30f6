package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
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
