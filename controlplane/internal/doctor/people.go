package doctor

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// byName tells whether the directory matches people by userName.
func (x *diagnosis) byName() bool {
	return x.d.GetMatchAttribute() == policyv1.MatchAttribute_MATCH_ATTRIBUTE_USER_NAME
}

func (x *diagnosis) claim() string {
	if claim := x.d.GetSignIn().GetUserClaim(); claim != "" {
		return claim
	}
	return "sub"
}

// oktaID is an id of a person at Okta.
var oktaID = regexp.MustCompile(`^00u[A-Za-z0-9]{10,40}$`)

// pair looks whether the claim of the ID token and the provisioned attribute hold the same.
func (x *diagnosis) pair(ctx context.Context) error {
	attribute := "externalId"
	if x.byName() {
		attribute = "userName"
	}
	joined := fmt.Sprintf("ID token %s = SCIM %s", x.claim(), attribute)
	if x.d.GetSignIn() == nil {
		return nil
	}
	found := len(x.found)
	x.habits()
	if err := x.look(ctx); err != nil {
		return err
	}
	// Somebody who is refused, and whom another attribute knows, says that the pair is not the right one.
	for _, other := range slices.Sorted(maps.Keys(x.misjoined)) {
		next := "let the claim hold the " + attribute + ": sallyport directories sign-in " + x.d.GetId() + " --user-claim CLAIM"
		if other == attribute {
			next = "they were renamed: sallyport users rebind USER, if it is the same person"
		}
		x.add(problem, "pair", fmt.Sprintf("%s does not join: the provider's %s is what SCIM sent as %s", joined, x.claim(), other), next, x.misjoined[other]...)
	}
	missing := 0
	for u := range x.state.Users(x.d.GetId(), 0) {
		if u.Active && x.state.Subject(u) == "" {
			missing++
		}
	}
	if missing > 0 {
		x.add(problem, "pair", fmt.Sprintf("%d active people were provisioned without %s: they match nobody who signs in", missing, attribute), "map "+attribute+" at "+x.app())
	}
	if len(x.found) > found {
		return nil
	}
	ever, err := x.Sightings.everSignedIn(ctx)
	if err != nil {
		return err
	}
	matched := 0
	for u := range x.state.Users(x.d.GetId(), 0) {
		if ever[u.ID.String()] {
			matched++
		}
	}
	if matched == 0 {
		x.add(unknown, "pair", joined+": nobody signed in yet, so that it cannot be told whether the two agree", "sign in as a test")
		return nil
	}
	x.add(good, "pair", fmt.Sprintf("%s joined %d people who signed in", joined, matched), "")
	return nil
}

// habits are what providers do unless they are told otherwise.
func (x *diagnosis) habits() {
	if x.byName() {
		x.add(warning, "pair", "people are matched by userName, which is renamed and given to others", "match by externalId, if the directory can be made anew: the attribute cannot be changed once it has users")
		return
	}
	odd := 0
	for u := range x.state.Users(x.d.GetId(), 0) {
		switch x.provider {
		case adminv1.Provider_PROVIDER_OKTA:
			if !oktaID.MatchString(u.ExternalID) {
				odd++
			}
		case adminv1.Provider_PROVIDER_ENTRA:
			if uuid.Validate(u.ExternalID) != nil {
				odd++
			}
		}
	}
	switch {
	case x.provider == adminv1.Provider_PROVIDER_ENTRA && x.claim() == "sub":
		x.add(problem, "pair", "Entra's sub is another for each application, and is nothing that SCIM knows", "sallyport directories sign-in "+x.d.GetId()+" --user-claim oid, and map objectId to externalId")
	case odd > 0 && x.provider == adminv1.Provider_PROVIDER_ENTRA:
		x.add(problem, "pair", fmt.Sprintf("%d people have an externalId that is no objectId: Entra maps mailNickname to externalId unless it is told otherwise", odd), "map objectId to externalId in the application's attribute mappings, and provision again")
	case odd > 0 && x.provider == adminv1.Provider_PROVIDER_OKTA:
		x.add(warning, "pair", fmt.Sprintf("%d people have an externalId that is not of Okta's form (00u…), which is what an ID token's sub holds", odd), "leave externalId as Okta's id of the user in the SCIM app's attribute mappings")
	}
}

// look tells of those whom the provider signed in and who are not provisioned which are known by another attribute, and how many
// by none. Each is a digest, so that it is compared with everybody.
func (x *diagnosis) look(ctx context.Context) error {
	id := x.d.GetId()
	strangers, err := x.Sightings.strangers(ctx, id)
	if err != nil || len(strangers) == 0 {
		return err
	}
	digests, err := x.Sightings.digests(ctx, id)
	if err != nil {
		return err
	}
	for u := range x.state.Users(id, 0) {
		if subject := x.state.Subject(u); subject != "" {
			delete(strangers, digests.of(subject)) // provisioned meanwhile
		}
	}
	byFolded := map[string][]string{} // exact, by folded
	for exact, one := range strangers {
		byFolded[one.Folded] = append(byFolded[one.Folded], exact)
	}
	known := map[string]bool{}
	x.misjoined = map[string][]string{}
	for u := range x.state.Users(id, 0) {
		for _, other := range []struct{ attribute, value string }{{"userName", u.UserName}, {"externalId", u.ExternalID}, {"an email address", u.Email}} {
			if other.value == "" {
				continue
			}
			for _, exact := range byFolded[digests.of(core.Fold(other.value))] {
				if !known[exact] {
					known[exact] = true
					x.misjoined[other.attribute] = append(x.misjoined[other.attribute], u.UserName)
				}
			}
		}
	}
	x.strangers = len(strangers) - len(known)
	return nil
}

// people looks who has access at the one side alone.
func (x *diagnosis) people(ctx context.Context) error {
	if x.d.GetSignIn() == nil {
		return nil
	}
	if x.strangers > 0 {
		x.add(warning, "people: not provisioned", fmt.Sprintf("%d signed in at the provider within a month and are not provisioned", x.strangers),
			"the provider's log of sign-ins to the application says who: assign them to "+x.app()+", or take the sign-in application from them")
	}
	ever, err := x.Sightings.everSignedIn(ctx)
	if err != nil {
		return err
	}
	var never []string
	for u := range x.state.Users(x.d.GetId(), 0) {
		if u.Active && !ever[u.ID.String()] {
			never = append(never, u.UserName)
		}
	}
	if len(never) > 0 {
		x.add(unknown, "people: never signed in", "these are provisioned and never signed in: whether they could cannot be told from here", map[adminv1.Provider]string{
			adminv1.Provider_PROVIDER_OKTA: "compare with Okta: sallyport doctor okta --okta-url URL --okta-token-file FILE --oidc-app ID --scim-app ID",
		}[x.provider], never...)
	}
	if x.strangers == 0 && len(never) == 0 {
		x.add(good, "people", "everybody who is provisioned signed in, and nobody else tried", "")
	}
	return nil
}
