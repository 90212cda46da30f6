// Package sealing is a seal of its own for what control planes hand to proxies, besides the connection's TLS: what ends TLS on the way, a log
// or a trace sees nothing.
//
// The proxy that asks makes a key for this one question and sends its public part; the answer opens with that key, for that question, and with
// nothing else (HPKE, RFC 9180). The control plane uses it too. It keeps no keys, and says nothing about who asks: the connection's certificate does.
package sealing

import (
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"fmt"
)

// PublicSize is that of a key's public part.
const PublicSize = 32

var suite = struct {
	kem  hpke.KEM
	kdf  hpke.KDF
	aead hpke.AEAD
}{hpke.DHKEM(ecdh.X25519()), hpke.HKDFSHA256(), hpke.AES256GCM()}

// Key opens the answer to one question.
type Key struct{ private hpke.PrivateKey }

// NewKey makes one.
func NewKey() (Key, error) {
	private, err := suite.kem.GenerateKey()
	if err != nil {
		return Key{}, fmt.Errorf("making a sealing key: %w", err)
	}
	return Key{private}, nil
}

// Public is what the question carries.
func (k Key) Public() []byte { return k.private.PublicKey().Bytes() }

// ErrOpen says that something was not sealed to this key, or for something else.
var ErrOpen = errors.New("the seal does not open")

// Open opens what was sealed to the key about the same things.
func (k Key) Open(sealed []byte, about ...string) ([]byte, error) {
	plain, err := hpke.Open(k.private, suite.kdf, suite.aead, info(about), sealed)
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

// Seal seals to a key's public part, about some things: who opens it must name the same.
func Seal(public, plain []byte, about ...string) ([]byte, error) {
	key, err := suite.kem.NewPublicKey(public)
	if err != nil {
		return nil, errors.New("this is no sealing key")
	}
	return hpke.Seal(key, suite.kdf, suite.aead, info(about), plain)
}

// info joins what a seal is about so that no two lists are the same.
func info(about []string) []byte {
	out := []byte("sallyport sealing 1")
	for _, one := range about {
		out = append(binary.BigEndian.AppendUint64(out, uint64(len(one))), one...)
	}
	return out
}
