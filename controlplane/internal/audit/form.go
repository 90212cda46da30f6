package audit

import (
	"math"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// form is the ordinary form of messages of a type: fields that are known, each of its own kind and once, save lists; numbers that the field can hold
// and in as few bytes as they need; text in UTF-8, and messages in them of the ordinary form too. Such a message means to every reader what it means
// to this one.
type form [mostFields]struct {
	known, text, list bool
	kind              protowire.Type
	most              uint64 // of a number
	message           *form
}

const mostFields = 128

// formOf is the form of a type, with so many of its fields; nil: all. No type of an audit record holds itself.
func formOf(d protoreflect.MessageDescriptor, only []protowire.Number) *form {
	f, fields := &form{}, d.Fields()
	for i := range fields.Len() {
		d := fields.Get(i)
		if d.Number() >= mostFields || d.ContainingOneof() != nil || only != nil && !slices.Contains(only, d.Number()) {
			continue
		}
		of := &f[d.Number()]
		of.known, of.list = true, d.IsList()
		switch d.Kind() {
		case protoreflect.StringKind:
			of.kind, of.text = protowire.BytesType, true
		case protoreflect.BytesKind:
			of.kind = protowire.BytesType
		case protoreflect.MessageKind:
			of.kind, of.message = protowire.BytesType, formOf(d.Message(), nil)
		case protoreflect.BoolKind:
			of.kind, of.most = protowire.VarintType, 1
		case protoreflect.EnumKind, protoreflect.Int32Kind: // less than zero is none of them in a record
			of.kind, of.most = protowire.VarintType, math.MaxInt32
		case protoreflect.Uint32Kind:
			of.kind, of.most = protowire.VarintType, math.MaxUint32
		case protoreflect.Int64Kind, protoreflect.Uint64Kind:
			of.kind, of.most = protowire.VarintType, math.MaxUint64
		default:
			of.known = false
		}
		of.known = of.known && (of.kind == protowire.BytesType || !of.list) // numbers of a list may be packed
	}
	return f
}

// wireField is a field: of its value, what its kind has.
type wireField struct {
	number protowire.Number
	varint uint64
	value  []byte
}

// fieldSet are the numbers of fields that came.
type fieldSet [mostFields / 64]uint64

func (s *fieldSet) again(number protowire.Number) bool {
	word, bit := &s[number/64], uint64(1)<<(number%64)
	again := *word&bit != 0
	*word |= bit
	return again
}

// next reads the first field of b and how long it is; 0: it is not of the form.
func (f *form) next(b []byte, seen *fieldSet) (w wireField, length int) {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 || number >= mostFields {
		return w, 0
	}
	of := &f[number]
	if !of.known || of.kind != kind || seen.again(number) && !of.list {
		return w, 0
	}
	w.number = number
	size, short := 0, 0
	if kind == protowire.VarintType {
		w.varint, size = protowire.ConsumeVarint(b[n:])
		short = protowire.SizeVarint(w.varint)
	} else {
		w.value, size = protowire.ConsumeBytes(b[n:])
		short = protowire.SizeBytes(len(w.value))
	}
	if size < 0 || n+size != protowire.SizeTag(number)+short || kind == protowire.VarintType && w.varint > of.most {
		return w, 0
	}
	if of.text && !utf8.Valid(w.value) || of.message != nil && !of.message.fits(w.value) {
		return w, 0
	}
	return w, n + size
}

// fits tells whether b is a message of the form.
func (f *form) fits(b []byte) bool {
	var seen fieldSet
	for len(b) > 0 {
		_, n := f.next(b, &seen)
		if n == 0 {
			return false
		}
		b = b[n:]
	}
	return true
}

// apart takes a text out of a message that has nothing but texts; nil: it has none of that number, or an empty one.
func apart(b []byte, number protowire.Number) (field, rest []byte) {
	for at := 0; at < len(b); {
		n, _, tag := protowire.ConsumeTag(b[at:])
		value, size := protowire.ConsumeBytes(b[at+tag:])
		end := at + tag + size
		if n == number {
			if len(value) > 0 {
				field = b[at:end]
			}
			if rest = b[:at]; end < len(b) {
				rest = slices.Concat(rest, b[end:])
			}
			return field, rest
		}
		at = end
	}
	return nil, b
}

// varint is a number in a message of some form; 0: it has none.
func varint(b []byte, number protowire.Number) uint64 {
	for len(b) > 0 {
		n, kind, tag := protowire.ConsumeTag(b)
		if n == number {
			v, _ := protowire.ConsumeVarint(b[tag:])
			return v
		}
		b = b[tag+protowire.ConsumeFieldValue(n, kind, b[tag:]):]
	}
	return 0
}
