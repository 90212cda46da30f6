package okta

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// assertionType is what Cross App Access asks for: an ID-JAG, which the library does not know yet.
const assertionType oidc.TokenType = "urn:ietf:params:oauth:token-type:id-jag"

func init() { oidc.AllTokenTypes = append(oidc.AllTokenTypes, assertionType) } //nolint:gochecknoinits // the library has no other way to be told of a type

// Connect lets the org's apps reach another app's authorization server as the person who is signed in (Cross App Access), as an admin does in
// Okta's console. clientID is the app's there.
func (o *Org) Connect(authorizationServer, clientID string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.connected == nil {
		o.connected = map[string]string{}
	}
	o.connected[authorizationServer] = clientID
}

// TokenExchange vouches for a person at another authorization server: their ID token of the app for an assertion that names them there.
func (s *authorizationServer) TokenExchange(ctx context.Context, r *op.ClientRequest[oidc.TokenExchangeRequest]) (*op.Response, error) {
	if r.Data.RequestedTokenType != assertionType || r.Data.SubjectTokenType != oidc.IDTokenType || len(r.Data.Audience) != 1 {
		return nil, oidc.ErrInvalidRequest().WithDescription("an ID token is exchanged for an assertion for one audience")
	}
	subject, err := op.VerifyIDTokenHint[*oidc.IDTokenClaims](ctx, r.Data.SubjectToken, s.provider.IDTokenHintVerifier(ctx))
	if err != nil || len(subject.Audience) != 1 || subject.Audience[0] != r.Client.GetID() {
		return nil, oidc.ErrInvalidGrant().WithDescription("the ID token is none of this app's")
	}
	if _, active := s.org.active(subject.Subject); !active {
		return nil, oidc.ErrInvalidGrant().WithDescription("the person is not active")
	}
	s.org.mu.Lock()
	client, known := s.org.connected[r.Data.Audience[0]]
	s.org.mu.Unlock()
	if !known {
		return nil, oidc.ErrInvalidTarget().WithDescription("the app may not reach that authorization server")
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: s.store.key.private, KeyID: s.store.key.id}}, (&jose.SignerOptions{}).WithType("oauth-id-jag+jwt"))
	if err != nil {
		return nil, fmt.Errorf("make the signer: %w", err)
	}
	now := s.org.cfg.Now()
	assertion, err := jwt.Signed(signer).Claims(map[string]any{
		"jti": rand.Text(), "iss": s.issuer, "sub": subject.Subject, "aud": r.Data.Audience[0], "resource": r.Data.Resource, "client_id": client,
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(), "scope": r.Data.Scopes.String(),
	}).Serialize()
	if err != nil {
		return nil, fmt.Errorf("sign the assertion: %w", err)
	}
	return op.NewResponse(map[string]any{"access_token": assertion, "issued_token_type": assertionType, "token_type": "N_A", "expires_in": 300}), nil
}
