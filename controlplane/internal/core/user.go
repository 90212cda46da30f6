package core

import (
	"bytes"
	"iter"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// User is a provisioned person.
type User struct {
	No        uint32
	Active    bool
	ID        uuid.UUID
	Directory string
	Profile
	// Generation is raised by deactivation and by session revocation. What was made for a lower one is void.
	Generation uint64
	// Subject is what an issuer's claim must equal, where the directory matches by userName: the one under which the
	// person was provisioned. To be renamed does not change who signs in as whom; only RebindSubject does.
	Subject string
	// ValidAfter voids tokens without a generation: those issued at or before it are refused.
	ValidAfter Moment
	CreatedAt  Moment
	UpdatedAt  Moment
	// Version is the sequence of the last event that changed the user or the user's own attributes.
	Version uint64
	// Credentials is where on the log what is sent upstream for the user last changed. Zero: nothing is.
	Credentials uint64
}

// Profile is what a directory says of a person: personal data.
type Profile struct {
	UserName    string
	ExternalID  string
	DisplayName string
	// Email is the primary address, or the first.
	Email string
	// Attributes is a JSON object with every other SCIM attribute as provisioned.
	Attributes []byte
}

func (p Profile) equal(q Profile) bool {
	return p.UserName == q.UserName && p.ExternalID == q.ExternalID && p.DisplayName == q.DisplayName &&
		p.Email == q.Email && bytes.Equal(p.Attributes, q.Attributes)
}

func (p Profile) personal() *eventv1.Personal {
	return &eventv1.Personal{
		UserName: p.UserName, ExternalId: p.ExternalID, DisplayName: p.DisplayName, Email: p.Email, Attributes: p.Attributes,
	}
}

func profileOf(p *eventv1.Personal) Profile {
	return Profile{
		UserName: p.GetUserName(), ExternalID: p.GetExternalId(), DisplayName: p.GetDisplayName(),
		Email: p.GetEmail(), Attributes: p.GetAttributes(),
	}
}

// CreateUser provisions a person in a directory.
type CreateUser struct {
	Directory string
	Profile   Profile
	Active    bool
}

func (c CreateUser) decide(s *State, env Env) ([]*eventv1.Event, error) {
	p := s.populations[c.Directory]
	if p == nil {
		return nil, refuse(NotFound, "there is no directory %q", c.Directory)
	}
	if err := s.checkProfile(p, c.Profile, 0); err != nil {
		return nil, err
	}
	return env.events(userCreated(env.NewID(), c.Directory, c.Profile, c.Active)...), nil
}

// userCreated says that there is somebody, and apart from it who that is: only the latter goes when the person
// is erased.
func userCreated(id uuid.UUID, directory string, profile Profile, active bool) []*eventv1.Event {
	return []*eventv1.Event{
		{Body: &eventv1.Event_UserCreated{UserCreated: &eventv1.UserCreated{UserId: id.String(), DirectoryId: directory, Active: active}}},
		userUpdated(id, profile),
	}
}

func userUpdated(id uuid.UUID, profile Profile) *eventv1.Event {
	return &eventv1.Event{
		PersonId: id.String(), Personal: profile.personal(),
		Body: &eventv1.Event_UserUpdated{UserUpdated: &eventv1.UserUpdated{UserId: id.String()}},
	}
}

// checkProfile refuses a profile that no user may have, or that another user than number has.
func (s *State) checkProfile(p *population, profile Profile, number uint32) error {
	if profile.UserName == "" {
		return refuseField(InvalidArgument, "userName", "userName is required")
	}
	if len(profile.UserName) > 1024 || len(profile.ExternalID) > 1024 {
		return refuseField(InvalidArgument, "userName", "userName and externalId have at most 1024 bytes")
	}
	if other, taken := p.userNames.Get(Fold(profile.UserName)); taken && other != number {
		return refuseField(AlreadyExists, "userName", "a user of this userName exists in the directory (letter case does not matter)")
	}
	if other, taken := p.userExternal.Get(profile.ExternalID); taken && profile.ExternalID != "" && other != number {
		return refuseField(AlreadyExists, "externalId", "a user of this externalId exists in the directory")
	}
	return nil
}

// UpdateUser replaces what a directory says of a person, activity included.
type UpdateUser struct {
	Directory string
	ID        uuid.UUID
	// IfVersion is the version that the caller read. Zero: whatever it is.
	IfVersion uint64
	Profile   Profile
	Active    bool
}

func (c UpdateUser) decide(s *State, env Env) ([]*eventv1.Event, error) {
	u, err := s.userIn(c.Directory, c.ID)
	if err != nil {
		return nil, err
	}
	if c.IfVersion != 0 && c.IfVersion != u.Version {
		return nil, refuse(Conflict, "the user changed since it was read: read it again")
	}
	if err := s.checkProfile(s.populations[u.Directory], c.Profile, u.No); err != nil {
		return nil, err
	}
	if u.ExternalID != "" && c.Profile.ExternalID != u.ExternalID {
		// The directory says that this is somebody else now: nothing carries over.
		return env.events(append([]*eventv1.Event{userDeleted(u.ID)}, userCreated(env.NewID(), u.Directory, c.Profile, c.Active)...)...), nil
	}
	var events []*eventv1.Event
	if !u.equal(c.Profile) {
		events = append(events, userUpdated(u.ID, c.Profile))
	}
	switch {
	case u.Active && !c.Active:
		events = append(events, &eventv1.Event{Body: &eventv1.Event_UserDeactivated{UserDeactivated: &eventv1.UserDeactivated{
			UserId: u.ID.String(), Generation: u.Generation + 1, ValidAfter: timestamppb.New(env.Now),
		}}})
	case !u.Active && c.Active:
		events = append(events, &eventv1.Event{Body: &eventv1.Event_UserReactivated{UserReactivated: &eventv1.UserReactivated{
			UserId: u.ID.String(), HoldMemberships: !s.populations[u.Directory].directory.GetKeepMemberships(),
		}}})
	}
	return env.events(events...), nil
}

// DeleteUser removes a person with the memberships, for good: the person is erased.
type DeleteUser struct {
	Directory string
	ID        uuid.UUID
	// IfVersion is the version that the caller read. Zero: whatever it is.
	IfVersion uint64
}

func (c DeleteUser) decide(s *State, env Env) ([]*eventv1.Event, error) {
	u, err := s.userIn(c.Directory, c.ID)
	if err != nil {
		return nil, err
	}
	if c.IfVersion != 0 && c.IfVersion != u.Version {
		return nil, refuse(Conflict, "the user changed since it was read: read it again")
	}
	return env.events(userDeleted(u.ID)), nil
}

func userDeleted(id uuid.UUID) *eventv1.Event {
	return &eventv1.Event{Body: &eventv1.Event_UserDeleted{UserDeleted: &eventv1.UserDeleted{UserId: id.String()}}}
}

// RevokeSessions ends all that was issued to a person, who may sign in again.
type RevokeSessions struct{ ID uuid.UUID }

func (c RevokeSessions) decide(s *State, env Env) ([]*eventv1.Event, error) {
	u := s.User(c.ID)
	if u == nil {
		return nil, refuse(NotFound, "there is no user %s", c.ID)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_UserSessionsRevoked{UserSessionsRevoked: &eventv1.UserSessionsRevoked{
		UserId: u.ID.String(), Generation: u.Generation + 1, ValidAfter: timestamppb.New(env.Now),
	}}}), nil
}

