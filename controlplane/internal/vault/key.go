package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"sallyport.dev/controlplane/internal/kv"
)

// witnessName is the name of what every key-encryption key of a vault must open: it shows at the start that
// a control plane was given another key than those before it.
const witnessName = "key-encryption-key.witness"

var witnessBinding = []byte("witness\x00")

// unlock reads the key-encryption key and proves that it is this vault's. It makes one only where the vault
// has none.
func unlock(ctx context.Context, store *kv.Store, path string) (tink.AEAD, error) {
	witness, err := store.Get(ctx, witnessName)
	if errors.Is(err, kv.ErrNotFound) {
		var kek tink.AEAD
		if kek, err = readOrMakeKey(path); err != nil {
			return nil, err
		}
		return kek, claim(ctx, store, kek, path)
	}
	if err != nil {
		return nil, fmt.Errorf("asking whose the vault is: %w", err)
	}
	kek, err := readKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the vault was made with a key-encryption key, and %s is not there: restore it from its copy, or copy it from another control plane", path)
	}
	if err != nil {
		return nil, err
	}
	return kek, recognise(kek, witness.Value, path)
}

// claim makes a vault that is nobody's that of a key. Of two at once, the first counts.
func claim(ctx context.Context, store *kv.Store, kek tink.AEAD, path string) error {
	sealed, err := kek.Encrypt(nil, witnessBinding)
	if err != nil {
		return fmt.Errorf("making the vault: %w", err)
	}
	_, err = store.Create(ctx, witnessName, sealed, 0)
	if !errors.Is(err, kv.ErrExists) {
		return err
	}
	witness, err := store.Get(ctx, witnessName)
	if err != nil {
		return fmt.Errorf("asking whose the vault is: %w", err)
	}
	return recognise(kek, witness.Value, path)
}

func recognise(kek tink.AEAD, witness []byte, path string) error {
	if _, err := kek.Decrypt(witness, witnessBinding); err != nil {
		return fmt.Errorf("the key-encryption key %s is not the one with which the vault was made: each control plane needs a copy of the same file", path)
	}
	return nil
}

// readOrMakeKey reads the key, or makes it where there is none. Of two processes that make one at once, both
// read the one that was first.
func readOrMakeKey(path string) (tink.AEAD, error) {
	kek, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return kek, err
	}
	if err := makeKey(path); err != nil {
		return nil, fmt.Errorf("the key-encryption key cannot be written: %w", err)
	}
	return readKey(path)
}

// readKey reads a tink keyset from a file that nobody else may read.
func readKey(path string) (tink.AEAD, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the key-encryption key cannot be read: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("the key-encryption key cannot be read: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the key-encryption key %s is not a file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others may read the key-encryption key %s: chmod 600 it, and consider it known to them", path)
	}
	handle, err := insecurecleartextkeyset.Read(keyset.NewJSONReader(f))
	if err != nil {
		// The cause is not told: it may quote the file.
		return nil, fmt.Errorf("the key-encryption key %s is not a keyset: restore it from its copy", path)
	}
	kek, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("the key-encryption key %s is a keyset of another kind", path)
	}
	return kek, nil
}

// makeKey writes a new key so that a crash leaves a whole file or none, and never over one that is there.
func makeKey(path string) error {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return err
	}
	var data bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&data)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // it is made with 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // what is left has another name, and is the owner's alone
	_, err = f.Write(data.Bytes())
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
