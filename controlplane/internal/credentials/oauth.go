package credentials

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
	"golang.org/x/oauth2"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/egress"

	"sallyport.dev/controlplane/internal/core"
)

// clients speak to authorization servers, at addresses that a connector allows.
type clients struct {
	mu sync.Mutex
	by map[string]*http.Client
}

// http returns the client for a connector's ranges. No redirect is followed: requests hold secrets.
func (c *clients) http(connector *policyv1.Connector) (*http.Client, error) {
	key := strings.Join(connector.GetAllowedRanges(), ",")
	c.mu.Lock()
	defer c.mu.Unlock()
	if found := c.by[key]; found != nil {
		return found, nil
	}
	guard, err := egress.New(connector.GetAllowedRanges()...)
	if err != nil {
		return nil, err
	}
	if c.by == nil {
		c.by = map[string]*http.Client{}
	}
	c.by[key] = guard.Client(0)
	return c.by[key], nil
}

// client is the gateway as a client of an upstream's authorization server.
type client struct {
	id     string
	secret string
	// key signs assertions in place of a secret.
	key *jose.JSONWebKey
}

// clientOf is the client that a connector's settings say.
func clientOf(a *policyv1.UpstreamAuth) *policyv1.UpstreamClient {
	switch k := a.GetKind().(type) {
	case *policyv1.UpstreamAuth_Oauth:
		return k.Oauth.GetClient()
	case *policyv1.UpstreamAuth_ServiceAccount:
		return k.ServiceAccount.GetClient()
	case *policyv1.UpstreamAuth_TokenExchange:
		return k.TokenExchange.GetClient()
	case *policyv1.UpstreamAuth_IdentityAssertion:
		return k.IdentityAssertion.GetClient()
	}
	return nil
}

// overridesOf is what a connector's settings say of its authorization server.
func overridesOf(a *policyv1.UpstreamAuth) *policyv1.UpstreamAuthorizationServer {
	switch k := a.GetKind().(type) {
	case *policyv1.UpstreamAuth_Oauth:
		return k.Oauth.GetServer()
	case *policyv1.UpstreamAuth_ServiceAccount:
		return k.ServiceAccount.GetServer()
	case *policyv1.UpstreamAuth_TokenExchange:
		return k.TokenExchange.GetServer()
	case *policyv1.UpstreamAuth_IdentityAssertion:
		return k.IdentityAssertion.GetServer()
	}
	return nil
}

// client returns the client of a connector: the one that was given, or the one that names itself by a document or registers itself.
func (k *Keeper) client(ctx context.Context, connector *core.Connector) (client, error) {
	id := connector.Settings.GetId()
	var secret string
	for c := range k.Engine.State().CredentialsOf(core.Shared, id) {
		if c.Kind != policyv1.CredentialKind_CREDENTIAL_KIND_KEY {
			continue
		}
		var err error
		if secret, err = k.keyValue(ctx, c); err != nil {
			return client{}, fmt.Errorf("reading the secret of a client: %w", err)
		}
		break
	}
	cl, found, err := readClient(connector.Settings, secret, k.Now())
	if err != nil || found {
		return cl, err
	}
	switch server := connector.Server; {
	case k.namesItself(connector.Settings, server):
		return client{id: k.documentURL(id)}, nil
	case server.GetRegistrationEndpoint() != "" && connector.Settings.GetAuth().GetOauth() != nil:
		return k.register(ctx, connector)
	}
	return client{}, refuse("the gateway is no client of the authorization server of connector %q, and cannot become one by itself: register one there with the redirect URI %s, name it under auth.client.id, and set its secret with sallyport secrets set --connector %s", id, k.redirectURI(id), id)
}

