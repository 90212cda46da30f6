package vault

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/kv"
)

// personPrefix begins the names of people's keys in the store.
const personPrefix = "person."

// EnsureKeys makes keys for people who have none, as one write for each thousand.
func (v *Vault) EnsureKeys(ctx context.Context, people []uuid.UUID) error {
	for len(people) > 0 {
		n := min(len(people), kv.MaxBatch)
		if err := v.ensure(ctx, people[:n]); err != nil {
			return err
		}
		people = people[n:]
	}
	return nil
}

func (v *Vault) ensure(ctx context.Context, people []uuid.UUID) error {
	keys := map[uuid.UUID]*[keyBytes]byte{}
	var batch []kv.KeyValue
	for _, id := range people {
		if v.cached(id) != nil || keys[id] != nil {
			continue
		}
		key := newKey()
		wrapped, err := v.kek.Encrypt(key[:], id[:])
		if err != nil {
			return fmt.Errorf("wrapping a person's key: %w", err)
		}
		keys[id] = key
		batch = append(batch, kv.KeyValue{Key: personPrefix + id.String(), Value: wrapped})
	}
	err := v.store.CreateBatch(ctx, batch)
	if errors.Is(err, kv.ErrExists) {
		// Another control plane was first for some, or an answer was lost: one by one, what is there counts.
		return v.ensureEach(ctx, batch)
	}
	if err != nil {
		return fmt.Errorf("keeping people's keys: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, key := range keys {
		v.people[id] = key
	}
	return nil
}

func (v *Vault) ensureEach(ctx context.Context, batch []kv.KeyValue) error {
	for _, item := range batch {
		if _, err := v.store.Create(ctx, item.Key, item.Value, 0); err != nil && !errors.Is(err, kv.ErrExists) {
			return fmt.Errorf("keeping a person's key: %w", err)
		}
		id, err := uuid.Parse(item.Key[len(personPrefix):])
		if err != nil {
			return fmt.Errorf("keeping a person's key: %w", err)
		}
		if _, err := v.personKey(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

func (v *Vault) cached(id uuid.UUID) *[keyBytes]byte {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.people[id]
}

// personKey returns a person's key, or nil where it was destroyed or never made.
func (v *Vault) personKey(ctx context.Context, id uuid.UUID) (*[keyBytes]byte, error) {
	if key := v.cached(id); key != nil {
		return key, nil
	}
	e, err := v.store.Get(ctx, personPrefix+id.String())
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading a person's key: %w", err)
	}
	return v.keep(id, e.Value)
}

func (v *Vault) keep(id uuid.UUID, wrapped []byte) (*[keyBytes]byte, error) {
	key, err := v.unwrap(wrapped, id[:])
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.people[id] = key
	return key, nil
}

// Preload reads all people's keys in one pass, for a start that opens many seals.
func (v *Vault) Preload(ctx context.Context) error {
	all, err := v.store.List(ctx, personPrefix)
	if err != nil {
		return fmt.Errorf("reading people's keys: %w", err)
	}
	for _, e := range all {
		id, err := uuid.Parse(e.Key[len(personPrefix):])
		if err != nil {
			return fmt.Errorf("reading people's keys: %w", err)
		}
		if _, err := v.keep(id, e.Value); err != nil {
			return err
		}
	}
	return nil
}

// Seal seals a person's attributes under the key that EnsureKeys made.
func (v *Vault) Seal(ctx context.Context, person uuid.UUID, plain []byte) ([]byte, error) {
	key, err := v.personKey(ctx, person)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, fmt.Errorf("person %s has no key: it was destroyed", person)
	}
	return encrypt(key, plain, person[:])
}

// Open opens what Seal sealed. Erased: the person's key was destroyed, and nothing opens it any more.
func (v *Vault) Open(ctx context.Context, person uuid.UUID, sealed []byte) (plain []byte, erased bool, err error) {
	key, err := v.personKey(ctx, person)
	if err != nil || key == nil {
		return nil, err == nil, err
	}
	plain, err = decrypt(key, sealed, person[:])
	return plain, false, err
}

// DestroyKey makes all that was sealed for a person unreadable for good.
func (v *Vault) DestroyKey(ctx context.Context, person uuid.UUID) error {
	v.mu.Lock()
	delete(v.people, person)
	v.mu.Unlock()
	if err := v.store.Purge(ctx, personPrefix+person.String()); err != nil {
		return fmt.Errorf("destroying a person's key: %w", err)
	}
	return nil
}
