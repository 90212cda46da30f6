package identity

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/dpop"
	"sallyport.dev/dataplane/policy"
)

// Table is what identity asks of the snapshot that is enforced now: *policy.Table.
type Table interface {
	// Issuer returns the settings of an issuer whose identifier equals the URL byte for byte.
	Issuer(url string) (*fleetv1.Issuer, bool)
	// Person returns the person of a directory whose matching attribute equals the subject.
	Person(directory, subject string) (policy.Person, bool)
	// AuthorizationServer returns Sallyport's own by its issuer.
	AuthorizationServer(issuer string) (*fleetv1.AuthorizationServer, bool)
	PersonByID(id uuid.UUID) (policy.Person, bool)
	// SessionEnded tells whether a session of the authorization server was ended before its time.
	SessionEnded(id uuid.UUID) bool
	// ClientCut is until when a client's sessions must have begun that are over; zero for never.
	ClientCut(client string) time.Time
}

var _ Table = (*policy.Table)(nil)

// Caller is who calls.
type Caller struct {
	// Person as the table knows them. Where it knows nobody, only Directory is set.
	policy.Person
	Issuer string
	// Subject is the value of the issuer's user claim.
	Subject string
	// Audience is the one of the token's audiences for which it was accepted.
	Audience string
	// ClientID is the OAuth client's: client_id, else cid (Okta), azp or appid.
	ClientID string
	// TokenID is the jti claim, Session the sid claim; empty where the issuer sends none.
	TokenID, Session string
	// Token is the SHA-256 of the access token: what to key by where the token itself must not lie.
	Token            [32]byte
	IssuedAt, Expiry time.Time
	// How and when the person was authenticated, as far as the token says: its claims acr, amr and auth_time.
	ACR      string
	AMR      []string
	AuthTime time.Time

	own   *own   // nil: a token of another issuer
	bound string // the thumbprint of the key that the token is bound to; empty: whoever has it may use it
}

// Own tells whether the token is of Sallyport's own authorization server.
func (c *Caller) Own() bool { return c.own != nil }

// Config is a Verifier's. The zero value works.
type Config struct {
	// Transport reaches issuers. Default: http.DefaultTransport.
	Transport http.RoundTripper
	// CacheSize is how many verified tokens are remembered. Default: 65,536 (about 40 MB when full).
	CacheSize int
	// Refresh is how often the issuers' keys are fetched again. Default: 15 minutes.
	Refresh time.Duration
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Logger gets issuers that cannot be reached. Default: slog.Default.
	Logger *slog.Logger
}

// Verifier identifies callers. It is safe for use by many goroutines.
type Verifier struct {
	cfg    Config
	client *http.Client
	cache  *cache
	ours   ownKeys
	seen   dpop.Seen
	// changed holds a token when Watch was called and Run has not seen it.
	changed chan struct{}

	mu      sync.RWMutex
	issuers map[string]*keySet
}

// New returns a Verifier. It fetches keys when they are first needed; Run fetches them before.
func New(cfg Config) *Verifier {
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport
	}
	if cfg.CacheSize <= 0 {
		cfg.CacheSize = 1 << 16
	}
	if cfg.Refresh <= 0 {
		cfg.Refresh = 15 * time.Minute
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Verifier{
		cfg: cfg, client: guardedClient(cfg.Transport), cache: newCache(cfg.CacheSize),
		changed: make(chan struct{}, 1), issuers: map[string]*keySet{},
	}
}

// Verify identifies the caller by a bearer token, against the table that is enforced now. resources are the URLs that
// the token may name as its audience, where its issuer has no audience configured: the one that was called and those
// above it. The error is an *Error.
func (v *Verifier) Verify(ctx context.Context, table Table, resources []string, token string) (Caller, error) {
	if token == "" {
		return Caller{}, fail(Missing, nil)
	}
	if len(token) > maxToken {
		return Caller{}, fail(TooLarge, nil)
	}
	d := digestOf(token)
	known := v.cache.get(&d)
	if known != nil && known.own != nil {
		return v.verifyOwn(table, resources, known, d, false)
	}
	if known != nil && known.key.gone.Load() {
		v.cache.drop(&d)
		known = nil
	}
	var issuer *fleetv1.Issuer
	if known != nil {
		var trusted bool
		if issuer, trusted = table.Issuer(known.issuer); !trusted {
			return Caller{}, fail(UnknownIssuer, nil)
		}
		if known.claim != claimOf(issuer) {
			known = nil
		}
	}
	fresh := known == nil
	if fresh {
		var err *Error
		if known, issuer, err = v.verify(ctx, table, token); err != nil {
			return Caller{}, err
		}
		if known.own != nil {
			return v.verifyOwn(table, resources, known, d, true)
		}
	}
	accepted, err := v.current(known, issuer.GetIssuer().GetAudience(), resources, d, fresh)
	if err != nil {
		return Caller{}, err
	}
	caller, err := identify(table, issuer, known, d)
	caller.Audience = accepted
	return caller, err
}

// verifyOwn ends Verify for a token of Sallyport's own authorization server.
func (v *Verifier) verifyOwn(table Table, resources []string, known *verified, d digest, fresh bool) (Caller, error) {
	accepted, err := v.current(known, "", resources, d, fresh)
	if err != nil {
		return Caller{}, err
	}
	caller, err := identifyOwn(table, known, d)
	caller.Audience = accepted
	return caller, err
}

