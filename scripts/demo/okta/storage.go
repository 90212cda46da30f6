package okta

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

const (
	// requestLifetime is how long a sign-in may take.
	requestLifetime = 10 * time.Minute
	codeLifetime    = time.Minute
	// maxPending bounds sign-ins that were begun and not finished.
	maxPending = 10_000
)

var errUnsupported = errors.New("this app does not use that grant")

// storage keeps what sign-in needs between its steps: requests, codes, refresh tokens, the signing key.
type storage struct {
	org *Org
	app app
	key signingKey

	mu       sync.Mutex // guards what follows
	requests map[string]*authRequest
	codes    map[string]code
	refresh  map[string]*authRequest
}

type code struct {
	requestID string
	expires   time.Time
}

var (
	_ op.Storage                   = (*storage)(nil)
	_ op.CanSetUserinfoFromRequest = (*storage)(nil)
)

func newStorage(o *Org) (*storage, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("make the signing key: %w", err)
	}
	return &storage{
		org:      o,
		app:      app{id: o.cfg.ClientID, lifetime: o.cfg.TokenLifetime},
		key:      signingKey{id: rand.Text(), private: key},
		requests: map[string]*authRequest{},
		codes:    map[string]code{},
		refresh:  map[string]*authRequest{},
	}, nil
}

// CreateAuthRequest stores a sign-in that begins. Without PKCE there is none, for no client.
func (s *storage) CreateAuthRequest(_ context.Context, r *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if r.CodeChallenge == "" || r.CodeChallengeMethod != oidc.CodeChallengeMethodS256 {
		return nil, oidc.ErrInvalidRequest().WithDescription("PKCE code challenge with method S256 is required")
	}
	if slices.Contains(r.Prompt, oidc.PromptNone) {
		return nil, oidc.ErrLoginRequired()
	}
	now := s.org.cfg.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, old := range s.requests {
		if now.After(old.expires) {
			delete(s.requests, id)
		}
	}
	if len(s.requests) >= maxPending {
		return nil, oidc.ErrServerError().WithDescription("too many sign-ins are pending")
	}
	req := &authRequest{id: rand.Text(), from: *r, expires: now.Add(requestLifetime)}
	s.requests[req.id] = req
	return req, nil
}

// AuthRequestByID finds a sign-in that is under way.
func (s *storage) AuthRequestByID(_ context.Context, id string) (op.AuthRequest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests[id]
	if r == nil || s.org.cfg.Now().After(r.expires) {
		return nil, errors.New("the sign-in is unknown or took too long")
	}
	return r.snapshot(), nil
}

// AuthRequestByCode redeems a code: it works once, soon, and for a person who is still active.
func (s *storage) AuthRequestByCode(_ context.Context, value string) (op.AuthRequest, error) {
	s.mu.Lock()
	c, ok := s.codes[value]
	delete(s.codes, value)
	r := s.requests[c.requestID]
	delete(s.requests, c.requestID)
	s.mu.Unlock()
	if !ok || r == nil || s.org.cfg.Now().After(c.expires) {
		return nil, errors.New("the code is unknown, used or expired")
	}
	if _, active := s.org.active(r.userID); !active {
		return nil, errors.New("the person is not active")
	}
	return r, nil
}

// SaveAuthCode stores the code of a finished sign-in.
func (s *storage) SaveAuthCode(_ context.Context, id, value string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[value] = code{requestID: id, expires: s.org.cfg.Now().Add(codeLifetime)}
	return nil
}

// DeleteAuthRequest forgets a sign-in.
func (s *storage) DeleteAuthRequest(_ context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.requests, id)
	return nil
}

