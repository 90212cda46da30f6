package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

// assertionType says that a client proves who it is by a token that it signed (RFC 7523, section 2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// assertionAlgorithms are those by which clients sign. None with a shared secret: a public key must never verify as one.
var assertionAlgorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.EdDSA, jose.PS256, jose.RS256}

const (
	// assertedFor is how long an assertion may be good, clockSkew how far a client's clock may be off.
	assertedFor  = 5 * time.Minute
	clockSkew    = 30 * time.Second
	maxAssertion = 8 << 10
)

// provingKey is the public half of a key by which a client proves who it is.
type provingKey struct {
	id      string
	public  jose.JSONWebKey
	expires time.Time // zero: it does not
}

// keysOfAccount are a service account's keys.
func keysOfAccount(all []core.ServiceKey) []provingKey {
	var out []provingKey
	for _, k := range all {
		var public jose.JSONWebKey
		if json.Unmarshal(k.JWK, &public) == nil && public.IsPublic() && public.Valid() {
			out = append(out, provingKey{k.ID, public, k.ExpiresAt})
		}
	}
	return out
}

// keysOfSet are the keys of a JSON Web Key Set.
func keysOfSet(set []byte) []provingKey {
	var all jose.JSONWebKeySet
	if len(set) == 0 || json.Unmarshal(set, &all) != nil {
		return nil
	}
	var out []provingKey
	for _, k := range all.Keys {
		if k.IsPublic() && k.Valid() {
			out = append(out, provingKey{id: k.KeyID, public: k})
		}
	}
	return out
}

// assertion is what a client says to prove who it is.
type assertion struct {
	Issuer    string          `json:"iss"`
	Subject   string          `json:"sub"`
	Audience  json.RawMessage `json:"aud"`
	ID        string          `json:"jti"`
	Expires   *int64          `json:"exp"`
	IssuedAt  *int64          `json:"iat"`
	NotBefore *int64          `json:"nbf"`
}

func assertionRefused(text string) *refusal {
	return &refusal{code: "invalid_client", text: "the client_assertion " + text, status: http.StatusUnauthorized, action: "client_refused"}
}

// asserted takes an assertion apart and returns the client that it claims to be of. It is not believed yet.
func asserted(f url.Values) (*jose.JSONWebSignature, string, error) {
	text := f.Get("client_assertion")
	if f.Get("client_assertion_type") != assertionType {
		return nil, "", refuse("invalid_request", "", "the client_assertion_type is "+assertionType)
	}
	jws, err := jose.ParseSignedCompact(text, assertionAlgorithms)
	if err != nil || len(text) > maxAssertion {
		return nil, "", assertionRefused("is no signed token, or signed by an algorithm that is not taken")
	}
	var claims assertion
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &claims); err != nil || claims.Issuer == "" || claims.Issuer != claims.Subject {
		return nil, "", assertionRefused("names the client neither as iss nor as sub, or differently")
	}
	if id := f.Get("client_id"); id != "" && id != claims.Subject {
		return nil, "", assertionRefused("is of another client than client_id")
	}
	return jws, claims.Subject, nil
}

// prove believes an assertion of a client, once.
func (s *Server) prove(ctx context.Context, c *client, jws *jose.JSONWebSignature) error {
	header, now := jws.Signatures[0].Protected, s.Now()
	if _, critical := header.ExtraHeaders["crit"]; critical {
		return assertionRefused("has a critical header parameter that is not known here")
	}
	if typ, _ := header.ExtraHeaders[jose.HeaderType].(string); typ != "" && !strings.EqualFold(typ, "JWT") && !strings.EqualFold(typ, "client-authentication+jwt") {
		return assertionRefused("is a token of another type")
	}
	payload, err := verifyBy(c.keys, jws, now)
	if err != nil {
		return err
	}
	var claims assertion
	if err := json.Unmarshal(payload, &claims); err != nil {
		return assertionRefused("cannot be read")
	}
	moment := func(unix *int64) time.Time { return time.Unix(min(max(*unix, 0), 1<<40), 0) }
	switch {
	case !s.addressed(claims.Audience):
		return assertionRefused("is for another audience than " + s.Issuer)
	case claims.Expires == nil || !now.Before(moment(claims.Expires).Add(clockSkew)):
		return assertionRefused("expired, or has no exp: is the clock right?")
	case moment(claims.Expires).After(now.Add(assertedFor + clockSkew)):
		return assertionRefused("is good for longer than 5 minutes")
	case claims.IssuedAt != nil && moment(claims.IssuedAt).After(now.Add(clockSkew)), claims.NotBefore != nil && moment(claims.NotBefore).After(now.Add(clockSkew)):
		return assertionRefused("is of the future: is the clock right?")
	case claims.ID == "" || len(claims.ID) > 500:
		return assertionRefused("has no jti")
	}
	// Each is good once, at whichever control plane.
	_, err = s.Store.Create(ctx, "assertion."+digest(c.id+"\x00"+claims.ID), []byte{1}, moment(claims.Expires).Sub(now)+2*clockSkew)
	if errors.Is(err, kv.ErrExists) {
		return &refusal{code: "invalid_client", text: "the client_assertion was used before: make one for each request", status: http.StatusUnauthorized, action: "client_assertion_replayed"}
	}
	return err
}

// verifyBy verifies a signature by the key that it names; by any that fits, where it names none. Keys that the token brings along
// are not looked at.
func verifyBy(keys []provingKey, jws *jose.JSONWebSignature, now time.Time) ([]byte, error) {
	kid := jws.Signatures[0].Protected.KeyID
	for _, k := range keys {
		if kid != "" && kid != k.id || !k.expires.IsZero() && !now.Before(k.expires) {
			continue
		}
		if payload, err := jws.Verify(k.public); err == nil {
			return payload, nil
		}
	}
	return nil, assertionRefused("was signed by no key that the client has now")
}

// addressed tells whether an audience is this server: by its issuer, or by its token endpoint, and nobody besides.
func (s *Server) addressed(raw json.RawMessage) bool {
	var one string
	if json.Unmarshal(raw, &one) != nil {
		var all []string
		if json.Unmarshal(raw, &all) != nil || len(all) != 1 {
			return false
		}
		one = all[0]
	}
	return one == s.Issuer || one == s.Issuer+"/oauth/token"
}
