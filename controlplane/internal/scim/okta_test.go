package scim_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// TestOktaProvisionsAPerson walks through what Okta sends for a person, in its order.
func TestOktaProvisionsAPerson(t *testing.T) {
	s := newSite(t)

	// The connection test.
	s.do("GET", "/Users?startIndex=1&count=2", nil).status(200).is("schemas[0]", listURN).is("totalResults", 0).size("Resources", 0)
	s.do("GET", "/Groups?startIndex=1&count=100", nil).status(200).is("totalResults", 0).size("Resources", 0)

	// The look-up before the creation.
	lookUp := filter(`userName eq "ada@example.com"`) + "&startIndex=1&count=100"
	s.do("GET", "/Users"+lookUp, nil).status(200).is("totalResults", 0).is("startIndex", 1).is("itemsPerPage", 0).size("Resources", 0)

	const password = "Placeholder-3fb7c1"
	body := oktaUser("ada@example.com")
	body["password"] = password
	created := s.do("POST", "/Users", body).status(201)
	id := created.id()
	if got, want := created.Header.Get("Location"), s.server.URL+"/scim/v2/Users/"+id; got != want || created.get("meta.location") != want {
		t.Errorf("Location %q, meta.location %q, want %q", got, created.get("meta.location"), want)
	}
	created.is("userName", "ada@example.com").is("active", true).is("externalId", "00uada@example.com").is("name.familyName", "Lovelace").
		is("emails[0].value", "ada@example.com").is("emails[0].primary", true).is("locale", "en-US").is("meta.resourceType", "User").size("groups", 0)
	s.noPassword(id, password, created)

	s.do("GET", "/Users"+filter(`userName eq "ADA@Example.com"`), nil).status(200).is("totalResults", 1).is("Resources[0].id", id)
	s.do("POST", "/Users", oktaUser("ada@example.com")).refused(409, "uniqueness")
	again := oktaUser("ADA@example.com")
	again["externalId"] = "00uanother"
	s.do("POST", "/Users", again).refused(409, "uniqueness")

	// A profile update: read, change, put the whole back.
	read := s.do("GET", "/Users/"+id, nil).status(200)
	whole := read.body.(object)
	whole["title"], whole["password"] = "Countess", password
	whole["name"].(object)["familyName"] = "King"
	updated := s.do("PUT", "/Users/"+id, whole).status(200).is("id", id).is("title", "Countess").is("name.familyName", "King").is("name.givenName", "Ada")
	if updated.get("meta.created") != read.get("meta.created") || updated.get("meta.version") == read.get("meta.version") {
		t.Errorf("after a change meta is %v, before it %v", updated.get("meta"), read.get("meta"))
	}
	s.noPassword(id, password, updated)
	delete(whole, "title")
	s.do("PUT", "/Users/"+id, whole).status(200).is("title", nil)

	// Deactivation and reactivation, as apps of the catalogue send them.
	off := s.do("PATCH", "/Users/"+id, patch(op("replace", "", object{"active": false}))).status(200).is("active", false).is("name.familyName", "King")
	if u := s.Engine.State().User(uuid.MustParse(id)); u.Active || u.Generation == 0 {
		t.Errorf("after deactivation the person is active=%v in generation %d", u.Active, u.Generation)
	}
	s.do("PATCH", "/Users/"+id, patch(op("replace", "", object{"active": false}))).status(200).is("meta.version", off.get("meta.version"))
	s.do("PATCH", "/Users/"+id, patch(op("replace", "", object{"active": true}))).status(200).is("active", true)
	// And as custom apps do.
	whole["active"] = false
	s.do("PUT", "/Users/"+id, whole).status(200).is("active", false)
	s.do("GET", "/Users/"+id, nil).status(200).is("active", false)

	s.do("DELETE", "/Users/"+id, nil).status(204)
	s.do("GET", "/Users/"+id, nil).refused(404, "")
	s.do("DELETE", "/Users/"+id, nil).refused(404, "")
	s.do("PUT", "/Users/"+id, oktaUser("ada@example.com")).refused(404, "") // a PUT does not create
}

// noPassword checks that a password is neither answered, nor kept, nor anywhere on disk.
func (s *site) noPassword(id, password string, a answer) {
	s.t.Helper()
	if strings.Contains(a.raw, password) || a.get("password") != nil {
		s.t.Errorf("the answer holds the password: %s", a.raw)
	}
	if u := s.Engine.State().User(uuid.MustParse(id)); strings.Contains(string(u.Attributes), password) {
		s.t.Errorf("the state holds the password: %s", u.Attributes)
	}
	if files := enginetest.OnDisk(s.t, s.Dir, []byte(password)); len(files) > 0 {
		s.t.Errorf("the password is on disk, in %v", files)
	}
}

