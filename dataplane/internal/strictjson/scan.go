package strictjson

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// scanner checks values from data[pos:] on. Its methods return false once err is set.
type scanner struct {
	data    []byte
	pos     int
	limits  Limits
	err     *Error
	scratch []byte // unescaped forms of keys that were escaped
	// The keys of the objects that are open, innermost last: the first few, then the rest. A slice over few would send
	// every scanner to the heap.
	keys int
	few  [24]key
	rest []key
}

func (s *scanner) reset(data []byte, limits Limits) {
	s.data, s.pos, s.limits, s.err = data, 0, limits.orDefaults(), nil
	s.keys, s.rest, s.scratch = 0, s.rest[:0], s.scratch[:0]
	if len(data) > s.limits.MaxBytes {
		s.failAt(s.limits.MaxBytes, TooLarge)
	}
}

func (s *scanner) fail(reason Reason) bool { return s.failAt(s.pos, reason) }

func (s *scanner) failAt(offset int, reason Reason) bool {
	if s.err == nil {
		s.err = &Error{Offset: offset, Reason: reason}
	}
	return false
}

// unexpected fails because the byte at pos, or the end, cannot stand there.
func (s *scanner) unexpected() bool {
	if s.pos >= len(s.data) {
		return s.failAt(len(s.data), Truncated)
	}
	return s.fail(Malformed)
}

func (s *scanner) end() {
	if s.err != nil {
		return
	}
	if s.space(); s.pos < len(s.data) {
		s.fail(TrailingData)
	}
}

// space skips white space. It is small so that it is inlined: most often there is none.
func (s *scanner) space() {
	if s.pos < len(s.data) && s.data[s.pos] <= ' ' {
		s.spaces()
	}
}

