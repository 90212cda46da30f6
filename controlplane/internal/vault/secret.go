package vault

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Secret holds bytes that must not be seen by chance: it prints and logs as a word, and does not marshal.
// The bytes lie behind a function, so that no reflection finds them where a Secret is a part of something else.
type Secret struct{ reveal func() []byte }

// NewSecret takes bytes as a secret. The caller does not use them any more.
func NewSecret(value []byte) Secret { return Secret{func() []byte { return value }} }

// Reveal returns the bytes, to be used and forgotten. Those of the zero Secret are nil.
func (s Secret) Reveal() []byte {
	if s.reveal == nil {
		return nil
	}
	return s.reveal()
}

const redacted = "[secret]"

var errMarshalled = errors.New("a secret is not marshalled: it would be on its way to where it must not be")

// Format hides the secret from fmt, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// String hides the secret from what asks for a text.
func (s Secret) String() string { return redacted }

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return redacted }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses.
func (s Secret) MarshalText() ([]byte, error) { return nil, errMarshalled }

// MarshalJSON refuses.
func (s Secret) MarshalJSON() ([]byte, error) { return nil, errMarshalled }

// MarshalBinary refuses.
func (s Secret) MarshalBinary() ([]byte, error) { return nil, errMarshalled }
