// Package scim is the SCIM 2.0 server (RFC 7643, RFC 7644) through which a directory provisions its
// users and groups: it turns requests into commands of the core and state into resources.
//
// A token belongs to one directory, and everything here happens inside that directory. An answer of 2xx
// is sent after the change is durable. The package keeps no state of its own, and never stores or logs
// a password or a person's attributes.
package scim

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
)

// Engine is what the server needs of the engine.
type Engine interface {
	// Do decides a command and returns when its events, or the refusal, are certain.
	Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (engine.Outcome, error)
	// State is the committed state.
	State() *core.State
}

// Config is how a Server behaves. Its zero value is usable, save for Engine.
type Config struct {
	Engine Engine
	// BaseURL is the URL under which clients reach the server, without a slash at its end.
	// Default: what the request says.
	BaseURL string
	// MaxBody is the most bytes that a request may have. Default 16 MiB: a full push of 200,000 members.
	MaxBody int64
	// PerSecond is how many requests of one token are taken each second, on average; twice as many may come at once.
	// Zero: any number. AtOnce is how many of one token are worked on at a time. Default 1024.
	PerSecond float64
	AtOnce    int
	// Note is told of each request. Default: nobody is.
	Note func(activity.Request)
	// Now tells the time. Default time.Now.
	Now func() time.Time
	// Log receives one line a request, without personal data. Default: none.
	Log *slog.Logger
}

// Server answers SCIM requests. It is safe for concurrent use.
type Server struct {
	config Config
	limits limits
	mux    *http.ServeMux
}

// New returns a server.
func New(c Config) *Server {
	if c.MaxBody == 0 {
		c.MaxBody = 16 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.AtOnce == 0 {
		c.AtOnce = 1024 // Entra sends hundreds in parallel, and what it is refused stops it for hours
	}
	if c.Note == nil {
		c.Note = func(activity.Request) {}
	}
	s := &Server{config: c, mux: http.NewServeMux(), limits: limits{perSecond: c.PerSecond, atOnce: c.AtOnce, of: make(map[uuid.UUID]*limit)}}
	for _, prefix := range []string{"/scim/v2", "/v2", ""} {
		s.route(prefix)
	}
	s.mux.Handle(elsewhere, s.serve(s.nothingHere))
	return s
}

// elsewhere is the pattern of what no other has.
const elsewhere = "/"

func (s *Server) route(prefix string) {
	handle := func(pattern string, h func(*request) error) {
		method, path, _ := strings.Cut(pattern, " ")
		s.mux.Handle(method+" "+prefix+path, s.serve(h))
	}
	handle("GET /Users", listUsers)
	handle("POST /Users", createUser)
	handle("GET /Users/{id}", getUser)
	handle("PUT /Users/{id}", replaceUser)
	handle("PATCH /Users/{id}", patchUser)
	handle("DELETE /Users/{id}", deleteUser)
	handle("GET /Groups", listGroups)
	handle("POST /Groups", createGroup)
	handle("GET /Groups/{id}", getGroup)
	handle("PUT /Groups/{id}", replaceGroup)
	handle("PATCH /Groups/{id}", patchGroup)
	handle("DELETE /Groups/{id}", deleteGroup)
	handle("POST /.search", searchAll)
	handle("POST /Users/.search", searchUsers)
	handle("POST /Groups/.search", searchGroups)
	handle("POST /Bulk", bulk)
	for _, method := range methods {
		handle(method+" /Me", me)
	}
	handle("GET /ServiceProviderConfig", getServiceProviderConfig)
	handle("GET /ResourceTypes", listResourceTypes)
	handle("GET /ResourceTypes/{id}", getResourceType)
	handle("GET /Schemas", listSchemas)
	handle("GET /Schemas/{id}", getSchema)
}

// ServeHTTP answers a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	started := s.config.Now()
	status := &statusWriter{ResponseWriter: w}
	s.mux.ServeHTTP(status, r)
	_ = http.NewResponseController(w).Flush() // nobody waits for what is noted of it; the client may have gone
	s.config.Log.InfoContext(r.Context(), "scim request", "method", r.Method, "resource", resourceOf(r.URL.Path),
		"directory", status.directory, "status", status.code, "scim_type", status.scimType, "duration", s.config.Now().Sub(started))
	s.note(status.token, status.directory, r, status.code, status.scimType)
}

// note tells of a request what may be remembered.
func (s *Server) note(token uuid.UUID, directory string, r *http.Request, status int, scimType string) {
	q := activity.Request{At: s.config.Now(), Directory: directory, Token: token}
	if status >= http.StatusBadRequest {
		q.Refusal = &activity.Refusal{At: q.At, Method: methodOf(r.Method), Resource: resourceOf(r.URL.Path), Status: status, Type: scimType}
	}
	s.config.Note(q)
}

