package strictjson

import "fmt"

// Reason says why input was refused, in words that hold nothing of the input.
type Reason string

// The reasons for which input is refused.
const (
	Malformed        Reason = "malformed JSON"
	Truncated        Reason = "JSON ends too early"
	TrailingData     Reason = "data after the JSON value"
	DuplicateKey     Reason = "duplicate key"
	ControlInKey     Reason = "control character in a key"
	ControlInString  Reason = "unescaped control character in a string"
	InvalidUTF8      Reason = "invalid UTF-8"
	InvalidEscape    Reason = "invalid escape"
	LoneSurrogate    Reason = "lone surrogate"
	InvalidNumber    Reason = "invalid number"
	TooDeep          Reason = "nested too deeply"
	TooLarge         Reason = "too large"
	TooManyKeys      Reason = "too many keys in an object"
	NotWhatWasWanted Reason = "another type was expected"
)

// Error is a refusal. Offset is in bytes, where reading stopped.
type Error struct {
	Offset int
	Reason Reason
}

func (e *Error) Error() string { return fmt.Sprintf("%s at byte %d", e.Reason, e.Offset) }

// Limits bound what is read. A zero field means its default.
type Limits struct {
	// MaxBytes bounds the whole input. Default 4 MiB, at most 2 GiB.
	MaxBytes int
	// MaxDepth bounds the nesting of objects and arrays; a scalar has depth 0. Default 64. Each level costs stack.
	MaxDepth int
	// MaxKeys bounds the members of one object. Default 10,000.
	MaxKeys int
}

func (l Limits) orDefaults() Limits {
	if l.MaxBytes <= 0 {
		l.MaxBytes = 4 << 20
	}
	l.MaxBytes = min(l.MaxBytes, 1<<31-1) // places are kept in 32 bits
	if l.MaxDepth <= 0 {
		l.MaxDepth = 64
	}
	if l.MaxKeys <= 0 {
		l.MaxKeys = 10_000
	}
	return l
}
