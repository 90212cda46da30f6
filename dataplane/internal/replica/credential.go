package replica

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/sealing"
)

var (
	// ErrCredentialDenied says that the control plane does not give out the credential for this token.
	ErrCredentialDenied = errors.New("the control plane refuses the upstream credential")
	// ErrCredentialUnavailable says that the credential cannot be had now.
	ErrCredentialUnavailable = errors.New("the upstream credential cannot be had now")
)

// SetUpError is an ErrCredentialDenied that an administrator can mend, in words for them and for the person.
type SetUpError struct{ Message string }

func (e *SetUpError) Error() string { return ErrCredentialDenied.Error() + ": " + e.Message }
func (e *SetUpError) Unwrap() error { return ErrCredentialDenied }

const (
	// A credential is not used in the last moments before it expires.
	credentialMargin = 5 * time.Second
	// A credential older than this is fetched again beside the call that uses it, so that one that was replaced in the
	// vault goes out of use, and one that is known outlives a control plane that is away.
	credentialFresh = time.Minute
	retryRefresh    = 10 * time.Second
	maxCredentials  = 16384
)

// ConnectError says that the person must open a page before there is a credential.
type ConnectError struct {
	URL, Reason string
	// ID names the request to the person.
	ID string
}

func (e *ConnectError) Error() string { return "the person must open a page first" }

// Header is what to send upstream: a header, or a parameter of the URL's query. Its value is secret.
type Header struct {
	Name string
	// Identity names whom the upstream takes the caller for.
	Identity string

	value, query string
}

// Value returns the secret. Header's other forms, as in logs, do not hold it.
func (h Header) Value() string { return h.value }

// Query returns the parameter, name=value, encoded. It is secret.
func (h Header) Query() string { return h.query }

func (h Header) String() string { return h.Name + ": [secret]" }

// GoString keeps the secret out of %#v.
func (h Header) GoString() string { return h.String() }

// Is tells whether a digest is that of what is sent.
func (h Header) Is(digest []byte) bool {
	return subtle.ConstantTimeCompare(Digest(h.value+h.query), digest) == 1
}

// Digest names what was sent, and was refused.
func Digest(sent string) []byte {
	sum := sha256.Sum256([]byte(sent))
	return sum[:]
}

// Ask is what is asked for, on behalf of the agent whose live access token is given.
type Ask struct {
	Connector string
	// Resource is the URL at which the agent called.
	Resource string
	Token    string
	Person   uuid.UUID
	// Rejected is the digest of what the upstream refused just now. Nil: nothing.
	Rejected []byte
	// Scopes that the upstream wants and the credential lacks.
	Scopes []string
}

// Credentials fetches what upstreams want to see, and keeps it until shortly before it expires, or until a change of its connector or person.
type Credentials struct {
	client *Client
	now    func() time.Time
	wg     sync.WaitGroup // fetches beside calls

	mu      sync.Mutex
	closed  bool
	entries map[credentialKey]*credential
	pending map[credentialKey]*fetch
}

type credentialKey struct {
	connector string
	person    uuid.UUID
	token     [sha256.Size]byte
}

type credential struct {
	header    Header
	expires   time.Time
	fetched   time.Time
	nextFetch time.Time
}

type fetch struct {
	done   chan struct{}
	header Header
	err    error
	// stale: what it is about changed while it was under way, so that its answer is not kept.
	stale bool
}

