package signin

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

// Names of the cookies. Over https they are bound to the host and to TLS by their prefix.
const (
	sessionCookie = "sallyport"
	browserCookie = "sallyport-browser"
	hostPrefix    = "__Host-"
)

const (
	// defaultSession is how long a browser stays signed in where the directory does not say.
	defaultSession = 8 * time.Hour
	secretBytes    = 32
)

// session is what a browser's cookie stands for. Its key is the SHA-256 of the cookie's secret.
type session struct {
	Person     uuid.UUID `json:"person"`
	Generation uint64    `json:"generation"`
	Issuer     string    `json:"issuer"`
	ACR        string    `json:"acr,omitempty"`
	AMR        []string  `json:"amr,omitempty"`
	AuthTime   time.Time `json:"auth_time,omitzero"`
	Expires    time.Time `json:"expires"`
}

var encoding = base64.RawURLEncoding

// digest names a secret without telling it.
func digest(secret []byte) string {
	sum := sha256.Sum256(secret)
	return encoding.EncodeToString(sum[:])
}

func sessionKey(name string) string { return "signin.session." + name }

// derive makes a value that only who holds the secret can make.
func derive(secret []byte, parts ...string) string {
	mac := hmac.New(sha256.New, secret)
	for _, part := range parts {
		_, _ = fmt.Fprintf(mac, "%d:%s", len(part), part) // a hash does not fail
	}
	return encoding.EncodeToString(mac.Sum(nil))
}

func newSecret() []byte {
	secret := make([]byte, secretBytes)
	_, _ = rand.Read(secret) // it does not fail: without randomness the process ends (crypto/rand)
	return secret
}

// cookie returns the secret in one of the server's cookies, or nil. Two of one name are none: somebody else planted one.
func (s *Server) cookie(r *http.Request, name string) []byte {
	all := r.CookiesNamed(s.cookieName(name))
	if len(all) != 1 {
		return nil
	}
	secret, err := encoding.DecodeString(all[0].Value)
	if err != nil || len(secret) != secretBytes {
		return nil
	}
	return secret
}

func (s *Server) cookieName(name string) string {
	if s.secure {
		return hostPrefix + name
	}
	return name
}

func (s *Server) setCookie(w http.ResponseWriter, name string, secret []byte, lives time.Duration) {
	c := &http.Cookie{Name: s.cookieName(name), Path: "/", HttpOnly: true, Secure: s.secure, SameSite: http.SameSiteLaxMode, MaxAge: -1}
	if secret != nil {
		c.Value, c.MaxAge = encoding.EncodeToString(secret), int(lives/time.Second)
	}
	http.SetCookie(w, c)
}

// who returns the person of this browser's session as of now; without a User where there is none.
func (s *Server) who(r *http.Request) (Who, error) {
	secret := s.cookie(r, sessionCookie)
	if secret == nil {
		return Who{}, nil
	}
	name := digest(secret)
	entry, err := s.Store.Get(r.Context(), sessionKey(name))
	if errors.Is(err, kv.ErrNotFound) {
		return Who{}, nil
	}
	if err != nil {
		return Who{}, fmt.Errorf("reading a session: %w", err)
	}
	var held session
	if err := json.Unmarshal(entry.Value, &held); err != nil {
		return Who{}, fmt.Errorf("reading a session: %w", err)
	}
	state, err := s.Engine.Fence(r.Context())
	if err != nil {
		return Who{}, fmt.Errorf("proving that the state is current: %w", err)
	}
	user := state.User(held.Person)
	if user == nil || !user.Active || user.Generation != held.Generation || !s.Now().Before(held.Expires) {
		return Who{}, nil
	}
	return Who{User: user, Session: name, Issuer: held.Issuer, ACR: held.ACR, AMR: held.AMR, AuthTime: held.AuthTime, secret: secret}, nil
}

// openSession signs a browser in, in place of whoever was signed in before. The name is always new, so that nobody can
// plant one.
func (s *Server) openSession(ctx context.Context, w http.ResponseWriter, r *http.Request, user *core.User, held session, lives time.Duration) error {
	if lives <= 0 {
		lives = defaultSession
	}
	held.Person, held.Generation, held.Expires = user.ID, user.Generation, s.Now().Add(lives)
	value, err := json.Marshal(held)
	if err != nil {
		return fmt.Errorf("keeping a session: %w", err)
	}
	secret := newSecret()
	if _, err := s.Store.Create(ctx, sessionKey(digest(secret)), value, lives); err != nil {
		return fmt.Errorf("keeping a session: %w", err)
	}
	if before := s.cookie(r, sessionCookie); before != nil {
		s.forget(ctx, digest(before))
	}
	s.setCookie(w, sessionCookie, secret, lives)
	return nil
}

// forget ends a session. One that cannot be ended now ends by its time.
func (s *Server) forget(ctx context.Context, name string) {
	if _, err := s.Store.Get(ctx, sessionKey(name)); err != nil {
		return
	}
	if err := s.Store.Purge(ctx, sessionKey(name)); err != nil {
		s.Log.WarnContext(ctx, "a session could not be ended; it ends by its time", "error", err)
	}
}

// Form returns a token for a form of this person's browser, for one purpose: put it into a hidden field, and Check it.
func (w Who) Form(purpose string) string { return derive(w.secret, "form", purpose) }

// Check says whether a form was made for this person's browser and that purpose.
func (w Who) Check(purpose, token string) bool {
	return subtle.ConstantTimeCompare([]byte(w.Form(purpose)), []byte(token)) == 1
}

// errURL says what a public URL is.
var errURL = errors.New("the URL at which people sign in must be https, or http on loopback, without query or fragment, such as https://sallyport.example.com")

func validURL(u *url.URL) bool {
	if u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || !validPath.MatchString(u.EscapedPath()) {
		return false
	}
	return u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname())
}

// validPath is a path that means the same to everybody, and is a pattern of a mux too.
var validPath = regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$`)

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
