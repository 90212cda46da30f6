package core

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

func TestAServiceAccountIsAPrincipalThatOnlyAdminsKeep(t *testing.T) {
	w := newWorld(t)
	w.must(CreateServiceAccount{Name: "nightly", Description: "reads"})
	w.must(CreateServiceGroup{Name: "readers"})
	bot := w.state.UserByName(ServiceDirectory, "nightly")
	var readers *Group
	for g := range w.state.GroupsByName(ServiceDirectory, "readers") {
		readers = g
	}
	w.must(UpdateGroup{Directory: ServiceDirectory, ID: readers.ID, Members: []MemberChange{{Op: AddMembers, Users: []uuid.UUID{bot.ID}}}})
	wire := w.state.wireUser(w.state.User(bot.ID))
	if !wire.GetService() || !wire.GetActive() || len(wire.GetGroups()) != 1 || wire.GetSubject() != "" {
		t.Errorf("proxies are told %v", wire)
	}
	if w.state.wireUser(w.user("ann")).GetService() {
		t.Error("a person is told as a service account")
	}
	w.refused(CreateServiceAccount{Name: "nightly"}, AlreadyExists)
	w.refused(CreateServiceAccount{Name: "Night ly"}, InvalidArgument)
	w.refused(CreateServiceGroup{Name: "READERS"}, AlreadyExists)
	// No identity provider may say who the service accounts are.
	w.refused(NewSetDirectory(&policyv1.Directory{Id: ServiceDirectory, Issuers: []*policyv1.Issuer{{Url: "https://evil.example"}}}), FailedPrecondition)
	w.refused(IssueToken{ID: uuid.New(), Kind: eventv1.TokenKind_TOKEN_KIND_SCIM, SHA256: digest[:], Directory: ServiceDirectory}, FailedPrecondition)
	w.refused(NameAdminDirectory{Directory: ServiceDirectory}, FailedPrecondition)
	okta := w.group("Engineers")
	w.refused(UpdateGroup{Directory: "okta", ID: okta.ID, Members: []MemberChange{{Op: AddMembers, Users: []uuid.UUID{bot.ID}}}}, InvalidArgument)

	// Disabled, it loses all; enabled again, it is in its groups: nobody else would assert them.
	for _, active := range []bool{false, true} {
		w.must(UpdateUser{Directory: ServiceDirectory, ID: bot.ID, Profile: bot.Profile, Active: active})
	}
	after := w.state.User(bot.ID)
	want(t, "its generation", after.Generation, bot.Generation+1)
	want(t, "its groups", w.counting(after), []uint32{readers.No})
}

func TestAKeyThatIsRemovedTakesAlongWhatWasIssued(t *testing.T) {
	w := newWorld(t)
	w.must(CreateServiceAccount{Name: "nightly"})
	bot := w.state.UserByName(ServiceDirectory, "nightly")
	key := func(n int) AddServiceKey {
		return AddServiceKey{Account: bot.ID, ID: fmt.Sprintf("key-%d", n), JWK: []byte(`{"kty":"OKP"}`), ExpiresAt: w.now.Add(time.Hour)}
	}
	for n := range maxServiceKeys {
		w.must(key(n))
	}
	w.refused(key(0), AlreadyExists)
	w.refused(key(maxServiceKeys), FailedPrecondition)
	w.refused(AddServiceKey{Account: w.user("ann").ID, ID: "k", JWK: []byte("{}")}, NotFound)
	w.refused(RemoveServiceKey{Account: bot.ID, ID: "none"}, NotFound)
	w.must(RemoveServiceKey{Account: bot.ID, ID: "key-0"})
	want(t, "its keys", len(w.state.ServiceKeys(bot.ID)), maxServiceKeys-1)
	want(t, "its generation", w.state.User(bot.ID).Generation, bot.Generation+1)
	w.must(DeleteUser{Directory: ServiceDirectory, ID: bot.ID})
	want(t, "keys of what is gone", len(w.state.ServiceKeys(bot.ID)), 0)
}
