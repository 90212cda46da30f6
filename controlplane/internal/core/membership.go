package core

import (
	"iter"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// memberDiff is the net of a row of membership changes against a state: what is to be added and
// removed when all are done. The work is in proportion to the changes, save for a replacement,
// which must look at who is a member now.
type memberDiff struct {
	s         *State
	directory string
	group     uint32 // 0: a group that does not exist yet
	users     map[uint32]bool
	groups    map[uint32]bool
	order     []uint32 // users in the order of their first mention, so that a decision repeats exactly
	nested    []uint32
}

func newMemberDiff(s *State, directory string, group uint32) *memberDiff {
	return &memberDiff{s: s, directory: directory, group: group, users: map[uint32]bool{}, groups: map[uint32]bool{}}
}

func (d *memberDiff) apply(c MemberChange) error {
	switch c.Op {
	case AddMembers:
		return d.add(c.Users, c.Groups)
	case RemoveMembers:
		return d.remove(c.Users, c.Groups)
	case ReplaceMembers:
		for user := range d.s.members.of(d.group) {
			d.setUser(user, false)
		}
		for child := range d.s.children.of(d.group) {
			d.setGroup(child, false)
		}
		for _, user := range d.order {
			d.users[user] = false
		}
		for _, child := range d.nested {
			d.groups[child] = false
		}
		return d.add(c.Users, c.Groups)
	}
	return refuseField(InvalidArgument, "members", "%q is no operation on members", c.Op)
}

func (d *memberDiff) add(users, groups []uuid.UUID) error {
	for _, id := range users {
		u := d.s.User(id)
		if u == nil || u.Directory != d.directory {
			return refuseField(InvalidArgument, "members", "member %s is no user of this directory: create it first", id)
		}
		d.setUser(u.No, true)
	}
	for _, id := range groups {
		g := d.s.Group(id)
		if g == nil || g.Directory != d.directory {
			return refuseField(InvalidArgument, "members", "member %s is no group of this directory: create it first", id)
		}
		d.setGroup(g.No, true)
	}
	return nil
}

// remove takes members out. Who does not exist is no member, which is what was asked for.
func (d *memberDiff) remove(users, groups []uuid.UUID) error {
	for _, id := range users {
		if u := d.s.User(id); u != nil {
			d.setUser(u.No, false)
		}
	}
	for _, id := range groups {
		if g := d.s.Group(id); g != nil {
			d.setGroup(g.No, false)
		}
	}
	return nil
}

func (d *memberDiff) setUser(no uint32, in bool) {
	if _, known := d.users[no]; !known {
		d.order = append(d.order, no)
	}
	d.users[no] = in
}

func (d *memberDiff) setGroup(no uint32, in bool) {
	if _, known := d.groups[no]; !known {
		d.nested = append(d.nested, no)
	}
	d.groups[no] = in
}

// events returns what is left to do, removals first, in as many events as the size of one demands.
func (d *memberDiff) events(id uuid.UUID) []*eventv1.Event {
	var addUsers, removeUsers, addGroups, removeGroups []byte
	for _, no := range d.order {
		u, _ := d.s.users.Get(no)
		member := d.group != 0 && d.s.members.has(d.group, no)
		switch in := d.users[no]; {
		case in && (!member || d.s.held.has(no, d.group)):
			addUsers = append(addUsers, u.ID[:]...)
		case !in && member:
			removeUsers = append(removeUsers, u.ID[:]...)
		}
	}
	for _, no := range d.nested {
		g, _ := d.s.groups.Get(no)
		member := d.group != 0 && d.s.children.has(d.group, no)
		switch in := d.groups[no]; {
		case in && !member:
			addGroups = append(addGroups, g.ID[:]...)
		case !in && member:
			removeGroups = append(removeGroups, g.ID[:]...)
		}
	}
	var events []*eventv1.Event
	for users, groups := range chunks(removeUsers, removeGroups) {
		events = append(events, &eventv1.Event{Body: &eventv1.Event_GroupMembersRemoved{GroupMembersRemoved: &eventv1.GroupMembersRemoved{
			GroupId: id.String(), UserIds: users, GroupIds: groups,
		}}})
	}
	for users, groups := range chunks(addUsers, addGroups) {
		events = append(events, &eventv1.Event{Body: &eventv1.Event_GroupMembersAdded{GroupMembersAdded: &eventv1.GroupMembersAdded{
			GroupId: id.String(), UserIds: users, GroupIds: groups,
		}}})
	}
	return events
}

// chunks cuts ids of users and groups into runs of at most idsPerEvent ids.
func chunks(users, groups []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(users, groups []byte) bool) {
		for len(users)+len(groups) > 0 {
			u := users[:min(len(users), idsPerEvent*16)]
			g := groups[:min(len(groups), idsPerEvent*16-len(u))]
			users, groups = users[len(u):], groups[len(g):]
			if !yield(u, g) {
				return
			}
		}
	}
}