// TestOktaPushesAGroup walks through what Okta sends for a group.
func TestOktaPushesAGroup(t *testing.T) {
	s := newSite(t)
	ada, bob, eve := s.createUser("ada"), s.createUser("bob"), s.createUser("eve")
	s.do("GET", "/Groups"+filter(`displayName eq "Engineers"`), nil).status(200).is("totalResults", 0).size("Resources", 0)
	created := s.do("POST", "/Groups", object{"schemas": []string{groupURN}, "displayName": "Engineers", "members": []any{}}).status(201)
	id := created.is("displayName", "Engineers").is("meta.resourceType", "Group").size("members", 0).id()
	if got := created.Header.Get("Location"); got != s.server.URL+"/scim/v2/Groups/"+id {
		t.Errorf("Location %q", got)
	}
	s.do("GET", "/Groups"+filter(`displayName eq "engineers"`)+"&startIndex=1&count=100", nil).status(200).is("totalResults", 1).is("Resources[0].id", id)

	path := "/Groups/" + id
	renamed := op("replace", "", object{"id": id, "displayName": "Engineers"})
	s.do("PATCH", path, patch(op("add", "members", values([]string{ada, bob})), renamed)).status(204)
	s.wantMembers(id, ada, bob)
	s.do("GET", "/Users/"+ada, nil).status(200).size("groups", 1).is("groups[0].value", id).is("groups[0].display", "Engineers")

	before := s.do("GET", path, nil).status(200)
	s.do("PATCH", path, patch(op("add", "members", values([]string{ada})), renamed)).status(204)
	s.do("GET", path, nil).is("meta.version", before.get("meta.version")).is("meta.lastModified", before.get("meta.lastModified"))

	s.do("PATCH", path, patch(op("remove", `members[value eq "`+ada+`"]`, nil), op("add", "members", values([]string{eve})), renamed)).status(204)
	s.wantMembers(id, bob, eve)
	s.do("GET", "/Users/"+ada, nil).status(200).size("groups", 0)

	s.do("PATCH", path, patch(op("replace", "members", values([]string{ada})))).status(204) // a full push
	s.wantMembers(id, ada)

	s.do("PATCH", path, patch(op("replace", "", object{"id": id, "displayName": "Builders"}))).status(204)
	s.do("GET", path, nil).status(200).is("displayName", "Builders").size("members", 1)
	s.do("GET", "/Groups"+filter(`displayName eq "Engineers"`), nil).is("totalResults", 0)
	s.do("PATCH", path, patch(op("replace", "", object{"id": uuid.NewString(), "displayName": "Builders"}))).refused(400, "mutability")

	// Custom apps put the whole.
	s.do("PUT", path, object{"schemas": []string{groupURN}, "id": id, "displayName": "Builders", "members": values([]string{bob, eve})}).status(200).size("members", 2)
	s.do("PUT", path, object{"schemas": []string{groupURN}, "displayName": "Makers"}).status(200).is("displayName", "Makers").size("members", 2)
	s.do("PUT", path, object{"schemas": []string{groupURN}, "displayName": "Makers", "members": []any{}}).status(200).size("members", 0)

	s.do("DELETE", path, nil).status(204)
	s.do("GET", path, nil).refused(404, "")
	s.do("PATCH", path, patch(renamed)).refused(404, "")
}

// TestAGroupIsReadWhole: a group that is cut when it is read loses members at the next replace.
func TestAGroupIsReadWhole(t *testing.T) {
	s := newSite(t)
	var ids []uuid.UUID
	var names []string
	for i := range 150 {
		u := s.User("okta", "u"+string(rune('a'+i/26))+string(rune('a'+i%26)))
		ids, names = append(ids, u.ID), append(names, u.ID.String())
	}
	id := s.createGroup("Everyone", names...)
	s.wantMembers(id, names...)
	s.do("GET", "/Groups", nil).status(200).size("Resources[0].members", len(ids))
	for _, path := range []string{"/Groups/" + id + "?excludedAttributes=members", "/Groups/" + id + "?attributes=displayName"} {
		s.do("GET", path, nil).status(200).is("members", nil).is("displayName", "Everyone").is("id", id)
	}
	s.do("GET", "/Groups?attributes=id,members", nil).status(200).is("Resources[0].displayName", nil).size("Resources[0].members", len(ids))
}

// TestAMemberThatCannotBeRefusesTheWholePatch: what stands before it in the same PATCH is not done either.
func TestAMemberThatCannotBeRefusesTheWholePatch(t *testing.T) {
	s := newSite(t)
	ada := s.createUser("ada")
	id := s.createGroup("Engineers")
	foreign := s.User("other", "mallory").ID.String()
	for name, value := range map[string]any{
		"unknown": values([]string{uuid.NewString()}), "of another directory": values([]string{foreign}), "no id": values([]string{"ada"}),
		"no object with a value": []any{object{"display": "ada"}}, "a number": []any{7},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.as(t, s.token)
			a := s.do("PATCH", "/Groups/"+id, patch(op("add", "members", values([]string{ada})), op("replace", "displayName", "Changed"), op("add", "members", value)))
			if a.StatusCode != 400 && a.StatusCode != 404 {
				t.Errorf("status %d: %s", a.StatusCode, a.raw)
			}
			s.do("GET", "/Groups/"+id, nil).is("displayName", "Engineers").size("members", 0)
		})
	}
}
