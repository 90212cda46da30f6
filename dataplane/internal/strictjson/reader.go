package strictjson

// Kind is the type of a JSON value.
type Kind uint8

// The kinds of value. None is what comes where no value can begin.
const (
	None Kind = iota
	Object
	Array
	String
	Number
	Bool
	Null
)

var kinds = [256]Kind{
	'{': Object, '[': Array, '"': String, 't': Bool, 'f': Bool, 'n': Null,
	'-': Number, '0': Number, '1': Number, '2': Number, '3': Number, '4': Number, '5': Number, '6': Number, '7': Number, '8': Number, '9': Number,
}

// KindOf tells the kind of a raw value that was read.
func KindOf(raw []byte) Kind {
	if len(raw) == 0 {
		return None
	}
	return kinds[raw[0]]
}

// Reader pulls values out of one JSON text, checking all that it passes. Errors stick: after one, Next is false, Value
// is nil, and End and Err return it. What a Reader returned may be believed only once End returned nil. The zero Reader
// reads nothing; call Reset. A Reader may be reset and used again, and must not be copied once used.
type Reader struct {
	scanner
	open  [MaxEntered]frame // objects that Enter opened
	depth int               // how many they are
	name  []byte
}

// MaxEntered is how many objects a Reader can stand within; values below may be as deep as the limits allow.
const MaxEntered = 8

// Reset starts over on data, which must not change while spans of it are in use.
func (r *Reader) Reset(data []byte, limits Limits) {
	r.reset(data, limits)
	r.depth, r.name = 0, nil
}

// Kind tells what the next value is, without reading it.
func (r *Reader) Kind() Kind {
	r.space()
	if r.err != nil || r.pos >= len(r.data) {
		return None
	}
	return kinds[r.data[r.pos]]
}

// Value reads the next value whole and returns its bytes as they came.
func (r *Reader) Value() []byte {
	if r.err != nil {
		return nil
	}
	r.space()
	start := r.pos
	if !r.value(r.depth) {
		return nil
	}
	return r.data[start:r.pos]
}

// Enter opens the object that is the next value; Next then walks its members. It is false, with an error, if the next
// value is no object.
func (r *Reader) Enter() bool {
	if r.Kind() != Object {
		if r.pos >= len(r.data) {
			return r.fail(Truncated)
		}
		return r.fail(NotWhatWasWanted)
	}
	if r.depth >= min(r.limits.MaxDepth, MaxEntered) {
		return r.fail(TooDeep)
	}
	r.pos++
	r.open[r.depth] = frame{base: r.keys, first: true}
	r.depth++
	return true
}

// Next moves to the next member of the object entered last. At its end it leaves the object and is false, as it is after an
// error. Each member's value must be read, by Value or by Enter and Next to the end, before the next.
func (r *Reader) Next() bool {
	if r.err != nil || r.depth == 0 {
		return false
	}
	if !r.member(&r.open[r.depth-1]) {
		if r.err == nil {
			r.depth--
		}
		return false
	}
	r.name = r.key(r.keys - 1)
	return true
}

// Key returns the unescaped key of the member that Next moved to. It is valid until the next call.
func (r *Reader) Key() []byte { return r.name }

// Offset tells where in data the Reader stands.
func (r *Reader) Offset() int { return r.pos }

// Err returns the first error.
func (r *Reader) Err() error {
	if r.err == nil {
		return nil // not a typed nil
	}
	return r.err
}

// End checks that nothing but space is left, and returns the first error.
func (r *Reader) End() error {
	r.end()
	return r.Err()
}

// Validate refuses data unless it is one JSON value within limits that can be read in one way only.
func Validate(data []byte, limits Limits) error {
	var s scanner
	s.reset(data, limits)
	s.space()
	s.value(0)
	s.end()
	if s.err == nil {
		return nil
	}
	return s.err
}

// Elements returns the elements of the array that data must be, as spans of data. More than most are refused.
func Elements(data []byte, limits Limits, most int) ([][]byte, error) {
	var s scanner
	s.reset(data, limits)
	s.space()
	if s.err == nil && KindOf(data[s.pos:]) != Array {
		s.fail(NotWhatWasWanted)
		return nil, s.err
	}
	s.pos++
	var elements [][]byte
	for first := true; s.err == nil && s.element(first); first = false {
		if len(elements) == most {
			s.fail(TooLarge)
			break
		}
		start := s.pos
		if s.value(1) {
			elements = append(elements, data[start:s.pos])
		}
	}
	if s.end(); s.err != nil {
		return nil, s.err
	}
	return elements, nil
}
