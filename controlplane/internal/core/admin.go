package core

import (
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// How long what makes somebody an admin may go on.
const (
	// MaxAdminToken is the longest that an admin token is valid.
	MaxAdminToken = 366 * 24 * time.Hour
	// MaxBootstrap is how long a bootstrap token may be exchanged.
	MaxBootstrap = time.Hour
	// MaxBreakGlass is how long a token is valid for which a break-glass credential was exchanged.
	MaxBreakGlass = time.Hour
)

// keptUses is how many uses of break-glass credentials the state remembers.
const keptUses = 100

// AdminPerson is an admin who signed in as a person, as the state knows them.
type AdminPerson struct {
	User    *User
	Role    policyv1.Role
	Expires time.Time
}

// BreakGlassUse is one use of a break-glass credential.
type BreakGlassUse struct {
	At     time.Time
	Token  uuid.UUID
	Opened uuid.UUID
	Reason string
}

// may tells whether who acts may hand out, or take away, what a role may do. Nobody but the system acts without a role.
func (e Env) may(role policyv1.Role) bool {
	return e.Actor.GetKind() == eventv1.ActorKind_ACTOR_KIND_SYSTEM || role <= e.Actor.GetRole()
}

func (e Env) mayOwn() error {
	if !e.may(policyv1.Role_ROLE_OWNER) {
		return refuse(Forbidden, "this says who the admins are, or can make somebody one: ask an owner")
	}
	return nil
}

// NameAdminDirectory says whose people may be admins. Roles of another directory's groups end.
type NameAdminDirectory struct{ Directory string }

func (c NameAdminDirectory) decide(s *State, env Env) ([]*eventv1.Event, error) {
	switch {
	case c.Directory == s.adminDirectory:
		return nil, nil
	case c.Directory != "" && s.Directory(c.Directory) == nil:
		return nil, refuseField(NotFound, "directory_id", "there is no directory %q", c.Directory)
	}
	if err := refuseService(c.Directory); err != nil {
		return nil, err
	}
	if err := env.mayOwn(); err != nil {
		return nil, err
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_AdminDirectoryNamed{AdminDirectoryNamed: &eventv1.AdminDirectoryNamed{DirectoryId: c.Directory}}}), nil
}

// SetGroupRole gives the people of a group a role; unspecified: none.
type SetGroupRole struct {
	Group uuid.UUID
	Role  policyv1.Role
}

func (c SetGroupRole) decide(s *State, env Env) ([]*eventv1.Event, error) {
	g := s.Group(c.Group)
	switch {
	case g == nil:
		return nil, refuseField(NotFound, "group", "there is no group %s", c.Group)
	case c.Role < policyv1.Role_ROLE_UNSPECIFIED || c.Role > policyv1.Role_ROLE_OWNER:
		return nil, refuseField(InvalidArgument, "role", "a role is viewer, auditor, admin or owner")
	case c.Role != policyv1.Role_ROLE_UNSPECIFIED && g.Directory != s.adminDirectory:
		return nil, refuseField(FailedPrecondition, "group",
			"%s is no group of the directory that is named for admins: name directory %q first (admins directory)", g.Name(), g.Directory)
	case c.Role == s.GroupRole(c.Group):
		return nil, nil
	}
	if err := env.mayOwn(); err != nil {
		return nil, err
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_GroupRoleSet{GroupRoleSet: &eventv1.GroupRoleSet{GroupId: c.Group.String(), Role: c.Role}}}), nil
}

// IssueBootstrap makes a bootstrap token valid, where nobody is an owner.
type IssueBootstrap struct {
	ID        uuid.UUID
	SHA256    []byte
	ExpiresAt time.Time
	// Recover makes it valid though there are owners: all of them may have lost what they had.
	Recover bool
}

func (c IssueBootstrap) decide(s *State, env Env) ([]*eventv1.Event, error) {
	switch {
	case !c.Recover && s.HasOwner(env.Now):
		return nil, refuse(FailedPrecondition, "there is an owner already")
	case c.ExpiresAt.After(env.Now.Add(MaxBootstrap)) || !c.ExpiresAt.After(env.Now):
		return nil, refuseField(InvalidArgument, "expires_at", "a bootstrap token ends within %s", MaxBootstrap)
	}
	if err := env.mayOwn(); err != nil {
		return nil, err
	}
	token := &eventv1.Token{
		Id: c.ID.String(), Kind: eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP, Sha256: c.SHA256, Name: "bootstrap", ExpiresAt: timestamppb.New(c.ExpiresAt),
	}
	return s.tokenIssued(env, token)
}

