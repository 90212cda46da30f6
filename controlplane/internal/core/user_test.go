package core

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestUserNameIsUniqueWithoutLetterCase(t *testing.T) {
	w := newWorld(t)
	w.user("Åsa@example.com")
	w.refused(CreateUser{Directory: "okta", Profile: Profile{UserName: "åSA@EXAMPLE.com"}}, AlreadyExists)
	// The same letter, composed otherwise.
	w.refused(CreateUser{Directory: "okta", Profile: Profile{UserName: "A\u030asa@example.com"}}, AlreadyExists)
	if w.state.UserByName("okta", "ÅSA@example.com") == nil {
		t.Fatal("a user is found by a name of another letter case")
	}
}

func TestExternalIDIsUniqueInItsDirectory(t *testing.T) {
	w := newWorld(t)
	w.user("ann")
	w.refused(CreateUser{Directory: "okta", Profile: Profile{UserName: "bob", ExternalID: "00u-ann"}}, AlreadyExists)
}

func TestDeactivationRaisesTheGenerationAndVoidsOlderTokens(t *testing.T) {
	w := newWorld(t)
	u := w.user("ann")
	events := w.must(UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile, Active: false})
	want(t, "events", kinds(events), []string{"UserDeactivated"})
	u = w.state.User(u.ID)
	want(t, "generation", u.Generation, 2)
	want(t, "valid after", u.ValidAfter.Time(), w.now)
	want(t, "active", u.Active, false)
}

func TestUpdateThatChangesNothingIsNoEvent(t *testing.T) {
	w := newWorld(t)
	u := w.user("ann")
	if events := w.must(UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile, Active: true}); len(events) != 0 {
		t.Fatalf("got %v", kinds(events))
	}
}

func TestChangedExternalIDStartsANewPerson(t *testing.T) {
	w := newWorld(t)
	u := w.user("ann")
	g := w.group("Engineers", u)
	profile := u.Profile
	profile.ExternalID = "00u-somebody-else"
	events := w.must(UpdateUser{Directory: "okta", ID: u.ID, Profile: profile, Active: true})
	want(t, "events", kinds(events), []string{"UserDeleted", "UserCreated", "UserUpdated"})
	successor := w.state.UserByName("okta", "ann")
	if successor.ID == u.ID {
		t.Fatal("the new person has the old one's id")
	}
	if len(w.memberNames(g)) != 0 || len(w.counting(successor)) != 0 {
		t.Fatal("a membership carried over to the new person")
	}
	want(t, "count of members", w.state.Group(g.ID).MemberCount, 0)
}

func TestStaleVersionIsAConflict(t *testing.T) {
	w := newWorld(t)
	u := w.user("ann")
	first := u.Version
	profile := u.Profile
	profile.DisplayName = "Ann"
	w.must(UpdateUser{Directory: "okta", ID: u.ID, IfVersion: first, Profile: profile, Active: true})
	w.refused(UpdateUser{Directory: "okta", ID: u.ID, IfVersion: first, Profile: profile, Active: true}, Conflict)
}

func TestOneDirectoryCannotTouchAnothers(t *testing.T) {
	w := newWorld(t)
	w.must(NewSetDirectory(directory("entra")))
	u := w.user("ann")
	w.refused(UpdateUser{Directory: "entra", ID: u.ID, Profile: u.Profile}, NotFound)
	w.refused(DeleteUser{Directory: "entra", ID: u.ID}, NotFound)
	w.refused(CreateGroup{Directory: "entra", DisplayName: "Thieves", Users: []uuid.UUID{u.ID}}, InvalidArgument)
	g := w.group("Engineers")
	w.refused(UpdateGroup{Directory: "entra", ID: g.ID}, NotFound)
	w.refused(DeleteGroup{Directory: "entra", ID: g.ID}, NotFound)
}