// RebindSubject lets a person sign in by the userName that they have now.
type RebindSubject struct{ ID uuid.UUID }

func (c RebindSubject) decide(s *State, env Env) ([]*eventv1.Event, error) {
	u := s.User(c.ID)
	switch {
	case u == nil:
		return nil, refuse(NotFound, "there is no user %s", c.ID)
	case !s.matchesByName(u.Directory):
		return nil, refuse(FailedPrecondition, "directory %q matches people by externalId, which never changes: nothing is to be bound again", u.Directory)
	case u.Subject == u.UserName:
		return nil, nil
	case !env.may(s.RoleOf(u)):
		return nil, refuse(Forbidden, "user %s is an admin who may do more than you may: ask an owner", u.ID)
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_UserSubjectRebound{UserSubjectRebound: &eventv1.UserSubjectRebound{UserId: u.ID.String()}}}), nil
}

// ConfirmMemberships makes a reactivated person's held memberships count again.
type ConfirmMemberships struct{ ID uuid.UUID }

func (c ConfirmMemberships) decide(s *State, env Env) ([]*eventv1.Event, error) {
	u := s.User(c.ID)
	if u == nil {
		return nil, refuse(NotFound, "there is no user %s", c.ID)
	}
	for range s.held.of(u.No) {
		if !env.may(s.roleIfConfirmed(u)) {
			return nil, refuse(Forbidden, "the held memberships of %s would make somebody an admin who may do more than you may: ask an owner", u.ID)
		}
		return env.events(&eventv1.Event{Body: &eventv1.Event_UserMembershipsConfirmed{
			UserMembershipsConfirmed: &eventv1.UserMembershipsConfirmed{UserId: u.ID.String()},
		}}), nil
	}
	return nil, nil
}

// userIn returns a user of one directory. A user of another is as unknown as none.
func (s *State) userIn(directory string, id uuid.UUID) (*User, error) {
	if u := s.User(id); u != nil && u.Directory == directory {
		return u, nil
	}
	return nil, refuse(NotFound, "there is no user %s in directory %q", id, directory)
}

