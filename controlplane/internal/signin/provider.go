package signin

import (
	"context"
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
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

const (
	providerTimeout = 10 * time.Second
	// discoveredFor is how long a provider's metadata count without another look. It is short, since the look is also
	// how it is known that the provider can be reached before a browser is sent there.
	discoveredFor = 30 * time.Second
	maxDocument   = 1 << 20
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
	at time.Time
}

// providers are those that were discovered, by issuer.
type providers struct {
	client *http.Client
	now    func() time.Time
	mu     *sync.Mutex
	known  map[string]*provider
}

func newProviders(client *http.Client, now func() time.Time) providers {
	return providers{client: client, now: now, mu: new(sync.Mutex), known: map[string]*provider{}}
}

// get returns a provider that could be reached just now. Where it cannot, what was known of it is returned with the error.
func (p *providers) get(ctx context.Context, issuer string) (*provider, error) {
	p.mu.Lock()
	known := p.known[issuer]
	p.mu.Unlock()
	if known != nil && p.now().Sub(known.at).Abs() < discoveredFor {
		return known, nil
	}
	// The key set outlives the request that was the first to need it.
	found, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), p.client), issuer)
	if err != nil {
		return known, fmt.Errorf("discovering the provider: %.300w", err)
	}
	fresh := &provider{Provider: found, at: p.now()}
	if err := found.Claims(&fresh.metadata); err != nil {
		return known, fmt.Errorf("reading the provider's metadata: %w", err)
	}
	ends := []string{found.Endpoint().AuthURL, found.Endpoint().TokenURL}
	if fresh.metadata.Revocation != "" {
		ends = append(ends, fresh.metadata.Revocation)
	}
	for _, at := range ends {
		if u, err := url.Parse(at); err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
			return known, errors.New("the provider's endpoints are not https URLs")
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
