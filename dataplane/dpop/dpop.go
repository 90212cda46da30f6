// Package dpop checks proofs that whoever sends a token holds the key that it is bound to (RFC 9449).
//
// A proof is a token of the sender's own, for one request: its method and address, when it was made, and the access token that it
// comes with. The package says whether a proof is good and of which key; it remembers nothing, so that whoever asks must refuse a
// proof that it has seen. The proxies and the authorization server both ask it.
package dpop

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Header carries the proof.
const Header = "Dpop"

// Algorithms are those by which proofs are signed.
var Algorithms = []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA, jose.PS256, jose.RS256}

// Window is how long before and after its time a proof is good: whoever remembers proofs does so for twice as long.
const Window = time.Minute

const (
	maxProof = 4 << 10
	maxID    = 256
)

// Request is what a proof must be of.
type Request struct {
	Method string
	// URLs are the addresses at which it may have been sent, without query and fragment.
	URLs []string
	// Token is the access token that comes with it; empty: none.
	Token string
	Now   time.Time
}

// Proof is a good one.
type Proof struct {
	// Thumbprint is that of the key (RFC 7638), as a token's cnf.jkt has it.
	Thumbprint string
	// Once names the proof: one that was seen is not good again.
	Once [sha256.Size]byte
}

// Why a proof is not good. Their texts are for whoever sent it.
var (
	ErrMissing   = errors.New("there is no DPoP proof, or more than one")
	ErrMalformed = errors.New("the DPoP proof is no signed token of the type dpop+jwt with a public key of its own")
	ErrSignature = errors.New("the DPoP proof's signature does not verify")
	ErrRequest   = errors.New("the DPoP proof is of another request: htm and htu are not this one's")
	ErrTime      = errors.New("the DPoP proof was not made just now: is the clock right?")
	ErrToken     = errors.New("the DPoP proof is of another access token: ath is not this one's")
	ErrKey       = errors.New("the DPoP proof is of another key than the one that the token is bound to")
	ErrReplayed  = errors.New("the DPoP proof was used before: make one for each request")
)

// claims are a proof's payload.
type claims struct {
	ID       string   `json:"jti"`
	Method   string   `json:"htm"`
	URL      string   `json:"htu"`
	IssuedAt *float64 `json:"iat"`
	Token    string   `json:"ath"`
}

// Check believes the proof in a request's headers.
func Check(h http.Header, want Request) (Proof, error) {
	values := h[Header]
	if len(values) != 1 {
		return Proof{}, ErrMissing
	}
	if len(values[0]) > maxProof {
		return Proof{}, ErrMalformed
	}
	jws, err := jose.ParseSignedCompact(values[0], Algorithms)
	if err != nil {
		return Proof{}, ErrMalformed
	}
	header := jws.Signatures[0].Protected
	typ, _ := header.ExtraHeaders[jose.HeaderType].(string)
	_, critical := header.ExtraHeaders["crit"]
	if key := header.JSONWebKey; critical || !strings.EqualFold(typ, "dpop+jwt") || key == nil || !key.IsPublic() || !key.Valid() || !reasonable(key.Key) {
		return Proof{}, ErrMalformed
	}
	payload, err := jws.Verify(header.JSONWebKey.Key)
	if err != nil {
		return Proof{}, ErrSignature
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil || c.ID == "" || len(c.ID) > maxID || c.IssuedAt == nil || math.IsNaN(*c.IssuedAt) || math.Abs(*c.IssuedAt) > 1<<40 {
		return Proof{}, ErrMalformed
	}
	switch age := want.Now.Sub(time.UnixMilli(int64(*c.IssuedAt * 1000))); {
	case c.Method != want.Method || !slices.ContainsFunc(want.URLs, func(u string) bool { return sameURL(c.URL, u) }):
		return Proof{}, ErrRequest
	case age > Window || age < -Window:
		return Proof{}, ErrTime
	case want.Token != "" && c.Token != hash(want.Token):
		return Proof{}, ErrToken
	}
	sum, err := header.JSONWebKey.Thumbprint(crypto.SHA256)
	if err != nil {
		return Proof{}, ErrMalformed
	}
	print := base64.RawURLEncoding.EncodeToString(sum)
	return Proof{Thumbprint: print, Once: sha256.Sum256([]byte(print + "\x00" + c.ID))}, nil
}

// reasonable refuses keys that are weak, or that cost much to look at.
func reasonable(key any) bool {
	if k, ok := key.(*rsa.PublicKey); ok {
		return k.N.BitLen() >= 2048 && k.N.BitLen() <= 4096
	}
	return true
}

func hash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// sameURL compares addresses without query and fragment, normalized (RFC 3986, sections 6.2.2 and 6.2.3).
func sameURL(a, b string) bool {
	if a == b {
		return true
	}
	x, err := url.Parse(a)
	if err != nil {
		return false
	}
	y, err := url.Parse(b)
	return err == nil && normal(x) == normal(y)
}

func normal(u *url.URL) string {
	scheme, host, port := strings.ToLower(u.Scheme), strings.ToLower(u.Hostname()), u.Port()
	if scheme == "https" && port == "443" || scheme == "http" && port == "80" {
		port = ""
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return scheme + "://" + host + ":" + port + path
}
