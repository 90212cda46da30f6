package okta

import (
	"crypto/rand"
	"crypto/subtle"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// webApp is an OIDC app of the kind "web application": it has a secret, and one redirect URI that is compared to the letter.
type webApp struct {
	app
	secret, redirect string
}

func (a webApp) RedirectURIs() []string              { return []string{a.redirect} }
func (a webApp) ApplicationType() op.ApplicationType { return op.ApplicationTypeWeb }
func (a webApp) AuthMethod() oidc.AuthMethod         { return oidc.AuthMethodBasic }

// GrantTypes leave refresh tokens out: the app only wants to know who is there, and to have that said to others.
func (a webApp) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeTokenExchange}
}

// DevMode lets the redirect URI be http, on loopback.
func (a webApp) DevMode() bool { return true }

// CreateWebApp creates an OIDC web application, as an admin does in Okta's console, and returns what its owner is given.
func (o *Org) CreateWebApp(redirectURI string) (clientID, secret string) {
	a := webApp{app: app{id: identifier("0oa", redirectURI), lifetime: o.cfg.TokenLifetime}, secret: rand.Text(), redirect: redirectURI}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.webApps[a.id] = a
	return a.id, a.secret
}

// webApp returns an app by its client id.
func (o *Org) webApp(id string) (webApp, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a, ok := o.webApps[id]
	return a, ok
}

func (a webApp) holds(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(a.secret), []byte(secret)) == 1
}
