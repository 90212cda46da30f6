package core

import (
	"bytes"
	"crypto/subtle"
	"iter"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Token is a bearer token without its secret.
type Token struct {
	ID   uuid.UUID
	Kind eventv1.TokenKind
	// Name is what an admin calls it; for a proxy, the proxy's name.
	Name string
	// Directory is the one directory that a SCIM token may touch.
	Directory string
	// Region is where a proxy stands.
	Region    string
	CreatedAt time.Time
	// ExpiresAt is zero for a token that does not expire.
	ExpiresAt time.Time
	// Role is what an admin token may do.
	Role policyv1.Role
	// JoinedKey is the SHA-256 of the public key with which a proxy joined; empty: its invitation was not used yet.
	JoinedKey []byte
	// SPIFFEID is that by which a proxy joined; empty: by an invitation.
	SPIFFEID string
	sha256   []byte
}

// is tells whether a token is there, of a kind, and not over.
func (t *Token) is(kind eventv1.TokenKind, now time.Time) bool {
	return t != nil && t.Kind == kind && (t.ExpiresAt.IsZero() || now.Before(t.ExpiresAt))
}

// IsProxy tells whether the token is that of a proxy that joined.
func (t *Token) IsProxy() bool {
	return t != nil && t.Kind == eventv1.TokenKind_TOKEN_KIND_PROXY && (len(t.JoinedKey) > 0 || t.SPIFFEID != "")
}

// Opens tells whether a secret with this SHA-256 opens a door now. Nothing in its timing tells how near it came.
func (t *Token) Opens(kind eventv1.TokenKind, sha256 [32]byte, now time.Time) bool {
	return t.is(kind, now) && subtle.ConstantTimeCompare(t.sha256, sha256[:]) == 1
}

// IssueToken makes a bearer token valid. The caller keeps the secret, which the core never sees.
type IssueToken struct {
	ID        uuid.UUID
	Kind      eventv1.TokenKind
	SHA256    []byte
	Name      string
	Directory string
	Region    string
	// Role is an admin token's.
	Role      policyv1.Role
	ExpiresAt time.Time
}

func (c IssueToken) decide(s *State, env Env) ([]*eventv1.Event, error) {
	token := &eventv1.Token{Id: c.ID.String(), Kind: c.Kind, Sha256: c.SHA256, Name: c.Name}
	if !c.ExpiresAt.IsZero() {
		token.ExpiresAt = timestamppb.New(c.ExpiresAt)
	}
	switch c.Kind {
	case eventv1.TokenKind_TOKEN_KIND_ADMIN:
		var err error
		if token, err = adminToken(c.ID, c.SHA256, c.Name, c.Role, c.ExpiresAt, env); err != nil {
			return nil, err
		}
		if !env.may(c.Role) {
			return nil, refuseField(Forbidden, "role", "nobody makes a token that may do more than they may themselves: ask an owner")
		}
	case eventv1.TokenKind_TOKEN_KIND_SCIM:
		if s.Directory(c.Directory) == nil {
			return nil, refuseField(NotFound, "directory_id", "there is no directory %q: a SCIM token belongs to one", c.Directory)
		}
		if err := refuseService(c.Directory); err != nil {
			return nil, err
		}
		if c.Directory == s.adminDirectory { // it could put anybody into a group that gives a role
			if err := env.mayOwn(); err != nil {
				return nil, err
			}
		}
		token.DirectoryId = c.Directory
	case eventv1.TokenKind_TOKEN_KIND_PROXY:
		if !isID(c.Name) || !isID(c.Region) {
			return nil, refuseField(InvalidArgument, "name", "a proxy needs a name and a region of lower-case words joined by hyphens, such as us-east-1 and us-east")
		}
		if id, taken := s.proxies.Get(c.Name); taken {
			return nil, refuseField(AlreadyExists, "name", "proxy %q has token %s: revoke it first", c.Name, id)
		}
		token.Region = c.Region
	default:
		return nil, refuseField(InvalidArgument, "kind", "a token is for SCIM, for admins or for a proxy")
	}
	return s.tokenIssued(env, token)
}

// tokenIssued makes a token valid. With an owner's, every bootstrap token ends.
func (s *State) tokenIssued(env Env, token *eventv1.Token) ([]*eventv1.Event, error) {
	id, err := uuid.Parse(token.GetId())
	switch {
	case err != nil:
		return nil, refuse(InvalidArgument, "a token's id is a UUID")
	case len(token.GetSha256()) != 32:
		return nil, refuse(InvalidArgument, "a token needs the SHA-256 of its secret")
	case s.Token(id) != nil:
		return nil, refuse(AlreadyExists, "token %s exists", id)
	case token.GetExpiresAt() != nil && !token.GetExpiresAt().AsTime().After(env.Now):
		return nil, refuseField(InvalidArgument, "expires_at", "the token would have expired already")
	}
	events := env.events(&eventv1.Event{Body: &eventv1.Event_TokenIssued{TokenIssued: &eventv1.TokenIssued{Token: token}}})
	if token.GetRole() == policyv1.Role_ROLE_OWNER {
		events = append(events, s.revokeAll(env, eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP)...)
	}
	return events, nil
}

// RotateToken issues a token in the place of another, which ends after a while.
type RotateToken struct {
	// Old is the token whose kind, name and directory the new one has.
	Old uuid.UUID
	// ID and SHA256 are the new one's.
	ID     uuid.UUID
	SHA256 []byte
	// OldExpiresAt is when the old one ends, if not before; ExpiresAt when the new one does, zero for never.
	OldExpiresAt time.Time
	ExpiresAt    time.Time
}

func (c RotateToken) decide(s *State, env Env) ([]*eventv1.Event, error) {
	old := s.Token(c.Old)
	switch {
	case old == nil:
		return nil, refuse(NotFound, "there is no token %s", c.Old)
	case old.Kind == eventv1.TokenKind_TOKEN_KIND_PROXY:
		return nil, refuse(FailedPrecondition, "a proxy has one token: revoke it and make another for the name")
	case old.Kind == eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP, old.Kind == eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS:
		return nil, refuse(FailedPrecondition, "this token is only exchanged: make another in its place")
	case !old.ExpiresAt.IsZero() && !env.Now.Before(old.ExpiresAt):
		return nil, refuse(FailedPrecondition, "token %s has expired: make another", c.Old)
	}
	events, err := IssueToken{ID: c.ID, Kind: old.Kind, SHA256: c.SHA256, Name: old.Name, Directory: old.Directory, Role: old.Role, ExpiresAt: c.ExpiresAt}.decide(s, env)
	if err != nil {
		return nil, err
	}
	if old.ExpiresAt.IsZero() || c.OldExpiresAt.Before(old.ExpiresAt) {
		events = append(events, env.events(&eventv1.Event{Body: &eventv1.Event_TokenExpirySet{TokenExpirySet: &eventv1.TokenExpirySet{
			TokenId: old.ID.String(), ExpiresAt: timestamppb.New(c.OldExpiresAt),
		}}})...)
	}
	return events, nil
}

// JoinProxy uses a proxy's invitation. The caller compared its secret, and knows that the proxy holds the key.
type JoinProxy struct {
	ID        uuid.UUID
	KeySHA256 []byte
}

func (c JoinProxy) decide(s *State, env Env) ([]*eventv1.Event, error) {
	t := s.Token(c.ID)
	switch {
	case t == nil || t.Kind != eventv1.TokenKind_TOKEN_KIND_PROXY || t.SPIFFEID != "":
		return nil, refuse(NotFound, "there is no invitation %s", c.ID)
	case len(c.KeySHA256) != 32:
		return nil, refuse(InvalidArgument, "a proxy joins with a key")
	case !t.ExpiresAt.IsZero() && !env.Now.Before(t.ExpiresAt):
		return nil, refuse(FailedPrecondition, "the invitation has expired: revoke the proxy and invite it again")
	case bytes.Equal(t.JoinedKey, c.KeySHA256):
		return nil, nil // the answer was lost
	case len(t.JoinedKey) > 0:
		return nil, refuse(FailedPrecondition, "the invitation was used already: if not by this proxy, somebody else is in its place; revoke the proxy and invite it again")
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ProxyJoined{ProxyJoined: &eventv1.ProxyJoined{
		TokenId: c.ID.String(), KeySha256: c.KeySHA256,
	}}}), nil
}

