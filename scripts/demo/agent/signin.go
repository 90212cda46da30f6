package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"golang.org/x/oauth2"
)

const (
	signInTimeout = 60 * time.Second
	redirectPath  = "/callback"
)

// Program is an agent's program as it is installed on a desk: it is given a gateway's URL and nothing else, finds out from the
// gateway who issues tokens, registers itself there the first time, and sends people's browsers there. It is safe for
// concurrent use.
type Program struct {
	// Name that it registers by.
	Name string
	// Document is the URL of a metadata document by which it names itself (CIMD). Empty: it registers itself.
	Document string

	mu  sync.Mutex
	ids map[string]string // as the authorization server knows it, by gateway
}

// Tokens are what a sign-in gave.
type Tokens struct {
	Access  string
	Refresh string
	Expires time.Time

	client *oauth2.Config // by which they were got
}

// SignIn has a person sign in with a new browser, by script, and let the program in. A Refusal says what they saw in its place.
func (p *Program) SignIn(ctx context.Context, gateway string, who Person) (Tokens, error) {
	browser, err := NewBrowser(who)
	if err != nil {
		return Tokens{}, err
	}
	return p.SignInWith(ctx, gateway, browser)
}

// SignInWith is SignIn with a browser that there is.
func (p *Program) SignInWith(ctx context.Context, gateway string, browser Opener) (Tokens, error) {
	ctx, cancel := context.WithTimeout(ctx, signInTimeout)
	defer cancel()
	handler := &handler{program: p, gateway: gateway, browser: browser}
	// A request without a token is how an agent asks where to get one.
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, gateway, bytes.NewReader([]byte(`{"jsonrpc":"2.0","id":1,"method":"ping"}`)))
	if err != nil {
		return Tokens{}, fmt.Errorf("ask the gateway: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return Tokens{}, fmt.Errorf("ask the gateway: %w", err)
	}
	if resp.StatusCode != http.StatusUnauthorized {
		_ = resp.Body.Close()
		return Tokens{}, fmt.Errorf("the gateway answers %d to a request without a token, not 401", resp.StatusCode)
	}
	if err := handler.Authorize(ctx, req, resp); err != nil { // it closes the body
		return Tokens{}, err
	}
	return handler.tokens, nil
}

// Refresh redeems the refresh token, as an agent does whose access token ends.
func Refresh(ctx context.Context, t Tokens) (Tokens, error) {
	token, err := t.client.TokenSource(ctx, &oauth2.Token{RefreshToken: t.Refresh}).Token()
	if err != nil {
		return Tokens{}, fmt.Errorf("refresh: %w", err)
	}
	return tokensOf(t.client, token), nil
}

func tokensOf(client *oauth2.Config, t *oauth2.Token) Tokens {
	return Tokens{Access: t.AccessToken, Refresh: t.RefreshToken, Expires: t.Expiry, client: client}
}

// Handler is how the MCP library's client has a person sign in when the gateway asks for it, and refreshes.
func (p *Program) Handler(gateway string, browser Opener) auth.OAuthHandler {
	return &handler{program: p, gateway: gateway, browser: browser}
}

// handler makes the library's own handler for each authorization, since its listener's port is a new one each time.
type handler struct {
	program *Program
	gateway string
	browser Opener

	mu     sync.Mutex
	inner  *auth.AuthorizationCodeHandler
	tokens Tokens // as they were at the sign-in
}

// TokenSource gives the tokens, once there are any.
func (h *handler) TokenSource(ctx context.Context) (oauth2.TokenSource, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.inner == nil {
		return nil, nil
	}
	return h.inner.TokenSource(ctx)
}

// Authorize signs the person in.
func (h *handler) Authorize(ctx context.Context, req *http.Request, resp *http.Response) error {
	answer, err := ListenForAnswer(ctx, redirectPath)
	if err != nil {
		return errors.Join(err, resp.Body.Close())
	}
	defer answer.Close()
	config := &auth.AuthorizationCodeHandlerConfig{
		RedirectURL:         answer.URL,
		RequestRefreshToken: true,
		NewTokenSource: func(ctx context.Context, client *oauth2.Config, t *oauth2.Token) (oauth2.TokenSource, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.tokens = tokensOf(client, t)
			return client.TokenSource(ctx, t), nil
		},
		AuthorizationCodeFetcher: func(ctx context.Context, args *auth.AuthorizationArgs) (*auth.AuthorizationResult, error) {
			h.program.remember(h.gateway, args.URL)
			q, err := answer.Fetch(ctx, h.browser, args.URL)
			if err != nil {
				return nil, err
			}
			return &auth.AuthorizationResult{Code: q.Get("code"), State: q.Get("state"), Iss: q.Get("iss")}, nil
		},
	}
	if h.program.Document != "" {
		config.ClientIDMetadataDocumentConfig = &auth.ClientIDMetadataDocumentConfig{URL: h.program.Document}
	} else if id := h.program.known(h.gateway); id != "" {
		config.PreregisteredClient = &oauthex.ClientCredentials{ClientID: id}
	} else {
		config.DynamicClientRegistrationConfig = &auth.DynamicClientRegistrationConfig{Metadata: &oauthex.ClientRegistrationMetadata{
			ClientName: h.program.Name, RedirectURIs: []string{answer.URL}, GrantTypes: []string{"authorization_code", "refresh_token"},
			ResponseTypes: []string{"code"}, TokenEndpointAuthMethod: "none",
		}}
	}
	inner, err := auth.NewAuthorizationCodeHandler(config)
	if err != nil {
		return errors.Join(err, resp.Body.Close())
	}
	if err := inner.Authorize(ctx, req, resp); err != nil {
		return err
	}
	h.mu.Lock()
	h.inner = inner
	h.mu.Unlock()
	return nil
}

// remember keeps the id that the authorization server of a gateway knows the program by.
func (p *Program) remember(gateway, request string) {
	u, err := url.Parse(request)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ids == nil {
		p.ids = map[string]string{}
	}
	p.ids[gateway] = u.Query().Get("client_id")
}

func (p *Program) known(gateway string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ids[gateway]
}