// Credentials returns a store of upstream credentials that follows the replica's changes. Close ends it.
func (r *Replica) Credentials() *Credentials {
	c := &Credentials{client: r.cfg.Client, now: r.cfg.Now, entries: map[credentialKey]*credential{}, pending: map[credentialKey]*fetch{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.credentials = append(r.credentials, c)
	return c
}

// Close waits for what is under way beside calls, which is bounded in time.
func (c *Credentials) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
}

// Get returns what to send. The error is a *ConnectError, or ErrCredentialDenied or ErrCredentialUnavailable, wrapped.
func (c *Credentials) Get(ctx context.Context, ask Ask) (Header, error) {
	for {
		header, mine, err := c.get(ctx, ask)
		// Another's question, that did not know what was refused.
		if mine || err != nil || (ask.Rejected == nil || !header.Is(ask.Rejected)) && ask.Scopes == nil {
			return header, err
		}
	}
}

// get returns what is known, or waits for the answer to a question, which may be another's.
func (c *Credentials) get(ctx context.Context, ask Ask) (header Header, mine bool, err error) {
	key := credentialKey{ask.Connector, ask.Person, sha256.Sum256([]byte(ask.Token))}
	now := c.now()
	c.mu.Lock()
	e := c.entries[key]
	if e != nil && (ask.Scopes != nil || ask.Rejected != nil && e.header.Is(ask.Rejected)) {
		delete(c.entries, key)
		e = nil
	}
	if e != nil && now.Before(e.expires.Add(-credentialMargin)) {
		header := e.header
		if now.Sub(e.fetched) >= credentialFresh && !now.Before(e.nextFetch) && c.pending[key] == nil && !c.closed {
			e.nextFetch = now.Add(retryRefresh)
			f := c.begin(key)
			c.wg.Go(func() {
				c.fetch(context.WithoutCancel(ctx), key, f, Ask{Connector: ask.Connector, Resource: ask.Resource, Token: ask.Token})
			})
		}
		c.mu.Unlock()
		return header, true, nil
	}
	f := c.pending[key]
	if mine = f == nil; mine {
		f = c.begin(key)
	}
	c.mu.Unlock()
	if mine {
		// Whoever waits with this call must not fail because it is cancelled.
		c.fetch(context.WithoutCancel(ctx), key, f, ask)
	}
	select {
	case <-f.done:
		return f.header, mine, f.err
	case <-ctx.Done():
		return Header{}, mine, fmt.Errorf("%w: %w", ErrCredentialUnavailable, ctx.Err())
	}
}

// Forget forgets what a person has on a connector, as after the upstream refused it.
func (c *Credentials) Forget(connector string, person uuid.UUID) {
	c.drop(func(k credentialKey) bool { return k.connector == connector && k.person == person })
}

func (c *Credentials) dropAll() { c.drop(func(credentialKey) bool { return true }) }

// drop forgets what is known of some, and what is being asked: who comes now asks anew.
func (c *Credentials) drop(these func(credentialKey) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.entries {
		if these(key) {
			delete(c.entries, key)
		}
	}
	for key, f := range c.pending {
		if these(key) {
			f.stale = true
			delete(c.pending, key)
		}
	}
}

// dropChanged forgets what a change is about: a connector, or a person, whose credentials may have been withdrawn or replaced.
func (c *Credentials) dropChanged(d *fleetv1.Delta) {
	connectors, people := map[string]bool{}, map[uuid.UUID]bool{}
	for _, e := range d.GetChanged() {
		connectors[e.GetConnector().GetId()] = true
		people[userID(e.GetUser().GetId())] = true
	}
	for _, k := range d.GetRemoved() {
		connectors[k.GetConnector()] = true
		people[userID(k.GetUser())] = true
	}
	delete(connectors, "")
	delete(people, uuid.Nil)
	if len(connectors)+len(people) > 0 {
		c.drop(func(k credentialKey) bool { return connectors[k.connector] || people[k.person] })
	}
}

func userID(b []byte) uuid.UUID {
	id, err := uuid.FromBytes(b)
	if err != nil {
		return uuid.Nil
	}
	return id
}

// begin notes that a credential is being fetched. The caller holds mu.
func (c *Credentials) begin(key credentialKey) *fetch {
	f := &fetch{done: make(chan struct{})}
	c.pending[key] = f
	return f
}

func (c *Credentials) fetch(ctx context.Context, key credentialKey, f *fetch, ask Ask) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	question, err := sealing.NewKey()
	if err != nil {
		panic(err) // the system has no randomness
	}
	asked := c.now()
	resp, err := c.client.peer().IssueCredential(ctx, connect.NewRequest(&fleetv1.IssueCredentialRequest{
		Connector: ask.Connector, AccessToken: ask.Token, Resource: ask.Resource, RejectedSha256: ask.Rejected, NeededScopes: ask.Scopes, SealingKey: question.Public(),
	}))
	var kept *credential
	switch {
	case err == nil && resp.Msg.GetConnect() != nil:
		to := resp.Msg.GetConnect()
		f.err = &ConnectError{URL: to.GetUrl(), Reason: to.GetReason(), ID: to.GetElicitationId()}
	case err == nil:
		f.header, f.err = opened(question, ask, resp.Msg)
		if f.err == nil {
			kept = &credential{f.header, asked.Add(resp.Msg.GetLifetime().AsDuration()), c.now(), c.now()}
		}
	case connect.CodeOf(err) == connect.CodeFailedPrecondition:
		f.err = &SetUpError{message(err)}
	case denied(err):
		f.err = fmt.Errorf("%w: %s", ErrCredentialDenied, message(err))
	default:
		c.client.failed(err)
		f.err = fmt.Errorf("%w: %s", ErrCredentialUnavailable, connect.CodeOf(err))
	}
	c.mu.Lock()
	var toConnect *ConnectError
	switch {
	case kept != nil && !f.stale && (ask.Rejected == nil || !f.header.Is(ask.Rejected)):
		c.keep(key, kept)
	case errors.Is(f.err, ErrCredentialDenied) || errors.As(f.err, &toConnect):
		delete(c.entries, key)
	}
	if c.pending[key] == f {
		delete(c.pending, key)
	}
	c.mu.Unlock()
	close(f.done)
}

// opened is what a control plane sealed to the question's key.
func opened(key sealing.Key, ask Ask, m *fleetv1.IssueCredentialResponse) (Header, error) {
	plain, err := key.Open(m.GetSealed(), ask.Connector, m.GetHeaderName(), m.GetIdentity(), ask.Token)
	if err != nil {
		return Header{}, fmt.Errorf("%w: %w", ErrCredentialUnavailable, err)
	}
	var secret fleetv1.UpstreamSecret
	if proto.Unmarshal(plain, &secret) != nil {
		return Header{}, fmt.Errorf("%w: it cannot be read", ErrCredentialUnavailable) // without the error, which may quote it
	}
	return Header{Name: m.GetHeaderName(), value: secret.GetHeaderValue(), query: secret.GetQuery(), Identity: m.GetIdentity()}, nil
}

// keep stores a credential. Where there are too many, expired ones go, and then any. The caller holds mu.
func (c *Credentials) keep(key credentialKey, e *credential) {
	if len(c.entries) >= maxCredentials {
		for k, old := range c.entries {
			if !e.fetched.Before(old.expires) {
				delete(c.entries, k)
			}
		}
		for k := range c.entries {
			if len(c.entries) < maxCredentials*3/4 {
				break
			}
			delete(c.entries, k)
		}
	}
	c.entries[key] = e
}

func denied(err error) bool {
	switch connect.CodeOf(err) {
	case connect.CodePermissionDenied, connect.CodeFailedPrecondition, connect.CodeInvalidArgument, connect.CodeNotFound:
		return true
	}
	return false
}

// message is what the control plane said, for admins: its errors hold no secrets.
func message(err error) string {
	var e *connect.Error
	if errors.As(err, &e) {
		return e.Message()
	}
	return connect.CodeOf(err).String()
}
