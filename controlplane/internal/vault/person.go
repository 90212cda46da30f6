package vault

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/kv"
)

// personPrefix begins the names of people's keys in the store.
const personPrefix = "person."

// rivalTries bounds how often keys are made again because another control plane made some of them meanwhile.
const rivalTries = 10

func personName(id uuid.UUID) string { return personPrefix + id.String() }

// personBinding is what the seals of a person's key, and those under it, are bound to.
func personBinding(id uuid.UUID) []byte { return append([]byte("person\x00"), id[:]...) }

// EnsureKeys makes keys for people who have none, as one write for each thousand. Where another control
// plane was first, its keys count.
func (v *Vault) EnsureKeys(ctx context.Context, people []uuid.UUID) error {
	missing := make([]uuid.UUID, 0, len(people))
	seen := make(map[uuid.UUID]bool, len(people))
	for _, id := range people {
		if _, cached := v.people.get(id); !cached && !seen[id] {
			seen[id] = true
			missing = append(missing, id)
		}
	}
	for len(missing) > 0 {
		n := min(len(missing), kv.MaxBatch)
		if err := v.ensure(ctx, missing[:n]); err != nil {
			return fmt.Errorf("keeping people's keys: %w", err)
		}
		missing = missing[n:]
	}
	return nil
}

func (v *Vault) ensure(ctx context.Context, people []uuid.UUID) error {
	era := v.people.now()
	made := make(map[string]uuid.UUID, len(people))
	keys := make(map[uuid.UUID]*dataKey, len(people))
	batch := make([]kv.KeyValue, 0, len(people))
	for _, id := range people {
		key := newKey()
		wrapped, err := v.ring.wrap(ctx, key, personBinding(id))
		if err != nil {
			return err
		}
		keys[id], made[personName(id)] = key, id
		batch = append(batch, kv.KeyValue{Key: personName(id), Value: wrapped})
	}
	for range rivalTries {
		err := v.store.CreateBatch(ctx, batch)
		if err == nil {
			for _, item := range batch {
				v.people.put(made[item.Key], *keys[made[item.Key]], era)
			}
			return nil
		}
		var exists *kv.ExistsError
		if !errors.As(err, &exists) {
			return err
		}
		there, err := v.adopt(ctx, exists.Keys)
		if err != nil {
			return err
		}
		rest := batch[:0:0]
		for _, item := range batch {
			if !there[item.Key] {
				rest = append(rest, item)
			}
		}
		batch = rest
	}
	return errors.New("other control planes make the same keys over and over")
}

// adopt reads keys that another made, and says which it found.
func (v *Vault) adopt(ctx context.Context, names []string) (map[string]bool, error) {
	era := v.people.now()
	entries, err := v.store.GetMany(ctx, names)
	if err != nil {
		return nil, err
	}
	there := make(map[string]bool, len(names))
	for _, e := range entries {
		if e.Revision == 0 {
			continue // gone again
		}
		if err := v.keep(ctx, e, era); err != nil {
			return nil, err
		}
		there[e.Key] = true
	}
	return there, nil
}

// keep unwraps a person's key as it lies in the store, and caches it.
func (v *Vault) keep(ctx context.Context, e kv.Entry, era uint64) error {
	id, err := uuid.Parse(e.Key[len(personPrefix):])
	if err != nil {
		return fmt.Errorf("the vault holds a person's key under the name %q: %w", e.Key, err)
	}
	key, err := v.ring.unwrap(ctx, e.Value, personBinding(id))
	if err != nil {
		return err
	}
	v.people.put(id, *key, era)
	return nil
}

// personKey returns a person's key, or nil where it was destroyed or never made. That is proved: who has no key is erased to all that
// asks.
func (v *Vault) personKey(ctx context.Context, id uuid.UUID) (*dataKey, error) {
	if key, ok := v.people.get(id); ok {
		return &key, nil
	}
	if v.people.lost(id) {
		return nil, nil
	}
	era := v.people.now()
	e, err := v.store.Find(ctx, personName(id))
	if errors.Is(err, kv.ErrNotFound) {
		v.people.lose(id)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading a person's key: %w", err)
	}
	key, err := v.ring.unwrap(ctx, e.Value, personBinding(id))
	if err != nil {
		return nil, err
	}
	v.people.put(id, *key, era)
	return key, nil
}

// Preload reads people's keys in one pass, for a start that opens many seals.
func (v *Vault) Preload(ctx context.Context) error {
	era := v.people.now()
	if err := v.store.Each(ctx, personPrefix, func(e kv.Entry) error { return v.keep(ctx, e, era) }); err != nil {
		return fmt.Errorf("reading people's keys: %w", err)
	}
	return nil
}

// hear forgets keys that other control planes destroy, until ctx ends.
func (v *Vault) hear(ctx context.Context) {
	for ctx.Err() == nil {
		// What was destroyed before the watch began is not told, so nothing from before it is believed.
		err := v.store.Changes(ctx, personPrefix, v.people.forgetAll, func(e kv.Entry) error {
			if e.Value != nil {
				return nil
			}
			if id, err := uuid.Parse(e.Key[len(personPrefix):]); err == nil {
				v.people.forget(id)
			}
			return nil
		})
		if err == nil {
			return
		}
		v.people.forgetAll()
		v.log.WarnContext(ctx, "keys that others destroy are not heard of; trying again", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// ErrNoKey: the person's key was destroyed, or never made.
var ErrNoKey = errors.New("the person has no key: it was destroyed, or never made")

// Seal seals what is a person's under the key that EnsureKeys made.
func (v *Vault) Seal(ctx context.Context, person uuid.UUID, plain []byte) ([]byte, error) {
	key, err := v.personKey(ctx, person)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, fmt.Errorf("sealing for person %s: %w", person, ErrNoKey)
	}
	return encrypt(key, plain, personBinding(person))
}

// Open opens what Seal sealed. Erased: the person has no key, and nothing opens it any more.
func (v *Vault) Open(ctx context.Context, person uuid.UUID, sealed []byte) (plain []byte, erased bool, err error) {
	key, err := v.personKey(ctx, person)
	if err != nil || key == nil {
		return nil, err == nil, err
	}
	plain, err = decrypt(key, sealed, personBinding(person))
	return plain, false, err
}

// Digest returns a digest of what is a person's, keyed by the key that EnsureKeys made: nobody without the vault finds out by trying what
// it is of, and nobody at all once the key is destroyed. Digests for different uses do not tell of each other.
func (v *Vault) Digest(ctx context.Context, person uuid.UUID, use string, of []byte) ([]byte, error) {
	key, err := v.personKey(ctx, person)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, fmt.Errorf("a digest for person %s: %w", person, ErrNoKey)
	}
	own, err := hkdf.Key(sha256.New, key[:], personBinding(person), "digest\x00"+use, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("a digest for person %s: %w", person, err)
	}
	h := hmac.New(sha256.New, own)
	_, _ = h.Write(of) // a hash does not fail
	return h.Sum(nil), nil
}

// DestroyKey makes all that was sealed for a person unreadable for good.
func (v *Vault) DestroyKey(ctx context.Context, person uuid.UUID) error {
	err := v.store.Purge(ctx, personName(person))
	v.people.forget(person) // also after an error: it may be gone
	if err != nil {
		return fmt.Errorf("destroying a person's key: %w", err)
	}
	return nil
}
