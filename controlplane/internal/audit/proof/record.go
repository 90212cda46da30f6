package proof

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"hash"
	"unicode/utf8"

	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/encoding/protowire"
)

// exported is what an export says of a record: its core, or the leaf alone.
type exported struct {
	sequence             uint64
	core, personal, leaf []byte
	head                 string
}

// record is a record of an export, with all that it shows by itself: what the order of records shows is not looked at.
type record struct {
	sequence uint64
	full     bool // not the leaf alone
	leaf     Digest
	core     core
	digest   Digest // of the core
	head     string
	erased   bool
	err      error // of what it says
}

// core is what the chain needs of a record.
type core struct {
	proxy, generation  []byte
	number             uint64
	previous, personal []byte
}

// look hashes a record and compares it with itself.
func look(e exported) *record {
	r := &record{}
	r.look(e, sha256.New())
	return r
}

func (r *record) look(e exported, h hash.Hash) {
	*r = record{sequence: e.sequence, full: e.leaf == nil, head: e.head}
	if !r.full {
		if copy(r.leaf[:], e.leaf); len(e.leaf) != len(r.leaf) {
			r.err = errors.New("it has no digest")
		}
		return
	}
	h.Reset()
	_, _ = h.Write([]byte{rfc6962.RFC6962LeafHashPrefix}) // never fails
	_, _ = h.Write(e.core)
	h.Sum(r.leaf[:0])
	r.digest = sha256.Sum256(e.core)
	if r.core, r.err = readCore(e.core); r.err != nil {
		return
	}
	switch {
	case len(r.core.personal) == 0:
		if len(e.personal) > 0 {
			r.err = errors.New("it says things of a person that are not part of it")
		}
	case len(e.personal) == 0:
		r.erased = true
	default:
		if sum := sha256.Sum256(e.personal); !bytes.Equal(sum[:], r.core.personal) {
			r.err = errors.New("what it says of its person was changed")
		}
	}
}

// readCore reads what the chain needs, which is much sooner than all of it.
func readCore(b []byte) (c core, err error) {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return c, errors.New("it cannot be read")
		}
		b = b[n:]
		var value []byte
		switch {
		case kind == protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		case number == 3 && kind == protowire.VarintType:
			c.number, n = protowire.ConsumeVarint(b)
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return c, errors.New("it cannot be read")
		}
		b = b[n:]
		switch number {
		case 1:
			c.proxy = value
		case 2:
			c.generation = value
		case fieldPrevious:
			c.previous = value
		case 61:
			c.personal = value
		}
	}
	return c, nil
}

// readRecord reads an item that is a record of the ordinary form: as proto.Unmarshal does, but several times sooner, as nothing is
// copied. False: it is another, or is not of that form.
func readRecord(b []byte) (e exported, ok bool) {
	b, ok = only(b, 2)
	for ok && len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return e, false
		}
		b = b[n:]
		var value []byte
		switch {
		case number == 1 && kind == protowire.VarintType:
			e.sequence, n = protowire.ConsumeVarint(b)
		case number >= 2 && number <= 6 && kind == protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
			if len(value) == 0 {
				return e, false
			}
		default:
			return e, false
		}
		if n < 0 {
			return e, false
		}
		b = b[n:]
		switch number {
		case 2:
			ok = isTimestamp(value)
		case 3:
			e.core = value
		case 4:
			e.personal = value
		case 5:
			e.head, ok = string(value), utf8.Valid(value)
		case 6:
			e.leaf = value
		}
	}
	return e, ok
}

// only returns what the one field of a message holds.
func only(b []byte, want protowire.Number) ([]byte, bool) {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 || number != want || kind != protowire.BytesType {
		return nil, false
	}
	value, m := protowire.ConsumeBytes(b[n:])
	return value, m > 0 && n+m == len(b)
}

// isTimestamp is true of what proto.Unmarshal certainly reads as one.
func isTimestamp(b []byte) bool {
	for len(b) > 0 {
		_, kind, n := protowire.ConsumeTag(b)
		if n < 0 || kind != protowire.VarintType {
			return false
		}
		_, m := protowire.ConsumeVarint(b[n:])
		if m < 0 {
			return false
		}
		b = b[n+m:]
	}
	return true
}
