package core

import (
	"crypto/sha256"
	"testing"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

var digest = sha256.Sum256([]byte("secret"))

// as makes the world's commands come from an admin of a role.
func (w *world) as(role policyv1.Role) {
	w.actor = &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_ADMIN, Id: "token", Role: role}
}

func (w *world) system() { w.actor = &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM} }

func (w *world) adminToken(role policyv1.Role) IssueToken {
	return IssueToken{ID: w.env().NewID(), Kind: eventv1.TokenKind_TOKEN_KIND_ADMIN, SHA256: digest[:], Role: role, ExpiresAt: w.now.Add(time.Hour)}
}

func TestNobodyHandsOutMoreThanTheyHave(t *testing.T) {
	w := newWorld(t)
	g := w.group("Owners")
	w.must(NameAdminDirectory{Directory: "okta"})
	tokens := map[policyv1.Role]uuid.UUID{}
	for role := policyv1.Role_ROLE_VIEWER; role <= policyv1.Role_ROLE_OWNER; role++ {
		issue := w.adminToken(role)
		w.must(issue)
		tokens[role] = issue.ID
	}
	for mine := policyv1.Role_ROLE_UNSPECIFIED; mine <= policyv1.Role_ROLE_OWNER; mine++ {
		w.as(mine)
		for role := policyv1.Role_ROLE_VIEWER; role <= policyv1.Role_ROLE_OWNER; role++ {
			rotate := RotateToken{Old: tokens[role], ID: w.env().NewID(), SHA256: digest[:], OldExpiresAt: w.now.Add(time.Hour), ExpiresAt: w.now.Add(time.Hour)}
			if role <= mine {
				w.must(w.adminToken(role))
				w.must(rotate)
				continue
			}
			w.refused(w.adminToken(role), Forbidden)
			w.refused(rotate, Forbidden)
			w.refused(RevokeToken{ID: tokens[role]}, Forbidden)
		}
		if mine == policyv1.Role_ROLE_OWNER {
			continue
		}
		w.refused(NameAdminDirectory{}, Forbidden)
		w.refused(SetGroupRole{Group: g.ID, Role: policyv1.Role_ROLE_VIEWER}, Forbidden)
		w.refused(IssueBreakGlass{ID: w.env().NewID(), SHA256: digest[:]}, Forbidden)
		// Each of these could make somebody an owner by a detour.
		w.refused(IssueToken{ID: w.env().NewID(), Kind: eventv1.TokenKind_TOKEN_KIND_SCIM, SHA256: digest[:], Directory: "okta"}, Forbidden)
		w.refused(NewSetSignIn("okta", &policyv1.SignIn{Issuer: "https://evil.example", ClientId: "x"}), Forbidden)
		w.refused(NewSetDirectory(&policyv1.Directory{Id: "okta", Issuers: []*policyv1.Issuer{{Url: "https://evil.example"}}}), Forbidden)
	}
	w.as(policyv1.Role_ROLE_ADMIN)
	w.must(NewSetDirectory(directory("contractors")))
	w.must(IssueToken{ID: w.env().NewID(), Kind: eventv1.TokenKind_TOKEN_KIND_SCIM, SHA256: digest[:], Directory: "contractors"})
	w.actor = nil
	w.refused(w.adminToken(policyv1.Role_ROLE_VIEWER), Forbidden)
}

func TestHeldMembershipsMakeNobodyAnAdminUntilAnOwnerConfirms(t *testing.T) {
	w := newWorld(t)
	ann := w.user("ann")
	g := w.group("Owners", ann)
	w.must(NameAdminDirectory{Directory: "okta"})
	w.must(SetGroupRole{Group: g.ID, Role: policyv1.Role_ROLE_OWNER})
	for _, active := range []bool{false, true} {
		w.must(UpdateUser{Directory: "okta", ID: ann.ID, Profile: ann.Profile, Active: active})
		want(t, "her role", w.state.RoleOf(w.state.User(ann.ID)), policyv1.Role_ROLE_UNSPECIFIED)
	}
	w.as(policyv1.Role_ROLE_ADMIN)
	w.refused(ConfirmMemberships{ID: ann.ID}, Forbidden)
	w.as(policyv1.Role_ROLE_OWNER)
	w.must(ConfirmMemberships{ID: ann.ID})
	want(t, "her role", w.state.RoleOf(w.state.User(ann.ID)), policyv1.Role_ROLE_OWNER)
}

