// Package credentials gets what upstreams want to see: keys that admins set, tokens that people let the gateway have, tokens of the
// gateway's own account, and tokens that a person's sign-in is exchanged for.
//
// Values lie in the vault and whose they are on the log. A token is renewed before it expires, by one control plane at a time; where the
// upstream's authorization server does not renew it any more, the person is asked again. What was withdrawn is revoked upstream and
// destroyed here, over and over until that is done or given up. Tokens are asked for at the authorization server that an admin
// approved and nowhere else. The package decides nothing about access, and never hands out what the agent presented.
package credentials

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/singleflight"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/signin"
	"sallyport.dev/controlplane/internal/vault"
)

// Engine is what is needed of the engine.
type Engine interface {
	Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (engine.Outcome, error)
	State() *core.State
	Fence(ctx context.Context) (*core.State, error)
	// Leading tells whether this control plane writes the log.
	Leading() bool
}

// Store is what is needed of key-value: leases for renewals, links that have begun, when a credential was used.
type Store interface {
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error)
	Get(ctx context.Context, key string) (kv.Entry, error)
	Update(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error)
	Change(ctx context.Context, key string, ttl time.Duration, change func([]byte) ([]byte, error)) (uint64, error)
	Purge(ctx context.Context, key string) error
}

// Vault is what is needed of the vault.
type Vault interface {
	Put(ctx context.Context, name, owner string, secret vault.Secret) error
	Read(ctx context.Context, name, owner string) (vault.Secret, uint64, error)
	Replace(ctx context.Context, name, owner string, secret vault.Secret, revision uint64) error
	GetOrMake(ctx context.Context, name, owner string, make func() vault.Secret) (vault.Secret, error)
	Destroy(ctx context.Context, name string) error
	Names(ctx context.Context, prefix string) ([]string, error)
	Seal(ctx context.Context, person uuid.UUID, plain []byte) ([]byte, error)
	Open(ctx context.Context, person uuid.UUID, sealed []byte) (plain []byte, erased bool, err error)
	PutConnectorSecret(ctx context.Context, connector, value string) (secretID string, err error)
}

// People is what is needed of sign-in: who is in front of a page, and what their identity providers give.
type People interface {
	Require(w http.ResponseWriter, r *http.Request, need signin.Need) (signin.Who, bool)
	// Renew has a directory's provider renew tokens of a sign-in.
	Renew(ctx context.Context, directory string, t signin.Tokens) (signin.Tokens, error)
	// Exchange has a directory's provider exchange a token (RFC 8693).
	Exchange(ctx context.Context, directory string, form url.Values) (signin.Tokens, error)
	// Revoke has a directory's provider revoke tokens. False: it has no way to.
	Revoke(ctx context.Context, directory string, t signin.Tokens) (bool, error)
}

// Trail takes records of what became of credentials.
type Trail interface{ Note(*auditv1.AuditRecord) }

// Config is what a Keeper is made of. All but Trail, Now, GiveUp and Every are required.
type Config struct {
	Engine Engine
	Store  Store
	Vault  Vault
	People People
	Trail  Trail
	// URL is where people sign in; the pages lie below it at /connect/.
	URL string
	Now func() time.Time
	// GiveUp is how long it is tried to revoke a credential upstream. Default: a day.
	GiveUp time.Duration
	// Every is how often it is looked for credentials that were withdrawn. Default: a second.
	Every time.Duration
	Log   *slog.Logger
}

// Keeper keeps credentials. It is safe for concurrent use.
type Keeper struct {
	Config
	path     string
	reading  singleflight.Group
	renewing singleflight.Group
	clients  clients
	status   statuses
	forms    *http.CrossOriginProtection
	beside   sync.WaitGroup // renewals that nobody waits for
}

// New returns a keeper.
func New(c Config) *Keeper {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.GiveUp == 0 {
		c.GiveUp = 24 * time.Hour
	}
	if c.Every == 0 {
		c.Every = time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.URL = strings.TrimRight(c.URL, "/")
	k := &Keeper{Config: c, forms: http.NewCrossOriginProtection()}
	if u, err := url.Parse(c.URL); err == nil {
		k.path = u.Path
	}
	return k
}

// actor is who makes the changes that nobody asks for.
var actor = &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM, Id: "credentials"}

// Ask is what is asked for.
type Ask struct {
	// Rejected is the SHA-256 of a value that the upstream refused.
	Rejected []byte
	// Scopes that the upstream wants and the credential lacks.
	Scopes []string

	// anew: an admin wants another, however young the one is that is refused.
	anew bool
}