// User returns a user by id, or nil.
func (s *State) User(id uuid.UUID) *User {
	no, ok := s.userByID.Get(idKey(id))
	if !ok {
		return nil
	}
	u, _ := s.users.Get(no)
	return u
}

// UserByNumber returns a user by their number, or nil.
func (s *State) UserByNumber(no uint32) *User {
	u, _ := s.users.Get(no)
	return u
}

// UserByName returns the user of a directory whose userName has the same fold, or nil.
func (s *State) UserByName(directory, userName string) *User {
	if p := s.populations[directory]; p != nil {
		if no, ok := p.userNames.Get(Fold(userName)); ok {
			u, _ := s.users.Get(no)
			return u
		}
	}
	return nil
}

// UserByExternalID returns the user of a directory by externalId, compared exactly, or nil.
func (s *State) UserByExternalID(directory, externalID string) *User {
	if p := s.populations[directory]; p != nil && externalID != "" {
		if no, ok := p.userExternal.Get(externalID); ok {
			u, _ := s.users.Get(no)
			return u
		}
	}
	return nil
}

// UserCount is how many users a directory has.
func (s *State) UserCount(directory string) int {
	if p := s.populations[directory]; p != nil {
		return p.users.Len()
	}
	return 0
}

// Users yields a directory's users in the order of their creation, without the first skip.
func (s *State) Users(directory string, skip int) iter.Seq[*User] {
	return func(yield func(*User) bool) {
		p := s.populations[directory]
		if p == nil || skip >= p.users.Len() {
			return
		}
		first, _, _ := p.users.GetAt(skip)
		p.users.Ascend(first, func(no uint32, _ struct{}) bool {
			u, _ := s.users.Get(no)
			return yield(u)
		})
	}
}

// AllUsersAfter yields users with numbers above no, ascending: of one directory, or of all for "".
func (s *State) AllUsersAfter(directory string, no uint32) iter.Seq[*User] {
	return func(yield func(*User) bool) {
		if directory == "" {
			s.users.Ascend(no+1, func(_ uint32, u *User) bool { return yield(u) })
		} else if p := s.populations[directory]; p != nil {
			p.users.Ascend(no+1, func(no uint32, _ struct{}) bool {
				u, _ := s.users.Get(no)
				return yield(u)
			})
		}
	}
}

// UsersByNameOrder yields a directory's users in the order of their folded userNames, or against it: those
// beyond a user where one is given, or else all without the first skip.
func (s *State) UsersByNameOrder(directory string, descending bool, beyond *User, skip int) iter.Seq[*User] {
	return func(yield func(*User) bool) {
		p := s.populations[directory]
		if p == nil || beyond == nil && skip >= p.userNames.Len() {
			return
		}
		walk, first := p.userNames.Ascend, skip
		if descending {
			walk, first = p.userNames.Descend, p.userNames.Len()-1-skip
		}
		var pivot string
		if beyond != nil {
			pivot = Fold(beyond.UserName)
		} else {
			pivot, _, _ = p.userNames.GetAt(first)
		}
		walk(pivot, func(_ string, no uint32) bool {
			u, _ := s.users.Get(no)
			return beyond != nil && no == beyond.No || yield(u)
		})
	}
}

// Subject is the value of a user's matching attribute: what an issuer's claim must equal. Empty matches nothing.
func (s *State) Subject(u *User) string {
	if s.matchesByName(u.Directory) {
		return u.Subject
	}
	return u.ExternalID
}

// matchesByName tells whether a directory's people are matched by userName.
func (s *State) matchesByName(directory string) bool {
	return matchAttribute(s.Directory(directory)) == policyv1.MatchAttribute_MATCH_ATTRIBUTE_USER_NAME
}

// Renamed yields the people of a directory who sign in by a userName that they no longer have, in the order of
// their creation.
func (s *State) Renamed(directory string) iter.Seq[*User] {
	return func(yield func(*User) bool) {
		if !s.matchesByName(directory) {
			return
		}
		for u := range s.Users(directory, 0) {
			if u.Subject != u.UserName && !yield(u) {
				return
			}
		}
	}
}

// UserBySubject returns the user of a directory whose subject equals a claim, or nil: also where two have it, since one
// was renamed and another has the former name now.
func (s *State) UserBySubject(directory, subject string) *User {
	d := s.Directory(directory)
	if d == nil || subject == "" {
		return nil
	}
	if s.matchesByName(directory) {
		var found []uint32
		s.populations[directory].subjects.Ascend(indexKey(subject, 0), func(key string, no uint32) bool {
			if key == indexKey(subject, no) {
				found = append(found, no)
			}
			return key == indexKey(subject, no) && len(found) < 2
		})
		if len(found) != 1 {
			return nil
		}
		return s.UserByNumber(found[0])
	}
	return s.UserByExternalID(directory, subject)
}

