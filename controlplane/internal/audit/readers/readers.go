// Package readers gives other systems their own way to read the audit stream: a durable consumer each, and a key that opens that consumer and
// nothing else, until it ends.
//
// Of a key only the public half is kept; the other is shown once. The embedded server is told who may come; for an external cluster a
// credentials file is signed where there is an account's signing key, or else it is said what its configuration must permit. When a key has ended
// the consumer delivers nothing more, whatever the servers still let in.
package readers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn"
)

const (
	prefix = "reader."
	// lookEvery is how often it is looked whose key has ended.
	lookEvery = 5 * time.Second
	// maxReaders bounds how many there are.
	maxReaders = 100
	// Lifetime is how long a key is good by default.
	Lifetime = 90 * 24 * time.Hour
)

// Reader is another system that reads the stream.
type Reader struct {
	Name      string    `json:"name"`
	Durable   string    `json:"durable"`
	PublicKey string    `json:"public_key"`
	Subjects  []string  `json:"subjects,omitempty"`
	Beginning bool      `json:"beginning,omitempty"`
	Since     time.Time `json:"since,omitzero"`
	Created   time.Time `json:"created"`
	Expires   time.Time `json:"expires"`
	// Ended: its consumer was paused, since its key has ended.
	Ended bool `json:"ended,omitempty"`
	// Lag is how many records it has not acknowledged.
	Lag uint64 `json:"-"`
}

// InboxPrefix is what the subjects of its answers begin with: no other's inbox can be listened to.
func (r Reader) InboxPrefix() string { return "_INBOX_" + r.Durable }

// Publish is all that it may publish: to ask for its consumer, for records, and to acknowledge them.
func (r Reader) Publish() []string {
	return []string{
		"$JS.API.CONSUMER.INFO." + audit.StreamName + "." + r.Durable, "$JS.API.CONSUMER.MSG.NEXT." + audit.StreamName + "." + r.Durable, "$JS.ACK." + audit.StreamName + "." + r.Durable + ".>",
	}
}

// Subscribe is all that it may listen to.
func (r Reader) Subscribe() []string { return []string{r.InboxPrefix() + ".>"} }

// Server is where they connect.
type Server interface {
	Embedded() bool
	Listens() bool
	SetReaders(all []natsconn.Reader) error
}

// Desk makes readers and makes an end of them. All but the account's are required.
type Desk struct {
	Audit  *audit.Store
	Store  *kv.Store
	Server Server
	// SigningKeyFile holds the seed of a signing key of the account that the streams lie in, where an external cluster knows its users by JWT, and Account
	// is the account's id; empty: the key is the account's own.
	SigningKeyFile, Account string
	Log                     *slog.Logger
}

// Made is a new reader, with what it is to be told once.
type Made struct {
	Reader
	// Credentials is the file that it connects with.
	Credentials []byte
	// Signed: they are good as they are. Else an external cluster's configuration has to name the key.
	Signed bool
}

// Create makes a reader whose key is good for so long.
func (d *Desk) Create(ctx context.Context, r Reader, lifetime time.Duration) (*Made, error) {
	if !d.Server.Listens() {
		return nil, &core.Error{Code: core.FailedPrecondition, Message: "nobody can reach the embedded NATS server: start the control plane with --nats-listen, or use an external cluster"}
	}
	if all, err := d.all(ctx); err != nil || len(all) >= maxReaders {
		return nil, errors.Join(err, &core.Error{Code: core.FailedPrecondition, Message: fmt.Sprintf("there are %d audit consumers, and no more can be had", maxReaders)})
	}
	user, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	defer user.Wipe()
	if r.PublicKey, err = user.PublicKey(); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	// A consumer of this name that is made later is another: what was made for this one opens it not.
	r.Durable = "reader-" + r.Name + "-" + strings.ToLower(r.PublicKey[1:11])
	r.Created = time.Now().UTC()
	r.Expires = r.Created.Add(lifetime)
	made := &Made{Reader: r, Signed: d.Server.Embedded()}
	if made.Credentials, err = d.credentials(made, user); err != nil {
		return nil, err
	}
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing an audit consumer: %w", err)
	}
	if err := d.Audit.MakeReader(ctx, audit.ReaderConfig{Durable: r.Durable, Subjects: r.Subjects, Beginning: r.Beginning, Since: r.Since}); err != nil {
		return nil, err
	}
	if _, err = d.Store.Create(ctx, prefix+r.Name, value, 0); err != nil {
		err = errors.Join(err, d.Audit.RemoveReader(context.WithoutCancel(ctx), r.Durable))
		if errors.Is(err, kv.ErrExists) {
			return nil, &core.Error{Code: core.AlreadyExists, Field: "name", Message: fmt.Sprintf("there is an audit consumer %q: delete it first, or choose another name", r.Name)}
		}
		return nil, fmt.Errorf("keeping an audit consumer: %w", err)
	}
	return made, d.admit(ctx)
}

