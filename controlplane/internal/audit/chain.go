package audit

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// A proxy's records are a chain: the core of each holds the digest of the one before, whichever spool generation that is
// of. The core is hashed as it lies on the stream, byte by byte, so that a build that knows other fields comes to the
// same. Each batch's last record carries the control plane's signature over where the chain stands then.

// digest is of a record's core.
type digest = [sha256.Size]byte

const fieldPrevious protowire.Number = 60

// chained returns a record's core with the digest of the one before it, which none has where previous is zero.
func chained(core []byte, previous digest) []byte {
	core = core[:len(core):len(core)]
	if previous == (digest{}) {
		return core
	}
	return protowire.AppendBytes(protowire.AppendTag(core, fieldPrevious, protowire.BytesType), previous[:])
}

// previousRoom is what chained adds at most.
const previousRoom = sha256.Size + 4

// coreOf returns the part of a message that the chain is over. Without the header it is all of it.
func coreOf(data []byte, header string) ([]byte, error) {
	if header == "" {
		return data, nil
	}
	n, err := strconv.Atoi(header)
	if err != nil || n < 0 || n > len(data) {
		return nil, fmt.Errorf("its header %s says %q of %d bytes", coreHeader, header, len(data))
	}
	return data[:n], nil
}

// Keys are public keys by their id.
type Keys map[string]ed25519.PublicKey

// KeyID is what a key is called: the first 8 bytes of its SHA-256, in hexadecimal digits.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// headStatement is what is signed of a chain's head.
func headStatement(proxy, generation string, number uint64, head digest) []byte {
	return fmt.Appendf(nil, "sallyport audit head v1\n%s\n%s\n%d\n%x\n", strconv.Quote(proxy), generation, number, head)
}

// signature signs a statement, as it stands in a header: the key's id and the signature.
func signature(key ed25519.PrivateKey, statement []byte) string {
	return KeyID(key.Public().(ed25519.PublicKey)) + " " + base64.StdEncoding.EncodeToString(ed25519.Sign(key, statement))
}

// verify says whether a signature is one of the keys' over a statement.
func (k Keys) verify(text string, statement []byte) error {
	id, encoded, _ := strings.Cut(text, " ")
	sig, err := base64.StdEncoding.DecodeString(encoded)
	key, known := k[id]
	switch {
	case err != nil || len(sig) != ed25519.SignatureSize:
		return fmt.Errorf("%q is no signature", text)
	case !known:
		return fmt.Errorf("the key %q is not among those that are trusted", id)
	case !ed25519.Verify(key, statement, sig):
		return fmt.Errorf("the signature of key %s does not fit", id)
	}
	return nil
}
