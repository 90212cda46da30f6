package okta

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// authorizationServer issues tokens as an Okta custom authorization server does. The library's own access tokens share
// their subject with the ID token; Okta's do not, so the token endpoint is ours and the rest is the library's.
type authorizationServer struct {
	*op.LegacyServer
	provider *op.Provider
	org      *Org
	store    *storage
	issuer   string
}

// accessClaims is the payload of a custom server's access token.
type accessClaims struct {
	Version  int      `json:"ver"`
	ID       string   `json:"jti"`
	Issuer   string   `json:"iss"`
	Audience string   `json:"aud"`
	IssuedAt int64    `json:"iat"`
	Expires  int64    `json:"exp"`
	ClientID string   `json:"cid"`
	UserID   string   `json:"uid"`
	Scopes   []string `json:"scp"`
	AuthTime int64    `json:"auth_time"`
	Subject  string   `json:"sub"`
}

// tokenResponse has `scope` as RFC 6749 wants it: one string.
type tokenResponse struct {
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	AccessToken  string `json:"access_token"`
	Scope        string `json:"scope"`
	RefreshToken string `json:"refresh_token,omitempty"`
	IDToken      string `json:"id_token"`
}

// CodeExchange redeems an authorization code.
func (s *authorizationServer) CodeExchange(ctx context.Context, r *op.ClientRequest[oidc.AccessTokenRequest]) (*op.Response, error) {
	found, err := op.AuthRequestByCode(ctx, s.store, r.Data.Code)
	if err != nil {
		return nil, err
	}
	req, ok := found.(*authRequest)
	if !ok {
		return nil, oidc.ErrServerError()
	}
	if err := op.AuthorizeCodeChallenge(r.Data.CodeVerifier, req.GetCodeChallenge()); err != nil {
		return nil, err
	}
	if r.Client.GetID() != req.GetClientID() || r.Data.RedirectURI != req.GetRedirectURI() {
		return nil, oidc.ErrInvalidGrant().WithDescription("the code was issued to another client or redirect_uri")
	}
	return s.issue(ctx, r.Client, req, r.Data.Code)
}

// RefreshToken redeems and rotates a refresh token.
func (s *authorizationServer) RefreshToken(ctx context.Context, r *op.ClientRequest[oidc.RefreshTokenRequest]) (*op.Response, error) {
	found, err := op.RefreshTokenRequestByRefreshToken(ctx, s.store, r.Data.RefreshToken)
	if err != nil {
		return nil, err
	}
	req, ok := found.(*authRequest)
	if !ok || r.Client.GetID() != req.GetClientID() {
		return nil, oidc.ErrInvalidGrant()
	}
	if err := op.ValidateRefreshTokenScopes(r.Data.Scopes, req); err != nil {
		return nil, err
	}
	return s.issue(ctx, r.Client, req, "")
}

func (s *authorizationServer) issue(ctx context.Context, client op.Client, req *authRequest, code string) (*op.Response, error) {
	profile, ok := s.org.active(req.userID)
	if !ok {
		return nil, oidc.ErrInvalidGrant().WithDescription("the person is not active")
	}
	lifetime := s.org.cfg.TokenLifetime
	access, err := s.accessToken(req, profile, s.org.cfg.Now(), lifetime)
	if err != nil {
		return nil, err
	}
	id, err := op.CreateIDToken(ctx, s.issuer, req, client.IDTokenLifetime(), access, code, s.store, client)
	if err != nil {
		return nil, fmt.Errorf("make the ID token: %w", err)
	}
	resp := tokenResponse{
		TokenType:   oidc.BearerToken,
		ExpiresIn:   int64(lifetime / time.Second),
		AccessToken: access,
		Scope:       oidc.SpaceDelimitedArray(req.GetScopes()).String(),
		IDToken:     id,
	}
	if slices.Contains(req.GetScopes(), oidc.ScopeOfflineAccess) {
		resp.RefreshToken = s.store.newRefreshToken(req)
	}
	return op.NewResponse(resp), nil
}

// accessToken signs with a header of kid and alg only: Okta's custom servers send no typ.
func (s *authorizationServer) accessToken(req *authRequest, p Profile, now time.Time, lifetime time.Duration) (string, error) {
	payload, err := json.Marshal(accessClaims{
		Version:  1,
		ID:       "AT." + rand.Text(),
		Issuer:   s.issuer,
		Audience: s.org.cfg.Audience,
		IssuedAt: now.Unix(),
		Expires:  now.Add(lifetime).Unix(),
		ClientID: req.GetClientID(),
		UserID:   req.userID,
		Scopes:   req.GetScopes(),
		AuthTime: req.authTime.Unix(),
		Subject:  p.Login,
	})
	if err != nil {
		return "", fmt.Errorf("encode the access token: %w", err)
	}
	key := jose.JSONWebKey{Key: s.store.key.private, KeyID: s.store.key.id}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, nil)
	if err != nil {
		return "", fmt.Errorf("make the signer: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign the access token: %w", err)
	}
	return signed.CompactSerialize()
}
