// Package authority is the authorization server of a demo upstream: where people say that the gateway may act as them, and where the
// gateway gets its tokens.
//
// The OAuth in it is zitadel's library. Its people always say yes. It keeps what it gave in memory, says of each access token whose it is
// until that was revoked, and shows what it was asked; it is for demos and tests.
package authority

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/oauthex"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Client is a program that may ask for tokens: with a secret, or with a key whose public part is given.
type Client struct {
	ID, Secret string
	Key        *jose.JSONWebKey
	Redirects  []string
	// JWT: its access tokens are.
	JWT bool
}

// Provider is an identity provider whose ID tokens are exchanged here.
type Provider struct {
	Issuer, Audience string
}

// Server is one authorization server. It answers one request at a time.
type Server struct {
	// URL is its issuer, once it started.
	URL string

	person  string
	clients map[string]Client
	trusted *Provider
	store   *store
	handler http.Handler

	mu      sync.Mutex // held while it answers
	watch   sync.Mutex // guards what follows
	asked   []url.Values
	refuses string
	revoked []string
	// token and revocation stand between the server's answer and who asked.
	token, revocation func(form url.Values) (status int)
}

// New returns a server that knows some clients, and at which a person says yes.
func New(person string, clients ...Client) *Server {
	s := &Server{person: person, clients: map[string]Client{}}
	for _, c := range clients {
		s.clients[c.ID] = c
	}
	return s
}

// Trust has it exchange a provider's ID tokens. Call it before Start.
func (s *Server) Trust(p Provider) { s.trusted = &p }

// OnToken is called once the server has made its answer to a request for tokens, and before anybody sees it; a status takes its place. Nil: nothing is.
func (s *Server) OnToken(f func(form url.Values) (status int)) {
	s.watch.Lock()
	defer s.watch.Unlock()
	s.token = f
}

// OnRevocation is called before a token is revoked; a status other than zero is the answer then.
func (s *Server) OnRevocation(f func(form url.Values) (status int)) {
	s.watch.Lock()
	defer s.watch.Unlock()
	s.revocation = f
}

// Refuse has it send everybody back with an error, as where an admin of the upstream did not allow the gateway. Empty: nobody.
func (s *Server) Refuse(code string) {
	s.watch.Lock()
	defer s.watch.Unlock()
	s.refuses = code
}

// Asked are the requests for tokens of a grant type, in their order.
func (s *Server) Asked(grant string) (found []url.Values) {
	s.watch.Lock()
	defer s.watch.Unlock()
	for _, form := range s.asked {
		if form.Get("grant_type") == grant {
			found = append(found, form)
		}
	}
	return found
}

// Revoked tells whether it was asked to revoke a token.
func (s *Server) Revoked(token string) bool {
	s.watch.Lock()
	defer s.watch.Unlock()
	return slices.Contains(s.revoked, token)
}

// Start serves on a loopback address ("127.0.0.1:0" picks a port) until stop.
func (s *Server) Start(ctx context.Context, addr string) (stop func(), err error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for an authorization server: %w", err)
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		_ = listener.Close()
		return nil, fmt.Errorf("an authorization server of the demo listens on loopback only, not on %s", addr)
	}
	s.URL = "http://" + listener.Addr().String()
	if err := s.build(); err != nil {
		_ = listener.Close()
		return nil, err
	}
	web := &http.Server{Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = web.Serve(listener) // it ends with stop
	}()
	return func() { _ = web.Close(); <-done }, nil
}