// RevokeToken makes a token invalid at once.
type RevokeToken struct{ ID uuid.UUID }

func (c RevokeToken) decide(s *State, env Env) ([]*eventv1.Event, error) {
	t := s.Token(c.ID)
	switch {
	case t == nil:
		return nil, refuse(NotFound, "there is no token %s", c.ID)
	case t.Kind == eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS || t.Kind == eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP:
		if err := env.mayOwn(); err != nil {
			return nil, err
		}
	case !env.may(t.Role):
		return nil, refuse(Forbidden, "token %s may do more than you may: ask an owner", c.ID)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_TokenRevoked{TokenRevoked: &eventv1.TokenRevoked{TokenId: c.ID.String()}}}), nil
}

// isID tells whether text is lower-case words joined by single hyphens.
func isID(text string) bool {
	if text == "" || len(text) > 63 || text[0] == '-' || text[len(text)-1] == '-' {
		return false
	}
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && text[i-1] != '-':
		default:
			return false
		}
	}
	return true
}

// Token returns a token by id, or nil.
func (s *State) Token(id uuid.UUID) *Token {
	t, _ := s.tokens.Get(idKey(id))
	return t
}

// Tokens yields all tokens, oldest first.
func (s *State) Tokens() iter.Seq[*Token] {
	return func(yield func(*Token) bool) {
		s.tokens.Scan(func(_ string, t *Token) bool { return yield(t) })
	}
}