func (s *State) applyMembersAdded(rec Record, b *eventv1.GroupMembersAdded) error {
	return s.applyMembers(rec, b.GetGroupId(), b.GetUserIds(), b.GetGroupIds(), true)
}

func (s *State) applyMembersRemoved(rec Record, b *eventv1.GroupMembersRemoved) error {
	return s.applyMembers(rec, b.GetGroupId(), b.GetUserIds(), b.GetGroupIds(), false)
}

func (s *State) applyMembers(rec Record, groupID string, userIDs, groupIDs []byte, in bool) error {
	old, err := s.mustGroup(groupID)
	if err != nil {
		return err
	}
	g := *old
	var come []uint32
	for id, err := range ids(userIDs) {
		if err != nil {
			return err
		}
		u, err := s.mustUserID(id)
		if err != nil {
			return err
		}
		s.held.drop(u.No, g.No)
		if in {
			come = append(come, u.No)
		} else if s.members.drop(g.No, u.No) {
			s.memberOf.drop(u.No, g.No)
			g.MemberCount--
		}
	}
	for _, no := range s.members.addAll(g.No, come, g.MemberCount) {
		s.memberOf.add(no, g.No)
		g.MemberCount++
	}
	for id, err := range ids(groupIDs) {
		if err != nil {
			return err
		}
		child, err := s.mustGroupID(id)
		if err != nil {
			return err
		}
		if in {
			s.children.add(g.No, child.No)
			s.parents.add(child.No, g.No)
		} else {
			s.children.drop(g.No, child.No)
			s.parents.drop(child.No, g.No)
		}
	}
	g.UpdatedAt, g.Version = momentOf(rec.Event.GetAt().AsTime()), rec.Seq
	s.groups.Set(g.No, &g)
	return nil
}

// ids yields the UUIDs that lie one after the other in a membership event.
func ids(packed []byte) iter.Seq2[uuid.UUID, error] {
	return func(yield func(uuid.UUID, error) bool) {
		for len(packed) > 0 {
			if len(packed) < 16 {
				yield(uuid.Nil, errPackedIDs)
				return
			}
			if !yield(uuid.UUID(packed[:16]), nil) {
				return
			}
			packed = packed[16:]
		}
	}
}

// IsMember tells whether a user is directly a member of a group, held or not.
func (s *State) IsMember(g *Group, u *User) bool { return s.members.has(g.No, u.No) }

// Members yields the users who are directly members of a group, held memberships included, in the
// order of their creation, from the first with a number above after.
func (s *State) Members(g *Group, after uint32) iter.Seq[*User] {
	return func(yield func(*User) bool) {
		for no := range s.members.after(g.No, after) {
			if u, _ := s.users.Get(no); !yield(u) {
				return
			}
		}
	}
}

// MemberGroups yields the groups that are directly members of a group.
func (s *State) MemberGroups(g *Group) iter.Seq[*Group] { return s.groupsOf(s.children.of(g.No)) }

// ParentGroups yields the groups of which a group is directly a member.
func (s *State) ParentGroups(g *Group) iter.Seq[*Group] { return s.groupsOf(s.parents.of(g.No)) }

// GroupsOf yields the groups of which a user is directly a member, as the directory knows it: held memberships included.
func (s *State) GroupsOf(u *User) iter.Seq[*Group] { return s.groupsOf(s.memberOf.of(u.No)) }

// HeldGroupsOf yields the groups of which a user is a member without effect, since a reactivation.
func (s *State) HeldGroupsOf(u *User) iter.Seq[*Group] { return s.groupsOf(s.held.of(u.No)) }

// Waiting yields the active people of a directory of whose memberships some are held, in the order of their creation.
func (s *State) Waiting(directory string) iter.Seq[*User] {
	return func(yield func(*User) bool) {
		var last uint32
		for no := range s.held.all() {
			if no == last {
				continue
			}
			last = no
			if u, _ := s.users.Get(no); u.Directory == directory && u.Active && !yield(u) {
				return
			}
		}
	}
}

func (s *State) groupsOf(numbers iter.Seq[uint32]) iter.Seq[*Group] {
	return func(yield func(*Group) bool) {
		for no := range numbers {
			if g, _ := s.groups.Get(no); !yield(g) {
				return
			}
		}
	}
}