// credentials are the file that a reader connects with: its key, and where the cluster knows users by JWT, that.
func (d *Desk) credentials(made *Made, user nkeys.KeyPair) ([]byte, error) {
	seed, err := user.Seed()
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	if d.Server.Embedded() || d.SigningKeyFile == "" {
		return fmt.Appendf(nil, "-----BEGIN USER NKEY SEED-----\n%s\n------END USER NKEY SEED------\n", seed), nil
	}
	text, err := os.ReadFile(d.SigningKeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the account's signing key: %w", err)
	}
	account, err := nkeys.ParseDecoratedNKey(text)
	if err != nil {
		return nil, errors.New("the file of the account's signing key holds no seed")
	}
	defer account.Wipe()
	if public, err := account.PublicKey(); err != nil || !nkeys.IsValidPublicAccountKey(public) {
		return nil, errors.New("the file of the account's signing key holds the seed of something else")
	}
	claims := jwt.NewUserClaims(made.PublicKey)
	claims.Name, claims.Expires = "sallyport audit consumer "+made.Name, made.Expires.Unix()
	claims.Pub.Allow.Add(made.Publish()...)
	claims.Sub.Allow.Add(made.Subscribe()...)
	claims.IssuerAccount = d.Account
	token, err := claims.Encode(account)
	if err != nil {
		return nil, fmt.Errorf("signing credentials: %w", err)
	}
	made.Signed = true
	return jwt.FormatUserConfig(token, seed)
}

func (d *Desk) all(ctx context.Context) ([]Reader, error) {
	var all []Reader
	err := d.Store.Each(ctx, prefix, func(e kv.Entry) error {
		var r Reader
		if err := json.Unmarshal(e.Value, &r); err != nil {
			return fmt.Errorf("reading %s: %w", e.Key, err)
		}
		all = append(all, r)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing audit consumers: %w", err)
	}
	slices.SortFunc(all, func(a, b Reader) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// List lists them by name, with how far each is.
func (d *Desk) List(ctx context.Context) ([]Reader, error) {
	all, err := d.all(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Lag, err = d.Audit.ReaderLag(ctx, all[i].Durable); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Delete ends a reader: its consumer goes, and whatever is connected with its key.
func (d *Desk) Delete(ctx context.Context, name string) error {
	e, err := d.Store.Get(ctx, prefix+name)
	if errors.Is(err, kv.ErrNotFound) {
		return &core.Error{Code: core.NotFound, Message: fmt.Sprintf("there is no audit consumer %q: see sallyport audit consumers list", name)}
	}
	var r Reader
	if err == nil {
		err = json.Unmarshal(e.Value, &r)
	}
	if err == nil {
		err = d.Audit.RemoveReader(ctx, r.Durable)
	}
	if err == nil {
		err = d.Store.Purge(ctx, prefix+name)
	}
	if err != nil {
		return fmt.Errorf("removing the audit consumer %s: %w", name, err)
	}
	return d.admit(ctx)
}

// admit tells the embedded server who may come, and pauses the consumers of those who may not any more.
func (d *Desk) admit(ctx context.Context) error {
	all, err := d.all(ctx)
	if err != nil {
		return err
	}
	var good []natsconn.Reader
	for _, r := range all {
		if time.Now().Before(r.Expires) {
			good = append(good, natsconn.Reader{PublicKey: r.PublicKey, Publish: r.Publish(), Subscribe: r.Subscribe()})
			continue
		}
		if r.Ended {
			continue
		}
		if err := d.Audit.PauseReader(ctx, r.Durable, r.Expires.AddDate(100, 0, 0)); err != nil {
			return err
		}
		r.Ended = true
		value, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("writing an audit consumer: %w", err)
		}
		if err := d.Store.Put(ctx, prefix+r.Name, value); err != nil {
			return fmt.Errorf("keeping an audit consumer: %w", err)
		}
	}
	return d.Server.SetReaders(good)
}

// Run lets in who may come, and looks whose key has ended, until ctx ends.
func (d *Desk) Run(ctx context.Context) {
	for {
		if err := d.admit(ctx); err != nil && ctx.Err() == nil {
			d.Log.WarnContext(ctx, "it could not be looked whose audit consumer has ended; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(lookEvery):
		}
	}
}
