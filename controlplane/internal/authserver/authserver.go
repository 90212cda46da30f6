// Package authserver is the OAuth 2.1 authorization server for agents: they send a person's browser here, the person signs
// in at their identity provider and lets the agent in, and the agent gets tokens for the gateway.
//
// Agents' programs name themselves by a metadata document's URL (CIMD), register themselves (RFC 7591), or were described by
// an admin. Access tokens (RFC 9068) live as long as a proxy's lease and are for one resource; refresh tokens rotate. What
// lies between two requests lies in key-value with its expiry, so that any control plane finishes what another began, and
// each use of it is compared with the fenced state. The package keeps no token in the clear and no rule about people.
package authserver

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/time/rate"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/dataplane/address"

	"sallyport.dev/controlplane/internal/bounds"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
)

// Engine is what the server needs of the engine.
type Engine interface {
	Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (engine.Outcome, error)
	State() *core.State
	Fence(ctx context.Context) (*core.State, error)
}

// Store is what the server needs of key-value.
type Store interface {
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error)
	Get(ctx context.Context, key string) (kv.Entry, error)
	Update(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error)
	Change(ctx context.Context, key string, ttl time.Duration, change func(value []byte) ([]byte, error)) (uint64, error)
	Purge(ctx context.Context, key string) error
	Each(ctx context.Context, prefix string, fn func(kv.Entry) error) error
}

// Keys keeps the private parts of signing keys: the vault.
type Keys interface {
	PutSigningKey(ctx context.Context, id string, private []byte) error
	SigningKey(ctx context.Context, id string) ([]byte, error)
	DestroySigningKey(ctx context.Context, id string) error
}

// People says who is in front of a page.
type People interface {
	Require(w http.ResponseWriter, r *http.Request, need signin.Need) (signin.Who, bool)
}

// Audit takes records of what was done and refused.
type Audit interface {
	Record(ctx context.Context, r *auditv1.AuditRecord) error
	Note(r *auditv1.AuditRecord)
	// Refuse notes what was refused to whoever came, as much of it as audit can bear.
	Refuse(r *auditv1.AuditRecord)
}

// Config is what a server is made of. Documents, Now and Log may be left out.
type Config struct {
	Engine Engine
	Store  Store
	Keys   Keys
	People People
	Audit  Audit
	// Issuer is the server's public URL: https, or http on loopback. Where it has a path, the Handler answers below it.
	Issuer string
	// Resources are the URLs of the endpoint of all connectors: first the one that people are given, whatever region serves
	// it, then those of single regions. A token is for one of them, or for one connector below it.
	Resources []string
	// Lease is how long access tokens live: as long as a proxy may serve without news.
	Lease time.Duration
	// Documents fetches clients' metadata documents. It must refuse addresses that are not of the public internet.
	Documents *http.Client
	// RegistrationsPerMinute bounds how many clients may register themselves, of one address and, tenfold, of all.
	// Default 30.
	RegistrationsPerMinute int
	Now                    func() time.Time
	Log                    *slog.Logger
}

// Server is the authorization server. It is safe for concurrent use.
type Server struct {
	Config
	path     string // of Issuer
	signer   signers
	forms    *http.CrossOriginProtection
	limits   *bounds.Bounds // of registrations
	fetching fetches
}

