// Package vault keeps secrets and keys, sealed, where every control plane finds them: upstream secrets, a
// key per person under which the log's personal attributes are sealed, the regions' sealing keys.
//
// Each secret has a data key of its own, which a key-encryption key wraps; those lie here too, sealed by a root that a file, the environment
// or a key management service holds. What a secret belongs to is bound into its seal, so that one cannot stand in for another. Of a secret that
// is destroyed the data key is overwritten on disk. No method prints or returns a secret to any but its user.
package vault

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/google/uuid"
	"github.com/tink-crypto/tink-go/v2/aead/subtle"

	"sallyport.dev/controlplane/internal/kv"
)

const keyBytes = 32

// ErrNotFound: there is no such secret, or it was destroyed.
var ErrNotFound = errors.New("there is no such secret")

// ErrChanged: another replaced the secret since it was read. Read it again.
var ErrChanged = errors.New("the secret was changed by another")

// Config is how a vault is opened. Keys is required.
type Config struct {
	// Keys name what seals the vault's key-encryption keys: file:PATH, env:NAME, hcvault://HOST/MOUNT/keys/NAME, or a key of AWS, Google Cloud
	// or Azure (see openRoot). The first seals, the others still open what they sealed, so that one can take another's place. A file is made
	// with the vault, read by its owner alone, and the same for every control plane. Keep a copy: without it nothing in the vault opens.
	Keys []string
	// CachedKeys is how many keys of people are kept in memory, about 100 bytes each. Default 2,000,000, of
	// which at least the latter half of those used are there. Fewer than there are people cost a read each.
	CachedKeys int
	Log        *slog.Logger
}

// Vault is an open vault. It is safe for concurrent use.
type Vault struct {
	store  *kv.Store
	ring   *keyring
	people *cache
	log    *slog.Logger
}

// Open opens the vault that lies in a store, and makes it and its key where there is neither.
func Open(ctx context.Context, store *kv.Store, c Config) (*Vault, error) {
	if c.CachedKeys == 0 {
		c.CachedKeys = 2_000_000
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	ring, err := openRing(ctx, store, c.Keys, openRoot)
	if err != nil {
		return nil, fmt.Errorf("opening the vault: %w", err)
	}
	return &Vault{store: store, ring: ring, people: newCache(c.CachedKeys), log: c.Log}, nil
}

// openRing opens the key-encryption keys. It makes a root's key only where the vault has none yet.
func openRing(ctx context.Context, store *kv.Store, keys []string, open func(context.Context, string) (root, error)) (*keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("a vault key is needed: --vault-key")
	}
	found, err := store.GetMany(ctx, ringNames)
	if err != nil {
		return nil, fmt.Errorf("asking whose the vault is: %w", err)
	}
	fresh := found[0].Revision == 0 && found[1].Revision == 0
	ring := &keyring{store: store}
	for _, uri := range keys {
		r, err := open(ctx, uri)
		switch {
		case errors.Is(err, errNoKey) && fresh:
			r, err = makeRoot(uri)
		case errors.Is(err, errNoKey):
			return nil, fmt.Errorf("%w, and the vault was made with one: restore it from its copy, or copy it from another control plane", err)
		}
		if err != nil {
			return nil, err
		}
		ring.roots = append(ring.roots, r)
	}
	if fresh {
		err = ring.make(ctx)
	} else {
		err = ring.load(ctx)
	}
	return ring, err
}

// A secret lies under two names: its data key, which stays as long as the secret does, and the value under that. Who destroys the key
// destroys each value that was ever sealed with it, also those that were replaced before.
const keyPrefix = "key."

// wrapBinding is what a data key is bound to when it is wrapped, by the name under which it lies.
func wrapBinding(name string) ([]byte, error) {
	if secret, ok := strings.CutPrefix(name, keyPrefix); ok {
		return []byte("data key\x00" + secret), nil
	}
	id, err := uuid.Parse(strings.TrimPrefix(name, personPrefix))
	if err != nil {
		return nil, fmt.Errorf("the vault holds a key under the name %q: %w", name, err)
	}
	return personBinding(id), nil
}

// bound is what a seal binds a secret to.
func bound(name, owner string) []byte { return []byte("secret\x00" + name + "\x00" + owner) }

// Put keeps a secret under a name, bound to its owner, in place of one that is there.
func (v *Vault) Put(ctx context.Context, name, owner string, secret Secret) error {
	sealed, err := v.seal(ctx, name, owner, secret)
	if err != nil {
		return err
	}
	if err := v.store.Put(ctx, name, sealed); err != nil {
		return fmt.Errorf("keeping a secret: %w", err)
	}
	return nil
}

// seal seals a value under the secret's data key, which is made where there is none.
func (v *Vault) seal(ctx context.Context, name, owner string, secret Secret) ([]byte, error) {
	key, err := v.dataKey(ctx, name)
	if err != nil {
		return nil, err
	}
	return encrypt(key, secret.Reveal(), bound(name, owner))
}

