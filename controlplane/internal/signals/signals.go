// Package signals takes what a directory's identity provider says of its people outside SCIM: security event tokens
// (RFC 8417) that are pushed (RFC 8935), and Okta's Universal Logout, which is a request with a signed token.
//
// Each is believed only when it is signed by a key of the transmitter that an admin named for the directory, comes from
// its issuer, and is meant for here. It can only take access away: sessions end, or an account is deactivated. What is
// refused is recorded, and changes nothing.
package signals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"golang.org/x/time/rate"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/address"

	"sallyport.dev/controlplane/internal/activity"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/kv"
)

const (
	maxBody = 64 << 10
	// skew is how far a transmitter's clock may be off.
	skew = 2 * time.Minute
	// oldest is how old a security event may be: transmitters try for days. So long its id is remembered.
	oldest = 7 * 24 * time.Hour
	// logoutWithin is how old the token of a logout may be.
	logoutWithin = 10 * time.Minute
)

// Engine is what is needed of the engine.
type Engine interface {
	Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (engine.Outcome, error)
	Fence(ctx context.Context) (*core.State, error)
	State() *core.State
}

// Store remembers what came already.
type Store interface {
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error)
	Get(ctx context.Context, key string) (kv.Entry, error)
}

// Audit takes records of what was refused, as many as it can bear.
type Audit interface {
	Refuse(r *auditv1.AuditRecord)
}

// Config is what a Server is made of.
type Config struct {
	Engine Engine
	Store  Store
	Audit  Audit
	// Client fetches transmitters' keys. Default: one with a time-out of 10 seconds that follows no redirect.
	Client *http.Client
	Now    func() time.Time
	// Note remembers what was refused. Default: nobody does.
	Note func(activity.Request)
	Log  *slog.Logger
}

// Server takes signals. It is safe for concurrent use.
type Server struct {
	Config

	mu   sync.Mutex
	keys map[string]*keySet
}

// keySet is the keys at one address. Who sends forgeries makes them be fetched no more often than bad allows.
type keySet struct {
	*oidc.RemoteKeySet
	bad *rate.Limiter
}

// New returns a server.
func New(c Config) *Server {
	if c.Client == nil {
		c.Client = &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Note == nil {
		c.Note = func(activity.Request) {}
	}
	return &Server{Config: c, keys: map[string]*keySet{}}
}

// Handler serves /signals/{directory}/events and /signals/{directory}/logout.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /signals/{directory}/events", s.events)
	mux.HandleFunc("POST /signals/{directory}/logout", s.logout)
	return mux
}

// refusal is why a signal was not taken, in the words of RFC 8935, section 2.4.
type refusal struct {
	status    int
	err, text string
}

func (e *refusal) Error() string { return e.err + ": " + e.text }

func refuse(err, format string, args ...any) error {
	return &refusal{http.StatusBadRequest, err, fmt.Sprintf(format, args...)}
}

