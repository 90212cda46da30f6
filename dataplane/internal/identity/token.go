package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxToken = 16 << 10
	// How far an issuer's clock may be off.
	skew = time.Minute
)

// algorithms are the ones accepted. Never "none", never a shared secret: an issuer's public key must not verify as one.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.EdDSA}

// verified is what a token says, once its signature and form were found good.
type verified struct {
	key       *key
	issuer    string
	claim     string // the claim that subject is from
	subject   string
	audience  []string
	clientID  string
	tokenID   string
	session   string
	issuedAt  time.Time
	notBefore time.Time
	expiry    time.Time
	own       *own // nil: another issuer's
	acr       string
	amr       []string
	authTime  time.Time
	bound     string // the thumbprint of the key that it is bound to
}

// claims is a token's payload as far as it is read.
type claims struct {
	Issuer    string   `json:"iss"`
	Audience  audience `json:"aud"`
	Expiry    *seconds `json:"exp"`
	NotBefore *seconds `json:"nbf"`
	IssuedAt  *seconds `json:"iat"`
	ID        string   `json:"jti"`
	Session   string   `json:"sid"`
	ClientID  string   `json:"client_id"`
	Azp       string   `json:"azp"`
	Cid       string   `json:"cid"` // Okta
	Appid     string   `json:"appid"`
	// How the person was authenticated (RFC 9068, section 2.2.1).
	ACR      string   `json:"acr"`
	AMR      []string `json:"amr"`
	AuthTime *seconds `json:"auth_time"`

	// Confirmation is the key that the token is bound to (RFC 7800).
	Confirmation map[string]json.RawMessage `json:"cnf"`

	// What only ID tokens, refresh tokens and logout tokens carry.
	Nonce    json.RawMessage `json:"nonce"`
	AtHash   json.RawMessage `json:"at_hash"`
	CHash    json.RawMessage `json:"c_hash"`
	Events   json.RawMessage `json:"events"`
	TokenUse string          `json:"token_use"`
	Type     string          `json:"typ"`
}

// audience is one string or several (RFC 7519, section 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

// seconds is a NumericDate (RFC 7519, section 2).
type seconds float64

func (s *seconds) time() time.Time {
	if s == nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(float64(*s) * 1000))
}

func (s *seconds) sane() bool {
	return s == nil || *s >= 0 && float64(*s) < 1<<40 && !math.IsNaN(float64(*s))
}

// parsed is a token that was taken apart and not yet believed.
type parsed struct {
	jws    *jose.JSONWebSignature
	header jose.Header
	claims claims
}

// parse takes a token apart. Only the compact form is a token.
func parse(token string) (*parsed, *Error) {
	if len(token) > maxToken {
		return nil, fail(TooLarge, nil)
	}
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		if errors.As(err, new(*jose.ErrUnexpectedSignatureAlgorithm)) {
			return nil, fail(BadSignature, errors.New("signature algorithm not accepted"))
		}
		return nil, fail(Malformed, errors.New("not a signed token in compact form"))
	}
	p := &parsed{jws: jws, header: jws.Signatures[0].Protected}
	if _, critical := p.header.ExtraHeaders["crit"]; critical {
		return nil, fail(Malformed, errors.New("critical header parameter"))
	}
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &p.claims); err != nil {
		return nil, fail(Malformed, errors.New("the payload is not a set of claims"))
	}
	return p, nil
}

// checkType refuses tokens that are not access tokens (RFC 9068 says how they are marked; many issuers do not mark them).
func (p *parsed) checkType() *Error {
	typ, _ := p.header.ExtraHeaders[jose.HeaderType].(string)
	switch strings.ToLower(strings.TrimPrefix(strings.ToLower(typ), "application/")) {
	case "", "jwt", "at+jwt":
	default:
		return fail(WrongType, errors.New("type in the header"))
	}
	c := &p.claims
	switch {
	case c.Nonce != nil, c.AtHash != nil, c.CHash != nil:
		return fail(WrongType, errors.New("an ID token"))
	case c.Events != nil:
		return fail(WrongType, errors.New("a logout or security event token"))
	case c.TokenUse != "" && c.TokenUse != "access":
		return fail(WrongType, errors.New("token_use"))
	case c.Type != "" && !strings.EqualFold(c.Type, "Bearer"):
		return fail(WrongType, errors.New("typ claim"))
	}
	return nil
}

// verify checks the signature and everything that cannot change later, and returns what the token says.
func (p *parsed) verify(ctx context.Context, keys *keySet, claim string) (*verified, *Error) {
	if err := p.checkType(); err != nil {
		return nil, err
	}
	fit, err := keys.find(ctx, p.header.KeyID, jose.SignatureAlgorithm(p.header.Algorithm))
	if err != nil {
		return nil, fail(KeysUnavailable, err)
	}
	for _, k := range fit {
		if payload, err := p.jws.Verify(k.public); err == nil {
			return p.believe(k, payload, claim)
		}
	}
	if len(fit) == 0 {
		return nil, fail(BadSignature, errors.New("no key of the issuer fits"))
	}
	return nil, fail(BadSignature, nil)
}

func (p *parsed) believe(k *key, payload []byte, claim string) (*verified, *Error) {
	c := &p.claims
	if c.Expiry == nil || c.IssuedAt == nil {
		return nil, fail(Malformed, errors.New("exp or iat is missing"))
	}
	if !c.Expiry.sane() || !c.IssuedAt.sane() || !c.NotBefore.sane() || !c.AuthTime.sane() {
		return nil, fail(Malformed, errors.New("a time out of range"))
	}
	subject, err := userClaim(payload, claim)
	if err != nil {
		return nil, fail(NoSubject, err)
	}
	bound, err := boundTo(c.Confirmation)
	if err != nil {
		return nil, fail(Malformed, err)
	}
	client := c.ClientID
	for _, other := range []string{c.Cid, c.Azp, c.Appid} {
		if client == "" {
			client = other
		}
	}
	return &verified{
		key: k, issuer: c.Issuer, claim: claim, subject: subject, audience: c.Audience, clientID: client,
		tokenID: c.ID, session: c.Session,
		issuedAt: c.IssuedAt.time(), notBefore: c.NotBefore.time(), expiry: c.Expiry.time(),
		acr: c.ACR, amr: c.AMR, authTime: c.AuthTime.time(), bound: bound,
	}, nil
}

// boundTo is the thumbprint of the key to which a token is bound. One that is bound in a way that is not known here cannot be held to
// it, and is refused.
func boundTo(confirmation map[string]json.RawMessage) (string, error) {
	if confirmation == nil {
		return "", nil
	}
	var thumbprint string
	if err := json.Unmarshal(confirmation["jkt"], &thumbprint); err != nil || thumbprint == "" || len(confirmation) != 1 {
		return "", errors.New("it is bound to something else than a key of DPoP")
	}
	return thumbprint, nil
}

// userClaim returns the claim that names the person: a string that is not empty. Nothing stands in for it.
func userClaim(payload []byte, claim string) (string, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(payload, &all); err != nil {
		return "", errors.New("the payload is not a set of claims")
	}
	var s string
	if err := json.Unmarshal(all[claim], &s); err != nil || s == "" {
		return "", fmt.Errorf("claim %q is not a string with something in it", claim)
	}
	return s, nil
}