func methodOf(method string) string {
	if slices.Contains(methods, method) {
		return method
	}
	return "?"
}

// methods are those that some path takes.
var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// nothingHere says what is wrong with a path, or with a method at it.
func (s *Server) nothingHere(r *request) error {
	var allowed []string
	for _, method := range methods {
		other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(other); pattern != elsewhere {
			allowed = append(allowed, method)
		}
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, "/scim"), "/"), "/")
	switch {
	case len(allowed) > 0:
		r.w.Header().Set("Allow", strings.Join(allowed, ", "))
		return &scimError{status: http.StatusMethodNotAllowed, detail: "here the methods are " + strings.Join(allowed, ", ")}
	case len(version) > 1 && version != "v2" && version[0] == 'v' && strings.Trim(version[1:], "0123456789.") == "":
		return badRequest(invalidVers, "this server speaks SCIM 2.0, below /scim/v2")
	}
	return notFound("there is nothing at this path; the endpoints are /Users, /Groups, /Bulk, /.search, /Me, /ServiceProviderConfig, /ResourceTypes and /Schemas")
}

// me is the person whom the token stands for: a directory's token stands for nobody (RFC 7644, section 3.11).
func me(*request) error {
	return &scimError{status: http.StatusNotImplemented, detail: "a SCIM token is a directory's and no person's: ask for /Users"}
}

// resourceOf is a path without what may be personal: endpoints and ids stay, anything else that somebody wrote there
// does not.
func resourceOf(path string) string {
	parts := strings.Split(strings.TrimPrefix(strings.TrimPrefix(path, "/scim"), "/v2"), "/")
	if len(parts) > 4 {
		parts = parts[:4]
	}
	for i, part := range parts {
		if _, err := uuid.Parse(part); err != nil && part != "" && !slices.Contains(endpoints, part) {
			parts[i] = "?"
		}
	}
	return strings.Join(parts, "/")
}

// endpoints are the words that paths are made of.
var endpoints = []string{"Users", "Groups", "Bulk", ".search", "Me", "ServiceProviderConfig", "ResourceTypes", "Schemas", "User", "Group", userSchema, groupSchema, enterpriseSchema}

// request is one request with its directory, which the token names.
type request struct {
	*http.Request
	server    *Server
	w         http.ResponseWriter
	token     *core.Token
	directory string
	base      string
	// values is the URL's query, and projection what it says of the answer.
	values     url.Values
	projection projection
}

func (s *Server) serve(h func(*request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, s.config.MaxBody)
		token := s.authenticate(r)
		if token == nil {
			w.Header().Set("WWW-Authenticate", `Bearer realm="sallyport-scim"`)
			writeError(w, &scimError{status: http.StatusUnauthorized,
				detail: "a SCIM token of a directory is needed, as a bearer token or as the password of basic authentication; make one with: sallyport tokens create scim"})
			return
		}
		if seen, ok := w.(*statusWriter); ok { // a request, and not one operation of a bulk request
			seen.token, seen.directory = token.ID, token.Directory
			leave, wait := s.limits.enter(token.ID, s.config.Now())
			if leave == nil {
				writeError(w, tooManyRequests(w, wait))
				return
			}
			defer leave()
		}
		req := &request{Request: r, server: s, w: w, token: token, directory: token.Directory, base: s.base(r), values: r.URL.Query()}
		var err error
		if req.projection, err = newProjection(req.values.Get("attributes"), req.values.Get("excludedAttributes")); err == nil {
			err = h(req)
		}
		if err != nil {
			s.refuse(req, err)
		}
	})
}

// do runs a command under the token's identity.
func (r *request) do(c core.Command) (engine.Outcome, error) {
	return r.server.config.Engine.Do(r.Context(), &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SCIM, Id: r.token.ID.String()}, c)
}

func (r *request) state() *core.State { return r.server.config.Engine.State() }

// base is the URL that locations begin with.
func (s *Server) base(r *http.Request) string {
	prefix := ""
	for _, p := range []string{"/scim/v2", "/v2"} {
		if strings.HasPrefix(r.URL.Path, p+"/") {
			prefix = p
			break
		}
	}
	if s.config.BaseURL != "" {
		return s.config.BaseURL + prefix
	}
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host + prefix
}

// statusWriter remembers what came of a request, for the log.
type statusWriter struct {
	http.ResponseWriter
	code      int
	scimType  string
	token     uuid.UUID
	directory string
}

func (w *statusWriter) WriteHeader(code int) {
	w.code = code
	w.ResponseWriter.WriteHeader(code)
}

// Unwrap lets http.ResponseController reach the writer beneath.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
