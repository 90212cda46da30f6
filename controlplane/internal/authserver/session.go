package authserver

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/bounds"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
)

// Session is one person's with one client: a family of refresh tokens, of which one is current.
type Session struct {
	ID         uuid.UUID `json:"id"`
	Person     uuid.UUID `json:"person"`
	Generation uint64    `json:"generation"`
	Client     string    `json:"client"`
	ClientName string    `json:"client_name,omitempty"`
	Resource   string    `json:"resource"`
	Scopes     []string  `json:"scopes,omitempty"`
	ACR        string    `json:"acr,omitempty"`
	AMR        []string  `json:"amr,omitempty"`
	AuthTime   time.Time `json:"auth_time,omitzero"`
	Began      time.Time `json:"began"`
	Used       time.Time `json:"used"`
	Expires    time.Time `json:"expires"`
	// Addresses from which it was used, the last one first.
	Addresses []string `json:"addresses,omitempty"`
	// Key is the thumbprint of the key to which its tokens are bound. Empty: to none.
	Key string `json:"key,omitempty"`
	// Current is the SHA-256 of the refresh token that counts. Empty: the client has none.
	Current string `json:"current,omitempty"`
	// Superseded are those before it, the last one first.
	Superseded []superseded `json:"superseded,omitempty"`
}

// superseded is a refresh token that was exchanged, with its successor, which only who holds it can read.
type superseded struct {
	Token     string    `json:"token"` // SHA-256
	Successor []byte    `json:"successor"`
	At        time.Time `json:"at"`
}

const (
	defaultIdle   = 14 * 24 * time.Hour
	defaultMax    = 90 * 24 * time.Hour
	defaultWindow = 2 * time.Minute
	// maxSuperseded and maxSeen bound what a session remembers. A token that is not remembered is unknown.
	maxSuperseded = 64
	maxSeen       = 8
)

const refreshPrefix = "sallyport_refresh_"

func sessionKey(person, id uuid.UUID) string { return "session." + person.String() + "." + id.String() }

// newRefresh makes a refresh token of a session. It names its record, so that it is found without a search.
func newRefresh(person, session uuid.UUID) string {
	return newToken(refreshPrefix, person[:], session[:])
}

func readRefresh(token string) (person, session uuid.UUID, ok bool) {
	encoded, ok := strings.CutPrefix(token, refreshPrefix)
	packed, err := base64.RawURLEncoding.DecodeString(encoded)
	if !ok || err != nil || len(packed) != 16+16+32 {
		return uuid.Nil, uuid.Nil, false
	}
	return uuid.UUID(packed[:16]), uuid.UUID(packed[16:32]), true
}

