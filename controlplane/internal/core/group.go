package core

import (
	"iter"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// idsPerEvent is how many ids of 16 bytes a membership event carries: 512 KiB.
const idsPerEvent = 512 * 1024 / 16

// Group is a provisioned group.
type Group struct {
	No          uint32
	ID          uuid.UUID
	Directory   string
	DisplayName string
	ExternalID  string
	// MemberCount counts users who are directly members, held memberships included.
	MemberCount int
	CreatedAt   Moment
	UpdatedAt   Moment
	// Version is the sequence of the last event that changed the group or its members.
	Version uint64
}

// Name is the group's name as people see it, with its directory: "okta/Senior Engineers".
func (g *Group) Name() string { return g.Directory + "/" + g.DisplayName }

// CreateGroup provisions a group.
type CreateGroup struct {
	Directory   string
	DisplayName string
	ExternalID  string
	Users       []uuid.UUID
	Groups      []uuid.UUID
}

func (c CreateGroup) decide(s *State, env Env) ([]*eventv1.Event, error) {
	if s.populations[c.Directory] == nil {
		return nil, refuse(NotFound, "there is no directory %q", c.Directory)
	}
	if err := checkGroupName(c.DisplayName); err != nil {
		return nil, err
	}
	id := env.NewID()
	net := newMemberDiff(s, c.Directory, 0)
	if err := net.add(c.Users, c.Groups); err != nil {
		return nil, err
	}
	events := []*eventv1.Event{{Body: &eventv1.Event_GroupCreated{GroupCreated: &eventv1.GroupCreated{
		GroupId: id.String(), DirectoryId: c.Directory, DisplayName: c.DisplayName, ExternalId: c.ExternalID,
	}}}}
	return env.events(append(events, net.events(id)...)...), nil
}

func checkGroupName(name string) error {
	if name == "" {
		return refuseField(InvalidArgument, "displayName", "displayName is required")
	}
	if len(name) > 1024 {
		return refuseField(InvalidArgument, "displayName", "displayName has at most 1024 bytes")
	}
	return nil
}

// UpdateGroup changes a group's name, external id and members, all or nothing.
type UpdateGroup struct {
	Directory string
	ID        uuid.UUID
	// IfVersion is the version that the caller read. Zero: whatever it is.
	IfVersion uint64
	// DisplayName and ExternalID stay as they are where nil.
	DisplayName *string
	ExternalID  *string
	// Members are changes in the order in which they are to be made.
	Members []MemberChange
}

// MemberOp is what a MemberChange does.
type MemberOp string

// The operations on members. Adding who is a member and removing who is none change nothing.
const (
	AddMembers     MemberOp = "add"
	RemoveMembers  MemberOp = "remove"
	ReplaceMembers MemberOp = "replace"
)

// MemberChange is one operation on a group's members.
type MemberChange struct {
	Op     MemberOp
	Users  []uuid.UUID
	Groups []uuid.UUID
}

func (c UpdateGroup) decide(s *State, env Env) ([]*eventv1.Event, error) {
	g, err := s.groupIn(c.Directory, c.ID)
	if err != nil {
		return nil, err
	}
	if c.IfVersion != 0 && c.IfVersion != g.Version {
		return nil, refuse(Conflict, "the group changed since it was read: read it again")
	}
	var events []*eventv1.Event
	name, external := g.DisplayName, g.ExternalID
	if c.DisplayName != nil {
		name = *c.DisplayName
	}
	if c.ExternalID != nil {
		external = *c.ExternalID
	}
	if err := checkGroupName(name); err != nil {
		return nil, err
	}
	if name != g.DisplayName || external != g.ExternalID {
		events = append(events, &eventv1.Event{Body: &eventv1.Event_GroupUpdated{GroupUpdated: &eventv1.GroupUpdated{
			GroupId: g.ID.String(), DisplayName: name, ExternalId: external,
		}}})
	}
	net := newMemberDiff(s, g.Directory, g.No)
	for _, change := range c.Members {
		if err := net.apply(change); err != nil {
			return nil, err
		}
	}
	return env.events(append(events, net.events(g.ID)...)...), nil
}

// DeleteGroup removes a group. Its grants dangle: they give nothing to a later group of its name.
type DeleteGroup struct {
	Directory string
	ID        uuid.UUID
	// IfVersion is the version that the caller read. Zero: whatever it is.
	IfVersion uint64
}

func (c DeleteGroup) decide(s *State, env Env) ([]*eventv1.Event, error) {
	g, err := s.groupIn(c.Directory, c.ID)
	if err != nil {
		return nil, err
	}
	if c.IfVersion != 0 && c.IfVersion != g.Version {
		return nil, refuse(Conflict, "the group changed since it was read: read it again")
	}
	return env.events(&eventv1.Event{Body: &eventv1.Event_GroupDeleted{GroupDeleted: &eventv1.GroupDeleted{GroupId: g.ID.String()}}}), nil
}

// groupIn returns a group of one directory. A group of another is as unknown as none.
func (s *State) groupIn(directory string, id uuid.UUID) (*Group, error) {
	if g := s.Group(id); g != nil && g.Directory == directory {
		return g, nil
	}
	return nil, refuse(NotFound, "there is no group %s in directory %q", id, directory)
}

// Group returns a group by id, or nil.
func (s *State) Group(id uuid.UUID) *Group {
	no, ok := s.groupByID.Get(idKey(id))
	if !ok {
		return nil
	}
	g, _ := s.groups.Get(no)
	return g
}

// GroupByNumber returns a group by its number, or nil.
func (s *State) GroupByNumber(no uint32) *Group {
	g, _ := s.groups.Get(no)
	return g
}

// GroupsByName yields the groups of a directory whose displayName has the same fold, oldest first.
func (s *State) GroupsByName(directory, displayName string) iter.Seq[*Group] {
	return s.groupsIndexed(directory, Fold(displayName), func(p *population) indexed { return &p.groupNames })
}

// GroupsByExternalID yields the groups of a directory by externalId, compared exactly, oldest first.
func (s *State) GroupsByExternalID(directory, externalID string) iter.Seq[*Group] {
	return s.groupsIndexed(directory, externalID, func(p *population) indexed { return &p.groupExternal })
}

type indexed interface {
	Ascend(pivot string, iter func(key string, no uint32) bool)
}

func (s *State) groupsIndexed(directory, text string, index func(*population) indexed) iter.Seq[*Group] {
	return func(yield func(*Group) bool) {
		p := s.populations[directory]
		if p == nil {
			return
		}
		index(p).Ascend(indexKey(text, 0), func(key string, no uint32) bool {
			if key != indexKey(text, no) {
				return false
			}
			g, _ := s.groups.Get(no)
			return yield(g)
		})
	}
}

// GroupCount is how many groups a directory has.
func (s *State) GroupCount(directory string) int {
	if p := s.populations[directory]; p != nil {
		return p.groups.Len()
	}
	return 0
}

// Groups yields a directory's groups in the order of their creation, without the first skip.
func (s *State) Groups(directory string, skip int) iter.Seq[*Group] {
	return func(yield func(*Group) bool) {
		p := s.populations[directory]
		if p == nil || skip >= p.groups.Len() {
			return
		}
		first, _, _ := p.groups.GetAt(skip)
		p.groups.Ascend(first, func(no uint32, _ struct{}) bool {
			g, _ := s.groups.Get(no)
			return yield(g)
		})
	}
}

// AllGroupsAfter yields groups with numbers above no, ascending: of one directory, or of all for "".
func (s *State) AllGroupsAfter(directory string, no uint32) iter.Seq[*Group] {
	return func(yield func(*Group) bool) {
		if directory == "" {
			s.groups.Ascend(no+1, func(_ uint32, g *Group) bool { return yield(g) })
		} else if p := s.populations[directory]; p != nil {
			p.groups.Ascend(no+1, func(no uint32, _ struct{}) bool {
				g, _ := s.groups.Get(no)
				return yield(g)
			})
		}
	}
}

func (s *State) applyGroupCreated(rec Record, b *eventv1.GroupCreated) error {
	id, err := uuid.Parse(b.GetGroupId())
	if err != nil {
		return err
	}
	s.lastGroup++
	at := momentOf(rec.Event.GetAt().AsTime())
	g := &Group{
		No: s.lastGroup, ID: id, Directory: b.GetDirectoryId(), DisplayName: b.GetDisplayName(), ExternalID: b.GetExternalId(),
		CreatedAt: at, UpdatedAt: at, Version: rec.Seq,
	}
	s.groupByID.Set(idKey(id), g.No)
	s.populations[g.Directory].groups.Set(g.No, struct{}{})
	s.indexGroup(g)
	s.groups.Set(g.No, g)
	return nil
}

func (s *State) indexGroup(g *Group) {
	p := s.populations[g.Directory]
	p.groupNames.Set(indexKey(Fold(g.DisplayName), g.No), g.No)
	if g.ExternalID != "" {
		p.groupExternal.Set(indexKey(g.ExternalID, g.No), g.No)
	}
}

func (s *State) unindexGroup(g *Group) {
	p := s.populations[g.Directory]
	p.groupNames.Delete(indexKey(Fold(g.DisplayName), g.No))
	p.groupExternal.Delete(indexKey(g.ExternalID, g.No))
}

func (s *State) applyGroupUpdated(rec Record, b *eventv1.GroupUpdated) error {
	old, err := s.mustGroup(b.GetGroupId())
	if err != nil {
		return err
	}
	g := *old
	g.DisplayName, g.ExternalID = b.GetDisplayName(), b.GetExternalId()
	g.UpdatedAt, g.Version = momentOf(rec.Event.GetAt().AsTime()), rec.Seq
	s.unindexGroup(old)
	s.indexGroup(&g)
	s.groups.Set(g.No, &g)
	return nil
}

func (s *State) applyGroupDeleted(rec Record, b *eventv1.GroupDeleted) error {
	g, err := s.mustGroup(b.GetGroupId())
	if err != nil {
		return err
	}
	if err := s.withdrawAll(rec, Grantee{Group: g.ID}); err != nil {
		return err
	}
	for _, user := range s.members.collect(g.No) {
		s.members.drop(g.No, user)
		s.memberOf.drop(user, g.No)
		s.held.drop(user, g.No)
	}
	for _, child := range s.children.collect(g.No) {
		s.children.drop(g.No, child)
		s.parents.drop(child, g.No)
	}
	for _, parent := range s.parents.collect(g.No) {
		s.parents.drop(g.No, parent)
		s.children.drop(parent, g.No)
		s.touchGroup(rec, parent, 0)
	}
	s.roles.Delete(idKey(g.ID))
	s.unindexGroup(g)
	s.populations[g.Directory].groups.Delete(g.No)
	s.groupByID.Delete(idKey(g.ID))
	s.groups.Delete(g.No)
	return nil
}

// touchGroup marks that a group's members changed: so many users came or, below zero, went.
func (s *State) touchGroup(rec Record, no uint32, users int) {
	old, _ := s.groups.Get(no)
	g := *old
	g.UpdatedAt, g.Version = momentOf(rec.Event.GetAt().AsTime()), rec.Seq
	g.MemberCount += users
	s.groups.Set(no, &g)
}