func TestReactivatedPersonsMembershipsAreHeldUntilAssertedAgain(t *testing.T) {
	w := newWorld(t)
	u := w.user("ann")
	engineers, sales := w.group("Engineers", u), w.group("Sales", u)
	w.must(UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile, Active: false})
	w.must(UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile, Active: true})
	if got := w.counting(u); len(got) != 0 {
		t.Fatalf("memberships count at once after a reactivation: %v", got)
	}
	want(t, "members as the directory sees them", w.memberNames(engineers), []string{"ann"})

	events := w.must(UpdateGroup{Directory: "okta", ID: sales.ID, Members: []MemberChange{{Op: AddMembers, Users: []uuid.UUID{u.ID}}}})
	want(t, "events", kinds(events), []string{"GroupMembersAdded"})
	want(t, "groups that count", w.counting(u), []uint32{sales.No})

	w.must(ConfirmMemberships{ID: u.ID})
	want(t, "groups that count", w.counting(u), []uint32{engineers.No, sales.No})
	if events := w.must(ConfirmMemberships{ID: u.ID}); len(events) != 0 {
		t.Fatal("nothing was held, yet there was an event")
	}
}

func TestDirectoryMayKeepMemberships(t *testing.T) {
	w := newWorld(t)
	d := directory("okta")
	d.KeepMemberships = true
	w.must(NewSetDirectory(d))
	u := w.user("ann")
	g := w.group("Engineers", u)
	w.must(UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile, Active: false})
	w.must(UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile, Active: true})
	want(t, "groups that count", w.counting(u), []uint32{g.No})
}

// TestPeopleAreFoundByEachOfTheirAddresses, and only by those that they have now, also after a start from a checkpoint.
func TestPeopleAreFoundByEachOfTheirAddresses(t *testing.T) {
	w := newWorld(t)
	profile := func(name string, addresses ...string) Profile {
		p := Profile{UserName: name, Attributes: []byte(`{"displayName":"]}","emails":[`)}
		for i, a := range addresses {
			if i > 0 {
				p.Attributes = append(p.Attributes, ',')
			} else {
				p.Email = a
			}
			p.Attributes = append(p.Attributes, `{"type":"work","value":"`+a+`"}`...)
		}
		p.Attributes = append(p.Attributes, `],"phoneNumbers":[{"value":"1"}]}`...)
		return p
	}
	w.must(CreateUser{Directory: "okta", Profile: profile("ann@x", "Ann@X", "ann@home")})
	w.must(CreateUser{Directory: "okta", Profile: profile("bob@x", "shared@x", "ann@x")})
	w.must(CreateUser{Directory: "okta", Profile: profile("eve@x", "shared@x")})
	w.must(CreateUser{Directory: "okta", Profile: Profile{UserName: "none"}})
	check := func(want map[string]string) {
		t.Helper()
		var b bytes.Buffer
		if err := w.state.Encode(&b); err != nil {
			t.Fatal(err)
		}
		again, err := DecodeState(&b)
		if err != nil {
			t.Fatal(err)
		}
		for address, names := range want {
			for _, s := range []*State{w.state, again} {
				var got []string
				for _, u := range s.UsersByEmail("okta", address) {
					got = append(got, u.UserName)
				}
				if strings.Join(got, " ") != names {
					t.Errorf("%s finds %v, want %s", address, got, names)
				}
			}
		}
	}
	check(map[string]string{"ANN@x": "ann@x bob@x", "ann@HOME": "ann@x", "shared@x": "bob@x eve@x", "bob@x": "bob@x", "nobody@x": "", "1": ""})
	bob := w.state.UserByName("okta", "bob@x")
	w.must(UpdateUser{Directory: "okta", ID: bob.ID, Profile: profile("rob@x", "rob@x", "bob@x"), Active: true})
	check(map[string]string{"ann@x": "ann@x", "shared@x": "eve@x", "bob@x": "rob@x", "rob@x": "rob@x"})
	w.must(DeleteUser{Directory: "okta", ID: bob.ID})
	w.must(UpdateUser{Directory: "okta", ID: w.state.UserByName("okta", "ann@x").ID, Profile: profile("ann@x", "new@x"), Active: true})
	check(map[string]string{"ann@home": "", "new@x": "ann@x", "bob@x": "", "rob@x": ""})
	if n := w.state.populations["okta"].emails.Len(); n != 2 {
		t.Errorf("the index has %d entries, want 2", n)
	}
}
