package strictjson

import (
	"bytes"
	"hash/maphash"
)

// key is a span of data, or of scratch if the key was escaped.
type key struct {
	start, length uint32
	escaped       bool
}

// frame is an open object. Its keys are the scanner's from base on: those of objects within it come later and go earlier.
type frame struct {
	base  int
	first bool     // no member was read yet
	table []uint32 // open addressing, once the keys are many: places in keys from base on, plus one
}

// many is the number of keys from which on a table finds a duplicate faster than looking at each.
const many = 16

// seed makes the table's places unforeseeable, so that nobody can choose keys that all collide.
var seed = maphash.MakeSeed()

func (s *scanner) pushKey(k key) {
	if s.keys < len(s.few) {
		s.few[s.keys] = k
	} else {
		s.rest = append(s.rest, k)
	}
	s.keys++
}

func (s *scanner) dropKeys(from int) {
	s.keys = from
	s.rest = s.rest[:max(0, from-len(s.few))]
}

// key returns the unescaped bytes of the i-th key.
func (s *scanner) key(i int) []byte { return s.keyBytes(s.at(i)) }

func (s *scanner) at(i int) *key {
	if i < len(s.few) {
		return &s.few[i]
	}
	return &s.rest[i-len(s.few)]
}

func (s *scanner) keyBytes(k *key) []byte {
	if k.escaped {
		return s.scratch[k.start:][:k.length]
	}
	return s.data[k.start:][:k.length]
}

// addKey reads the key whose opening quote is at pos and refuses one that the object already has.
func (s *scanner) addKey(f *frame) bool {
	start := s.pos
	escaped, odd, ok := s.str()
	if !ok {
		return false
	}
	name := s.data[start+1 : s.pos-1]
	k := key{start: uint32(start + 1), length: uint32(len(name)), escaped: escaped}
	if escaped {
		from := len(s.scratch)
		s.scratch = unescape(s.scratch, name)
		name = s.scratch[from:]
		k.start, k.length = uint32(from), uint32(len(name))
	}
	if odd && hasControl(name) {
		return s.failAt(start, ControlInKey)
	}
	n := s.keys - f.base
	if n >= s.limits.MaxKeys {
		return s.failAt(start, TooManyKeys)
	}
	if n < many {
		for i := f.base; i < s.keys; i++ {
			if other := s.at(i); other.length == k.length && bytes.Equal(s.keyBytes(other), name) {
				return s.failAt(start, DuplicateKey)
			}
		}
	} else if s.inTable(f, name) {
		return s.failAt(start, DuplicateKey)
	}
	s.pushKey(k)
	return true
}

// inTable looks for name among the frame's keys, and else makes a place for it: it is about to become the next key.
func (s *scanner) inTable(f *frame, name []byte) bool {
	n := s.keys - f.base
	if 2*(n+1) > len(f.table) {
		f.table = make([]uint32, max(4*many, 2*len(f.table)))
		for i := range n {
			at, _ := s.place(f, s.key(f.base+i))
			f.table[at] = uint32(i + 1)
		}
	}
	at, taken := s.place(f, name)
	if taken {
		return true
	}
	f.table[at] = uint32(n + 1)
	return false
}

func (s *scanner) place(f *frame, name []byte) (at int, taken bool) {
	mask := len(f.table) - 1
	for at = int(maphash.Bytes(seed, name)) & mask; f.table[at] != 0; at = (at + 1) & mask {
		if bytes.Equal(s.key(f.base+int(f.table[at])-1), name) {
			return at, true
		}
	}
	return at, false
}

// hasControl tells whether an unescaped key holds a character of Unicode's category Cc.
func hasControl(name []byte) bool {
	for i, c := range name {
		if c < 0x20 || c == 0x7f || c == 0xC2 && i+1 < len(name) && name[i+1] < 0xA0 {
			return true
		}
	}
	return false
}
