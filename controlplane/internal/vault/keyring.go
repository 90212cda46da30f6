package vault

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sallyport.dev/controlplane/internal/kv"
)

// The key-encryption keys lie in the store as a tink keyset that the root seals, under one of two names: a new keyset is written
// under the free one, then the other is destroyed. So a key that was taken out of the keyset is nowhere any more, on disk neither.
var ringNames = []string{"key-encryption-keys.a", "key-encryption-keys.b"}

var ringBinding = []byte("key-encryption-keys\x00")

const (
	// confirmedFor is for how long a control plane wraps with the newest key that it knows until it asks again. What is wrapped later
	// than this, and a write's time, after a rotation is wrapped by the new key.
	confirmedFor = 30 * time.Second
	// settledAfter is how long after a rotation nobody wraps with an older key any more, writes under way included.
	settledAfter = 2 * time.Minute
)

// keyring wraps data keys with the newest of the vault's key-encryption keys, and unwraps them with whichever wrapped them.
type keyring struct {
	store *kv.Store
	roots []root // the first seals, all of them open

	known atomic.Pointer[known] // what unwraps, for readers who take no lock

	mu        sync.Mutex
	raw       []byte // as read, to see whether it is another
	slot      int    // where it lies
	ring      ringEntry
	handle    *keyset.Handle
	confirmed time.Time // when reading it last began
	since     time.Time // when this generation was first read here
}

// known is a keyset in use.
type known struct {
	tink.AEAD
	primary uint32
	ids     map[uint32]bool
}

// ringEntry is the keyset as it lies in the store.
type ringEntry struct {
	// Generation counts the keysets; the highest counts.
	Generation uint64 `json:"generation"`
	// Keyset is the encrypted keyset in tink's binary form. Which keys it has, and which is the primary one, is not encrypted.
	Keyset []byte `json:"keyset"`
}

// load reads the newest keyset, and destroys an older one that a crash left. kv.ErrNotFound: there is none.
func (k *keyring) load(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.loadLocked(ctx)
}

func (k *keyring) loadLocked(ctx context.Context) error {
	began := time.Now()
	entries, err := k.store.GetMany(ctx, ringNames)
	if err != nil {
		return fmt.Errorf("reading the key-encryption keys: %w", err)
	}
	newest, at := ringEntry{}, -1
	for i, e := range entries {
		var ring ringEntry
		if e.Revision == 0 {
			continue
		}
		if err := json.Unmarshal(e.Value, &ring); err != nil {
			return fmt.Errorf("reading the key-encryption keys: %w", err)
		}
		if at < 0 || ring.Generation > newest.Generation {
			newest, at = ring, i
		}
	}
	if at < 0 {
		return kv.ErrNotFound
	}
	if other := entries[1-at]; other.Revision != 0 {
		if err := k.store.Purge(ctx, other.Key); err != nil {
			return fmt.Errorf("destroying the key-encryption keys before these: %w", err)
		}
	}
	if bytes.Equal(entries[at].Value, k.raw) {
		k.confirmed = began
		return nil
	}
	handle, err := k.unseal(ctx, newest.Keyset)
	if err != nil {
		return err
	}
	primitive, err := aead.New(handle)
	if err != nil {
		return fmt.Errorf("reading the key-encryption keys: %w", err)
	}
	if newest.Generation != k.ring.Generation {
		k.since = time.Now()
	}
	now := &known{AEAD: primitive, primary: handle.KeysetInfo().GetPrimaryKeyId(), ids: map[uint32]bool{}}
	for _, info := range handle.KeysetInfo().GetKeyInfo() {
		now.ids[info.GetKeyId()] = true
	}
	k.known.Store(now)
	k.raw, k.slot, k.ring, k.handle, k.confirmed = entries[at].Value, at, newest, handle, began
	return nil
}

