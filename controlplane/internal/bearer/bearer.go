// Package bearer makes and checks the bearer tokens of SCIM clients, admins and proxies.
//
// A token names its own record, so that it is found without a search, and carries 256 random bits, of
// which only the SHA-256 is kept. The package knows nothing of HTTP beyond the Authorization header,
// and never puts a token into an error.
package bearer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
)

// prefix lets secret scanners recognise a token.
const prefix = "sallyport_"

const secretBytes = 32

// New makes a token for a record that IssueToken is to create.
func New(kind eventv1.TokenKind) (id uuid.UUID, token string, sum [32]byte, err error) {
	id, err = uuid.NewV7()
	if err != nil {
		return uuid.Nil, "", sum, err
	}
	secret := make([]byte, secretBytes)
	if _, err := rand.Read(secret); err != nil {
		return uuid.Nil, "", sum, err
	}
	packed := append(id[:], secret...)
	return id, prefix + doors[kind] + "_" + base64.RawURLEncoding.EncodeToString(packed), sha256.Sum256(secret), nil
}

var doors = map[eventv1.TokenKind]string{
	eventv1.TokenKind_TOKEN_KIND_SCIM:        "scim",
	eventv1.TokenKind_TOKEN_KIND_ADMIN:       "admin",
	eventv1.TokenKind_TOKEN_KIND_PROXY:       "proxy",
	eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP:   "bootstrap",
	eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS: "breakglass",
}

// Check returns the record of a token that opens a door now, or nil.
func Check(s *core.State, kind eventv1.TokenKind, token string, now time.Time) *core.Token {
	encoded, ok := strings.CutPrefix(token, prefix+doors[kind]+"_")
	if !ok {
		return nil
	}
	packed, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || len(packed) != 16+secretBytes {
		return nil
	}
	record := s.Token(uuid.UUID(packed[:16]))
	if !record.Opens(kind, sha256.Sum256(packed[16:]), now) {
		return nil
	}
	return record
}

// FromHeader returns the token of an Authorization header, by the Bearer scheme (RFC 6750, section 2.1).
// Empty: there is none.
func FromHeader(h http.Header) string {
	scheme, token, ok := strings.Cut(h.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}
