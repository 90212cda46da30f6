package authority

import (
	"context"
	"encoding/json"
	"errors"
	"io"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// store is the library's own storage, with our clients, their keys, and a provider whose tokens are exchanged.
type store struct {
	*storage.Storage
	server *Server
}

var (
	_ op.ClientCredentialsStorage           = (*store)(nil)
	_ op.TokenExchangeStorage               = (*store)(nil)
	_ op.TokenExchangeTokensVerifierStorage = (*store)(nil)
)

// GetClientByClientID knows the clients that the server was made with.
func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return client{c, s.server.clients[id]}, nil
}

// GetKeyByIDAndClientID is by what a client's assertion is checked.
func (s *store) GetKeyByIDAndClientID(_ context.Context, _, id string) (*jose.JSONWebKey, error) {
	if key := s.server.clients[id].Key; key != nil {
		return key, nil
	}
	return nil, errors.New("the client has no key")
}

// ClientCredentials checks a client's secret.
func (s *store) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	if err := s.AuthorizeClientIDSecret(ctx, id, secret); err != nil || secret == "" {
		return nil, oidc.ErrInvalidClient()
	}
	return s.GetClientByClientID(ctx, id)
}

// ClientCredentialsTokenRequest is a token of the client itself.
func (s *store) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &storage.AuthRequest{ApplicationID: id, UserID: id, Scopes: scopes}, nil
}

// VerifyExchangeSubjectToken takes ID tokens of the provider that is trusted, which are checked by its keys.
func (s *store) VerifyExchangeSubjectToken(ctx context.Context, token string, kind oidc.TokenType) (string, string, map[string]any, error) {
	trusted := s.server.trusted
	if trusted == nil || kind != oidc.IDTokenType {
		return "", "", nil, errors.New("nobody's tokens of this kind are exchanged")
	}
	provider, err := gooidc.NewProvider(ctx, trusted.Issuer)
	if err != nil {
		return "", "", nil, err
	}
	id, err := provider.Verifier(&gooidc.Config{ClientID: trusted.Audience}).Verify(ctx, token)
	if err != nil {
		return "", "", nil, err
	}
	return token, id.Subject, map[string]any{}, nil
}

// VerifyExchangeActorToken takes none.
func (s *store) VerifyExchangeActorToken(context.Context, string, oidc.TokenType) (string, string, map[string]any, error) {
	return "", "", nil, errors.New("nobody acts for another")
}

// server is the library's, where it is to do more.
type server struct {
	*op.LegacyServer
	provider *op.Provider
	of       *Server
}

// VerifyClient also lets a client ask for its own tokens that proves itself by a key.
func (s *server) VerifyClient(ctx context.Context, r *op.Request[op.ClientCredentials]) (op.Client, error) {
	if r.Data.ClientAssertionType == oidc.ClientAssertionTypeJWTAssertion {
		c, err := op.AuthorizePrivateJWTKey(ctx, r.Data.ClientAssertion, s.provider)
		if err != nil {
			return nil, oidc.ErrInvalidClient().WithParent(err)
		}
		return c, nil
	}
	return s.LegacyServer.VerifyClient(ctx, r)
}

// JWTProfile takes what the trusted provider says of a person for this server (ID-JAG).
func (s *server) JWTProfile(ctx context.Context, r *op.Request[oidc.JWTProfileGrantRequest]) (*op.Response, error) {
	trusted := s.of.trusted
	if trusted == nil {
		return nil, oidc.ErrUnsupportedGrantType()
	}
	parsed, err := jose.ParseSignedCompact(r.Data.Assertion, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(parsed.Signatures) != 1 || parsed.Signatures[0].Header.ExtraHeaders["typ"] != "oauth-id-jag+jwt" {
		return nil, oidc.ErrInvalidGrant().WithDescription("this is no assertion of a person")
	}
	provider, err := gooidc.NewProvider(ctx, trusted.Issuer)
	if err != nil {
		return nil, oidc.ErrServerError().WithParent(err)
	}
	said, err := provider.Verifier(&gooidc.Config{ClientID: s.of.URL}).Verify(ctx, r.Data.Assertion)
	if err != nil {
		return nil, oidc.ErrInvalidGrant().WithParent(err)
	}
	var claims struct {
		Client string `json:"client_id"`
	}
	if err := said.Claims(&claims); err != nil {
		return nil, oidc.ErrInvalidGrant().WithParent(err)
	}
	c, err := s.of.store.GetClientByClientID(ctx, claims.Client)
	if err != nil {
		return nil, oidc.ErrInvalidGrant().WithDescription("the assertion is for another client")
	}
	res, err := op.CreateClientCredentialsTokenResponse(ctx, &storage.AuthRequest{ApplicationID: claims.Client, UserID: said.Subject, Scopes: r.Data.Scope}, s.provider, c)
	if err != nil {
		return nil, err
	}
	return op.NewResponse(res), nil
}

func decode(r io.Reader, into any) error {
	return json.NewDecoder(io.LimitReader(r, 1<<20)).Decode(into)
}