// BecomeFirstOwner exchanges a bootstrap token, whose secret was checked, for an owner's admin token.
type BecomeFirstOwner struct {
	Bootstrap uuid.UUID
	// ID and SHA256 are the new token's.
	ID        uuid.UUID
	SHA256    []byte
	Name      string
	ExpiresAt time.Time
}

func (c BecomeFirstOwner) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if !s.Token(c.Bootstrap).is(eventv1.TokenKind_TOKEN_KIND_BOOTSTRAP, env.Now) {
		return nil, refuse(FailedPrecondition, "the bootstrap token is used or over: there is an owner, or a restart of the control plane makes another")
	}
	token, err := adminToken(c.ID, c.SHA256, c.Name, policyv1.Role_ROLE_OWNER, c.ExpiresAt, env)
	if err != nil {
		return nil, err
	}
	return s.tokenIssued(env, token)
}

// IssueBreakGlass makes a break-glass credential valid in the place of the one before.
type IssueBreakGlass struct {
	ID     uuid.UUID
	SHA256 []byte
	Name   string
}

func (c IssueBreakGlass) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if err := env.mayOwn(); err != nil {
		return nil, err
	}
	events, err := s.tokenIssued(env, &eventv1.Token{Id: c.ID.String(), Kind: eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS, Sha256: c.SHA256, Name: c.Name})
	if err != nil {
		return nil, err
	}
	return append(events, s.revokeAll(env, eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS)...), nil
}

// OpenBreakGlass exchanges a break-glass credential, whose secret was checked, for an owner's admin token that ends soon.
type OpenBreakGlass struct {
	Credential uuid.UUID
	// ID and SHA256 are the new token's.
	ID        uuid.UUID
	SHA256    []byte
	Reason    string
	ExpiresAt time.Time
}

func (c OpenBreakGlass) decide(s *State, env Env) ([]*eventv1.Event, error) {
	switch {
	case !s.Token(c.Credential).is(eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS, env.Now):
		return nil, refuse(FailedPrecondition, "the break-glass credential was replaced or revoked")
	case c.Reason == "":
		return nil, refuseField(InvalidArgument, "reason", "say why the glass is broken: it is kept on the log")
	case c.ExpiresAt.After(env.Now.Add(MaxBreakGlass)):
		return nil, refuseField(InvalidArgument, "expires_at", "what a break-glass credential opens ends within %s", MaxBreakGlass)
	}
	token, err := adminToken(c.ID, c.SHA256, "break-glass", policyv1.Role_ROLE_OWNER, c.ExpiresAt, env)
	if err != nil {
		return nil, err
	}
	opened := env.events(&eventv1.Event{Body: &eventv1.Event_BreakGlassOpened{BreakGlassOpened: &eventv1.BreakGlassOpened{
		TokenId: c.Credential.String(), OpenedId: c.ID.String(), Reason: c.Reason,
	}}})
	issued, err := s.tokenIssued(env, token)
	return append(opened, issued...), err
}

// adminToken is an admin token with a role, which ends.
func adminToken(id uuid.UUID, sha256 []byte, name string, role policyv1.Role, expires time.Time, env Env) (*eventv1.Token, error) {
	switch {
	case role <= policyv1.Role_ROLE_UNSPECIFIED || role > policyv1.Role_ROLE_OWNER:
		return nil, refuseField(InvalidArgument, "role", "an admin token has a role: viewer, auditor, admin or owner")
	case expires.IsZero() || expires.After(env.Now.Add(MaxAdminToken)):
		return nil, refuseField(InvalidArgument, "expires_at", "an admin token ends within %d days", MaxAdminToken/(24*time.Hour))
	}
	return &eventv1.Token{
		Id: id.String(), Kind: eventv1.TokenKind_TOKEN_KIND_ADMIN, Sha256: sha256, Name: name, Role: role, ExpiresAt: timestamppb.New(expires),
	}, nil
}

// revokeAll ends every token of a kind.
func (s *State) revokeAll(env Env, kind eventv1.TokenKind) []*eventv1.Event {
	var events []*eventv1.Event
	for t := range s.Tokens() {
		if t.Kind == kind {
			events = append(events, env.events(&eventv1.Event{Body: &eventv1.Event_TokenRevoked{TokenRevoked: &eventv1.TokenRevoked{TokenId: t.ID.String()}}})...)
		}
	}
	return events
}

// AdminDirectory is the directory whose people may be admins, or empty.
func (s *State) AdminDirectory() string { return s.adminDirectory }

// GroupRole is the role that a group gives.
func (s *State) GroupRole(group uuid.UUID) policyv1.Role {
	role, _ := s.roles.Get(idKey(group))
	return role
}