func (v *Vault) dataKey(ctx context.Context, name string) (*dataKey, error) {
	binding, err := wrapBinding(keyPrefix + name)
	if err != nil {
		return nil, err
	}
	for {
		e, err := v.store.Get(ctx, keyPrefix+name)
		if err == nil {
			return v.ring.unwrap(ctx, e.Value, binding)
		}
		if !errors.Is(err, kv.ErrNotFound) {
			return nil, fmt.Errorf("reading a data key: %w", err)
		}
		key := newKey()
		wrapped, err := v.ring.wrap(ctx, key, binding)
		if err != nil {
			return nil, err
		}
		if _, err = v.store.Create(ctx, keyPrefix+name, wrapped, 0); err == nil {
			return key, nil
		}
		if !errors.Is(err, kv.ErrExists) {
			return nil, fmt.Errorf("keeping a data key: %w", err)
		}
	}
}

// Get returns the secret under a name, or ErrNotFound. The owner must be the one that it was put for.
func (v *Vault) Get(ctx context.Context, name, owner string) (Secret, error) {
	secret, _, err := v.Read(ctx, name, owner)
	return secret, err
}

// Read is Get with the revision, by which Replace replaces it.
func (v *Vault) Read(ctx context.Context, name, owner string) (Secret, uint64, error) {
	found, err := v.store.GetMany(ctx, []string{keyPrefix + name, name})
	if err != nil {
		return Secret{}, 0, fmt.Errorf("reading a secret: %w", err)
	}
	if found[0].Revision == 0 || found[1].Revision == 0 {
		return Secret{}, 0, ErrNotFound
	}
	binding, err := wrapBinding(keyPrefix + name)
	if err != nil {
		return Secret{}, 0, err
	}
	key, err := v.ring.unwrap(ctx, found[0].Value, binding)
	if err != nil {
		return Secret{}, 0, err
	}
	plain, err := decrypt(key, found[1].Value, bound(name, owner))
	if err != nil {
		return Secret{}, 0, err
	}
	return NewSecret(plain), found[1].Revision, nil
}

// Replace keeps a secret in place of the one of a revision, where zero stands for none. ErrChanged: another was first.
func (v *Vault) Replace(ctx context.Context, name, owner string, secret Secret, revision uint64) error {
	sealed, err := v.seal(ctx, name, owner, secret)
	if err != nil {
		return err
	}
	if revision == 0 {
		_, err = v.store.Create(ctx, name, sealed, 0)
	} else {
		_, err = v.store.Update(ctx, name, sealed, revision, 0)
	}
	if errors.Is(err, kv.ErrExists) || errors.Is(err, kv.ErrConflict) {
		return ErrChanged
	}
	if err != nil {
		return fmt.Errorf("keeping a secret: %w", err)
	}
	return nil
}

// GetOrMake returns the secret under a name, or keeps what make returns where there is none. Of two that
// make one at once, both return the one that was first.
func (v *Vault) GetOrMake(ctx context.Context, name, owner string, make func() Secret) (Secret, error) {
	for {
		secret, err := v.Get(ctx, name, owner)
		if !errors.Is(err, ErrNotFound) {
			return secret, err
		}
		secret = make()
		if err := v.Replace(ctx, name, owner, secret, 0); !errors.Is(err, ErrChanged) {
			return secret, err
		}
	}
}

// Names lists the names of secrets under a prefix, which ends with a dot.
func (v *Vault) Names(ctx context.Context, prefix string) (names []string, err error) {
	err = v.store.Each(ctx, prefix, func(e kv.Entry) error {
		names = append(names, e.Key)
		return nil
	})
	return names, err
}

// Destroy removes a secret for good: its data key first, without which no value of it opens, wherever a copy may lie.
func (v *Vault) Destroy(ctx context.Context, name string) error {
	for _, part := range []string{keyPrefix + name, name} {
		if err := v.store.Purge(ctx, part); err != nil {
			return fmt.Errorf("destroying a secret: %w", err)
		}
	}
	return nil
}

func newKey() *dataKey {
	var key dataKey
	// It does not fail: without randomness the process ends (crypto/rand).
	_, _ = rand.Read(key[:])
	return &key
}

func encrypt(key *dataKey, plain, binding []byte) ([]byte, error) {
	c, err := subtle.NewAESGCM(key[:])
	if err != nil {
		return nil, fmt.Errorf("sealing: %w", err)
	}
	return c.Encrypt(plain, binding)
}

func decrypt(key *dataKey, sealed, binding []byte) ([]byte, error) {
	c, err := subtle.NewAESGCM(key[:])
	if err != nil {
		return nil, fmt.Errorf("opening a seal: %w", err)
	}
	plain, err := c.Decrypt(sealed, binding)
	if err != nil {
		return nil, errors.New("a seal does not open: it was made for something else, or it was changed")
	}
	return plain, nil
}
