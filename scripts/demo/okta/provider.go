package okta

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"

	"github.com/zitadel/oidc/v3/pkg/op"
	"golang.org/x/text/language"
)

const (
	// DefaultClientID is the sign-in app's client id unless Config names another.
	DefaultClientID = "0oasallyportdemo00x7"
	// IssuerPath is where the custom authorization server lives below the org's URL.
	IssuerPath = "/oauth2/default"
	// RedirectPath is the path of the app's loopback redirect, at 127.0.0.1, [::1] or localhost, with any port.
	RedirectPath = "/callback"
)

// Handler returns the org's web face: the custom authorization server below IssuerPath, the login page, and the control
// API. baseURL is where the handler is reached, such as http://127.0.0.1:8080.
func (o *Org) Handler(baseURL string) (http.Handler, error) {
	issuer := baseURL + IssuerPath
	store, err := newStorage(o)
	if err != nil {
		return nil, err
	}
	provider, err := newProvider(issuer, store)
	if err != nil {
		return nil, err
	}
	server := &authorizationServer{LegacyServer: op.NewLegacyServer(provider, endpoints()), provider: provider, org: o, store: store, issuer: issuer}
	oidcHandler := op.RegisterLegacyServer(server, op.AuthorizeCallbackHandler(provider))

	o.mu.Lock()
	o.baseURL, o.key = baseURL, store.key
	o.mu.Unlock()

	mux := http.NewServeMux()
	mux.Handle(IssuerPath+"/", http.StripPrefix(IssuerPath, oidcHandler))
	// Okta serves the same document under the OAuth name too.
	mux.Handle("GET "+IssuerPath+"/.well-known/oauth-authorization-server", metadataAlias(oidcHandler))
	page := &loginPage{store: store, callback: func(ctx context.Context, id string) string {
		return op.AuthCallbackURL(provider)(op.ContextWithIssuer(ctx, issuer), id)
	}}
	mux.HandleFunc("GET /login", page.show)
	mux.HandleFunc("POST /login", page.submit)
	mux.Handle("/control/", o.controlHandler())
	mux.Handle("/api/", o.apiHandler(baseURL))
	return mux, nil
}

func metadataAlias(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r2 := r.Clone(r.Context())
		r2.URL.Path = "/.well-known/openid-configuration"
		next.ServeHTTP(w, r2)
	})
}

func endpoints() op.Endpoints {
	return op.Endpoints{
		Authorization: op.NewEndpoint("/v1/authorize"),
		Token:         op.NewEndpoint("/v1/token"),
		Introspection: op.NewEndpoint("/v1/introspect"),
		Userinfo:      op.NewEndpoint("/v1/userinfo"),
		Revocation:    op.NewEndpoint("/v1/revoke"),
		EndSession:    op.NewEndpoint("/v1/logout"),
		JwksURI:       op.NewEndpoint("/v1/keys"),
	}
}

func newProvider(issuer string, store *storage) (*op.Provider, error) {
	e := endpoints()
	cfg := &op.Config{
		CodeMethodS256:        true,
		GrantTypeRefreshToken: true,
		SupportedUILocales:    []language.Tag{language.English},
		SupportedScopes:       scopes,
	}
	if _, err := rand.Read(cfg.CryptoKey[:]); err != nil {
		return nil, fmt.Errorf("make the code key: %w", err)
	}
	provider, err := op.NewProvider(cfg, store, op.StaticIssuer(issuer),
		op.WithAllowInsecure(), // loopback, without TLS
		op.WithCustomEndpoints(e.Authorization, e.Token, e.Userinfo, e.Revocation, e.EndSession, e.JwksURI),
		op.WithCustomIntrospectionEndpoint(e.Introspection),
	)
	if err != nil {
		return nil, fmt.Errorf("make the OpenID provider: %w", err)
	}
	return provider, nil
}