func (s *Server) build() error {
	known := map[string]*storage.Client{}
	for id, c := range s.clients {
		known[id] = storage.WebClient(id, c.Secret, append([]string{s.URL}, c.Redirects...)...)
	}
	s.store = &store{Storage: storage.NewStorageWithClients(people{}, known), server: s}
	config := &op.Config{CodeMethodS256: true, GrantTypeRefreshToken: true, AuthMethodPrivateKeyJWT: true, AuthMethodPost: true, SupportedScopes: []string{oidc.ScopeOpenID, oidc.ScopeOfflineAccess}}
	if _, err := rand.Read(config.CryptoKey[:]); err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	provider, err := op.NewProvider(config, s.store, op.StaticIssuer(s.URL), op.WithAllowInsecure()) // loopback, without TLS
	if err != nil {
		return fmt.Errorf("make an authorization server: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", op.RegisterLegacyServer(&server{op.NewLegacyServer(provider, *op.DefaultEndpoints), provider, s}, op.AuthorizeCallbackHandler(provider)))
	mux.HandleFunc("GET /login/username", func(w http.ResponseWriter, r *http.Request) { // the person is signed in, and says yes
		id := r.URL.Query().Get("authRequestID")
		if err := s.store.CheckUsernamePassword(s.person, "", id); err != nil {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		http.Redirect(w, r, op.AuthCallbackURL(provider)(op.ContextWithIssuer(r.Context(), s.URL), id), http.StatusFound)
	})
	s.handler = mux
	return nil
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch r.URL.Path {
	case op.DefaultEndpoints.Authorization.Relative():
		s.watch.Lock()
		code := s.refuses
		s.watch.Unlock()
		if code != "" {
			q := r.URL.Query()
			http.Redirect(w, r, q.Get("redirect_uri")+"?"+url.Values{"error": {code}, "state": {q.Get("state")}}.Encode(), http.StatusFound)
			return
		}
	case op.DefaultEndpoints.Token.Relative():
		_ = r.ParseForm() // the library says what is wrong with it
		s.watch.Lock()
		s.asked = append(s.asked, r.PostForm)
		after := s.token
		s.watch.Unlock()
		if after == nil {
			break
		}
		answer := &held{header: http.Header{}, status: http.StatusOK}
		s.handler.ServeHTTP(answer, r)
		if status := after(r.PostForm); status != 0 {
			w.WriteHeader(status)
			return
		}
		answer.write(w)
		return
	case op.DefaultEndpoints.Revocation.Relative():
		_ = r.ParseForm()
		s.watch.Lock()
		before := s.revocation
		s.revoked = append(s.revoked, r.PostForm.Get("token"))
		s.watch.Unlock()
		if before != nil {
			if status := before(r.PostForm); status != 0 {
				w.WriteHeader(status)
				return
			}
		}
	}
	s.handler.ServeHTTP(w, r)
}

// held is an answer that nobody sees yet.
type held struct {
	header http.Header
	status int
	body   []byte
}

func (h *held) Header() http.Header         { return h.header }
func (h *held) WriteHeader(status int)      { h.status = status }
func (h *held) Write(b []byte) (int, error) { h.body = append(h.body, b...); return len(b), nil }

func (h *held) write(w http.ResponseWriter) {
	for name, values := range h.header {
		w.Header()[name] = values
	}
	w.WriteHeader(h.status)
	_, _ = w.Write(h.body) // who went away is all that can fail
}

// Forget ends a token that was given to a client with a secret, as the upstream's own admins would.
func (s *Server) Forget(ctx context.Context, clientID, token string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+op.DefaultEndpoints.Revocation.Relative(), strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return err
	}
	req.SetBasicAuth(clientID, s.clients[clientID].Secret)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the token is not forgotten: %s", res.Status)
	}
	return nil
}

// Subject says whose an access token is, while it counts.
func (s *Server) Subject(ctx context.Context, token string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+op.DefaultEndpoints.Userinfo.Relative(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", auth.ErrInvalidToken
	}
	var info oidc.UserInfo
	if err := decode(res.Body, &info); err != nil {
		return "", err
	}
	return info.Subject, nil
}

// CallerHeader tells a protected MCP server whose the token is.
const CallerHeader = "X-Demo-Caller"

// Protect has an MCP server at a path take this server's tokens alone, and say where they come from (RFC 9728). seen is told of each token that counts.
func (s *Server) Protect(base string, next http.Handler, path string, seen func(subject, token string)) http.Handler {
	metadata := "/.well-known/oauth-protected-resource" + path
	verify := func(ctx context.Context, token string, _ *http.Request) (*auth.TokenInfo, error) {
		subject, err := s.Subject(ctx, token)
		if err != nil {
			return nil, errors.Join(auth.ErrInvalidToken, err)
		}
		if seen != nil {
			seen(subject, token)
		}
		return &auth.TokenInfo{UserID: subject, Expiration: time.Now().Add(time.Minute)}, nil
	}
	mux := http.NewServeMux()
	mux.Handle(metadata, auth.ProtectedResourceMetadataHandler(&oauthex.ProtectedResourceMetadata{Resource: base + path, AuthorizationServers: []string{s.URL}}))
	known := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set(CallerHeader, auth.TokenInfoFromContext(r.Context()).UserID)
		next.ServeHTTP(w, r)
	})
	mux.Handle("/", auth.RequireBearerToken(verify, &auth.RequireBearerTokenOptions{ResourceMetadataURL: base + metadata})(known))
	return mux
}

// people are whoever is asked for.
type people struct{}

func (people) GetUserByID(id string) *storage.User {
	return &storage.User{ID: id, Username: id, IsAdmin: true}
}
func (people) GetUserByUsername(name string) *storage.User { return people{}.GetUserByID(name) }
func (people) ExampleClientID() string                     { return "none" }

// client is a client as the library sees it.
type client struct {
	op.Client
	known Client
}

func (c client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeClientCredentials, oidc.GrantTypeTokenExchange, oidc.GrantTypeBearer}
}

func (c client) IsScopeAllowed(string) bool { return true }

func (c client) AccessTokenType() op.AccessTokenType {
	if c.known.JWT {
		return op.AccessTokenTypeJWT
	}
	return c.Client.AccessTokenType()
}

func (c client) AuthMethod() oidc.AuthMethod {
	if c.known.Key != nil {
		return oidc.AuthMethodPrivateKeyJWT
	}
	return c.Client.AuthMethod()
}
