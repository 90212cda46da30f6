// Package approval asks people for the yes that rules want before a call is made: the person whose agent calls, on a page in their
// browser, and approvers, who decide about exactly one call.
//
// A confirmation lies in key-value for minutes, a review is on the log; the arguments of either are sealed under the person's key, with
// an end. A yes is of use once, for the very call that was shown, while the person is who they were when they were asked. Whether a
// call is then allowed the package never says: the proxy decides anew.
package approval

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"golang.org/x/time/rate"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
)

// Engine is what is needed of the engine.
type Engine interface {
	State() *core.State
	// Fence returns a state that stands at the end of the log.
	Fence(ctx context.Context) (*core.State, error)
	Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (engine.Outcome, error)
}

// Store is what is needed of key-value.
type Store interface {
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error)
	Get(ctx context.Context, key string) (kv.Entry, error)
	Update(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error)
	Purge(ctx context.Context, key string) error
}

// Seals is what is needed of the vault: what is a person's is sealed under the person's key, and digests are keyed by it, so that neither
// tells anything once the person was erased.
type Seals interface {
	Digest(ctx context.Context, person uuid.UUID, use string, of []byte) ([]byte, error)
	Seal(ctx context.Context, person uuid.UUID, plain []byte) ([]byte, error)
	Open(ctx context.Context, person uuid.UUID, sealed []byte) (plain []byte, erased bool, err error)
}

// People signs people in with a browser: *signin.Server.
type People interface {
	Require(w http.ResponseWriter, r *http.Request, need signin.Need) (signin.Who, bool)
}

// Trail takes audit records.
type Trail interface {
	// Note takes a record and does not wait until it is stored.
	Note(r *auditv1.AuditRecord)
}

// Config is what a Server is made of. Now may be left out.
type Config struct {
	Engine Engine
	Store  Store
	Seals  Seals
	People People
	Trail  Trail
	// URL is how browsers reach the sign-in listener, on which the pages are.
	URL string
	// Webhook is told of reviews.
	Webhook Webhook
	Now     func() time.Time
	Log     *slog.Logger
}

// Server asks people. It is safe for concurrent use.
type Server struct {
	Config
	path  string // of URL, without a slash at its end
	forms *http.CrossOriginProtection

	mu    sync.Mutex
	asked map[uuid.UUID]*rate.Limiter

	fresh chan struct{}   // something waits that the webhook is to be told of
	done  map[string]bool // of what it was told; Run's alone
}

// New returns a server. Its Handler must be served at the URL.
func New(c Config) (*Server, error) {
	c.URL = strings.TrimRight(c.URL, "/")
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("the URL of the pages: %w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if err := c.Webhook.Check(); err != nil {
		return nil, err
	}
	if c.Webhook.Client == nil {
		c.Webhook.Client = &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	return &Server{
		Config: c, path: u.Path, forms: http.NewCrossOriginProtection(), asked: map[uuid.UUID]*rate.Limiter{}, fresh: make(chan struct{}, 1), done: map[string]bool{},
	}, nil
}

// Handler serves the pages, below the URL's path.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+s.path+"/confirm/{key}", s.showConfirmation)
	mux.HandleFunc("POST "+s.path+"/confirm/{key}", s.answerConfirmation)
	mux.HandleFunc("GET "+s.path+"/reviews", s.listReviews)
	mux.HandleFunc("GET "+s.path+"/reviews/{id}", s.showReview)
	mux.HandleFunc("POST "+s.path+"/reviews/{id}", s.answerReview)
	return s.forms.Handler(mux)
}

// How many calls of one person's agents people are asked about: an agent that loops does not fill the store.
const (
	askedPerSecond, askedAtOnce = 0.5, 30
	maxAsking                   = 20_000
)

// admit refuses an agent that asks too much.
func (s *Server) admit(person uuid.UUID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asked) > maxAsking {
		clear(s.asked)
	}
	one := s.asked[person]
	if one == nil {
		one = rate.NewLimiter(askedPerSecond, askedAtOnce)
		s.asked[person] = one
	}
	if !one.AllowN(s.Now(), 1) {
		return connect.NewError(connect.CodeResourceExhausted, errors.New("too many calls of this person's agents wait for somebody's yes: answer those first"))
	}
	return nil
}

// keyOf names a call of a person's agent, the same whenever it is made: by who they are now, the client, and what is called with which
// arguments.
func (s *Server) keyOf(ctx context.Context, user *core.User, c *fleetv1.AskedCall) (string, error) {
	var named []byte
	for _, part := range []string{user.ID.String(), fmt.Sprint(user.Generation), c.GetClientId(), c.GetConnector(), c.GetTool(), c.GetMethod(), string(c.GetArguments())} {
		named = append(binary.AppendUvarint(named, uint64(len(part))), part...)
	}
	key, err := s.Seals.Digest(ctx, user.ID, "call", named)
	if err != nil {
		return "", fmt.Errorf("naming a call: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(key), nil
}

// digest is that of a call's arguments by which people, events and audit know them: of their SHA-256, keyed for the person, since few
// arguments are beyond guessing.
func (s *Server) digest(ctx context.Context, person uuid.UUID, sum []byte) ([]byte, error) {
	digest, err := s.Seals.Digest(ctx, person, "arguments", sum)
	if err != nil {
		return nil, fmt.Errorf("the digest of a call's arguments: %w", err)
	}
	return digest, nil
}

func sumOf(arguments []byte) []byte {
	sum := sha256.Sum256(arguments)
	return sum[:]
}

// pollEvery is how often it is looked whether somebody answered.
const pollEvery = 200 * time.Millisecond

// pause waits until it is time to look again. False: there is no time left.
func pause(ctx context.Context, until time.Time) bool {
	if !time.Now().Before(until) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pollEvery):
		return true
	}
}

// note has audit keep what was asked of people, or what they said.
func (s *Server) note(action, id string, user *core.User, by *core.User, region, client, connector, tool string, details ...*auditv1.Detail) {
	r := &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_REVIEW, Action: action, Target: "approval/" + id, Region: region, Connector: connector, Tool: tool,
		Client: &auditv1.Client{Id: client}, Details: details,
	}
	if user != nil {
		r.PersonId = user.ID.String()
	}
	if by != nil {
		r.Actor = &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_PERSON, Id: by.ID.String()}
	}
	s.Trail.Note(r)
}

// digestKey is under which audit keeps the digest of a call's arguments.
const digestKey = "arguments_digest"

func digestDetail(digest []byte) *auditv1.Detail {
	return detail(digestKey, hex.EncodeToString(digest))
}

func detail(key, value string) *auditv1.Detail { return &auditv1.Detail{Key: key, Value: value} }