// Issued is what to send, or what the person must do before.
type Issued struct {
	// Header and Value, or Query.
	Header, Value, Query string
	// Identity names whom the upstream takes the caller for.
	Identity string
	// Expires is zero where it has no end.
	Expires time.Time
	// Connect is a page that the person must open.
	Connect *Connect
}

// Connect is a page that the person must open.
type Connect struct{ URL, ID, Reason string }

func refuse(format string, args ...any) error {
	return &core.Error{Code: core.FailedPrecondition, Message: fmt.Sprintf(format, args...)}
}

// Issue returns what a connector's upstream wants to see on behalf of a person, as a state at the end of the log has them. A *core.Error
// says what an admin has to do; after any other it may be tried again.
func (k *Keeper) Issue(ctx context.Context, s *core.State, user *core.User, connector *core.Connector, ask Ask) (Issued, error) {
	switch a := connector.Settings.GetAuth().GetKind().(type) {
	case nil:
		return Issued{}, refuse("connector %q sends no credential", connector.Settings.GetId())
	case *policyv1.UpstreamAuth_Header, *policyv1.UpstreamAuth_Query:
		return k.key(ctx, s, user, connector, ask)
	case *policyv1.UpstreamAuth_PassThrough:
		return k.passThrough(ctx, s, user, connector, a.PassThrough, ask)
	default:
		return k.bearer(ctx, s, user, connector, ask)
	}
}

// rejected tells whether a value is the one that an upstream refused.
func (a Ask) rejected(value string) bool {
	sum := sha256.Sum256([]byte(value))
	return subtle.ConstantTimeCompare(sum[:], a.Rejected) == 1
}

// key returns a key of whoever holds the connector's: the newest that the upstream did not refuse just now.
func (k *Keeper) key(ctx context.Context, s *core.State, user *core.User, connector *core.Connector, ask Ask) (Issued, error) {
	id := connector.Settings.GetId()
	var first *Issued
	for c := range keysFor(s, user, connector) {
		value, err := k.keyValue(ctx, c)
		if errors.Is(err, vault.ErrNotFound) {
			continue // withdrawn meanwhile
		}
		if err != nil {
			return Issued{}, err
		}
		one := inTemplate(connector.Settings.GetAuth(), value)
		if c.Owner != core.Shared {
			one.Identity = c.ID.String()
		}
		if !ask.rejected(one.Value + one.Query) {
			k.status.used(c.ID, k.Now())
			return one, nil
		}
		if first == nil {
			first = &one
		}
	}
	if first != nil {
		return *first, nil // all were refused
	}
	switch core.KeyHolder(connector.Settings.GetAuth()) {
	case policyv1.KeyHolder_KEY_HOLDER_PERSON:
		return Issued{}, refuse("there is no key of yours for connector %q: an administrator sets one with sallyport credentials set --connector %s --person NAME", id, id)
	case policyv1.KeyHolder_KEY_HOLDER_GROUP:
		return Issued{}, refuse("no group of yours has a key for connector %q: an administrator sets one with sallyport credentials set --connector %s --group NAME", id, id)
	}
	return Issued{}, refuse("the connector has no secret: set one with sallyport secrets set --connector %s", id)
}

// keysFor yields the keys that may be sent for a person, the newest first.
func keysFor(s *core.State, user *core.User, connector *core.Connector) func(yield func(*core.Credential) bool) {
	id := connector.Settings.GetId()
	owner := core.Shared
	switch core.KeyHolder(connector.Settings.GetAuth()) {
	case policyv1.KeyHolder_KEY_HOLDER_PERSON:
		owner = core.Grantee{Person: user.ID}
	case policyv1.KeyHolder_KEY_HOLDER_GROUP:
		return func(yield func(*core.Credential) bool) { groupKeys(s, user, id, yield) }
	}
	return s.CredentialsOf(owner, id)
}

// groupKeys are those of the group with the newest key, of the person's groups.
func groupKeys(s *core.State, user *core.User, connector string, yield func(*core.Credential) bool) {
	var newest *core.Credential
	for g := range s.GroupsOf(user) {
		if !s.CountsIn(user, g) {
			continue
		}
		for c := range s.CredentialsOf(core.Grantee{Group: g.ID}, connector) {
			if newest == nil || c.Seq > newest.Seq {
				newest = c
			}
			break
		}
	}
	if newest == nil {
		return
	}
	for c := range s.CredentialsOf(newest.Owner, connector) {
		if !yield(c) {
			return
		}
	}
}

// inTemplate puts a key to where the connector sends it.
func inTemplate(a *policyv1.UpstreamAuth, key string) Issued {
	fill := func(template string) string {
		if template == "" {
			return key
		}
		return strings.ReplaceAll(template, "{key}", key)
	}
	if q := a.GetQuery(); q != nil {
		return Issued{Query: url.Values{q.GetName(): {fill(q.GetTemplate())}}.Encode()}
	}
	return Issued{Header: a.GetHeader().GetName(), Value: fill(a.GetHeader().GetTemplate())}
}