// New returns a server. Its Handler must be served at the issuer's URL, and Run must be running.
func New(c Config) (*Server, error) {
	c.Issuer = strings.TrimRight(c.Issuer, "/")
	u, err := url.Parse(c.Issuer)
	if err != nil || u.Host == "" {
		return nil, errors.New("the issuer must be a URL, such as https://sallyport.example.com")
	}
	for i, raw := range c.Resources {
		c.Resources[i] = strings.TrimRight(raw, "/")
		r, err := url.Parse(c.Resources[i])
		if err != nil || r.Scheme != "https" && r.Scheme != "http" || r.Host == "" || r.User != nil || r.RawQuery != "" || r.Fragment != "" {
			return nil, errors.New("a resource is the URL of the endpoint of all connectors, such as https://mcp.example.com/mcp")
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.RegistrationsPerMinute == 0 {
		c.RegistrationsPerMinute = 30
	}
	return &Server{
		Config: c, path: u.Path, forms: http.NewCrossOriginProtection(), limits: bounds.New(rate.Limit(float64(c.RegistrationsPerMinute)/60), c.RegistrationsPerMinute),
		fetching: newFetches(),
	}, nil
}

// maxForm bounds a request's body.
const maxForm = 64 << 10

// Handler serves the endpoints and the metadata.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, name := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		mux.Handle("GET "+name+s.path, open(s.metadata))
		mux.Handle("OPTIONS "+name+s.path, open(nil))
		if s.path != "" { // OpenID Connect Discovery appends where RFC 8414 inserts
			mux.Handle("GET "+s.path+name, open(s.metadata))
			mux.Handle("OPTIONS "+s.path+name, open(nil))
		}
	}
	for at, h := range map[string]http.HandlerFunc{
		"GET /oauth/jwks": s.jwks, "POST /oauth/token": s.token, "POST /oauth/register": s.register, "POST /oauth/revoke": s.revoke,
	} {
		method, path, _ := strings.Cut(at, " ")
		mux.Handle(method+" "+s.path+path, open(h))
		mux.Handle("OPTIONS "+s.path+path, open(nil))
	}
	mux.HandleFunc("GET "+s.path+"/oauth/authorize", s.authorize)
	mux.HandleFunc("POST "+s.path+"/oauth/authorize", s.authorize)
	mux.HandleFunc("POST "+s.path+"/oauth/introspect", s.introspect)
	return mux
}

// open lets any page call what needs no cookie: agents run in browsers too.
func open(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.Method == http.MethodOptions {
			w.Header().Set("Access-Control-Allow-Methods", "GET, POST")
			w.Header().Set("Access-Control-Allow-Headers", "Authorization, Content-Type, DPoP, MCP-Protocol-Version")
			w.Header().Set("Access-Control-Max-Age", "3600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		h(w, r)
	})
}

// refusal is an error of OAuth (RFC 6749, sections 4.1.2.1 and 5.2), with what audit calls it.
type refusal struct {
	code, text string
	status     int
	action     string
	// session and person, as far as they are known, for audit.
	session, person string
	cause           error
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return e.cause }

// refuse makes a refusal of a request. Without an action of its own audit calls it request_refused.
func refuse(code, action, text string) *refusal {
	if action == "" {
		action = "request_refused"
	}
	return &refusal{code: code, text: text, status: http.StatusBadRequest, action: action}
}

// errUnavailable: the server's own parts fail. Its cause is logged.
var errUnavailable = &refusal{code: "temporarily_unavailable", text: "this cannot be looked up or kept right now: try again shortly", status: http.StatusServiceUnavailable}

// fail answers with an error in JSON, and has audit note a refusal.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, client string, err error) {
	var refused *refusal
	if !errors.As(err, &refused) {
		if r.Context().Err() == nil {
			s.Log.ErrorContext(r.Context(), "the authorization server could not go on", "path", r.URL.Path, "error", err)
		}
		refused = errUnavailable
	}
	s.refused(r, client, refused)
	if refused.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Basic realm="sallyport"`)
	}
	writeJSON(w, refused.status, map[string]string{"error": refused.code, "error_description": refused.text})
}

// refused has audit note a refusal.
func (s *Server) refused(r *http.Request, client string, e *refusal) {
	if e.action == "" {
		return
	}
	s.Audit.Refuse(&auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_SIGN_IN_FAILED, Method: "authorize", Action: e.action, PersonId: e.person, Session: e.session,
		Client:   &auditv1.Client{Id: cut(client, 500), Address: address.Of(r)},
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED, Reason: auditv1.Reason_REASON_TOKEN_INVALID, Text: e.text},
	})
}

func cut(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "")
	}
	return strings.ToValidUTF8(s, "")
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that went away is all that can fail here
}

// form reads a request's form. A parameter that comes twice is refused (RFC 6749, section 3.2), but for those named.
func form(r *http.Request, several ...string) (url.Values, error) {
	if kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
		return nil, refuse("invalid_request", "", "send application/x-www-form-urlencoded")
	}
	if r.URL.RawQuery != "" {
		return nil, refuse("invalid_request", "", "parameters belong into the body, not into the URL")
	}
	if err := r.ParseForm(); err != nil {
		return nil, refuse("invalid_request", "", "the form cannot be read")
	}
	return r.PostForm, once(r.PostForm, several...)
}

func once(v url.Values, several ...string) error {
	for name, values := range v {
		repeats := false
		for _, s := range several {
			repeats = repeats || s == name
		}
		if len(values) > 1 && !repeats {
			return refuse("invalid_request", "", "a parameter comes more than once")
		}
	}
	return nil
}
