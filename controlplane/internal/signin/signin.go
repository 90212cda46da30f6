// Package signin signs people in at their identity provider, in a browser: OpenID Connect's code flow with PKCE, state
// and nonce, for any number of directories.
//
// A person is matched inside the directory by its one pair of ID token claim and provisioned attribute, and by nothing
// else; who was never provisioned, or is deactivated, gets a page that says whom to ask. A browser that is signed in
// holds a cookie; what the cookie stands for lies in key-value with its expiry, bound to the person's generation, and is
// compared with the fenced state at each use. The package decides who is there, never what they may do: whoever needs to
// know who is in front of a page asks Require.
package signin

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/bounds"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

// Engine is what is needed of the engine.
type Engine interface {
	// Fence returns a state that stands at the end of the log.
	Fence(ctx context.Context) (*core.State, error)
}

// Store is what is needed of key-value: sessions, and sign-ins that have begun.
type Store interface {
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error)
	Get(ctx context.Context, key string) (kv.Entry, error)
	Update(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error)
	Purge(ctx context.Context, key string) error
}

// Secrets is what is needed of the vault.
type Secrets interface {
	// SignInSecret returns the secret of a directory's client at its identity provider.
	SignInSecret(ctx context.Context, secretID, directory string) (string, error)
}

// Event is what became of a sign-in, for audit.
type Event struct {
	// Directory at whose provider it was; Person is set where somebody was matched.
	Directory string
	Person    *core.User
	// Subject is what the provider calls somebody who is not provisioned. It is not for audit.
	Subject string
	// Outcome is one of the words below.
	Outcome string
	ACR     string
	AMR     []string
	// Request is the one with which it ended.
	Request *http.Request
}

// What becomes of a sign-in.
const (
	SignedIn       = "signed_in"
	NotProvisioned = "not_provisioned"
	Deactivated    = "deactivated"
	// TooWeak: the provider signed the person in, but not as strongly as was asked for.
	TooWeak = "too_weak"
	// Refused: the provider said no.
	Refused = "refused"
	// Unreachable: the provider did not answer.
	Unreachable = "unreachable"
	// Forged: an answer that was not asked for by this browser, was used before, or does not verify.
	Forged    = "forged"
	SignedOut = "signed_out"
)

// Config is what a Server is made of. Now, Client, Record and Log may be left out.
type Config struct {
	Engine  Engine
	Store   Store
	Secrets Secrets
	// URL is how browsers reach the server: https, or http on loopback. Where it has a path, the Handler answers below it.
	URL string
	// Client speaks to identity providers. Default: one with a time-out of 10 seconds that follows no redirect to another host.
	Client *http.Client
	Now    func() time.Time
	// Record is told what became of each sign-in. Default: nobody.
	Record func(context.Context, Event)
	// Keep is given what the provider gave at each sign-in of a person. Default: it is forgotten.
	Keep func(ctx context.Context, person *core.User, directory string, t Tokens) error
	Log  *slog.Logger
}

// How many sign-ins may begin of one network, on average and at once: a whole office comes from one address.
const (
	beginsPerSecond = 20
	beginsAtOnce    = 2000
)

// Server signs people in. It is safe for concurrent use.
type Server struct {
	Config
	secure    bool
	path      string // of URL, without a slash at its end
	providers providers
	begun     *bounds.Bounds // sign-ins, each of which is kept until it is answered or too old
	forms     *http.CrossOriginProtection
}

