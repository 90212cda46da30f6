package mcp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Session is the state of a session of the session era. It travels in the session id itself, sealed.
type Session struct {
	// ID is random, unique, and names the session in audit and between proxies.
	ID string
	// Person, Client and Connector are whom it was opened for; Connector is empty for the endpoint of all of them.
	Person, Client, Connector string
	// Generation is the person's when it was opened.
	Generation uint64
	Revision   Revision
	// Issued and Expires are kept to the second.
	Issued, Expires time.Time
	// Home is the proxy where what lives in streams lives.
	Home string
	// Capabilities is what the client offers of what a server may ask, a raw object (see ReadCapabilities).
	Capabilities string
}

// Errors of Open and Belongs. To each, the answer is that there is no such session (404).
var (
	ErrSessionUnknown = errors.New("the session id is not one of this region's")
	ErrSessionExpired = errors.New("the session has expired")
	ErrSessionForeign = errors.New("the session belongs to another person, client or connector")
)

// Belongs checks that the session was opened for the caller whose token was verified with this request. A session
// authenticates nobody.
func (s Session) Belongs(person, client, connector string, generation uint64) error {
	same := subtle.ConstantTimeCompare([]byte(s.Person), []byte(person)) &
		subtle.ConstantTimeCompare([]byte(s.Client), []byte(client)) &
		subtle.ConstantTimeCompare([]byte(s.Connector), []byte(connector))
	if same != 1 || s.Generation != generation {
		return ErrSessionForeign
	}
	return nil
}

// SealingKey is a region's key: AES-256, 32 bytes.
type SealingKey struct {
	ID  uint32
	Key []byte
}

// Sealer seals and opens session ids with a region's keys. Every proxy of the region opens what any of them sealed.
type Sealer struct {
	newest uint32
	aeads  map[uint32]cipher.AEAD
}

// NewSealer takes the keys newest first: the first seals, all open. A key seals at most 2^32 sessions (random nonces), which
// rotation keeps far away.
func NewSealer(keys []SealingKey) (*Sealer, error) {
	if len(keys) == 0 {
		return nil, errors.New("no key to seal sessions with")
	}
	s := &Sealer{newest: keys[0].ID, aeads: map[uint32]cipher.AEAD{}}
	for _, k := range keys {
		if len(k.Key) != 32 {
			return nil, fmt.Errorf("sealing key %d has %d bytes instead of 32", k.ID, len(k.Key))
		}
		block, err := aes.NewCipher(k.Key)
		if err != nil {
			return nil, fmt.Errorf("reading sealing key %d: %w", k.ID, err)
		}
		if s.aeads[k.ID], err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return nil, fmt.Errorf("reading sealing key %d: %w", k.ID, err)
		}
	}
	return s, nil
}

// A sealed id is base64url of: version, key id, nonce and ciphertext. The first two are authenticated too, behind a label.
const (
	sealVersion = 2
	sealLabel   = "sallyport session "
	sealHead    = 5
	sealMost    = 64 << 10
)

var sealText = base64.RawURLEncoding.Strict() // one text for one session

// Seal returns the session id.
func (s *Sealer) Seal(session Session) string { return s.SealAs(sealLabel, session.append(nil)) }

// SealAs seals something else, for the purpose that a label names: it opens for no other.
func (s *Sealer) SealAs(label string, plain []byte) string {
	head := binary.BigEndian.AppendUint32([]byte{sealVersion}, s.newest)
	return sealText.EncodeToString(s.aeads[s.newest].Seal(head, nil, plain, append([]byte(label), head...)))
}

// OpenAs opens what SealAs sealed for the same purpose.
func (s *Sealer) OpenAs(label, text string) ([]byte, error) {
	if len(text) > sealMost || strings.ContainsAny(text, "\r\n") { // which base64 passes over
		return nil, ErrSessionUnknown
	}
	sealed, err := sealText.DecodeString(text)
	if err != nil || len(sealed) < sealHead || sealed[0] != sealVersion {
		return nil, ErrSessionUnknown
	}
	head := sealed[:sealHead]
	aead, ok := s.aeads[binary.BigEndian.Uint32(head[1:])]
	if !ok {
		return nil, ErrSessionUnknown
	}
	plain, err := aead.Open(nil, nil, sealed[sealHead:], append([]byte(label), head...))
	if err != nil {
		return nil, ErrSessionUnknown
	}
	return plain, nil
}

// Open returns the session of an id. Who presents it is still to be checked by Belongs.
func (s *Sealer) Open(id string, now time.Time) (Session, error) {
	plain, err := s.OpenAs(sealLabel, id)
	if err != nil {
		return Session{}, err
	}
	session, ok := readSession(plain)
	if !ok {
		return Session{}, ErrSessionUnknown
	}
	if !now.Before(session.Expires) {
		return Session{}, ErrSessionExpired
	}
	return session, nil
}

func (s Session) append(dst []byte) []byte {
	for _, text := range []string{s.ID, s.Person, s.Client, s.Connector, string(s.Revision), s.Home, s.Capabilities} {
		dst = append(binary.AppendUvarint(dst, uint64(len(text))), text...)
	}
	dst = binary.AppendUvarint(dst, s.Generation)
	dst = binary.AppendVarint(dst, s.Issued.Unix())
	return binary.AppendVarint(dst, s.Expires.Unix())
}

func readSession(b []byte) (s Session, ok bool) {
	revision := ""
	for _, into := range []*string{&s.ID, &s.Person, &s.Client, &s.Connector, &revision, &s.Home, &s.Capabilities} {
		length, n := binary.Uvarint(b)
		if n <= 0 || length > uint64(len(b)-n) {
			return s, false
		}
		b = b[n:]
		*into, b = string(b[:length]), b[length:]
	}
	if s.Revision, ok = ParseRevision(revision); !ok {
		return s, false
	}
	generation, n := binary.Uvarint(b)
	if n <= 0 {
		return s, false
	}
	b, s.Generation = b[n:], generation
	issued, n := binary.Varint(b)
	if n <= 0 {
		return s, false
	}
	expires, more := binary.Varint(b[n:])
	if more <= 0 || n+more != len(b) {
		return s, false
	}
	s.Issued, s.Expires = time.Unix(issued, 0), time.Unix(expires, 0)
	return s, true
}