// current compares a token's times with the clock and its audience with what was called, remembers a fresh one, and returns
// the audience for which it is accepted.
func (v *Verifier) current(known *verified, configured string, resources []string, d digest, fresh bool) (string, error) {
	now := v.cfg.Now()
	accepted := fits(known.audience, configured, resources)
	switch {
	case !now.Before(known.expiry.Add(skew)):
		v.cache.drop(&d)
		return "", fail(Expired, nil)
	case known.notBefore.After(now.Add(skew)), known.issuedAt.After(now.Add(skew)):
		return "", fail(NotYetValid, nil)
	case accepted == "":
		return "", fail(WrongAudience, nil)
	}
	if fresh {
		v.cache.put(&d, known)
	}
	return accepted, nil
}

// digestOf hashes a token without a copy on the heap where it has the usual size.
func digestOf(token string) digest {
	var buf [2048]byte
	return sha256.Sum256(append(buf[:0], token...))
}

// verify does what need be done once for a token. An issuer that the table does not trust is not talked to.
func (v *Verifier) verify(ctx context.Context, table Table, token string) (*verified, *fleetv1.Issuer, *Error) {
	p, err := parse(token)
	if err != nil {
		return nil, nil, err
	}
	if server, ours := table.AuthorizationServer(p.claims.Issuer); ours {
		known, err := p.verifyOwn(v.ours.key(server, p.header.KeyID))
		return known, nil, err
	}
	issuer, trusted := table.Issuer(p.claims.Issuer)
	if !trusted || p.claims.Issuer == "" {
		return nil, issuer, fail(UnknownIssuer, nil)
	}
	known, err := p.verify(ctx, v.keysOf(p.claims.Issuer), claimOf(issuer))
	return known, issuer, err
}

func claimOf(issuer *fleetv1.Issuer) string {
	if claim := issuer.GetIssuer().GetUserClaim(); claim != "" {
		return claim
	}
	return "sub"
}

// fits returns the audience for which a token is accepted; empty: it is for others.
func fits(audience []string, configured string, resources []string) string {
	for _, a := range audience {
		if configured != "" && a == configured || configured == "" && slices.Contains(resources, a) {
			return a
		}
	}
	return ""
}

// identify finds the person in the current table.
func identify(table Table, issuer *fleetv1.Issuer, known *verified, d digest) (Caller, error) {
	person, found := table.Person(issuer.GetDirectory(), known.subject)
	if !found {
		person = policy.Person{Directory: issuer.GetDirectory()}
	}
	c := Caller{
		Person: person, Issuer: known.issuer, Subject: known.subject,
		ClientID: known.clientID, TokenID: known.tokenID, Session: known.session, Token: d,
		IssuedAt: known.issuedAt, Expiry: known.expiry, ACR: known.acr, AMR: known.amr, AuthTime: known.authTime, bound: known.bound,
	}
	kind := Kind(0)
	switch {
	case !found:
		kind = PersonUnknown
	case !person.Active:
		kind = PersonInactive
	case !known.issuedAt.After(person.ValidAfter):
		kind = Revoked
	default:
		return c, nil
	}
	return Caller{}, &Error{Kind: kind, Caller: c}
}

// keysOf returns the key set of a trusted issuer.
func (v *Verifier) keysOf(url string) *keySet {
	v.mu.RLock()
	s := v.issuers[url]
	v.mu.RUnlock()
	if s != nil {
		return s
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if s = v.issuers[url]; s == nil {
		s = newKeySet(url, v.client, v.cfg.Now)
		v.issuers[url] = s
	}
	return s
}

// Watch says which issuers are trusted now. Run fetches their keys before they are needed; the keys of others are forgotten.
func (v *Verifier) Watch(urls []string) {
	v.mu.Lock()
	for url, s := range v.issuers {
		if !slices.Contains(urls, url) {
			s.retire()
			delete(v.issuers, url)
		}
	}
	for _, url := range urls {
		if v.issuers[url] == nil {
			v.issuers[url] = newKeySet(url, v.client, v.cfg.Now)
		}
	}
	v.mu.Unlock()
	select {
	case v.changed <- struct{}{}:
	default:
	}
}

// Run keeps the keys of the watched issuers fresh until ctx is done, and returns its error.
func (v *Verifier) Run(ctx context.Context) error {
	for {
		pause := v.cfg.Refresh
		if !v.refresh(ctx) {
			pause = min(pause, time.Minute)
		}
		timer := time.NewTimer(pause + rand.N(pause/8+1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-v.changed:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// refresh fetches the keys of all issuers side by side, and reports whether all could be had.
func (v *Verifier) refresh(ctx context.Context) bool {
	var failed atomic.Bool
	var wg sync.WaitGroup
	for _, s := range v.keySets() {
		wg.Go(func() {
			if err := s.refresh(ctx, v.cfg.Refresh/2); err != nil && ctx.Err() == nil {
				failed.Store(true)
				v.cfg.Logger.Warn("an issuer's keys cannot be fetched; those known stay", "issuer", s.issuer, "error", err)
			}
		})
	}
	wg.Wait()
	return !failed.Load()
}

func (v *Verifier) keySets() []*keySet {
	v.mu.RLock()
	defer v.mu.RUnlock()
	all := make([]*keySet, 0, len(v.issuers))
	for _, s := range v.issuers {
		all = append(all, s)
	}
	return all
}
