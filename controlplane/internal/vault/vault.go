// Package vault keeps secrets and keys, sealed, where every control plane finds them: upstream secrets, a
// key per person under which the log's personal attributes are sealed, the regions' sealing keys.
//
// Each secret has a data key of its own, which a key-encryption key wraps; what a secret belongs to is
// bound into its seal, so that one cannot stand in for another. A secret that is destroyed is overwritten
// on disk. No method prints or returns a secret to any but its user.
package vault

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/tink-crypto/tink-go/v2/aead/subtle"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sallyport.dev/controlplane/internal/kv"
)

const keyBytes = 32

// ErrNotFound: there is no such secret, or it was destroyed.
var ErrNotFound = errors.New("there is no such secret")

// Config is how a vault is opened. KeyFile is required.
type Config struct {
	// KeyFile holds the key-encryption key. It is made with the vault, read by its owner alone, and the same
	// for every control plane. Keep a copy: without it nothing in the vault opens.
	KeyFile string
	// CachedKeys is how many keys of people are kept in memory, about 100 bytes each. Default 2,000,000, of
	// which at least the latter half of those used are there. Fewer than there are people cost a read each.
	CachedKeys int
	Log        *slog.Logger
}

// Vault is an open vault. It is safe for concurrent use.
type Vault struct {
	store  *kv.Store
	kek    tink.AEAD
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
	kek, err := unlock(ctx, store, c.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("opening the vault: %w", err)
	}
	return &Vault{store: store, kek: kek, people: newCache(c.CachedKeys), log: c.Log}, nil
}

// envelope is a secret as it lies in the store.
type envelope struct {
	// Key is the data key under the key-encryption key.
	Key []byte `json:"key"`
	// Sealed is the secret under the data key.
	Sealed []byte `json:"sealed"`
}

// bound is what a seal binds a secret to.
func bound(name, owner string) []byte { return []byte("secret\x00" + name + "\x00" + owner) }

func (v *Vault) seal(name, owner string, secret Secret) ([]byte, error) {
	key := newKey()
	wrapped, err := v.kek.Encrypt(key[:], bound(name, owner))
	if err != nil {
		return nil, fmt.Errorf("wrapping a data key: %w", err)
	}
	sealed, err := encrypt(key, secret.Reveal(), bound(name, owner))
	if err != nil {
		return nil, err
	}
	return json.Marshal(envelope{Key: wrapped, Sealed: sealed})
}

func (v *Vault) open(name, owner string, data []byte) (Secret, error) {
	var e envelope
	if err := json.Unmarshal(data, &e); err != nil {
		return Secret{}, fmt.Errorf("reading a secret's envelope: %w", err)
	}
	key, err := v.unwrap(e.Key, bound(name, owner))
	if err != nil {
		return Secret{}, err
	}
	plain, err := decrypt(key, e.Sealed, bound(name, owner))
	if err != nil {
		return Secret{}, err
	}
	return NewSecret(plain), nil
}

func (v *Vault) unwrap(wrapped, binding []byte) (*dataKey, error) {
	plain, err := v.kek.Decrypt(wrapped, binding)
	if err != nil || len(plain) != keyBytes {
		return nil, errors.New("a data key cannot be unwrapped: is the key-encryption key the one with which the vault was made?")
	}
	return (*dataKey)(plain), nil
}

// Put keeps a secret under a name, bound to its owner, in place of one that is there. What it replaces is
// not overwritten on disk; what has to be gone is destroyed first.
func (v *Vault) Put(ctx context.Context, name, owner string, secret Secret) error {
	data, err := v.seal(name, owner, secret)
	if err != nil {
		return err
	}
	if err := v.store.Put(ctx, name, data); err != nil {
		return fmt.Errorf("keeping a secret: %w", err)
	}
	return nil
}

// Get returns the secret under a name, or ErrNotFound. The owner must be the one that it was put for.
func (v *Vault) Get(ctx context.Context, name, owner string) (Secret, error) {
	e, err := v.store.Get(ctx, name)
	if errors.Is(err, kv.ErrNotFound) {
		return Secret{}, ErrNotFound
	}
	if err != nil {
		return Secret{}, fmt.Errorf("reading a secret: %w", err)
	}
	return v.open(name, owner, e.Value)
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
		data, err := v.seal(name, owner, secret)
		if err != nil {
			return Secret{}, err
		}
		switch _, err := v.store.Create(ctx, name, data, 0); {
		case err == nil:
			return secret, nil
		case !errors.Is(err, kv.ErrExists):
			return Secret{}, fmt.Errorf("keeping a secret: %w", err)
		}
	}
}

// Destroy removes a secret for good.
func (v *Vault) Destroy(ctx context.Context, name string) error {
	if err := v.store.Purge(ctx, name); err != nil {
		return fmt.Errorf("destroying a secret: %w", err)
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
