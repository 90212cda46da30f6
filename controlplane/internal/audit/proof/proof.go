// Package proof says what proves that audit is whole, and checks it: from the bytes alone, with no stream and no server.
//
// Three things hold each other: the core of each record has the digest of the one before it of its proxy; the control plane
// signs where a proxy's chain stands as it takes records in; and it signs checkpoints of a Merkle tree over all cores, in the
// stream's order. A record that was changed, removed, put in or moved makes the tree another from there on, and a tail that is
// missing leaves a checkpoint without its records. Who holds the signing key can sign another history: against that a
// checkpoint that somebody else kept helps.
package proof

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/encoding/protowire"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Digest is of a record's core.
type Digest = [sha256.Size]byte

const fieldPrevious protowire.Number = 60

// PreviousRoom is what AppendChained adds to a core at most.
const PreviousRoom = sha256.Size + 4

// AppendChained appends to b a record's core with the digest of the one before it, which none has where previous is zero.
func AppendChained(b, core []byte, previous Digest) []byte {
	b = append(b, core...)
	if previous == (Digest{}) {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, fieldPrevious, protowire.BytesType), previous[:])
}

// Core returns the part of a message that the chain is over. Without the header that says how long it is, it is all of it.
func Core(data []byte, header string) ([]byte, error) {
	if header == "" {
		return data, nil
	}
	n, err := strconv.Atoi(header)
	if err != nil || n < 0 || n > len(data) {
		return nil, fmt.Errorf("its header says that %q of %d bytes are its core", header, len(data))
	}
	return data[:n], nil
}

// Keys are public keys by their id.
type Keys map[string]ed25519.PublicKey

// NewKeys are keys as an export has them.
func NewKeys(keys [][]byte) (Keys, error) {
	all := Keys{}
	for _, k := range keys {
		if len(k) != ed25519.PublicKeySize {
			return nil, errors.New("a public key has not the length of one")
		}
		all[KeyID(k)] = k
	}
	return all, nil
}

// KeyID is what a key is called: the first 8 bytes of its SHA-256, in hexadecimal digits.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// HeadStatement is what is signed of a chain's head.
func HeadStatement(proxy, generation string, number uint64, head Digest) []byte {
	return fmt.Appendf(nil, "sallyport audit head v1\n%s\n%s\n%d\n%x\n", strconv.Quote(proxy), strconv.Quote(generation), number, head)
}

func checkpointStatement(c *auditv1.Checkpoint) []byte {
	return fmt.Appendf(nil, "sallyport audit checkpoint v1\n%d\n%d\n%x\n%d\n", c.GetSize(), c.GetSequence(), c.GetRoot(), c.GetAt().AsTime().UnixNano())
}

func removalStatement(r *auditv1.Removal) []byte {
	return fmt.Appendf(nil, "sallyport audit removal v1\n%d\n%d\n%x\n%d\n%d\n", r.GetSize(), r.GetSequence(), r.GetRoot(), r.GetAt().AsTime().UnixNano(), r.GetBefore().AsTime().UnixNano())
}

// SignRemoval signs what was removed.
func SignRemoval(key ed25519.PrivateKey, r *auditv1.Removal) {
	r.Signature = Sign(key, removalStatement(r))
}

// Sign signs a statement: the key's id and the signature.
func Sign(key ed25519.PrivateKey, statement []byte) string {
	return KeyID(key.Public().(ed25519.PublicKey)) + " " + base64.StdEncoding.EncodeToString(ed25519.Sign(key, statement))
}

// SignCheckpoint signs a checkpoint.
func SignCheckpoint(key ed25519.PrivateKey, c *auditv1.Checkpoint) {
	c.Signature = Sign(key, checkpointStatement(c))
}

// Verify says whether a signature is one of the keys' over a statement.
func (k Keys) Verify(text string, statement []byte) error {
	id, encoded, _ := strings.Cut(text, " ")
	sig, err := base64.StdEncoding.DecodeString(encoded)
	key, known := k[id]
	switch {
	case err != nil || len(sig) != ed25519.SignatureSize:
		return fmt.Errorf("%.200q is no signature", text)
	case !known:
		return fmt.Errorf("it is signed with key %.40q, which is not among those that are trusted", id)
	case !ed25519.Verify(key, statement, sig):
		return fmt.Errorf("the signature of key %s does not fit", id)
	}
	return nil
}

// Tree is a Merkle tree that is continued.
type Tree struct{ r *compact.Range }

var factory = compact.RangeFactory{Hash: hashChildren}

// hashChildren is rfc6962's HashChildren, which makes three objects where one is kept.
func hashChildren(left, right []byte) []byte {
	b := append(append(append(make([]byte, 0, 1+2*sha256.Size), rfc6962.RFC6962NodeHashPrefix), left...), right...)
	sum := sha256.Sum256(b)
	return sum[:]
}

// NewTree is the tree of a checkpoint; nil: the empty one. It says if the checkpoint's root does not follow.
func NewTree(c *auditv1.Checkpoint) (*Tree, error) {
	if c == nil {
		return &Tree{factory.NewEmptyRange(0)}, nil
	}
	r, err := factory.NewRange(0, c.GetSize(), c.GetSubtrees())
	if err != nil {
		return nil, fmt.Errorf("the subtrees of the checkpoint at %d records do not fit: %w", c.GetSize(), err)
	}
	t := &Tree{r}
	if string(t.Root()) != string(c.GetRoot()) {
		return nil, fmt.Errorf("the subtrees of the checkpoint at %d records have another root", c.GetSize())
	}
	return t, nil
}

// Leaf is the hash of a record's core as a leaf.
func Leaf(core []byte) []byte { return rfc6962.DefaultHasher.HashLeaf(core) }

// Append adds a leaf.
func (t *Tree) Append(leaf []byte) error { return t.r.Append(leaf, nil) }

// Size is how many leaves there are.
func (t *Tree) Size() uint64 { return t.r.End() }

// Root is the tree's root.
func (t *Tree) Root() []byte {
	root, err := t.r.GetRootHash(nil)
	if err != nil || root == nil {
		return rfc6962.DefaultHasher.EmptyRoot()
	}
	return root
}

// Subtrees are the roots from which the root follows.
func (t *Tree) Subtrees() [][]byte {
	all := make([][]byte, 0, len(t.r.Hashes()))
	for _, h := range t.r.Hashes() {
		all = append(all, append([]byte(nil), h...))
	}
	return all
}