// answer refuses a signal and records that. What failed here is to be sent again.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, err error) {
	var why *refusal
	if !errors.As(err, &why) {
		s.Log.ErrorContext(r.Context(), "a signal could not be taken; its sender is asked to send it again", "error", err)
		why = &refusal{http.StatusServiceUnavailable, "unavailable", "it cannot be taken now: send it again"}
	}
	directory := r.PathValue("directory")
	s.Log.WarnContext(r.Context(), "a signal was refused", "directory", fmt.Sprintf("%.40q", directory), "err", why.err, "why", why.text)
	if s.Engine.State().Directory(directory) == nil {
		directory = ""
	}
	s.refused(r, directory, why)
	s.Note(activity.Request{At: s.Now(), Directory: directory, Refusal: &activity.Refusal{
		At: s.Now(), Method: r.Method, Resource: r.URL.Path[strings.LastIndexByte(r.URL.Path, '/'):], Status: why.status, Type: why.err,
	}})
	if why.status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="sallyport-signals"`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Language", "en")
	w.WriteHeader(why.status)
	_ = json.NewEncoder(w).Encode(map[string]string{"err": why.err, "description": why.text}) // a client that went away is all that can fail here
}

// refused has audit keep that a signal was refused, or could not be taken.
func (s *Server) refused(r *http.Request, directory string, why *refusal) {
	rec := &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_SIGN_IN_FAILED, Method: "signal", Action: "signal_refused", Error: why.err, Client: &auditv1.Client{Address: address.Of(r)},
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED, Reason: auditv1.Reason_REASON_TOKEN_INVALID, Text: why.text},
	}
	if strings.HasSuffix(r.URL.Path, "/logout") {
		rec.Action = "logout_refused"
	}
	if why.status >= http.StatusInternalServerError {
		rec.Action, rec.Decision.Reason = "signal_failed", auditv1.Reason_REASON_UNSPECIFIED
	}
	if directory != "" {
		rec.Target = "directory/" + directory
	}
	s.Audit.Refuse(rec)
}

// claims are those of a security event token or of a logout's token.
type claims struct {
	Issuer   string                     `json:"iss"`
	Audience audience                   `json:"aud"`
	ID       string                     `json:"jti"`
	IssuedAt float64                    `json:"iat"`
	Expires  float64                    `json:"exp"`
	Subject  json.RawMessage            `json:"sub_id"`
	Events   map[string]json.RawMessage `json:"events"`
}

type audience []string

// UnmarshalJSON reads one audience or several (RFC 7519, section 4.1.3).
func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// algorithms are those that a transmitter may sign by.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512, jose.EdDSA}

// verify returns what a token of a directory's transmitter says.
func (s *Server) verify(ctx context.Context, directory, token string, types ...string) (*policyv1.Signals, *claims, error) {
	from := s.Engine.State().Directory(directory).GetSignals()
	if from == nil {
		return nil, nil, &refusal{http.StatusNotFound, "access_denied", "no transmitter is set up for this directory: sallyport directories signals"}
	}
	signed, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		return nil, nil, refuse("invalid_request", "this is no signed token in compact form, by an algorithm that is taken")
	}
	header := signed.Signatures[0].Protected
	typ, _ := header.ExtraHeaders[jose.HeaderType].(string)
	if !slices.Contains(types, strings.ToLower(strings.TrimPrefix(typ, "application/"))) {
		return nil, nil, refuse("invalid_request", "the token's typ is not %s", types[0])
	}
	var said claims
	if json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &said) != nil {
		return nil, nil, refuse("invalid_request", "the token's claims cannot be read")
	}
	// What is not of this transmitter is not worth a look at its keys.
	if said.Issuer != from.GetIssuer() {
		return nil, nil, refuse("invalid_issuer", "the issuer is not the one that is set up for this directory")
	}
	if !slices.ContainsFunc(from.GetAudiences(), func(a string) bool { return slices.Contains(said.Audience, a) }) {
		return nil, nil, refuse("invalid_audience", "the token is meant for others")
	}
	keys := s.keysAt(from.GetJwksUrl())
	if keys.bad.TokensAt(s.Now()) < 1 {
		return nil, nil, &refusal{http.StatusTooManyRequests, "authentication_failed", "too many tokens with a bad signature came: send it again later"}
	}
	if _, err := keys.VerifySignature(ctx, token); err != nil {
		if strings.Contains(err.Error(), "fetching keys") {
			return nil, nil, fmt.Errorf("fetching the transmitter's keys: %w", err)
		}
		keys.bad.AllowN(s.Now(), 1)
		return nil, nil, refuse("authentication_failed", "the signature is not by a key of the transmitter")
	}
	return from, &said, nil
}

func (s *Server) keysAt(url string) *keySet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[url] == nil {
		ctx := oidc.ClientContext(context.Background(), s.Client) // the set outlives the request that needs it first
		s.keys[url] = &keySet{oidc.NewRemoteKeySet(ctx, url), rate.NewLimiter(rate.Every(time.Second), 30)}
	}
	return s.keys[url]
}

// events takes a security event token (RFC 8935, section 2).
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	if err := s.take(r); err != nil {
		s.answer(w, r, err)
		return
	}
	w.WriteHeader(http.StatusAccepted)
}

func (s *Server) take(r *http.Request) error {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/secevent+jwt" {
		return refuse("invalid_request", "the body is not application/secevent+jwt")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil || len(body) > maxBody {
		return refuse("invalid_request", "the body is more than %d bytes, or did not come whole", maxBody)
	}
	directory := r.PathValue("directory")
	from, said, err := s.verify(r.Context(), directory, strings.TrimSpace(string(body)), "secevent+jwt")
	if err != nil {
		return err
	}
	now, issued := s.Now(), time.Unix(int64(said.IssuedAt), 0)
	switch {
	case said.ID == "" || len(said.ID) > 500 || said.IssuedAt <= 0 || len(said.Events) == 0:
		return refuse("invalid_request", "jti, iat or events is missing")
	case issued.After(now.Add(skew)) || now.Sub(issued) > oldest:
		return refuse("invalid_request", "the token was issued in the future, or more than %d days ago", oldest/(24*time.Hour))
	}
	seen := "signal." + uuid.NewSHA1(uuid.NameSpaceURL, []byte(from.GetIssuer()+"\x00"+said.ID)).String()
	if _, err := s.Store.Get(r.Context(), seen); err == nil {
		return nil // it came before, and was taken (RFC 8935, section 2.2)
	} else if !errors.Is(err, kv.ErrNotFound) {
		return fmt.Errorf("looking whether an event came before: %w", err)
	}
	for event, body := range said.Events {
		if err := s.act(r.Context(), directory, from, event, said.Subject, body); err != nil {
			return err
		}
	}
	// Only now: an event that was not carried out must be taken when it comes again.
	if _, err := s.Store.Create(r.Context(), seen, []byte("1"), oldest+skew); err != nil && !errors.Is(err, kv.ErrExists) {
		s.Log.WarnContext(r.Context(), "it could not be remembered that an event was taken; should it come again, it is carried out again", "error", err)
	}
	return nil
}

// What is done for an event (OpenID CAEP 1.0, RISC 1.0).
const (
	sessionRevoked   = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
	credentialChange = "https://schemas.openid.net/secevent/caep/event-type/credential-change"
	accountDisabled  = "https://schemas.openid.net/secevent/risc/event-type/account-disabled"
)

func (s *Server) act(ctx context.Context, directory string, from *policyv1.Signals, event string, subject, body json.RawMessage) error {
	disable := false
	switch event {
	case sessionRevoked, credentialChange:
	case accountDisabled:
		disable = true
	default: // of the stream itself, or of no concern here: it was delivered
		s.Log.InfoContext(ctx, "a security event was taken that asks for nothing here", "directory", directory, "event", fmt.Sprintf("%.200q", event))
		return nil
	}
	if len(subject) == 0 { // drafts have it inside
		var inside struct {
			Subject json.RawMessage `json:"subject"`
		}
		_ = json.Unmarshal(body, &inside) // without one it names nobody, which is refused
		subject = inside.Subject
	}
	people, err := s.people(ctx, directory, from, subject)
	if err != nil {
		return err
	}
	for _, u := range people {
		if err := s.end(ctx, directory, u, disable); err != nil {
			return err
		}
	}
	s.Log.InfoContext(ctx, "a security event was carried out", "directory", directory, "event", event, "people", len(people))
	return nil
}

// identifier is a subject identifier (RFC 9493).
type identifier struct {
	Format  string `json:"format"`
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
	ID      string `json:"id"`
	Email   string `json:"email"`
	// User is the person's part of a complex subject (SSF 1.0, section 3.2).
	User *identifier `json:"user"`
}

// people are those whom a subject names: nobody, where the person was never provisioned. An address may be several
// people's: access is only taken away.
func (s *Server) people(ctx context.Context, directory string, from *policyv1.Signals, subject json.RawMessage) ([]*core.User, error) {
	var id identifier
	if json.Unmarshal(subject, &id) != nil {
		return nil, refuse("invalid_request", "the subject cannot be read")
	}
	if id.User != nil {
		id = *id.User
	}
	state, err := s.Engine.Fence(ctx)
	if err != nil {
		return nil, fmt.Errorf("proving that the state is current: %w", err)
	}
	value := ""
	switch id.Format {
	case "iss_sub":
		d := state.Directory(directory)
		known := id.Issuer == from.GetIssuer() || id.Issuer == d.GetSignIn().GetIssuer() ||
			slices.ContainsFunc(d.GetIssuers(), func(i *policyv1.Issuer) bool { return i.GetUrl() == id.Issuer })
		if !known {
			return nil, refuse("invalid_request", "the subject is of an issuer that does not speak for this directory")
		}
		value = id.Subject
	case "opaque":
		value = id.ID
	case "email":
		if id.Email == "" {
			return nil, refuse("invalid_request", "the subject names nobody")
		}
		people := state.UsersByEmail(directory, id.Email)
		if u := state.UserByName(directory, id.Email); u != nil && !slices.Contains(people, u) {
			people = append(people, u)
		}
		return people, nil
	default:
		return nil, refuse("invalid_request", "the subject's format is not iss_sub, opaque or email")
	}
	if value == "" {
		return nil, refuse("invalid_request", "the subject names nobody")
	}
	if u := state.UserBySubject(directory, value); u != nil {
		return []*core.User{u}, nil
	}
	return nil, nil
}

// end ends a person's sessions, or deactivates the person, which does that too.
func (s *Server) end(ctx context.Context, directory string, u *core.User, disable bool) error {
	actor := &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SIGNAL, Id: directory}
	for {
		var err error
		if disable {
			_, err = s.Engine.Do(ctx, actor, core.UpdateUser{Directory: directory, ID: u.ID, IfVersion: u.Version, Profile: u.Profile, Active: false})
		} else {
			_, err = s.Engine.Do(ctx, actor, core.RevokeSessions{ID: u.ID})
		}
		var refused *core.Error
		switch {
		case err == nil:
			return nil
		case errors.As(err, &refused) && refused.Code == core.NotFound: // gone meanwhile
			return nil
		case errors.As(err, &refused) && refused.Code == core.Conflict: // changed meanwhile
			if u = s.Engine.State().User(u.ID); u == nil {
				return nil
			}
		default:
			return fmt.Errorf("ending what a person has: %w", err)
		}
	}
}

// logout takes Okta's Universal Logout: a subject, and a signed token that says who asks.
func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	if err := s.leave(r); err != nil {
		s.answer(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) leave(r *http.Request) error {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return &refusal{http.StatusUnauthorized, "authentication_failed", "a signed token is needed, as a bearer token"}
	}
	directory := r.PathValue("directory")
	from, said, err := s.verify(r.Context(), directory, strings.TrimSpace(token), "global-token-revocation+jwt")
	var why *refusal
	if errors.As(err, &why) && why.status == http.StatusBadRequest {
		why.status = http.StatusUnauthorized
	}
	if err != nil {
		return err
	}
	now, issued := s.Now(), time.Unix(int64(said.IssuedAt), 0)
	if said.ID == "" || said.IssuedAt <= 0 || issued.After(now.Add(skew)) || now.Sub(issued) > logoutWithin ||
		said.Expires > 0 && now.After(time.Unix(int64(said.Expires), 0).Add(skew)) {
		return &refusal{http.StatusUnauthorized, "authentication_failed", "the token was not issued just now, or has no jti"}
	}
	var body struct {
		Subject json.RawMessage `json:"sub_id"`
		Older   json.RawMessage `json:"subject"`
	}
	if json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(&body) != nil {
		return refuse("invalid_request", "the body is no JSON object")
	}
	if len(body.Subject) == 0 {
		body.Subject = body.Older
	}
	people, err := s.people(r.Context(), directory, from, body.Subject)
	if err != nil {
		return err
	}
	if len(people) == 0 {
		return &refusal{http.StatusNotFound, "invalid_request", "nobody of this directory is meant"}
	}
	// Once: a token that somebody else saw is of no use to them, and one that was not carried out may come again.
	seen := "signal." + uuid.NewSHA1(uuid.NameSpaceURL, []byte(from.GetIssuer()+"\x01"+said.ID)).String()
	if _, err := s.Store.Get(r.Context(), seen); err == nil {
		return &refusal{http.StatusUnauthorized, "authentication_failed", "the token was used before"}
	} else if !errors.Is(err, kv.ErrNotFound) {
		return fmt.Errorf("looking whether a token was used before: %w", err)
	}
	for _, u := range people {
		if err := s.end(r.Context(), directory, u, false); err != nil {
			return err
		}
	}
	if _, err := s.Store.Create(r.Context(), seen, []byte("1"), 2*logoutWithin); err != nil && !errors.Is(err, kv.ErrExists) {
		s.Log.WarnContext(r.Context(), "it could not be remembered that a token was used", "error", err)
	}
	s.Log.InfoContext(r.Context(), "a universal logout was carried out", "directory", directory, "people", len(people))
	return nil
}