// applyUserCreated gives the user the next number and indexes it.
func (s *State) applyUserCreated(rec Record, b *eventv1.UserCreated) error {
	id, err := uuid.Parse(b.GetUserId())
	if err != nil {
		return err
	}
	s.lastUser++
	at := momentOf(rec.Event.GetAt().AsTime())
	s.putUser(nil, &User{
		No: s.lastUser, ID: id, Directory: b.GetDirectoryId(), Profile: profileOf(rec.Event.GetPersonal()),
		Active: b.GetActive(), Generation: 1, CreatedAt: at, UpdatedAt: at, Version: rec.Seq,
	})
	return nil
}

// changeUser replaces a user by what change makes of a copy.
func (s *State) changeUser(rec Record, id string, change func(u *User)) error {
	old, err := s.mustUser(id)
	if err != nil {
		return err
	}
	u := *old
	change(&u)
	u.UpdatedAt, u.Version = momentOf(rec.Event.GetAt().AsTime()), rec.Seq
	s.putUser(old, &u)
	return nil
}

// endGeneration changes a user whose generation rises: what was made for the one before is withdrawn.
func (s *State) endGeneration(rec Record, id string, change func(u *User)) error {
	if err := s.changeUser(rec, id, change); err != nil {
		return err
	}
	u, err := s.mustUser(id)
	if err != nil {
		return err
	}
	return s.withdrawAll(rec, Grantee{Person: u.ID})
}

func (s *State) putUser(old, u *User) {
	p := s.populations[u.Directory]
	if u.Email == u.UserName { // most people's is: one copy of a million
		u.Email = u.UserName
	}
	if old == nil {
		s.userByID.Set(idKey(u.ID), u.No)
		p.users.Set(u.No, struct{}{})
	}
	if old != nil && old.UserName != u.UserName {
		p.userNames.Delete(Fold(old.UserName))
	}
	if old != nil && old.ExternalID != u.ExternalID {
		p.userExternal.Delete(old.ExternalID)
	}
	// An erased person's events open to nothing: there is no name to find the user by.
	if u.UserName != "" && (old == nil || old.UserName != u.UserName) {
		p.userNames.Set(Fold(u.UserName), u.No)
	}
	if u.ExternalID != "" && (old == nil || old.ExternalID != u.ExternalID) {
		p.userExternal.Set(u.ExternalID, u.No)
	}
	if old != nil && old.Subject != u.Subject {
		p.subjects.Delete(indexKey(old.Subject, u.No))
	}
	if u.Subject != "" && (old == nil || old.Subject != u.Subject) {
		p.subjects.Set(indexKey(u.Subject, u.No), u.No)
	}
	p.indexEmails(old, u)
	s.users.Set(u.No, u)
}

func (s *State) applyUserReactivated(rec Record, b *eventv1.UserReactivated) error {
	u, err := s.mustUser(b.GetUserId())
	if err != nil {
		return err
	}
	if b.GetHoldMemberships() {
		for group := range s.memberOf.of(u.No) {
			s.held.add(u.No, group)
		}
	}
	return s.changeUser(rec, b.GetUserId(), func(u *User) { u.Active = true })
}

func (s *State) applyMembershipsConfirmed(b *eventv1.UserMembershipsConfirmed) error {
	u, err := s.mustUser(b.GetUserId())
	if err != nil {
		return err
	}
	for _, group := range s.held.collect(u.No) {
		s.held.drop(u.No, group)
	}
	return nil
}

func (s *State) applyUserDeleted(rec Record, b *eventv1.UserDeleted) error {
	u, err := s.mustUser(b.GetUserId())
	if err != nil {
		return err
	}
	if err := s.withdrawAll(rec, Grantee{Person: u.ID}); err != nil {
		return err
	}
	u, err = s.mustUser(b.GetUserId())
	if err != nil {
		return err
	}
	for _, group := range s.memberOf.collect(u.No) {
		s.memberOf.drop(u.No, group)
		s.held.drop(u.No, group)
		s.members.drop(group, u.No)
		s.touchGroup(rec, group, -1)
	}
	p := s.populations[u.Directory]
	p.users.Delete(u.No)
	if no, ok := p.userNames.Get(Fold(u.UserName)); ok && no == u.No {
		p.userNames.Delete(Fold(u.UserName))
	}
	if no, ok := p.userExternal.Get(u.ExternalID); ok && no == u.No {
		p.userExternal.Delete(u.ExternalID)
	}
	p.subjects.Delete(indexKey(u.Subject, u.No))
	p.indexEmails(u, nil)
	s.serviceKeys.Delete(idKey(u.ID))
	s.userByID.Delete(idKey(u.ID))
	s.users.Delete(u.No)
	s.applyTombstone(rec, u.ID)
	return nil
}