// GroupRoles yields the groups that give a role.
func (s *State) GroupRoles() iter.Seq2[*Group, policyv1.Role] {
	return func(yield func(*Group, policyv1.Role) bool) {
		s.roles.Scan(func(key string, role policyv1.Role) bool { return yield(s.Group(uuid.UUID([]byte(key))), role) })
	}
}

// RoleOf is the highest role that a person's groups give, directly or by nesting. It says nothing of whether the person
// has signed in.
func (s *State) RoleOf(u *User) policyv1.Role { return s.roleOf(u, false) }

// roleIfConfirmed is RoleOf as if no membership were held.
func (s *State) roleIfConfirmed(u *User) policyv1.Role { return s.roleOf(u, true) }

func (s *State) roleOf(u *User, held bool) policyv1.Role {
	if !u.Active || u.Directory != s.adminDirectory {
		return policyv1.Role_ROLE_UNSPECIFIED
	}
	var best policyv1.Role
	for g := range s.groupsWithEffect(u, held) {
		best = max(best, s.GroupRole(g.ID))
	}
	return best
}

// groupsWithEffect yields the groups that a user is in, directly or by nesting, each once; with held, as if no membership were held.
func (s *State) groupsWithEffect(u *User, held bool) iter.Seq[*Group] {
	return func(yield func(*Group) bool) {
		seen := map[uint32]bool{}
		more := true
		var reach func(no uint32)
		reach = func(no uint32) {
			if seen[no] || !more {
				return
			}
			seen[no] = true
			g, _ := s.groups.Get(no)
			if more = yield(g); !more {
				return
			}
			for parent := range s.parents.of(no) {
				reach(parent)
			}
		}
		for no := range s.memberOf.of(u.No) {
			if held || !s.held.has(u.No, no) {
				reach(no)
			}
		}
	}
}

// GroupNames are the names of the groups that a user is in with effect, directly or by nesting, with their directory, ascending. Nobody: none.
func (s *State) GroupNames(id uuid.UUID) []string {
	u := s.User(id)
	if u == nil {
		return nil
	}
	var names []string
	for g := range s.groupsWithEffect(u, false) {
		names = append(names, g.Name())
	}
	slices.Sort(names)
	return names
}

// PeopleOf yields the active people who are in a group with effect, directly or by nesting, each once.
func (s *State) PeopleOf(g *Group) iter.Seq[*User] {
	return func(yield func(*User) bool) {
		groups, people := map[uint32]bool{}, map[uint32]bool{}
		more := true
		var walk func(no uint32)
		walk = func(no uint32) {
			if groups[no] || !more {
				return
			}
			groups[no] = true
			for user := range s.members.of(no) {
				if u, _ := s.users.Get(user); u.Active && !people[user] && !s.held.has(user, no) {
					people[user] = true
					if more = yield(u); !more {
						return
					}
				}
			}
			for child := range s.children.of(no) {
				walk(child)
			}
		}
		walk(g.No)
	}
}

// HasOwner tells whether anybody can be an owner now: by a token, by a break-glass credential, or by signing in.
func (s *State) HasOwner(now time.Time) bool {
	for t := range s.Tokens() {
		if t.Role == policyv1.Role_ROLE_OWNER && t.is(eventv1.TokenKind_TOKEN_KIND_ADMIN, now) || t.is(eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS, now) {
			return true
		}
	}
	for g, role := range s.GroupRoles() {
		if role == policyv1.Role_ROLE_OWNER {
			for range s.PeopleOf(g) {
				return true
			}
		}
	}
	return false
}

// BreakGlassUses are the last uses of break-glass credentials, oldest first.
func (s *State) BreakGlassUses() []BreakGlassUse { return s.breakGlass }

func (s *State) applyAdminDirectoryNamed(directory string) {
	s.adminDirectory = directory
	s.roles.Clear()
}

func (s *State) applyGroupRoleSet(b *eventv1.GroupRoleSet) error {
	g, err := s.mustGroup(b.GetGroupId())
	if err != nil {
		return err
	}
	if b.GetRole() == policyv1.Role_ROLE_UNSPECIFIED {
		s.roles.Delete(idKey(g.ID))
	} else {
		s.roles.Set(idKey(g.ID), b.GetRole())
	}
	return nil
}

func (s *State) applyBreakGlassOpened(rec Record, b *eventv1.BreakGlassOpened) error {
	use := BreakGlassUse{At: rec.Event.GetAt().AsTime(), Reason: b.GetReason()}
	var err error
	if use.Token, err = uuid.Parse(b.GetTokenId()); err != nil {
		return err
	}
	if use.Opened, err = uuid.Parse(b.GetOpenedId()); err != nil {
		return err
	}
	kept := s.breakGlass[max(0, len(s.breakGlass)-keptUses+1):]
	s.breakGlass = append(slices.Clip(slices.Clone(kept)), use)
	return nil
}
