package reporting

import (
	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
)

// set is what is touched of one sort.
type set[K comparable] map[K]struct{}

func (s *set[K]) add(key K) {
	if *s == nil {
		*s = set[K]{}
	}
	(*s)[key] = struct{}{}
}

// pair is a group and a user.
type pair struct{ group, user uuid.UUID }

// touched is what events may have changed. What is touched and not otherwise than before is written again as it is.
type touched struct {
	directories set[string]
	users       set[uuid.UUID]
	groups      set[uuid.UUID]
	members     set[pair]
	// All of whose memberships are touched.
	membersOf, membersIn set[uuid.UUID]
	// Groups whose children are touched, and those that are below others than before, with all that are below them.
	nesting   set[uuid.UUID]
	ancestors set[uuid.UUID]
	// Connectors with their tools; grants with their rules, by their key.
	connectors set[string]
	grants     set[grantKey]
	blocks     set[string]
}

// grantKey names a grant.
type grantKey struct {
	to        core.Grantee
	connector string
}

// event notes what an event touches, in the state before it.
func (t *touched) event(s *core.State, ev *eventv1.Event) {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_DirectorySet:
		t.directories.add(b.DirectorySet.GetDirectory().GetId())
	case *eventv1.Event_GroupCreated:
		t.group(b.GroupCreated.GetGroupId())
		t.below(s, b.GroupCreated.GetGroupId())
	case *eventv1.Event_GroupUpdated:
		t.group(b.GroupUpdated.GetGroupId())
	case *eventv1.Event_GroupRoleSet:
		t.group(b.GroupRoleSet.GetGroupId())
	case *eventv1.Event_GroupDeleted:
		t.groupDeleted(s, b.GroupDeleted.GetGroupId())
	case *eventv1.Event_GroupMembersAdded:
		t.membership(s, b.GroupMembersAdded)
	case *eventv1.Event_GroupMembersRemoved:
		t.membership(s, b.GroupMembersRemoved)
	case *eventv1.Event_ConnectorSet:
		t.connectors.add(b.ConnectorSet.GetConnector().GetId())
	case *eventv1.Event_ConnectorRetired:
		t.catalogue(s, b.ConnectorRetired.GetConnectorId())
	case *eventv1.Event_CataloguePinned:
		t.catalogue(s, b.CataloguePinned.GetConnectorId())
	case *eventv1.Event_CatalogueOffered:
		t.connectors.add(b.CatalogueOffered.GetConnectorId())
	case *eventv1.Event_GrantApplied:
		t.grant(b.GrantApplied)
	case *eventv1.Event_GrantRemoved:
		t.grant(b.GrantRemoved)
	case *eventv1.Event_RuleSetSet:
		t.referring(s, b.RuleSetSet.GetRuleSet().GetName())
	case *eventv1.Event_RuleSetRemoved:
		t.referring(s, b.RuleSetRemoved.GetName())
	case *eventv1.Event_BlockPlaced:
		t.blocks.add(b.BlockPlaced.GetBlock().GetId())
	case *eventv1.Event_BlockLifted:
		t.blocks.add(b.BlockLifted.GetBlockId())
	default:
		t.person(s, ev)
	}
}

// person notes what an event about a person touches.
func (t *touched) person(s *core.State, ev *eventv1.Event) {
	about, ok := core.Body(ev).(interface{ GetUserId() string })
	if !ok {
		return
	}
	id, err := uuid.Parse(about.GetUserId())
	if err != nil {
		return
	}
	t.users.add(id)
	switch ev.GetBody().(type) {
	case *eventv1.Event_UserReactivated, *eventv1.Event_UserMembershipsConfirmed:
		t.membersOf.add(id)
	case *eventv1.Event_UserDeleted:
		t.membersOf.add(id)
		if u := s.User(id); u != nil { // their groups have a version of theirs
			for g := range s.GroupsOf(u) {
				t.groups.add(g.ID)
			}
		}
		for g := range s.GrantsOf(core.Grantee{Person: id}) {
			t.grants.add(grantKey{g.To, g.Connector})
		}
	}
}

func (t *touched) group(id string) {
	if parsed, err := uuid.Parse(id); err == nil {
		t.groups.add(parsed)
	}
}

// below notes that a group, and all that are below it, are below others than before.
func (t *touched) below(s *core.State, id string) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return
	}
	if _, known := t.ancestors[parsed]; known {
		return
	}
	t.ancestors.add(parsed)
	if g := s.Group(parsed); g != nil {
		for child := range s.MemberGroups(g) {
			t.below(s, child.ID.String())
		}
	}
}

func (t *touched) groupDeleted(s *core.State, id string) {
	t.group(id)
	parsed, err := uuid.Parse(id)
	g := s.Group(parsed)
	if err != nil || g == nil {
		return
	}
	t.membersIn.add(parsed)
	t.nesting.add(parsed)
	for parent := range s.ParentGroups(g) {
		t.nesting.add(parent.ID)
		t.groups.add(parent.ID)
	}
	t.below(s, id)
	for granted := range s.GrantsOf(core.Grantee{Group: parsed}) { // it dangles now
		t.grants.add(grantKey{granted.To, granted.Connector})
	}
}

func (t *touched) membership(s *core.State, m interface {
	GetGroupId() string
	GetUserIds() []byte
	GetGroupIds() []byte
}) {
	group, err := uuid.Parse(m.GetGroupId())
	if err != nil {
		return
	}
	t.groups.add(group)
	for user := range packed(m.GetUserIds()) {
		t.members.add(pair{group, user})
	}
	for child := range packed(m.GetGroupIds()) {
		t.nesting.add(group)
		t.below(s, child.String())
	}
}

// packed yields ids that lie one after the other.
func packed(ids []byte) func(func(uuid.UUID) bool) {
	return func(yield func(uuid.UUID) bool) {
		for ; len(ids) >= 16; ids = ids[16:] {
			if !yield(uuid.UUID(ids[:16])) {
				return
			}
		}
	}
}

// catalogue notes that a connector's tools are others, and with them what rules are about.
func (t *touched) catalogue(s *core.State, id string) {
	t.connectors.add(id)
	for g := range s.GrantsOn(id) {
		t.grants.add(grantKey{g.To, g.Connector})
	}
}

func (t *touched) grant(to interface {
	GetGroupId() string
	GetPersonId() string
	GetEveryone() string
	GetConnectorId() string
}) {
	key := grantKey{core.Grantee{Everyone: to.GetEveryone()}, to.GetConnectorId()}
	if id, err := uuid.Parse(to.GetGroupId()); err == nil {
		key.to.Group = id
	}
	if id, err := uuid.Parse(to.GetPersonId()); err == nil {
		key.to.Person = id
	}
	t.grants.add(key)
}

func (t *touched) referring(s *core.State, name string) {
	for g := range s.GrantsReferring(name) {
		t.grants.add(grantKey{g.To, g.Connector})
	}
}