// readClient reads the client that settings and the connector's secret make.
func readClient(settings *policyv1.Connector, secret string, now time.Time) (cl client, found bool, err error) {
	given := clientOf(settings.GetAuth())
	if given.GetId() == "" {
		var r registered
		_ = json.Unmarshal([]byte(secret), &r) // none, or one that is no client's: there is no id
		if r.ID == "" || r.Ends != 0 && now.Unix() >= r.Ends {
			return client{}, false, nil
		}
		return client{id: r.ID, secret: r.Secret}, true, nil
	}
	cl = client{id: given.GetId(), secret: secret}
	if given.GetAuthentication() != policyv1.ClientAuthentication_CLIENT_AUTHENTICATION_PRIVATE_KEY_JWT {
		return cl, true, nil
	}
	if secret == "" {
		return cl, true, refuse("connector %q has no private key to sign with: set one with sallyport secrets set --connector %s", settings.GetId(), settings.GetId())
	}
	cl.secret = ""
	cl.key, err = privateKey([]byte(secret))
	return cl, true, err
}

// privateKey reads a private JSON Web Key or PEM. Its error quotes nothing.
func privateKey(data []byte) (*jose.JSONWebKey, error) {
	key := &jose.JSONWebKey{}
	if block, _ := pem.Decode(data); block != nil {
		parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, refuse("the connector's private key is PEM, but no PKCS #8 key")
		}
		key.Key = parsed
	} else if key.UnmarshalJSON(data) != nil {
		return nil, refuse("the connector's secret is neither a private JSON Web Key nor a PEM key")
	}
	if key.IsPublic() || !key.Valid() {
		return nil, refuse("the connector's secret is no private key that can be used")
	}
	if key.Algorithm == "" {
		key.Algorithm = string(algorithmFor(key.Key))
	}
	return key, nil
}

func algorithmFor(key crypto.PrivateKey) jose.SignatureAlgorithm {
	switch key := key.(type) {
	case ed25519.PrivateKey:
		return jose.EdDSA
	case *ecdsa.PrivateKey:
		switch key.Curve.Params().BitSize {
		case 384:
			return jose.ES384
		case 521:
			return jose.ES512
		}
		return jose.ES256
	case *rsa.PrivateKey:
		return jose.RS256
	}
	return ""
}

// clocksDiffer is how far the clocks of the gateway and an authorization server may be apart.
const clocksDiffer = 2 * time.Minute

// assertion proves who the client is (RFC 7523, section 2.2).
func (c client) assertion(audience string, now time.Time) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(c.key.Algorithm), Key: *c.key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", refuse("the connector's private key cannot sign")
	}
	return jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: c.id, Subject: c.id, Audience: jwt.Audience{audience}, ID: uuid.NewString(),
		IssuedAt: jwt.NewNumericDate(now.Add(-clocksDiffer)), Expiry: jwt.NewNumericDate(now.Add(2 * clocksDiffer)),
	}).Serialize()
}

// refusedError is an authorization server's refusal.
type refusedError struct{ code string }

func (e *refusedError) Error() string { return "the authorization server says " + e.code }

func isRefused(err error) bool {
	var refused *refusedError
	return errors.As(err, &refused)
}

// oauthError makes of an error of a token request one that quotes nothing: errAgain for invalid_grant, a refusedError for what it makes no
// sense to try again.
func oauthError(err error) error {
	var answered *oauth2.RetrieveError
	if !errors.As(err, &answered) {
		if errors.Is(err, egress.ErrRefused) {
			return refuse("the authorization server was not asked: %v; if it is meant to be there, allow the range with allowedRanges in the connector's YAML", egress.ErrRefused)
		}
		return errors.New("the authorization server did not answer as it should")
	}
	code := word(answered.ErrorCode)
	switch {
	case code == "invalid_grant":
		return fmt.Errorf("%w: invalid_grant", errAgain)
	case answered.Response != nil && (answered.Response.StatusCode >= 500 || answered.Response.StatusCode == http.StatusTooManyRequests), code == "temporarily_unavailable", code == "server_error", code == "slow_down":
		return fmt.Errorf("the authorization server cannot answer now (HTTP status %d)", answered.Response.StatusCode)
	case code == "" && answered.Response != nil:
		return &refusedError{fmt.Sprintf("HTTP status %d", answered.Response.StatusCode)}
	}
	return &refusedError{code}
}

