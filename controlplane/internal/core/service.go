package core

import (
	"slices"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// ServiceDirectory is the directory of service accounts: agents that act for no person. Admins keep it. No identity
// provider speaks for it, and no SCIM token touches it.
const ServiceDirectory = "service"

// maxServiceKeys is how many keys an account has at most: enough to change them one by one.
const maxServiceKeys = 10

// ServiceKey is the public half of a key by which a service account proves who it is.
type ServiceKey struct {
	ID string
	// JWK is a public JSON Web Key (RFC 7517).
	JWK       []byte
	CreatedAt time.Time
	// ExpiresAt is zero for a key that does not expire.
	ExpiresAt time.Time
}

// Service tells whether this is a service account and no person.
func (u *User) Service() bool { return u.Directory == ServiceDirectory }

// refuseService refuses what would let others than admins say who the service accounts are.
func refuseService(directory string) error {
	if directory == ServiceDirectory {
		return refuseField(FailedPrecondition, "directory_id", "directory %q is that of service accounts, which admins keep: see sallyport service-accounts", ServiceDirectory)
	}
	return nil
}

// serviceDirectory is the event with which the directory begins, where it has not.
func (s *State) serviceDirectory() []*eventv1.Event {
	if s.Directory(ServiceDirectory) != nil {
		return nil
	}
	return []*eventv1.Event{{Body: &eventv1.Event_DirectorySet{DirectorySet: &eventv1.DirectorySet{Directory: &policyv1.Directory{
		Id: ServiceDirectory, KeepMemberships: true, // nobody else would assert them again
	}}}}}
}

// CreateServiceAccount makes a service account, without keys and in no group.
type CreateServiceAccount struct {
	Name string
	// Description says what it is for, and who answers for it.
	Description string
}

func (c CreateServiceAccount) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if !isID(c.Name) {
		return nil, refuseField(InvalidArgument, "name", "a service account's name is lower-case words joined by hyphens, such as nightly-report")
	}
	if s.UserByName(ServiceDirectory, c.Name) != nil {
		return nil, refuseField(AlreadyExists, "name", "there is a service account %q", c.Name)
	}
	profile := Profile{UserName: c.Name, DisplayName: c.Description}
	return env.events(append(s.serviceDirectory(), userCreated(env.NewID(), ServiceDirectory, profile, true)...)...), nil
}

// CreateServiceGroup makes a group of service accounts.
type CreateServiceGroup struct{ Name string }

func (c CreateServiceGroup) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if err := checkGroupName(c.Name); err != nil {
		return nil, err
	}
	for g := range s.GroupsByName(ServiceDirectory, c.Name) {
		return nil, refuseField(AlreadyExists, "name", "there is a group %s", g.Name())
	}
	return env.events(append(s.serviceDirectory(), &eventv1.Event{Body: &eventv1.Event_GroupCreated{GroupCreated: &eventv1.GroupCreated{
		GroupId: env.NewID().String(), DirectoryId: ServiceDirectory, DisplayName: c.Name,
	}}})...), nil
}

// AddServiceKey lets a service account prove who it is by a key, which the caller has checked.
type AddServiceKey struct {
	Account   uuid.UUID
	ID        string
	JWK       []byte
	ExpiresAt time.Time
}

func (c AddServiceKey) decide(s *State, env Env) ([]*eventv1.Event, error) {
	u, err := s.userIn(ServiceDirectory, c.Account)
	if err != nil {
		return nil, err
	}
	keys := s.ServiceKeys(u.ID)
	switch {
	case c.ID == "" || len(c.ID) > 200 || len(c.JWK) == 0 || len(c.JWK) > 8192:
		return nil, refuseField(InvalidArgument, "jwk", "a key has an id of at most 200 bytes and itself at most 8192")
	case slices.ContainsFunc(keys, func(k ServiceKey) bool { return k.ID == c.ID }):
		return nil, refuseField(AlreadyExists, "jwk", "%s has a key %q already", u.UserName, c.ID)
	case len(keys) >= maxServiceKeys:
		return nil, refuse(FailedPrecondition, "%s has %d keys, which is the most: remove one first", u.UserName, maxServiceKeys)
	case !c.ExpiresAt.IsZero() && !c.ExpiresAt.After(env.Now):
		return nil, refuseField(InvalidArgument, "expires_at", "the key would have expired already")
	}
	key := &eventv1.ServiceKey{Id: c.ID, Jwk: c.JWK}
	if !c.ExpiresAt.IsZero() {
		key.ExpiresAt = timestamppb.New(c.ExpiresAt)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_ServiceKeyAdded{ServiceKeyAdded: &eventv1.ServiceKeyAdded{UserId: u.ID.String(), Key: key}}}), nil
}

// RemoveServiceKey ends a key, and all that was issued to the account.
type RemoveServiceKey struct {
	Account uuid.UUID
	ID      string
}

func (c RemoveServiceKey) decide(s *State, env Env) ([]*eventv1.Event, error) {
	u, err := s.userIn(ServiceDirectory, c.Account)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(s.ServiceKeys(u.ID), func(k ServiceKey) bool { return k.ID == c.ID }) {
		return nil, refuseField(NotFound, "key_id", "%s has no key %q", u.UserName, c.ID)
	}
	removed := env.events(&eventv1.Event{Body: &eventv1.Event_ServiceKeyRemoved{ServiceKeyRemoved: &eventv1.ServiceKeyRemoved{UserId: u.ID.String(), KeyId: c.ID}}})
	revoked, err := RevokeSessions{ID: u.ID}.decide(s, env)
	return append(removed, revoked...), err
}

// ServiceKeys are the keys of a service account, oldest first.
func (s *State) ServiceKeys(account uuid.UUID) []ServiceKey {
	keys, _ := s.serviceKeys.Get(idKey(account))
	return keys
}

func (s *State) applyServiceKeyAdded(rec Record, b *eventv1.ServiceKeyAdded) error {
	u, err := s.mustUser(b.GetUserId())
	if err != nil {
		return err
	}
	key := ServiceKey{ID: b.GetKey().GetId(), JWK: b.GetKey().GetJwk(), CreatedAt: rec.Event.GetAt().AsTime()}
	if b.GetKey().GetExpiresAt() != nil {
		key.ExpiresAt = b.GetKey().GetExpiresAt().AsTime()
	}
	s.serviceKeys.Set(idKey(u.ID), append(slices.Clip(slices.Clone(s.ServiceKeys(u.ID))), key))
	return nil
}

func (s *State) applyServiceKeyRemoved(b *eventv1.ServiceKeyRemoved) error {
	u, err := s.mustUser(b.GetUserId())
	if err != nil {
		return err
	}
	keys := slices.DeleteFunc(slices.Clone(s.ServiceKeys(u.ID)), func(k ServiceKey) bool { return k.ID == b.GetKeyId() })
	if len(keys) == 0 {
		s.serviceKeys.Delete(idKey(u.ID))
	} else {
		s.serviceKeys.Set(idKey(u.ID), keys)
	}
	return nil
}