// signIn marks a request as signed in, or says no; it does not say why, as a login page should not.
func (s *storage) signIn(requestID, login, password string) bool {
	id, ok := s.org.authenticate(login, password)
	if !ok {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.requests[requestID]
	if r == nil {
		return false
	}
	r.userID, r.authTime, r.done = id, s.org.cfg.Now(), true
	return true
}

// newRefreshToken stores what a refresh token stands for.
func (s *storage) newRefreshToken(r *authRequest) string {
	token := rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh[token] = r
	return token
}

// TokenRequestByRefreshToken redeems a refresh token; it is rotated, so it works once.
func (s *storage) TokenRequestByRefreshToken(_ context.Context, token string) (op.RefreshTokenRequest, error) {
	s.mu.Lock()
	r := s.refresh[token]
	delete(s.refresh, token)
	s.mu.Unlock()
	if r == nil {
		return nil, op.ErrInvalidRefreshToken
	}
	if _, active := s.org.active(r.userID); !active {
		return nil, errors.New("the person is not active")
	}
	return r, nil
}

// GetRefreshTokenInfo says whose a refresh token is.
func (s *storage) GetRefreshTokenInfo(_ context.Context, _, token string) (string, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.refresh[token]
	if r == nil {
		return "", "", op.ErrInvalidRefreshToken
	}
	return r.userID, token, nil
}

// RevokeToken forgets a refresh token. Access tokens are not kept, so they cannot be taken back.
func (s *storage) RevokeToken(_ context.Context, token, _, _ string) *oidc.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refresh, token)
	return nil
}

// TerminateSession forgets a person's refresh tokens.
func (s *storage) TerminateSession(_ context.Context, userID, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for token, r := range s.refresh {
		if r.userID == userID {
			delete(s.refresh, token)
		}
	}
	return nil
}

// CreateAccessToken belongs to grants that this app does not use; see authorizationServer for those that it does.
func (s *storage) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return "", time.Time{}, errUnsupported
}

// CreateAccessAndRefreshTokens belongs to grants that this app does not use.
func (s *storage) CreateAccessAndRefreshTokens(context.Context, op.TokenRequest, string) (string, string, time.Time, error) {
	return "", "", time.Time{}, errUnsupported
}

// SigningKey signs ID tokens and access tokens.
func (s *storage) SigningKey(context.Context) (op.SigningKey, error) { return s.key, nil }

// SignatureAlgorithms is RS256, as at Okta.
func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.RS256}, nil
}

// KeySet is what the keys endpoint shows.
func (s *storage) KeySet(context.Context) ([]op.Key, error) { return []op.Key{publicKey{s.key}}, nil }

// GetClientByClientID knows the native app and the web applications.
func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if web, ok := s.org.webApp(id); ok {
		return web, nil
	}
	if id != s.app.id {
		return nil, errors.New("unknown client")
	}
	return s.app, nil
}

// AuthorizeClientIDSecret knows the secrets of web applications; the native app has none.
func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if web, ok := s.org.webApp(id); !ok || !web.holds(secret) {
		return errors.New("the client's secret is another")
	}
	return nil
}

// SetUserinfoFromScopes is the form that the library left behind; see SetUserinfoFromRequest.
func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil
}

// SetUserinfoFromRequest fills an ID token: `sub` is the unchanging user id.
func (s *storage) SetUserinfoFromRequest(_ context.Context, info *oidc.UserInfo, r op.IDTokenRequest, scopes []string) error {
	return s.userinfo(info, r.GetSubject(), scopes)
}

// SetUserinfoFromToken belongs to the userinfo endpoint for opaque tokens, which this server does not issue.
func (s *storage) SetUserinfoFromToken(context.Context, *oidc.UserInfo, string, string, string) error {
	return errUnsupported
}

// SetIntrospectionFromToken needs a confidential client, and there is none.
func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return errUnsupported
}

// GetPrivateClaimsFromScopes belongs to access tokens that the library makes; see authorizationServer.
func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil
}

// GetKeyByIDAndClientID belongs to clients with keys, and there is none.
func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, errUnsupported
}

// ValidateJWTProfileScopes belongs to the JWT bearer grant.
func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, errUnsupported
}

// Health is always good: everything is in memory.
func (s *storage) Health(context.Context) error { return nil }

func (s *storage) userinfo(info *oidc.UserInfo, userID string, scopes []string) error {
	p, ok := s.org.active(userID)
	if !ok {
		return errors.New("the person is not active")
	}
	info.Subject = userID
	if slices.Contains(scopes, oidc.ScopeProfile) {
		info.Name, info.GivenName, info.FamilyName, info.PreferredUsername = p.DisplayName(), p.GivenName, p.FamilyName, p.Login
	}
	if slices.Contains(scopes, oidc.ScopeEmail) {
		info.Email, info.EmailVerified = p.Login, true
	}
	return nil
}

type signingKey struct {
	id      string
	private *rsa.PrivateKey
}

func (k signingKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k signingKey) Key() any                                    { return k.private }
func (k signingKey) ID() string                                  { return k.id }

type publicKey struct{ signingKey }

func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.RS256 }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return k.private.Public() }
