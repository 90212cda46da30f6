package policy

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"

	"google.golang.org/protobuf/proto"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

// Digest is a multiset hash over entries: the same entries give the same digest, in whatever order they
// were added and removed. It finds tables that drifted apart; it is no defence against who makes entries.
// The zero value is the digest of no entries.
type Digest [2]uint64

// Add puts an entry in.
func (d *Digest) Add(e *fleetv1.Entry) { d.add(hashEntry(e)) }

// AddEncoded puts an entry in by its deterministic encoding.
func (d *Digest) AddEncoded(data []byte) { d.add(hashEncoded(data)) }

// Remove takes an entry out that was put in.
func (d *Digest) Remove(e *fleetv1.Entry) { d.remove(hashEntry(e)) }

// Bytes is the digest as it is sent: 16 bytes.
func (d *Digest) Bytes() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, d[0]), d[1])
}

func (d *Digest) add(h Digest) {
	d[0] += h[0]
	d[1] += h[1]
}

func (d *Digest) remove(h Digest) {
	d[0] -= h[0]
	d[1] -= h[1]
}

// hashEntry is 128 bits of the SHA-256 of an entry's deterministic encoding.
func hashEntry(e *fleetv1.Entry) Digest {
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	data, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend((*buffer)[:0], e)
	if err != nil { // text that is not UTF-8: no such entry can be sent, or come
		return Digest{}
	}
	*buffer = data
	return hashEncoded(data)
}

func hashEncoded(data []byte) Digest {
	sum := sha256.Sum256(data)
	return Digest{binary.BigEndian.Uint64(sum[:8]), binary.BigEndian.Uint64(sum[8:16])}
}

// buffers are where entries are encoded: a snapshot has a million.
var buffers = sync.Pool{New: func() any { return new([]byte) }}