func TestRolesComeFromGroupsOfTheOneDirectory(t *testing.T) {
	w := newWorld(t)
	w.must(NewSetDirectory(directory("corp")))
	ann, bob := w.user("ann"), w.user("bob")
	outer, inner := w.group("Outer"), w.group("Inner", ann)
	w.must(UpdateGroup{Directory: "okta", ID: outer.ID, Members: []MemberChange{{Op: AddMembers, Groups: []uuid.UUID{inner.ID}}}})
	role := func(u *User) policyv1.Role { return w.state.RoleOf(w.state.User(u.ID)) }

	w.refused(SetGroupRole{Group: outer.ID, Role: policyv1.Role_ROLE_ADMIN}, FailedPrecondition)
	w.refused(NameAdminDirectory{Directory: "nowhere"}, NotFound)
	w.must(NameAdminDirectory{Directory: "okta"})
	w.must(SetGroupRole{Group: outer.ID, Role: policyv1.Role_ROLE_ADMIN})
	w.must(SetGroupRole{Group: inner.ID, Role: policyv1.Role_ROLE_VIEWER})
	want(t, "by nesting", role(ann), policyv1.Role_ROLE_ADMIN)
	want(t, "in no group", role(bob), policyv1.Role_ROLE_UNSPECIFIED)
	if w.state.HasOwner(w.now) {
		t.Error("an admin counts as an owner")
	}
	w.must(SetGroupRole{Group: outer.ID, Role: policyv1.Role_ROLE_OWNER})
	if !w.state.HasOwner(w.now) {
		t.Error("a person of a group that owns does not count")
	}
	w.must(DeleteGroup{Directory: "okta", ID: outer.ID})
	want(t, "after the outer group is gone", role(ann), policyv1.Role_ROLE_VIEWER)
	second := w.group("Outer", bob)
	want(t, "of a second group of that name", role(bob), policyv1.Role_ROLE_UNSPECIFIED)
	w.must(SetGroupRole{Group: second.ID, Role: policyv1.Role_ROLE_OWNER})
	w.must(NameAdminDirectory{Directory: "corp"})
	w.must(NameAdminDirectory{Directory: "okta"})
	want(t, "after another directory was named", role(bob), policyv1.Role_ROLE_UNSPECIFIED)
}

func TestTheBootstrapTokenIsExchangedOnceAndDiesWithTheFirstOwner(t *testing.T) {
	w := newWorld(t)
	bootstrap := func() IssueBootstrap {
		return IssueBootstrap{ID: w.env().NewID(), SHA256: digest[:], ExpiresAt: w.now.Add(time.Hour)}
	}
	exchange := func(b IssueBootstrap) BecomeFirstOwner {
		return BecomeFirstOwner{Bootstrap: b.ID, ID: w.env().NewID(), SHA256: digest[:], Name: "ann", ExpiresAt: w.now.Add(24 * time.Hour)}
	}
	late := bootstrap()
	w.must(late)
	w.now = w.now.Add(time.Hour)
	w.refused(exchange(late), FailedPrecondition)

	one, two := bootstrap(), bootstrap() // of two control planes
	w.must(one)
	w.must(two)
	w.actor = &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_ADMIN, Id: one.ID.String()}
	w.must(exchange(one))
	w.refused(exchange(one), FailedPrecondition)
	w.refused(exchange(two), FailedPrecondition)
	w.system()
	w.refused(bootstrap(), FailedPrecondition)
	anyway := bootstrap()
	anyway.Recover = true
	w.must(anyway)
	w.must(w.adminToken(policyv1.Role_ROLE_OWNER))
	w.refused(exchange(anyway), FailedPrecondition)
	w.now = w.now.Add(30 * 24 * time.Hour) // every owner's token is over
	w.must(bootstrap())
	w.as(policyv1.Role_ROLE_ADMIN)
	w.refused(bootstrap(), Forbidden)
}

func TestBreakGlassOpensAnOwnersTokenThatEndsSoonAndIsRemembered(t *testing.T) {
	w := newWorld(t)
	first := IssueBreakGlass{ID: w.env().NewID(), SHA256: digest[:], Name: "safe"}
	w.must(first)
	open := func(id uuid.UUID) OpenBreakGlass {
		return OpenBreakGlass{Credential: id, ID: w.env().NewID(), SHA256: digest[:], Reason: "Okta is down", ExpiresAt: w.now.Add(MaxBreakGlass)}
	}
	w.actor = &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_ADMIN, Id: first.ID.String()}
	long := open(first.ID)
	long.ExpiresAt = w.now.Add(2 * MaxBreakGlass)
	w.refused(long, InvalidArgument)
	for range keptUses + 5 {
		w.must(open(first.ID))
	}
	want(t, "uses that are kept", len(w.state.BreakGlassUses()), keptUses)
	w.system()
	w.must(IssueBreakGlass{ID: w.env().NewID(), SHA256: digest[:], Name: "another safe"})
	w.refused(open(first.ID), FailedPrecondition)
	issue := w.adminToken(policyv1.Role_ROLE_OWNER)
	w.must(issue)
	w.refused(open(issue.ID), FailedPrecondition)
}
