package vault

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"

	"sallyport.dev/controlplane/internal/kv"
)

// Rotation is where a rotation of the key-encryption keys stands.
type Rotation struct {
	// Key is the id of the key that wraps.
	Key uint32
	// OldKeys is how many keys before it are still there; zero: the last rotation is complete.
	OldKeys int
	// Wrapped and WrappedByOld count data keys: all, and those that an older key wraps.
	Wrapped, WrappedByOld int
}

// rewrappers bounds how many data keys are wrapped anew at a time.
const rewrappers = 16

// Rotate makes a new key-encryption key, which wraps from now on, and wraps each data key by it anew. Nothing waits for it: what older
// keys wrapped opens with them. Older keys are destroyed by Run, once no control plane can wrap with them any more.
func (v *Vault) Rotate(ctx context.Context) (Rotation, error) {
	if err := v.ring.rotate(ctx); err != nil {
		return Rotation{}, err
	}
	return v.rewrap(ctx, true)
}

// Status says where the last rotation stands.
func (v *Vault) Status(ctx context.Context) (Rotation, error) {
	if err := v.ring.load(ctx); err != nil {
		return Rotation{}, err
	}
	return v.rewrap(ctx, false)
}

func (k *keyring) rotate(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.loadLocked(ctx); err != nil {
		return err
	}
	manager := keyset.NewManagerFromHandle(k.handle)
	id, err := manager.Add(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("making a key-encryption key: %w", err)
	}
	if err := manager.SetPrimary(id); err != nil {
		return fmt.Errorf("making a key-encryption key: %w", err)
	}
	return k.replace(ctx, manager)
}

// replace writes what a manager holds. The caller holds mu.
func (k *keyring) replace(ctx context.Context, manager *keyset.Manager) error {
	handle, err := manager.Handle()
	if err != nil {
		return fmt.Errorf("changing the key-encryption keys: %w", err)
	}
	err = k.write(ctx, handle, k.ring.Generation+1)
	if errors.Is(err, kv.ErrExists) {
		return errors.New("another control plane changes the key-encryption keys at the same time: see `sallyport vault status`")
	}
	return err
}

// dropOld destroys the keys before the primary one, if the keyset has been as it is for long enough.
func (k *keyring) dropOld(ctx context.Context, settled time.Duration) (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.since) < settled {
		return false, nil
	}
	primary := k.handle.KeysetInfo().GetPrimaryKeyId()
	manager := keyset.NewManagerFromHandle(k.handle)
	for _, info := range k.handle.KeysetInfo().GetKeyInfo() {
		if info.GetKeyId() == primary {
			continue
		}
		if err := manager.Delete(info.GetKeyId()); err != nil {
			return false, fmt.Errorf("destroying a key-encryption key: %w", err)
		}
	}
	return true, k.replace(ctx, manager)
}

// finish goes on with a rotation that is not complete: it wraps anew what was wrapped meanwhile, and destroys the older keys.
func (v *Vault) finish(ctx context.Context, settled time.Duration) error {
	if err := v.ring.load(ctx); err != nil {
		return err
	}
	if _, old := v.ring.primary(); old == 0 {
		return nil
	}
	v.ring.mu.Lock()
	early := time.Since(v.ring.since) < settled
	v.ring.mu.Unlock()
	if early {
		return nil
	}
	// All that older keys ever wrapped is there by now, so that one pass that leaves nothing over is enough.
	after, err := v.rewrap(ctx, true)
	if err != nil || after.WrappedByOld > 0 {
		return err
	}
	dropped, err := v.ring.dropOld(ctx, settled)
	if dropped && err == nil {
		v.log.InfoContext(ctx, "the rotation of the vault's keys is complete: those before are destroyed", "key", after.Key, "data_keys", after.Wrapped)
	}
	return err
}

// rewrap looks at each data key, and wraps by the newest key those that an older one wraps.
func (v *Vault) rewrap(ctx context.Context, change bool) (Rotation, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var r Rotation
	r.Key, r.OldKeys = v.ring.primary()
	var old atomic.Int64
	work := make(chan kv.Entry)
	var workers sync.WaitGroup
	for range rewrappers {
		workers.Go(func() {
			for e := range work {
				if err := v.rewrapOne(ctx, e); err != nil {
					old.Add(1)
					cancel(fmt.Errorf("wrapping %s anew: %w", e.Key, err))
				}
			}
		})
	}
	seen := map[string]bool{}
	visit := func(e kv.Entry) error {
		if !seen[e.Key] {
			seen[e.Key] = true
			r.Wrapped++
		}
		if by, ok := wrappedBy(e.Value); ok && by == r.Key {
			return nil
		}
		if !change {
			r.WrappedByOld++
			return nil
		}
		select {
		case work <- e:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var err error
	for _, prefix := range []string{keyPrefix, personPrefix} {
		if err = v.store.Each(ctx, prefix, visit); err != nil {
			break
		}
	}
	close(work)
	workers.Wait()
	r.WrappedByOld += int(old.Load())
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return r, err
}

// rewrapOne wraps a data key anew, unless it changes or goes meanwhile: it is never brought back.
func (v *Vault) rewrapOne(ctx context.Context, e kv.Entry) error {
	binding, err := wrapBinding(e.Key)
	if err != nil {
		return err
	}
	for {
		key, err := v.ring.unwrap(ctx, e.Value, binding)
		if err != nil {
			return err
		}
		wrapped, err := v.ring.wrap(ctx, key, binding)
		if err != nil {
			return err
		}
		_, err = v.store.Update(ctx, e.Key, wrapped, e.Revision, 0)
		if !errors.Is(err, kv.ErrConflict) {
			return err
		}
		if e, err = v.store.Get(ctx, e.Key); errors.Is(err, kv.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		primary, _ := v.ring.primary()
		if by, ok := wrappedBy(e.Value); ok && by == primary {
			return nil
		}
	}
}

// Run hears of keys that other control planes destroy, and completes rotations, until ctx ends. It must run while the vault is used.
func (v *Vault) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { v.hear(ctx) })
	ticker := time.NewTicker(settledAfter / 4)
	defer ticker.Stop()
	for {
		if err := v.finish(ctx, settledAfter); err != nil && ctx.Err() == nil {
			v.log.WarnContext(ctx, "a rotation of the vault's keys is not complete; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