// unseal opens a keyset with the first root that can.
func (k *keyring) unseal(ctx context.Context, sealed []byte) (*keyset.Handle, error) {
	failed := errors.New("the vault key is not the one with which the vault was made: each control plane needs the same (--vault-key)")
	for _, r := range k.roots {
		asked := &heard{root: r}
		handle, err := keyset.ReadWithContext(ctx, keyset.NewBinaryReader(bytes.NewReader(sealed)), asked, ringBinding)
		if err == nil {
			return handle, nil
		}
		if _, here := r.(local); !here && asked.err != nil {
			failed = fmt.Errorf("the vault key cannot open the vault: %w", asked.err)
		}
	}
	return nil, failed
}

// heard keeps what a root said, which tink does not hand on.
type heard struct {
	root
	err error
}

// DecryptWithContext opens.
func (h *heard) DecryptWithContext(ctx context.Context, sealed, binding []byte) (plain []byte, err error) {
	plain, h.err = h.root.DecryptWithContext(ctx, sealed, binding)
	return plain, h.err
}

// write writes a keyset in place of the one that is known. kv.ErrExists: another was first.
func (k *keyring) write(ctx context.Context, handle *keyset.Handle, generation uint64) error {
	var sealed bytes.Buffer
	if err := handle.WriteWithContext(ctx, keyset.NewBinaryWriter(&sealed), k.roots[0], ringBinding); err != nil {
		return fmt.Errorf("sealing the key-encryption keys: %w", err)
	}
	data, err := json.Marshal(ringEntry{Generation: generation, Keyset: sealed.Bytes()})
	if err != nil {
		return fmt.Errorf("writing the key-encryption keys: %w", err)
	}
	slot := 0
	if k.handle != nil {
		slot = 1 - k.slot
	}
	if _, err := k.store.Create(ctx, ringNames[slot], data, 0); err != nil {
		return fmt.Errorf("writing the key-encryption keys: %w", err)
	}
	if err := k.loadLocked(ctx); err != nil { // which destroys the one before
		return err
	}
	if k.ring.Generation != generation || !bytes.Equal(k.raw, data) {
		return fmt.Errorf("writing the key-encryption keys: %w", kv.ErrExists)
	}
	return nil
}

// make makes the first keyset. Of two control planes that do, the first counts.
func (k *keyring) make(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return fmt.Errorf("making the vault: %w", err)
	}
	err = k.write(ctx, handle, 1)
	if errors.Is(err, kv.ErrExists) {
		return k.loadLocked(ctx)
	}
	return err
}

// wrap wraps a data key with the newest key-encryption key.
func (k *keyring) wrap(ctx context.Context, key *dataKey, binding []byte) ([]byte, error) {
	primitive, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	wrapped, err := primitive.Encrypt(key[:], binding)
	if err != nil {
		return nil, fmt.Errorf("wrapping a data key: %w", err)
	}
	return wrapped, nil
}

// current is what wraps, no older than confirmedFor.
func (k *keyring) current(ctx context.Context) (tink.AEAD, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.confirmed) > confirmedFor {
		if err := k.loadLocked(ctx); err != nil {
			return nil, err
		}
	}
	return k.known.Load(), nil
}

func (k *keyring) unwrap(ctx context.Context, wrapped, binding []byte) (*dataKey, error) {
	with := k.known.Load()
	if id, ok := wrappedBy(wrapped); ok && !with.ids[id] { // another control plane may have rotated
		if err := k.load(ctx); err != nil {
			return nil, err
		}
		with = k.known.Load()
	}
	plain, err := with.Decrypt(wrapped, binding)
	if err != nil || len(plain) != keyBytes {
		return nil, errors.New("a data key cannot be unwrapped: it belongs to something else, was changed, or was wrapped by a key that is no more")
	}
	return (*dataKey)(plain), nil
}

// wrappedBy is the id of the key that wrapped: tink puts a 1 and the id in front.
func wrappedBy(wrapped []byte) (uint32, bool) {
	if len(wrapped) < 5 || wrapped[0] != 1 {
		return 0, false
	}
	return binary.BigEndian.Uint32(wrapped[1:5]), true
}

// primary returns the id of the key that wraps now, and how many keys there are besides.
func (k *keyring) primary() (id uint32, others int) {
	now := k.known.Load()
	return now.primary, len(now.ids) - 1
}
