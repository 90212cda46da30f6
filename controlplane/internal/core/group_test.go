package core

import (
	"slices"
	"testing"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func directory(id string) *policyv1.Directory { return &policyv1.Directory{Id: id} }

func TestMemberChangesAreMadeInTheirOrderAndComeToTheirNet(t *testing.T) {
	w := newWorld(t)
	ann, bob, eve := w.user("ann"), w.user("bob"), w.user("eve")
	g := w.group("Engineers", ann, bob)
	events := w.must(UpdateGroup{Directory: "okta", ID: g.ID, Members: []MemberChange{
		{Op: RemoveMembers, Users: []uuid.UUID{ann.ID}},
		{Op: AddMembers, Users: []uuid.UUID{ann.ID, eve.ID}},
		{Op: RemoveMembers, Users: []uuid.UUID{bob.ID}},
	}})
	want(t, "events", kinds(events), []string{"GroupMembersRemoved", "GroupMembersAdded"})
	want(t, "members", w.memberNames(g), []string{"ann", "eve"})
	want(t, "count", w.state.Group(g.ID).MemberCount, 2)
}

func TestReplaceMakesTheMembersExactlyThese(t *testing.T) {
	w := newWorld(t)
	ann, bob, eve := w.user("ann"), w.user("bob"), w.user("eve")
	g := w.group("Engineers", ann, bob)
	w.must(UpdateGroup{Directory: "okta", ID: g.ID, Members: []MemberChange{
		{Op: AddMembers, Users: []uuid.UUID{eve.ID}},
		{Op: ReplaceMembers, Users: []uuid.UUID{bob.ID}},
	}})
	want(t, "members", w.memberNames(g), []string{"bob"})
}

func TestAddingAMemberAgainAndRemovingNobodyAreNoEvents(t *testing.T) {
	w := newWorld(t)
	ann, bob := w.user("ann"), w.user("bob")
	g := w.group("Engineers", ann)
	before := w.state.Group(g.ID).UpdatedAt
	events := w.must(UpdateGroup{Directory: "okta", ID: g.ID, Members: []MemberChange{
		{Op: AddMembers, Users: []uuid.UUID{ann.ID}}, {Op: RemoveMembers, Users: []uuid.UUID{bob.ID, uuid.New()}},
	}})
	if len(events) != 0 || w.state.Group(g.ID).UpdatedAt != before {
		t.Fatalf("got %v", kinds(events))
	}
}

func TestUnknownMemberRefusesTheWholeChange(t *testing.T) {
	w := newWorld(t)
	ann := w.user("ann")
	g := w.group("Engineers")
	w.refused(UpdateGroup{Directory: "okta", ID: g.ID, Members: []MemberChange{{Op: AddMembers, Users: []uuid.UUID{ann.ID, uuid.New()}}}}, InvalidArgument)
	if len(w.memberNames(g)) != 0 {
		t.Fatal("a part of the change was made")
	}
}

func TestFullPushOfALargeGroupFitsOneBatch(t *testing.T) {
	w := newWorld(t)
	const members = 2*idsPerEvent + 10
	next := w.state.Fork()
	users := make([]uuid.UUID, members)
	env := w.env()
	for i := range users {
		users[i] = env.NewID()
		for _, ev := range env.events(userCreated(users[i], "okta", Profile{UserName: users[i].String()}, true)...) {
			if err := next.Apply(Record{Seq: next.Seq() + 1, Event: ev}); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.state = next
	events := w.must(CreateGroup{Directory: "okta", DisplayName: "Everyone", Users: users})
	want(t, "events", kinds(events), []string{"GroupCreated", "GroupMembersAdded", "GroupMembersAdded", "GroupMembersAdded"})
	g := w.state.Group(uuid.MustParse(events[0].GetGroupCreated().GetGroupId()))
	want(t, "members", g.MemberCount, members)
}

func TestDeletedGroupLeavesADanglingGrantThatASecondOfItsNameDoesNotInherit(t *testing.T) {
	w := newWorld(t)
	ann := w.user("ann")
	g := w.group("Engineers", ann)
	w.must(NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example"}},
		[]GrantSpec{NewGrantSpec(g.ID, "github", []*policyv1.Rule{{Allow: []string{"*"}}})}))
	w.must(DeleteGroup{Directory: "okta", ID: g.ID})
	if w.state.Grant(Grantee{Group: g.ID}, "github") == nil {
		t.Fatal("the grant is gone, so that nobody is told")
	}
	second := w.group("Engineers", ann)
	for e := range w.state.Entries("") {
		if e.GetGrant() != nil {
			t.Fatalf("a proxy is told of %v, which is bound to a deleted group", e)
		}
	}
	want(t, "groups of the member", w.counting(ann), []uint32{second.No})
}

func TestRenameKeepsTheGrantsBinding(t *testing.T) {
	w := newWorld(t)
	g := w.group("Engineers")
	w.must(NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example"}},
		[]GrantSpec{NewGrantSpec(g.ID, "github", []*policyv1.Rule{{Allow: []string{"*"}}})}))
	name := "Builders"
	w.must(UpdateGroup{Directory: "okta", ID: g.ID, DisplayName: &name})
	want(t, "shown as", w.state.GranteeName(Grantee{Group: g.ID}), "okta/Builders")
	if found := slices.Collect(w.state.GroupsByName("okta", "engineers")); len(found) != 0 {
		t.Fatalf("the old name still finds %v", found)
	}
}

func TestNestedGroupsSurviveACycle(t *testing.T) {
	w := newWorld(t)
	ann := w.user("ann")
	inner, outer := w.group("Inner", ann), w.group("Outer")
	nest := func(parent, child *Group) {
		w.must(UpdateGroup{Directory: "okta", ID: parent.ID, Members: []MemberChange{{Op: AddMembers, Groups: []uuid.UUID{child.ID}}}})
	}
	nest(outer, inner)
	nest(inner, outer)
	seen := map[uint32]bool{}
	for e := range w.state.EntriesFor(w.state.User(ann.ID), "") {
		if g := e.GetGroup(); g != nil {
			seen[g.GetNumber()] = true
		}
	}
	if !seen[inner.No] || !seen[outer.No] {
		t.Fatalf("got groups %v", seen)
	}
}
