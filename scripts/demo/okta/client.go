package okta

import (
	"net/url"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

var scopes = []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, oidc.ScopeOfflineAccess}

// app is the org's OIDC app for programs on desks: native and public, so that PKCE is what authenticates it.
type app struct {
	id       string
	lifetime time.Duration
}

var _ op.Client = app{}

func (a app) GetID() string { return a.id }

// RedirectURIs are matched without their port, since a native app picks a free one (RFC 8252, section 7.3).
func (a app) RedirectURIs() []string {
	return []string{"http://127.0.0.1" + RedirectPath, "http://[::1]" + RedirectPath, "http://localhost" + RedirectPath}
}

func (a app) PostLogoutRedirectURIs() []string    { return nil }
func (a app) ApplicationType() op.ApplicationType { return op.ApplicationTypeNative }
func (a app) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodNone }
func (a app) ResponseTypes() []oidc.ResponseType  { return []oidc.ResponseType{oidc.ResponseTypeCode} }

func (a app) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}

func (a app) LoginURL(requestID string) string    { return "/login?request=" + url.QueryEscape(requestID) }
func (a app) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }
func (a app) IDTokenLifetime() time.Duration      { return a.lifetime }
func (a app) DevMode() bool                       { return false }

func (a app) RestrictAdditionalIdTokenScopes() func([]string) []string {
	return func(s []string) []string { return s }
}

func (a app) RestrictAdditionalAccessTokenScopes() func([]string) []string {
	return func(s []string) []string { return s }
}

func (a app) IsScopeAllowed(scope string) bool     { return slices.Contains(scopes, scope) }
func (a app) IDTokenUserinfoClaimsAssertion() bool { return true }
func (a app) ClockSkew() time.Duration             { return 0 }