func (k *Keeper) keyValue(ctx context.Context, c *core.Credential) (string, error) {
	secret, _, err := k.Vault.Read(ctx, c.SecretID, boundTo(c))
	return string(secret.Reveal()), err
}

// SetKey keeps a key of a person or a group.
func (k *Keeper) SetKey(ctx context.Context, by *eventv1.Actor, s *core.State, owner core.Grantee, connector, value string, keepOthers bool) (uint64, error) {
	c := newCredential(s, policyv1.CredentialKind_CREDENTIAL_KIND_KEY, owner, connector)
	return k.set(ctx, by, c, vault.NewSecret([]byte(value)), keepOthers)
}

// newCredential names a credential that is to be kept, of a person as a state has them.
func newCredential(s *core.State, kind policyv1.CredentialKind, owner core.Grantee, connector string) *core.Credential {
	c := &core.Credential{ID: uuid.Must(uuid.NewV7()), Kind: kind, Owner: owner, Connector: connector}
	if u := s.User(owner.Person); u != nil {
		c.Generation = u.Generation
	}
	c.SecretID = secretName(c)
	return c
}

// set keeps a value first and says so on the log second, which fails where the person's generation rose meanwhile: what lost that race
// is destroyed again. Of a crash between the two the sweeper makes an end.
func (k *Keeper) set(ctx context.Context, by *eventv1.Actor, c *core.Credential, value vault.Secret, keepOthers bool) (uint64, error) {
	if err := k.Vault.Put(ctx, c.SecretID, boundTo(c), value); err != nil {
		return 0, err
	}
	out, err := k.Engine.Do(ctx, by, core.SetCredential{
		ID: c.ID, Kind: c.Kind, Owner: c.Owner, Connector: c.Connector, Generation: c.Generation, SecretID: c.SecretID, KeepOthers: keepOthers,
	})
	var refused *core.Error
	if errors.As(err, &refused) {
		k.destroy(ctx, c.SecretID)
	}
	return out.Seq, err
}

func (k *Keeper) destroy(ctx context.Context, name string) {
	if err := k.Vault.Destroy(context.WithoutCancel(ctx), name); err != nil {
		k.Log.ErrorContext(ctx, "a secret that is of no use could not be destroyed; it is tried again later", "secret_id", name, "error", err)
	}
}

// namePrefix begins the names of people's and groups' credentials in the vault.
const namePrefix = "credential."

// secretName is where a credential lies in the vault. It says whose it is, so that one of which the log knows nothing can be told.
func secretName(c *core.Credential) string {
	owner := "shared"
	switch {
	case c.Owner.Person != uuid.Nil:
		owner = "person." + c.Owner.Person.String()
	case c.Owner.Group != uuid.Nil:
		owner = "group." + c.Owner.Group.String()
	}
	connector := c.Connector
	if connector == "" {
		connector = "_"
	}
	return fmt.Sprintf("%s%s.%d.%s.%s", namePrefix, connector, c.Kind, owner, c.ID)
}

// named reads such a name.
func named(name string) (*core.Credential, bool) {
	parts := strings.Split(strings.TrimPrefix(name, namePrefix), ".")
	if !strings.HasPrefix(name, namePrefix) || len(parts) < 4 {
		return nil, false
	}
	c := &core.Credential{Owner: core.Shared, Connector: strings.Trim(parts[0], "_"), SecretID: name}
	var kind int32
	if _, err := fmt.Sscan(parts[1], &kind); err != nil {
		return nil, false
	}
	c.Kind = policyv1.CredentialKind(kind)
	var err error
	if c.ID, err = uuid.Parse(parts[len(parts)-1]); err != nil {
		return nil, false
	}
	switch {
	case parts[2] == "person" && len(parts) == 5:
		c.Owner = core.Grantee{}
		c.Owner.Person, err = uuid.Parse(parts[3])
	case parts[2] == "group" && len(parts) == 5:
		c.Owner = core.Grantee{}
		c.Owner.Group, err = uuid.Parse(parts[3])
	}
	return c, err == nil && secretName(c) == name
}

// boundTo is what the seal of a credential is bound to: connector and owner. A connector's own secret is bound to the connector.
func boundTo(c *core.Credential) string {
	switch {
	case c.Owner.Person != uuid.Nil:
		return c.Connector + " person " + c.Owner.Person.String()
	case c.Owner.Group != uuid.Nil:
		return c.Connector + " group " + c.Owner.Group.String()
	}
	return c.Connector
}
