package vault

import (
	"errors"
	"log/slog"
)

// Secret holds bytes that must not be seen by chance: it prints, logs and marshals as nothing.
type Secret struct{ value []byte }

// NewSecret takes bytes as a secret. The caller does not use them any more.
func NewSecret(value []byte) Secret { return Secret{value} }

// Reveal returns the bytes, to be used and forgotten.
func (s Secret) Reveal() []byte { return s.value }

const redacted = "[secret]"

// String hides the secret from fmt.
func (s Secret) String() string { return redacted }

// GoString hides the secret from %#v.
func (s Secret) GoString() string { return redacted }

// LogValue hides the secret from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText refuses: a secret that is marshalled is on its way to where it must not be.
func (s Secret) MarshalText() ([]byte, error) { return nil, errors.New("a secret is not marshalled") }

// MarshalJSON refuses, as MarshalText does.
func (s Secret) MarshalJSON() ([]byte, error) { return nil, errors.New("a secret is not marshalled") }
