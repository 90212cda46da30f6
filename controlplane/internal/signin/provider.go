package signin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

const (
	providerTimeout = 10 * time.Second
	// discoveredFor is how long a provider's metadata and keys count without another look.
	discoveredFor = 30 * time.Second
	// reachedFor is how long ago the look may be before a browser is sent there: where the provider cannot be reached, the browser
	// would show an error of its own, which tells nobody what to do. So many people at once are one look.
	reachedFor  = time.Second
	maxDocument = 1 << 20
)

// algorithms are those with which an ID token may be signed: never none, never a shared secret.
var algorithms = []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}

// provider is an OpenID provider as it was discovered.
type provider struct {
	*oidc.Provider
	metadata struct {
		AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
		SendsIssuer bool     `json:"authorization_response_iss_parameter_supported"`
		Revocation  string   `json:"revocation_endpoint"`
	}
	document json.RawMessage
	// at is when it was discovered, reached when it last said the same.
	at, reached time.Time
}

// providers are those that were discovered, by issuer.
type providers struct {
	client *http.Client
	now    func() time.Time
	looks  *singleflight.Group
	mu     *sync.Mutex
	known  map[string]*provider
}

func newProviders(client *http.Client, now func() time.Time) providers {
	return providers{client: client, now: now, looks: new(singleflight.Group), mu: new(sync.Mutex), known: map[string]*provider{}}
}

// get returns a provider that could be reached within so long. Where it cannot, what was known of it is returned with the error.
func (p *providers) get(ctx context.Context, issuer string, within time.Duration) (*provider, error) {
	p.mu.Lock()
	known := p.known[issuer]
	p.mu.Unlock()
	now := p.now()
	if known != nil && now.Sub(known.reached).Abs() < within && now.Sub(known.at).Abs() < discoveredFor {
		return known, nil
	}
	// Whoever else looks now is answered with this look, which outlives the request that was the first to need it.
	found, err, _ := p.looks.Do(issuer, func() (any, error) { return p.discover(context.WithoutCancel(ctx), issuer, known) })
	if err != nil {
		return known, err
	}
	return found.(*provider), nil
}

// discover looks at a provider's metadata. What says the same as not long ago keeps its keys.
func (p *providers) discover(ctx context.Context, issuer string, known *provider) (*provider, error) {
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), issuer)
	if err != nil {
		return nil, fmt.Errorf("discovering the provider: %.300w", err)
	}
	now := p.now()
	fresh := &provider{Provider: found, at: now, reached: now}
	if err := errors.Join(found.Claims(&fresh.metadata), found.Claims(&fresh.document)); err != nil {
		return nil, fmt.Errorf("reading the provider's metadata: %w", err)
	}
	if known != nil && now.Sub(known.at).Abs() < discoveredFor && bytes.Equal(known.document, fresh.document) {
		again := *known
		again.reached = now
		fresh = &again
	}
	ends := []string{found.Endpoint().AuthURL, found.Endpoint().TokenURL}
	if fresh.metadata.Revocation != "" {
		ends = append(ends, fresh.metadata.Revocation)
	}
	for _, at := range ends {
		if u, err := url.Parse(at); err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
			return nil, errors.New("the provider's endpoints are not https URLs")
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.known[issuer] = fresh
	return fresh, nil
}

// client is a directory's client at its provider. Without a secret it is a public one.
func (s *Server) client(p *provider, d *policyv1.Directory, secret string) *oauth2.Config {
	endpoint := p.Endpoint()
	// It is said here and not found out by trying, which would show a code twice.
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	methods := p.metadata.AuthMethods
	if secret == "" || slices.Contains(methods, "client_secret_post") && !slices.Contains(methods, "client_secret_basic") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	in := d.GetSignIn()
	scopes := []string{oidc.ScopeOpenID}
	for _, scope := range in.GetScopes() {
		if !slices.Contains(scopes, scope) {
			scopes = append(scopes, scope)
		}
	}
	return &oauth2.Config{ClientID: in.GetClientId(), ClientSecret: secret, Endpoint: endpoint, RedirectURL: s.RedirectURI(d.GetId()), Scopes: scopes}
}

// newClient returns a client for talking to identity providers: answers are bounded, and a redirect stays with its host.
func newClient() *http.Client {
	return &http.Client{
		Transport: boundedTransport{http.DefaultTransport},
		Timeout:   providerTimeout,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if first := via[0].URL; len(via) > 3 || req.URL.Scheme != first.Scheme || req.URL.Host != first.Host {
				return errors.New("a redirect away from the provider is not followed")
			}
			return nil
		},
	}
}

type boundedTransport struct{ base http.RoundTripper }

func (t boundedTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, maxDocument), resp.Body}
	return resp, nil
}