// word is an error code from outside, if it is one that can be shown.
func word(code string) string {
	if len(code) > 64 || strings.Trim(code, "abcdefghijklmnopqrstuvwxyz_") != "" {
		return ""
	}
	return code
}

// request asks the pinned token endpoint for tokens.
func (k *Keeper) request(ctx context.Context, connector *core.Connector, cl client, form url.Values) (tokens, error) {
	web, err := k.clients.http(connector.Settings)
	if err != nil {
		return tokens{}, err
	}
	server := connector.Server
	config := oauth2.Config{ClientID: cl.id, ClientSecret: cl.secret, Endpoint: oauth2.Endpoint{TokenURL: server.GetTokenEndpoint(), AuthStyle: authStyle(cl, server)}}
	var options []oauth2.AuthCodeOption
	for name, values := range form {
		options = append(options, oauth2.SetAuthURLParam(name, values[0]))
	}
	began := k.Now()
	if cl.key != nil {
		audience := server.GetIssuer()
		if audience == "" {
			audience = server.GetTokenEndpoint()
		}
		signed, err := cl.assertion(audience, began)
		if err != nil {
			return tokens{}, err
		}
		options = append(options, oauth2.SetAuthURLParam("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"), oauth2.SetAuthURLParam("client_assertion", signed))
	}
	given, err := config.Exchange(context.WithValue(ctx, oauth2.HTTPClient, web), form.Get("code"), options...)
	if err != nil {
		return tokens{}, oauthError(err)
	}
	if !strings.EqualFold(given.Type(), "Bearer") || !sendable(given.AccessToken) {
		return tokens{}, errors.New("the authorization server gave a token that cannot be sent")
	}
	t := tokens{Access: given.AccessToken, Refresh: given.RefreshToken, Since: began, Client: cl.id}
	if given.ExpiresIn > 0 { // counted here, from before it was asked: whatever the two clocks say
		t.Expires = began.Add(time.Duration(min(given.ExpiresIn, 10*365*24*3600)) * time.Second)
	}
	scope, _ := given.Extra("scope").(string)
	if scope == "" {
		scope = form.Get("scope")
	}
	t.Scopes = strings.FieldsFunc(scope, func(r rune) bool { return r == ' ' || r == ',' })
	if len(t.Scopes) == 0 {
		t.Scopes = nil
	}
	return t, nil
}

// authStyle is how the client shows its secret: as the server says it wants it, and never found out by trying, which would show a code twice.
func authStyle(cl client, server *policyv1.UpstreamAuthorizationServer) oauth2.AuthStyle {
	known := server.GetTokenAuthMethods()
	if cl.secret == "" || slices.Contains(known, "client_secret_post") && !slices.Contains(known, "client_secret_basic") {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

// sendable tells whether a token can stand in a header (RFC 6750, b64token, and what some servers add).
func sendable(token string) bool {
	return token != "" && len(token) <= 16<<10 && strings.IndexFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) < 0
}

// resourceOf is what tokens of a connector are asked for (RFC 8707).
func resourceOf(connector *core.Connector) string {
	if r := connector.Server.GetResource(); r != "" {
		return r
	}
	u, err := url.Parse(connector.Settings.GetUrl())
	if err != nil {
		return ""
	}
	u.RawQuery, u.Fragment = "", ""
	return u.String()
}

// withResource names it, save to servers of before MCP, which an admin described.
func withResource(form url.Values, connector *core.Connector) url.Values {
	if connector.Server.GetResource() != "" || overridesOf(connector.Settings.GetAuth()).GetTokenEndpoint() == "" {
		form.Set("resource", resourceOf(connector))
	}
	return form
}
