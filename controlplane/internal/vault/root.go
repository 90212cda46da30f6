package vault

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"
)

// A root seals the vault's key-encryption keys, and nothing else: it is asked when a control plane starts and when they are rotated,
// so that a key management service that is away, or slow, does not matter in between.
type root = tink.AEADWithContext

// errNoKey: where a root's key was to lie there is none.
var errNoKey = errors.New("there is no key")

// openRoot opens the root that a URI names:
//
//	file:PATH                              a tink keyset, which its owner alone reads
//	env:NAME                               the same in an environment variable, in base64
//	hcvault://HOST/MOUNT/keys/NAME         a key of HashiCorp Vault's transit engine
//	aws-kms://arn:aws:kms:R:A:key/ID       a symmetric key of AWS KMS
//	gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K
//	                                       a symmetric key of Google Cloud KMS
//	azure-kms://HOST/keys/KEY[/VERSION]    an RSA key of Azure Key Vault, or of a managed HSM
//
// With errNoKey, makeRoot makes the key where that is possible.
func openRoot(ctx context.Context, uri string) (root, error) {
	scheme, rest, _ := strings.Cut(uri, ":")
	switch scheme {
	case "file":
		return readKeyFile(rest)
	case "env":
		return readKeyVariable(rest)
	case "hcvault", "hcvault+http":
		return newTransit(uri)
	case "aws-kms":
		return newAWS(ctx, uri)
	case "gcp-kms":
		return openGCP(ctx, uri)
	case "azure-kms":
		return openAzure(uri)
	}
	return nil, errors.New("a vault key is file:PATH, env:NAME, hcvault://HOST/MOUNT/keys/NAME, aws-kms://ARN, gcp-kms://projects/… or azure-kms://NAME.vault.azure.net/keys/KEY")
}

// makeRoot makes a key that was not there. Of two processes that make one at once, both read the one that was first.
func makeRoot(uri string) (root, error) {
	path, ok := strings.CutPrefix(uri, "file:")
	if !ok {
		return nil, fmt.Errorf("the vault key %s: %w", uri, errNoKey)
	}
	if err := makeKeyFile(path); err != nil {
		return nil, fmt.Errorf("the vault key cannot be written: %w", err)
	}
	return readKeyFile(path)
}

// local is a root in this process's memory.
type local struct{ tink.AEAD }

func (l local) EncryptWithContext(_ context.Context, plain, binding []byte) ([]byte, error) {
	return l.Encrypt(plain, binding)
}

func (l local) DecryptWithContext(_ context.Context, sealed, binding []byte) ([]byte, error) {
	return l.Decrypt(sealed, binding)
}

// readKeyFile reads a tink keyset from a file that nobody else may read.
func readKeyFile(path string) (root, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the vault key %s: %w", path, errNoKey)
	}
	if err != nil {
		return nil, fmt.Errorf("the vault key cannot be read: %w", err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("the vault key cannot be read: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("the vault key %s is not a file", path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("others may read the vault key %s: chmod 600 it, and consider it known to them", path)
	}
	return localRoot(keyset.NewJSONReader(f), path)
}

func readKeyVariable(name string) (root, error) {
	text := os.Getenv(name)
	if text == "" {
		return nil, fmt.Errorf("the vault key env:%s: %w: the variable is empty; make one with: sallyport vault new-key", name, errNoKey)
	}
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, fmt.Errorf("the vault key env:%s is not base64", name) // the cause may quote it
	}
	return localRoot(keyset.NewJSONReader(bytes.NewReader(data)), "env:"+name)
}

func localRoot(r keyset.Reader, where string) (root, error) {
	handle, err := insecurecleartextkeyset.Read(r)
	if err != nil {
		// The cause is not told: it may quote the file.
		return nil, fmt.Errorf("the vault key %s is not a keyset: restore it from its copy", where)
	}
	key, err := aead.New(handle)
	if err != nil {
		return nil, fmt.Errorf("the vault key %s is a keyset of another kind", where)
	}
	return local{key}, nil
}

// NewKey returns a new key as a vault key file holds it.
func NewKey() ([]byte, error) {
	handle, err := keyset.NewHandle(aead.AES256GCMKeyTemplate())
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	var data bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&data)); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return data.Bytes(), nil
}

// makeKeyFile writes a new key so that a crash leaves a whole file or none, and never over one that is there.
func makeKeyFile(path string) error {
	data, err := NewKey()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // it is made with 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) //nolint:errcheck // what is left has another name, and is the owner's alone
	_, err = f.Write(data)
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