// New returns a server. Its Handler must be served at the URL.
func New(c Config) (*Server, error) {
	c.URL = strings.TrimRight(c.URL, "/")
	u, err := url.Parse(c.URL)
	if err != nil || !validURL(u) {
		return nil, errURL
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Record == nil {
		c.Record = func(context.Context, Event) {}
	}
	if c.Keep == nil {
		c.Keep = func(context.Context, *core.User, string, Tokens) error { return nil }
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Client == nil {
		c.Client = newClient()
	}
	return &Server{Config: c, secure: u.Scheme == "https", path: u.Path, providers: newProviders(c.Client, c.Now), begun: bounds.New(beginsPerSecond, beginsAtOnce), forms: http.NewCrossOriginProtection()}, nil
}

// Handler serves, below the URL's path, /signin and what lies below it, and a page at / that says who is signed in.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+s.path+"/signin", s.begin)
	mux.HandleFunc("GET "+s.path+"/signin/callback/{directory}", s.callback)
	mux.HandleFunc("POST "+s.path+"/signin/out", s.signOut)
	mux.HandleFunc("GET "+s.path+"/{$}", s.account)
	return mux
}

// RedirectURI is what a directory's client must have as redirect URI at its provider.
func (s *Server) RedirectURI(directory string) string {
	return s.URL + "/signin/callback/" + directory
}

// Need is what a page asks of the person in front of it. The zero value asks for anybody who is signed in.
type Need struct {
	// Directory whose person it must be. Empty: any.
	Directory string
	// MaxAge is how long ago they may have proved who they are to the provider. Zero: as long as the session lives.
	MaxAge time.Duration
	// ACR are authentication contexts, of which the sign-in must have one; AMR are methods, of which it must have all.
	ACR, AMR []string
	// Hint is the email address or name that the provider may fill in.
	Hint string
}

// Who is the person whose browser it is.
type Who struct {
	// User as the fenced state knows them: active, and of the generation for which the session was made.
	User *core.User
	// Session names the session, and opens nothing.
	Session string
	// Issuer is the identity provider, ACR and AMR what it said of the sign-in, AuthTime when that was.
	Issuer   string
	ACR      string
	AMR      []string
	AuthTime time.Time

	secret []byte
}

// meets says whether a sign-in is as a need asks.
func (n Need) meets(w Who, now time.Time) bool {
	if n.Directory != "" && n.Directory != w.User.Directory {
		return false
	}
	return strong(n, w.ACR, w.AMR, w.AuthTime, now)
}

// strong says whether a sign-in at a provider is as strong and as recent as a need asks, give or take what clocks differ.
func strong(n Need, acr string, amr []string, authTime, now time.Time) bool {
	if len(n.ACR) > 0 && !slices.Contains(n.ACR, acr) {
		return false
	}
	for _, method := range n.AMR {
		if !slices.Contains(amr, method) {
			return false
		}
	}
	return n.MaxAge == 0 || !authTime.IsZero() && now.Sub(authTime) <= n.MaxAge+skew
}

// with adds what a directory asks of every sign-in.
func (n Need) with(a *policyv1.Assurance) Need {
	if age := a.GetMaxAge().AsDuration(); age > 0 && (n.MaxAge == 0 || age < n.MaxAge) {
		n.MaxAge = age
	}
	if len(n.ACR) == 0 {
		n.ACR = a.GetAcr()
	}
	for _, method := range a.GetAmr() {
		if !slices.Contains(n.AMR, method) {
			n.AMR = append(slices.Clip(n.AMR), method)
		}
	}
	return n
}

// Require returns the person who is signed in with this browser, if they are as the page needs. Otherwise it answers,
// and returns false: a GET leads to the provider and comes back to the same URL, anything else gets a page.
func (s *Server) Require(w http.ResponseWriter, r *http.Request, need Need) (Who, bool) {
	who, err := s.who(r)
	if err != nil {
		s.unavailable(w, r, err)
		return Who{}, false
	}
	if who.User != nil && need.meets(who, s.Now()) {
		return who, true
	}
	if r.Method != http.MethodGet {
		s.endedPage(w)
		return Who{}, false
	}
	s.redirect(w, s.beginURL(r.RequestURI, need))
	return Who{}, false
}

func (s *Server) beginURL(to string, n Need) string {
	return s.path + "/signin?" + s.parameters(to, n).Encode()
}

func (s *Server) parameters(to string, n Need) url.Values {
	q := url.Values{"to": {to}}
	if n.Directory != "" {
		q.Set("directory", n.Directory)
	}
	if n.MaxAge > 0 {
		q.Set("max_age", strconv.Itoa(max(int(n.MaxAge/time.Second), 1)))
	}
	if len(n.ACR) > 0 {
		q["acr"] = n.ACR
	}
	if len(n.AMR) > 0 {
		q["amr"] = n.AMR
	}
	if n.Hint != "" {
		q.Set("hint", n.Hint)
	}
	return q
}