func (s *State) applyTokenIssued(rec Record, b *eventv1.Token) error {
	id, err := uuid.Parse(b.GetId())
	if err != nil {
		return err
	}
	t := &Token{
		ID: id, Kind: b.GetKind(), Name: b.GetName(), Directory: b.GetDirectoryId(), Region: b.GetRegion(), Role: b.GetRole(),
		CreatedAt: rec.Event.GetAt().AsTime(), sha256: b.GetSha256(),
	}
	if b.GetExpiresAt() != nil {
		t.ExpiresAt = b.GetExpiresAt().AsTime()
	}
	s.putToken(t)
	return nil
}

func (s *State) putToken(t *Token) {
	s.tokens.Set(idKey(t.ID), t)
	if t.Kind == eventv1.TokenKind_TOKEN_KIND_PROXY {
		s.proxies.Set(t.Name, t.ID.String())
	}
	if t.SPIFFEID != "" {
		s.workloads.Set(t.SPIFFEID, t.ID)
	}
}

func (s *State) applyProxyJoined(b *eventv1.ProxyJoined) error {
	id, err := uuid.Parse(b.GetTokenId())
	if err != nil {
		return err
	}
	old := s.Token(id)
	if old == nil {
		return invalidLog("there is no token %s", b.GetTokenId())
	}
	t := *old
	t.JoinedKey = b.GetKeySha256()
	s.putToken(&t)
	return nil
}

// SealingEpoch says since when a region's sealing keys are those that they are: others than before each time that a proxy of it was
// revoked, which knew them.
func (s *State) SealingEpoch(region string) uint64 {
	seq, _ := s.sealing.Get(region)
	return seq
}

// ProxyToken returns the token of a proxy by its name, or nil.
func (s *State) ProxyToken(name string) *Token {
	id, ok := s.proxies.Get(name)
	if !ok {
		return nil
	}
	parsed, err := uuid.Parse(id)
	if err != nil {
		return nil
	}
	return s.Token(parsed)
}

func (s *State) applyTokenRevoked(rec Record, tokenID string) error {
	id, err := uuid.Parse(tokenID)
	if err != nil {
		return err
	}
	t := s.Token(id)
	if t == nil {
		return invalidLog("there is no token %s", tokenID)
	}
	s.tokens.Delete(idKey(id))
	if t.Kind == eventv1.TokenKind_TOKEN_KIND_PROXY {
		s.proxies.Delete(t.Name)
	}
	if t.IsProxy() {
		s.sealing.Set(t.Region, rec.Seq)
	}
	if t.SPIFFEID != "" {
		s.bar(t, rec.Event.GetAt().AsTime())
	}
	return nil
}

func (s *State) applyTokenExpirySet(b *eventv1.TokenExpirySet) error {
	id, err := uuid.Parse(b.GetTokenId())
	if err != nil {
		return err
	}
	old := s.Token(id)
	if old == nil {
		return invalidLog("there is no token %s", b.GetTokenId())
	}
	t := *old
	t.ExpiresAt = b.GetExpiresAt().AsTime()
	s.putToken(&t)
	return nil
}
