package replica

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"connectrpc.com/connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

var (
	// ErrCredentialDenied says that the control plane does not give out the credential for this token.
	ErrCredentialDenied = errors.New("the control plane refuses the upstream credential")
	// ErrCredentialUnavailable says that the credential cannot be had now.
	ErrCredentialUnavailable = errors.New("the upstream credential cannot be had now")
)

const (
	// A credential is not used in the last moments before it expires.
	credentialMargin = 5 * time.Second
	// A credential older than this is fetched again beside the call that uses it, so that one that was replaced in the
	// vault goes out of use, and one that is known outlives a control plane that is away.
	credentialFresh = time.Minute
	retryRefresh    = 10 * time.Second
	maxCredentials  = 16384
)

// Header is a header to send upstream. Its value is secret.
type Header struct {
	Name  string
	value string
}

// Value returns the secret. Header's other forms, as in logs, do not hold it.
func (h Header) Value() string { return h.value }

func (h Header) String() string { return h.Name + ": [secret]" }

// GoString keeps the secret out of %#v.
func (h Header) GoString() string { return h.String() }

// Credentials fetches what upstreams want to see, and keeps it until shortly before it expires, or its connector changes.
type Credentials struct {
	client *Client
	now    func() time.Time
	wg     sync.WaitGroup // fetches beside calls

	mu      sync.Mutex
	closed  bool
	entries map[credentialKey]*credential
	pending map[credentialKey]*fetch
	// changes counts, by connector, how often what was kept was dropped: an answer to an older question is not kept.
	changes map[string]uint64
	drops   uint64
}

type credentialKey struct {
	connector string
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
}

// Credentials returns a store of upstream credentials that follows the replica's changes. Close ends it.
func (r *Replica) Credentials() *Credentials {
	c := &Credentials{
		client: r.cfg.Client, now: r.cfg.Now,
		entries: map[credentialKey]*credential{}, pending: map[credentialKey]*fetch{}, changes: map[string]uint64{},
	}
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

// Get returns the header for a connector, on behalf of the agent whose live access token is given. resource is the URL at
// which the agent called. The error is ErrCredentialDenied or ErrCredentialUnavailable, wrapped.
func (c *Credentials) Get(ctx context.Context, connector, resource, token string) (Header, error) {
	key := credentialKey{connector, sha256.Sum256([]byte(token))}
	now := c.now()
	c.mu.Lock()
	if e := c.entries[key]; e != nil && now.Before(e.expires.Add(-credentialMargin)) {
		header := e.header
		if now.Sub(e.fetched) >= credentialFresh && !now.Before(e.nextFetch) && c.pending[key] == nil && !c.closed {
			e.nextFetch = now.Add(retryRefresh)
			f := c.begin(key)
			c.wg.Go(func() { c.fetch(context.WithoutCancel(ctx), key, f, resource, token) })
		}
		c.mu.Unlock()
		return header, nil
	}
	f := c.pending[key]
	mine := f == nil
	if mine {
		f = c.begin(key)
	}
	c.mu.Unlock()
	if mine {
		// Whoever waits with this call must not fail because it is cancelled.
		c.fetch(context.WithoutCancel(ctx), key, f, resource, token)
	}
	select {
	case <-f.done:
		return f.header, f.err
	case <-ctx.Done():
		return Header{}, fmt.Errorf("%w: %w", ErrCredentialUnavailable, ctx.Err())
	}
}

// Drop forgets a connector's credentials, as after the upstream refused one.
func (c *Credentials) Drop(connector string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes[connector]++
	for key := range c.entries {
		if key.connector == connector {
			delete(c.entries, key)
		}
	}
	for key := range c.pending {
		if key.connector == connector {
			delete(c.pending, key) // who comes now asks anew
		}
	}
}

func (c *Credentials) dropAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drops++
	clear(c.entries)
	clear(c.pending)
}

func (c *Credentials) dropChanged(d *fleetv1.Delta) {
	for _, e := range d.GetChanged() {
		if id := e.GetConnector().GetId(); id != "" {
			c.Drop(id)
		}
	}
	for _, k := range d.GetRemoved() {
		if id := k.GetConnector(); id != "" {
			c.Drop(id)
		}
	}
}

// begin notes that a credential is being fetched. The caller holds mu.
func (c *Credentials) begin(key credentialKey) *fetch {
	f := &fetch{done: make(chan struct{})}
	c.pending[key] = f
	return f
}

func (c *Credentials) fetch(ctx context.Context, key credentialKey, f *fetch, resource, token string) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c.mu.Lock()
	changes, drops := c.changes[key.connector], c.drops
	c.mu.Unlock()
	resp, err := c.client.peer().IssueCredential(ctx, connect.NewRequest(&fleetv1.IssueCredentialRequest{
		Connector: key.connector, AccessToken: token, Resource: resource,
	}))
	var kept *credential
	switch now := c.now(); {
	case err == nil:
		f.header = Header{resp.Msg.GetHeaderName(), resp.Msg.GetHeaderValue()}
		kept = &credential{f.header, resp.Msg.GetExpiresAt().AsTime(), now, now}
	case denied(err):
		f.err = fmt.Errorf("%w: %s", ErrCredentialDenied, message(err))
	default:
		c.client.failed(err)
		f.err = fmt.Errorf("%w: %s", ErrCredentialUnavailable, connect.CodeOf(err))
	}
	c.mu.Lock()
	switch unchanged := changes == c.changes[key.connector] && drops == c.drops; {
	case kept != nil && unchanged:
		c.keep(key, kept)
	case errors.Is(f.err, ErrCredentialDenied):
		delete(c.entries, key)
	}
	if c.pending[key] == f {
		delete(c.pending, key)
	}
	c.mu.Unlock()
	close(f.done)
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