// successorKey is a key that only who holds the token can make.
func successorCipher(token string) (cipher.AEAD, error) {
	key := sha256.Sum256([]byte("successor\x00" + token))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func sealSuccessor(token, successor string) ([]byte, error) {
	c, err := successorCipher(token)
	if err != nil {
		return nil, fmt.Errorf("sealing a refresh token: %w", err)
	}
	nonce := make([]byte, c.NonceSize())
	_, _ = rand.Read(nonce) // it does not fail
	return c.Seal(nonce, nonce, []byte(successor), nil), nil
}

func openSuccessor(token string, sealed []byte) (string, error) {
	c, err := successorCipher(token)
	if err != nil || len(sealed) < c.NonceSize() {
		return "", errors.New("a refresh token's successor cannot be read")
	}
	plain, err := c.Open(nil, sealed[:c.NonceSize()], sealed[c.NonceSize():], nil)
	if err != nil {
		return "", errors.New("a refresh token's successor cannot be read")
	}
	return string(plain), nil
}

func (s *Server) window(state *core.State) time.Duration {
	if w := state.AuthorizationPolicy().GetReuseWindow().AsDuration(); w > 0 {
		return w
	}
	return defaultWindow
}

// limitsOf returns until when a session lives: unused, and in all.
func limitsOf(state *core.State, began, now time.Time) time.Time {
	idle, most := defaultIdle, defaultMax
	if d := state.AuthorizationPolicy().GetSessionIdle().AsDuration(); d > 0 {
		idle = d
	}
	if d := state.AuthorizationPolicy().GetSessionMax().AsDuration(); d > 0 {
		most = d
	}
	until := now.Add(idle)
	if end := began.Add(most); end.Before(until) {
		return end
	}
	return until
}

// seen puts an address at the front, and tells whether the session was used from it before.
func (x *Session) seen(address string) bool {
	i := slices.Index(x.Addresses, address)
	if i >= 0 {
		x.Addresses = slices.Delete(x.Addresses, i, i+1)
	}
	x.Addresses = slices.Insert(x.Addresses, 0, address)
	x.Addresses = x.Addresses[:min(len(x.Addresses), maxSeen)]
	return i >= 0
}

// near tells whether the session was used from an address's network before: IPv6 hosts change their addresses within one.
func (x *Session) near(address string) bool {
	at := bounds.Network(address)
	return slices.ContainsFunc(x.Addresses, func(a string) bool { return bounds.Network(a) == at })
}

// live says why a session does not count any more, as of a fenced state.
func (s *Server) live(state *core.State, x *Session) error {
	user := state.User(x.Person)
	at := func(text string) error {
		return &refusal{code: "invalid_grant", text: text, status: 400, action: "session_refused", session: x.ID.String(), person: x.Person.String()}
	}
	switch {
	case !s.Now().Before(x.Expires):
		return at("the session is over: sign in again")
	case user == nil || !user.Active:
		return at("the person may not act any more")
	case user.Generation != x.Generation || state.SessionEnded(x.ID) || !x.Began.Truncate(time.Millisecond).After(state.ClientCut(x.Client).Truncate(time.Millisecond)):
		return at("the session was ended: sign in again")
	case state.Blocked(x.Person.String(), x.Client, s.Now()):
		return at("an administrator blocked this person or client")
	}
	return nil
}

// session reads a session.
func (s *Server) session(ctx context.Context, person, id uuid.UUID) (*Session, uint64, error) {
	entry, err := s.Store.Get(ctx, sessionKey(person, id))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	var x Session
	if err := json.Unmarshal(entry.Value, &x); err != nil {
		return nil, 0, fmt.Errorf("reading a session: %w", err)
	}
	return &x, entry.Revision, nil
}

// End ends a session before its time: its access tokens at every proxy by the log, its refresh tokens here.
func (s *Server) End(ctx context.Context, person, id uuid.UUID) (version uint64, err error) {
	return s.end(ctx, system, person, id)
}

func (s *Server) end(ctx context.Context, actor *eventv1.Actor, person, id uuid.UUID) (version uint64, err error) {
	out, err := s.Engine.Do(ctx, actor, core.EndSession{ID: id, Until: s.Now().Add(s.Lease + rememberedFor)})
	if err != nil {
		return 0, fmt.Errorf("ending a session: %w", err)
	}
	if err := s.Store.Purge(ctx, sessionKey(person, id)); err != nil {
		// The log says that it is over, as long as a code or a token could still be shown.
		s.Log.WarnContext(ctx, "an ended session's record could not be removed; it expires", "session", id, "error", err)
	}
	return out.Seq, nil
}

// Sessions calls fn with each session that is kept; of one person, or of all for uuid.Nil.
func (s *Server) Sessions(ctx context.Context, person uuid.UUID, fn func(*Session) error) error {
	prefix := "session."
	if person != uuid.Nil {
		prefix += person.String() + "."
	}
	return s.Store.Each(ctx, prefix, func(e kv.Entry) error {
		var x Session
		if err := json.Unmarshal(e.Value, &x); err != nil {
			return fmt.Errorf("reading a session: %w", err)
		}
		return fn(&x)
	})
}

// Live tells whether a session counts, as of a state.
func (s *Server) Live(state *core.State, x *Session) bool { return s.live(state, x) == nil }