func (s *scanner) spaces() {
	for s.pos < len(s.data) {
		switch s.data[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// value reads the value that begins at pos; depth is how many objects and arrays are around it.
func (s *scanner) value(depth int) bool {
	if s.err != nil {
		return false
	}
	if s.pos >= len(s.data) {
		return s.unexpected()
	}
	switch s.data[s.pos] {
	case '"':
		_, _, ok := s.str()
		return ok
	case '{':
		return s.object(depth)
	case '[':
		return s.array(depth)
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		return s.number()
	}
}

func (s *scanner) object(depth int) bool {
	if depth >= s.limits.MaxDepth {
		return s.fail(TooDeep)
	}
	s.pos++
	f := frame{base: s.keys, first: true}
	for s.member(&f) {
		if !s.value(depth + 1) {
			return false
		}
	}
	return s.err == nil
}

// member reads up to the value of the object's next member, or past the object's end.
func (s *scanner) member(f *frame) bool {
	s.space()
	if s.pos >= len(s.data) {
		return s.unexpected()
	}
	if s.data[s.pos] == '}' {
		s.pos++
		s.dropKeys(f.base)
		return false
	}
	if !f.first {
		if s.data[s.pos] != ',' {
			return s.unexpected()
		}
		s.pos++
		s.space()
	}
	f.first = false
	if s.pos >= len(s.data) || s.data[s.pos] != '"' {
		return s.unexpected()
	}
	if !s.addKey(f) {
		return false
	}
	s.space()
	if s.pos >= len(s.data) || s.data[s.pos] != ':' {
		return s.unexpected()
	}
	s.pos++
	s.space()
	return true
}

func (s *scanner) array(depth int) bool {
	if depth >= s.limits.MaxDepth {
		return s.fail(TooDeep)
	}
	s.pos++
	for first := true; s.element(first); first = false {
		if !s.value(depth + 1) {
			return false
		}
	}
	return s.err == nil
}

// element reads up to the array's next element, or past the array's end.
func (s *scanner) element(first bool) bool {
	s.space()
	if s.pos >= len(s.data) {
		return s.unexpected()
	}
	if s.data[s.pos] == ']' {
		s.pos++
		return false
	}
	if first {
		return true
	}
	if s.data[s.pos] != ',' {
		return s.unexpected()
	}
	s.pos++
	if s.space(); s.pos < len(s.data) && s.data[s.pos] == ']' {
		return s.unexpected() // a comma announces an element
	}
	return true
}

func (s *scanner) literal(word string) bool {
	rest := s.data[s.pos:]
	if len(rest) < len(word) || string(rest[:len(word)]) != word {
		for i := 0; i < len(word); i++ {
			if i == len(rest) {
				return s.failAt(len(s.data), Truncated)
			}
			if rest[i] != word[i] {
				return s.failAt(s.pos+i, Malformed)
			}
		}
	}
	s.pos += len(word)
	return true
}

// number reads RFC 8259's number: what may follow it is left to the caller.
func (s *scanner) number() bool {
	d, i := s.data, s.pos
	if i < len(d) && d[i] == '-' {
		i++
	}
	switch {
	case i < len(d) && d[i] == '0':
		i++
	case i < len(d) && d[i] >= '1' && d[i] <= '9':
		i = digits(d, i)
	case i == s.pos:
		return s.unexpected()
	default:
		return s.badNumber(i)
	}
	if i < len(d) && d[i] == '.' {
		if end := digits(d, i+1); end > i+1 {
			i = end
		} else {
			return s.badNumber(i + 1)
		}
	}
	if i < len(d) && (d[i] == 'e' || d[i] == 'E') {
		i++
		if i < len(d) && (d[i] == '+' || d[i] == '-') {
			i++
		}
		if end := digits(d, i); end > i {
			i = end
		} else {
			return s.badNumber(i)
		}
	}
	s.pos = i
	return true
}

func (s *scanner) badNumber(at int) bool {
	if at >= len(s.data) {
		return s.failAt(len(s.data), Truncated)
	}
	return s.failAt(at, InvalidNumber)
}

func digits(d []byte, i int) int {
	for i < len(d) && d[i]-'0' <= 9 {
		i++
	}
	return i
}

// str reads the string whose opening quote is at pos. It tells whether the string holds escapes, and whether it
// is odd: whether it holds anything but printable ASCII.
func (s *scanner) str() (escaped, odd, ok bool) {
	d, i := s.data, s.pos+1
	for {
		i = special(d, i)
		if i >= len(d) {
			return escaped, odd, s.failAt(len(d), Truncated)
		}
		switch c := d[i]; {
		case c == '"':
			s.pos = i + 1
			return escaped, odd, true
		case c == '\\':
			escaped, odd = true, true
			n, reason := escapeLen(d[i:])
			if reason != "" {
				return escaped, odd, s.failAt(i, reason)
			}
			i += n
		case c < 0x20:
			return escaped, odd, s.failAt(i, ControlInString)
		default: // DEL, or beyond ASCII
			odd = true
			r, n := utf8.DecodeRune(d[i:])
			if r == utf8.RuneError && n <= 1 {
				return escaped, odd, s.failAt(i, InvalidUTF8)
			}
			i += n
		}
	}
}

// special finds, from i on, the first quote, backslash, control character (DEL among them) or byte beyond ASCII.
func special(d []byte, i int) int {
	// Eight bytes at a time: the top bit of each byte of found says whether it is one of those. A borrow or carry
	// falsifies only bytes above one that is rightly marked, so the lowest mark is true.
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for i+8 <= len(d) {
		w := binary.LittleEndian.Uint64(d[i:])
		found := (w | (w + ones) | (w - ones*0x20) | ((w ^ ones*'"') - ones) | ((w ^ ones*'\\') - ones)) & tops
		if found != 0 {
			return i + bits.TrailingZeros64(found)>>3
		}
		i += 8
	}
	for i < len(d) && d[i] >= 0x20 && d[i] < 0x7f && d[i] != '"' && d[i] != '\\' {
		i++
	}
	return i
}
