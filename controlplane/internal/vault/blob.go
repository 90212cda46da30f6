package vault

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
)

// segmentBytes is how much of a blob is sealed at a time.
const segmentBytes = 1 << 20

func blobBinding(name string) []byte { return []byte("blob\x00" + name) }

// SealBlob returns a writer that seals what is written to it, under a key of its own, bound to a name.
// Closing it does not close w.
func (v *Vault) SealBlob(w io.Writer, name string) (io.WriteCloser, error) {
	key := newKey()
	wrapped, err := v.ring.wrap(context.Background(), key, blobBinding(name))
	if err != nil {
		return nil, err
	}
	head := binary.BigEndian.AppendUint16(nil, uint16(len(wrapped)))
	if _, err := w.Write(append(head, wrapped...)); err != nil {
		return nil, fmt.Errorf("writing a blob: %w", err)
	}
	c, err := subtle.NewAESGCMHKDF(key[:], "SHA256", keyBytes, segmentBytes, 0)
	if err != nil {
		return nil, fmt.Errorf("sealing a blob: %w", err)
	}
	return c.NewEncryptingWriter(w, blobBinding(name))
}

// OpenBlob returns a reader of what SealBlob sealed for a name. It fails where a byte was changed or is missing, and where the key-encryption
// key of that time is no more: a blob can be made again.
func (v *Vault) OpenBlob(r io.Reader, name string) (io.Reader, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, fmt.Errorf("reading a blob: %w", err)
	}
	wrapped := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, wrapped); err != nil {
		return nil, fmt.Errorf("reading a blob: %w", err)
	}
	key, err := v.ring.unwrap(context.Background(), wrapped, blobBinding(name))
	if err != nil {
		return nil, err
	}
	c, err := subtle.NewAESGCMHKDF(key[:], "SHA256", keyBytes, segmentBytes, 0)
	if err != nil {
		return nil, errors.New("opening a blob: its key is not one")
	}
	return c.NewDecryptingReader(r, blobBinding(name))
}
