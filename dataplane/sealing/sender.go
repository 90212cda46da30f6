package sealing

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hpke"
	"encoding/binary"
	"fmt"
	"sync/atomic"
)

// Sender seals much to one key that lasts, and agrees on a secret with it but once. Only that key opens what it sealed.
type Sender struct {
	enc    []byte
	aead   cipher.AEAD
	number atomic.Uint64
}

// KeyFrom returns the key of a seed, which is to be 32 random bytes: the same for the same.
func KeyFrom(seed []byte) (Key, error) {
	private, err := suite.kem.DeriveKeyPair(seed)
	if err != nil {
		return Key{}, fmt.Errorf("making a sealing key: %w", err)
	}
	return Key{private}, nil
}

const (
	senderInfo = "sallyport sealing sender 1"
	nonceSize  = 12
)

// NewSender seals to a key's public part.
func NewSender(public []byte) (*Sender, error) {
	key, err := suite.kem.NewPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("this is no sealing key: %w", err)
	}
	enc, s, err := hpke.NewSender(key, suite.kdf, hpke.ExportOnly(), []byte(senderInfo))
	if err != nil {
		return nil, fmt.Errorf("agreeing with a sealing key: %w", err)
	}
	secret, err := s.Export("key", 32)
	if err != nil {
		return nil, fmt.Errorf("agreeing with a sealing key: %w", err)
	}
	aead, err := sent(secret)
	if err != nil {
		return nil, err
	}
	return &Sender{enc: enc, aead: aead}, nil
}

// Seal seals something about some things: who opens it must name the same. Several may call it at a time.
func (s *Sender) Seal(plain []byte, about ...string) []byte {
	out := make([]byte, PublicSize+nonceSize, PublicSize+nonceSize+len(plain)+16)
	nonce := out[copy(out, s.enc):]
	binary.BigEndian.PutUint64(nonce[nonceSize-8:], s.number.Add(1))
	return s.aead.Seal(out, nonce, plain, info(about))
}

// OpenSent opens what a Sender sealed to the key about the same things.
func (k Key) OpenSent(sealed []byte, about ...string) ([]byte, error) {
	if len(sealed) < PublicSize+nonceSize {
		return nil, ErrOpen
	}
	r, err := hpke.NewRecipient(sealed[:PublicSize], k.private, suite.kdf, hpke.ExportOnly(), []byte(senderInfo))
	if err != nil {
		return nil, ErrOpen
	}
	secret, err := r.Export("key", 32)
	if err != nil {
		return nil, ErrOpen
	}
	aead, err := sent(secret)
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, sealed[PublicSize:PublicSize+nonceSize], sealed[PublicSize+nonceSize:], info(about))
	if err != nil {
		return nil, ErrOpen
	}
	return plain, nil
}

func sent(secret []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("making a seal: %w", err)
	}
	return cipher.NewGCM(block)
}
