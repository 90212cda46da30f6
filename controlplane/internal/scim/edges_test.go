package scim_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// TestTimesAreComparedAsMoments, whatever their zone and precision, and what has no order is refused (RFC 7644, table 3).
func TestTimesAreComparedAsMoments(t *testing.T) {
	s := newSite(t)
	id := s.createUser("ada")
	created := s.do("GET", "/Users/"+id, nil).get("meta.created").(string)
	for expression, want := range map[string]int{
		`meta.created eq "` + created + `"`:                                       1,
		`meta.created eq "` + strings.TrimSuffix(created, "Z") + `+00:00"`:        1,
		`meta.created ge "2011-05-13T04:42:34+02:00"`:                             1,
		`meta.created lt "2011-05-13T04:42:34"`:                                   0,
		`meta[created le "` + created + `"]`:                                      1,
		`meta.lastModified gt "` + created[:19] + `Z"`:                            1, // a part of a second later
		`meta[resourceType eq "user"]`:                                            0, // to the letter, also in brackets
		`meta[resourceType eq "User"]`:                                            1,
		`externalId gt "00u"`:                                                     1,
		`id sw "` + strings.ToUpper(id[:8]) + `z"`:                                0,
		enterpriseURN + ` pr`:                                                     0,
		`title ne null`:                                                           0,
		`userName ne null`:                                                        1,
		`emails[primary eq "True"]`:                                               1,
		`emails[primary eq true and not (type eq "home")]`:                        1,
		userURN + `:emails[value eq "ADA"]`:                                       1,
		`emails[value eq "ada"] and emails[type eq "home"]`:                       0,
		`(userName eq "ada" or userName eq "eve") and not (active eq false)`:      1,
		`userName eq "ada" and userName eq "eve" or userName eq "ada" and id pr`:  1,
		`NOT (userName eq "ada") OR (ACTIVE EQ TRUE AND (Emails.Type eq "WORK"))`: 1,
	} {
		if strings.HasSuffix(created, "000Z") && strings.Contains(expression, " gt \""+created[:19]) {
			want = 0
		}
		if got := s.do("GET", "/Users"+filter(expression), nil).status(200).get("totalResults"); got != float64(want) {
			t.Errorf("%s: %v, want %d", expression, got, want)
		}
	}
	for _, expression := range []string{"active gt true", `active le "x"`, `emails[primary ge false]`, "title lt null", `x509Certificates.value gt "a"`} {
		s.do("GET", "/Users"+filter(expression), nil).refused(400, "invalidFilter")
	}
}

// TestExtensionsAreKeptAsSent: numbers to the last digit, and below URNs of any form.
func TestExtensionsAreKeptAsSent(t *testing.T) {
	s := newSite(t)
	const urn = "urn:scim:schemas:extension:custom:1.0"
	body := `{"schemas":["` + userURN + `","` + urn + `"],"userName":"ada","` + urn + `":{"badge":12345678901234567890,"rate":1.25,"big":9007199254740993,"list":[1,{"x":1.0000000000000000001}],"none":null}}`
	created := s.do("POST", "/Users", body).status(201)
	id := created.id()
	check := func(a answer) {
		t.Helper()
		for _, want := range []string{`"badge":12345678901234567890`, `"rate":1.25`, `"big":9007199254740993`, `{"x":1.0000000000000000001}`} {
			if !strings.Contains(a.raw, want) {
				t.Errorf("%s is not kept: %s", want, a.raw)
			}
		}
	}
	check(created)
	s.do("PATCH", "/Users/"+id, patch(op("replace", "title", "Countess"))).status(200)
	check(s.do("GET", "/Users/"+id, nil).status(200))
	s.do("GET", "/Users"+filter(urn+":big gt 9007199254740000"), nil).status(200).is("totalResults", 1)
	s.do("GET", "/Users?sortBy="+url.QueryEscape(urn+":big"), nil).status(200).is("totalResults", 1)

	s.do("PATCH", "/Users/"+id, patch(op("replace", "", object{urn: object{"rate": 2}}))).status(200).is("'"+urn+"'.rate", 2)
	s.do("PATCH", "/Users/"+id, patch(op("add", urn, object{"rate": 3}), op("replace", urn+":more", "x"))).status(200).is("'"+urn+"'.rate", 3).is("'"+urn+"'.more", "x")
	s.do("GET", "/Users/"+id+"?attributes="+url.QueryEscape(urn), nil).status(200).is("'"+urn+"'.rate", 3).is("userName", nil)
	s.do("GET", "/Users"+filter(urn+" pr"), nil).status(200).is("totalResults", 1)
	s.do("PATCH", "/Users/"+id, patch(op("remove", urn, nil))).status(200).is("'"+urn+"'", nil).size("schemas", 1)

	// What was the last of an extension takes it along.
	s.do("PATCH", "/Users/"+id, patch(op("add", enterpriseURN+":department", "Engines"))).status(200).size("schemas", 2)
	s.do("PATCH", "/Users/"+id, patch(op("remove", enterpriseURN+":department", nil))).status(200).size("schemas", 1).is("'"+enterpriseURN+"'", nil)
}

// TestNoPasswordIsKept, wherever in a resource or a change it stands.
func TestNoPasswordIsKept(t *testing.T) {
	s := newSite(t)
	const secret = "hunter2-0c3f"
	id := s.do("POST", "/Users", object{"schemas": []string{userURN}, userURN: object{"userName": "ada", "Password": secret},
		enterpriseURN: object{"password": secret, "department": "Engines"}, "urn:acme:User": object{"deep": []any{object{"Password": secret, "kept": 1}}}}).status(201).is("userName", "ada").id()
	for _, change := range []object{
		op("replace", "password", secret), op("add", "", object{"password": secret}), op("replace", userURN+":password", secret),
		op("add", "", object{userURN: object{"password": secret}}), op("replace", enterpriseURN+":password", secret), op("add", "urn:acme:User:password", secret),
	} {
		s.noPassword(id, secret, s.do("PATCH", "/Users/"+id, patch(change)).status(200))
	}
	s.do("GET", "/Users/"+id, nil).status(200).is("'urn:acme:User'.deep[0].kept", 1).is("'"+enterpriseURN+"'.department", "Engines")
	// What stands twice is refused: which of the two would count is chance.
	s.do("POST", "/Users", object{"schemas": []string{userURN}, "userName": "eve", userURN: object{"userName": "eva"}}).refused(400, "invalidSyntax")
	s.do("POST", "/Users", object{"schemas": []string{userURN}, "userName": "eve", userURN: object{"USERNAME": "eva"}}).refused(400, "invalidSyntax")
	s.do("POST", "/Users", object{"schemas": []string{userURN}, "userName": "eve", userURN: 7}).refused(400, "invalidValue")
}

// TestLetterCaseTellsNoAttributesApart, in what a PATCH merges.
func TestLetterCaseTellsNoAttributesApart(t *testing.T) {
	s := newSite(t)
	id := s.createUser("ada")
	for range 20 { // the order of names is chance
		s.do("PATCH", "/Users/"+id, patch(op("add", "NAME", object{"GIVENNAME": "Augusta"}))).status(200).is("name.givenName", "Augusta").is("name.familyName", "Lovelace")
		s.do("PATCH", "/Users/"+id, patch(op("replace", "", object{"Name": object{"givenname": "Ada"}}))).status(200).is("name.givenName", "Ada")
		s.do("PATCH", "/Users/"+id, patch(op("replace", `EMAILS[Type eq "work"]`, object{"VALUE": "x@y", "TYPE": "work"}))).status(200).is("emails[0].value", "x@y").is("emails[0].type", "work")
		s.do("PATCH", "/Users/"+id, patch(op("replace", `emails[type eq "home"]`, object{"Type": "home", "value": "h@y"}))).status(200).is("emails[1].type", "home").size("emails", 2)
		s.do("PATCH", "/Users/"+id, patch(op("remove", `emails[type eq "home"]`, nil))).status(200).size("emails", 1)
	}
}

// TestAChangeThatChangesNothingLeavesTheVersion, in each form that says again what is there (RFC 7644, section 3.5.2.1).
func TestAChangeThatChangesNothingLeavesTheVersion(t *testing.T) {
	s := newSite(t)
	id, bob := s.createUser("ada"), s.createUser("bob")
	s.do("PATCH", "/Users/"+id, patch(op("add", enterpriseURN+":manager", bob))).status(200)
	group := s.createGroup("Engineers", id)
	before := s.do("GET", "/Users/"+id, nil).status(200)
	for _, change := range []object{
		op("add", "emails", []object{{"type": "work", "value": "ada", "primary": true}}), op("add", "", object{"displayName": "Ada Lovelace"}), op("replace", "name", object{"familyName": "Lovelace"}),
		op("replace", "active", "True"), op("remove", "title", nil), op("remove", `emails[type eq "home"]`, nil), op("add", enterpriseURN+":manager", bob),
		op("replace", `emails[type eq "work"].value`, "ada"), op("add", "emails.type", "work"), op("replace", "externalId", "00uada"),
	} {
		s.do("PATCH", "/Users/"+id, patch(change)).status(200).is("meta.version", before.get("meta.version")).is("meta.lastModified", before.get("meta.lastModified"))
	}
	s.do("PUT", "/Users/"+id, before.body).status(200).is("meta.version", before.get("meta.version"))
	was := s.do("GET", "/Groups/"+group, nil).status(200)
	for _, change := range []object{
		op("add", "members", values([]string{id})), op("replace", "members", values([]string{id})), op("remove", fmt.Sprintf("members[value eq %q]", bob), nil),
		op("replace", "displayName", "Engineers"), op("replace", fmt.Sprintf("members[value eq %q]", id), values([]string{id})), op("remove", "members", values([]string{bob})),
	} {
		s.do("PATCH", "/Groups/"+group, patch(change)).status(204)
		s.do("GET", "/Groups/"+group, nil).is("meta.version", was.get("meta.version")).is("meta.lastModified", was.get("meta.lastModified"))
	}
}

// TestAtMostOneElementIsPrimary, whichever way a second one comes (RFC 7643, section 2.4).
func TestAtMostOneElementIsPrimary(t *testing.T) {
	s := newSite(t)
	for i, change := range []object{
		op("add", "emails", object{"value": "h@y", "type": "home", "primary": true}), op("add", "", object{"emails": []object{{"value": "h@y", "type": "home", "primary": "True"}}}),
		op("replace", `emails[type eq "home"].primary`, true), op("add", `emails[type eq "home"]`, object{"value": "h@y", "primary": true}),
		op("replace", "emails", []object{{"value": "a"}, {"value": "h@y", "type": "home", "primary": true}, {"value": "c", "primary": true}}),
	} {
		id := s.createUser(fmt.Sprintf("user%d", i))
		a := s.do("PATCH", "/Users/"+id, patch(change)).status(200)
		var primary []string
		for _, e := range a.get("emails").([]any) {
			if follow(e, "primary") == true {
				primary = append(primary, fmt.Sprint(follow(e, "type")))
			}
		}
		if len(primary) != 1 || primary[0] != "home" {
			t.Errorf("%v: primary are %v: %s", change, primary, a.raw)
		}
	}
}

// TestTagsTellCopiesApart: lists of tags, any tag, and the groups that a person is in.
func TestTagsTellCopiesApart(t *testing.T) {
	s := newSite(t)
	id := s.createUser("ada")
	tag := func() string {
		a := s.do("GET", "/Users/"+id, nil).status(200)
		return a.is("meta.version", a.Header.Get("ETag")).Header.Get("ETag")
	}
	alone := tag()
	s.do("GET", "/Users/"+id, nil, "If-None-Match", `"1", `+alone).status(304)
	s.do("GET", "/Users/"+id, nil, "If-None-Match", "*").status(304)
	s.do("GET", "/Users/"+id, nil, "If-None-Match", `W/"1"`).status(200)
	group := s.createGroup("Engineers", id)
	s.do("GET", "/Users/"+id, nil, "If-None-Match", alone).status(200).size("groups", 1) // a copy without the group is no current one
	member := tag()
	s.do("GET", "/Users/"+id, nil, "If-None-Match", member).status(304)
	s.do("PATCH", "/Groups/"+group, patch(op("replace", "displayName", "Makers"))).status(204)
	s.do("GET", "/Users/"+id, nil, "If-None-Match", member).status(200).is("groups[0].display", "Makers")
	// Who changes the person insists on what they change.
	s.do("PATCH", "/Users/"+id, patch(op("replace", "title", "a")), "If-Match", member).status(200)
	s.do("PATCH", "/Users/"+id, patch(op("replace", "title", "b")), "If-Match", member).refused(412, "")
	s.do("PATCH", "/Users/"+id, patch(op("replace", "title", "b")), "If-Match", member+", "+tag()).status(200)
	s.do("PATCH", "/Users/"+id, patch(op("replace", "title", "c")), "If-Match", "*").status(200)
	s.do("DELETE", "/Users/"+id, nil, "If-Match", `W/"x", "y"`).refused(412, "")
	s.do("DELETE", "/Groups/"+group, nil, "If-Match", `W/"1"`).refused(412, "")
	s.do("DELETE", "/Users/"+id, nil, "If-Match", tag()).status(204)
}

// TestMembersArePickedByAFilter of any form.
func TestMembersArePickedByAFilter(t *testing.T) {
	s := newSite(t)
	ada, bob, eve := s.createUser("ada"), s.createUser("bob"), s.createUser("eve")
	sub := s.createGroup("Sub")
	group := s.createGroup("Engineers", ada, bob, eve, sub)
	path := "/Groups/" + group
	s.do("PATCH", path, patch(op("remove", fmt.Sprintf("members[value eq %q or value eq %q]", ada, bob), nil))).status(204)
	s.wantMembers(group, eve, sub)
	s.do("PATCH", path, patch(op("remove", `members[type eq "Group"]`, nil))).status(204)
	s.wantMembers(group, eve)
	s.do("PATCH", path, patch(op("replace", fmt.Sprintf("members[value eq %q]", eve), object{"value": ada}))).status(204)
	s.wantMembers(group, ada)
	s.do("PATCH", path, patch(op("add", groupURN+":members", values([]string{bob})), op("replace", "", object{groupURN + ":displayName": "Makers", "meta": object{"x": 1}}))).status(204)
	s.wantMembers(group, ada, bob)
	s.do("PATCH", path, patch(op("replace", "", object{groupURN: object{"displayName": "Builders", "members": values([]string{eve, bob})}}))).status(204)
	s.do("GET", path, nil).is("displayName", "Builders")
	s.wantMembers(group, eve, bob)
	s.do("PATCH", path, patch(op("remove", `members[display sw "B" and type eq "User"]`, nil))).status(204)
	s.wantMembers(group, eve)
	tag := s.do("GET", path, nil).Header.Get("ETag")
	s.do("PATCH", path, patch(op("add", "members", values([]string{ada}))), "If-Match", tag).status(204)
	for name, change := range map[string][]object{
		"another version": {op("remove", `members[type eq "User"]`, nil)},
	} {
		s.do("PATCH", path, patch(change...), "If-Match", tag).refused(412, "")
		s.wantMembers(group, eve, ada)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	s.do("PATCH", path, patch(op("add", "members", values([]string{bob})), op("remove", `members[display eq "bob"]`, nil))).refused(400, "invalidFilter")
	s.do("PATCH", path, patch(op("replace", fmt.Sprintf("members[value eq %q]", eve), nil))).refused(400, "invalidValue")
	s.do("PATCH", path, patch(op("replace", "meta", "x"))).refused(400, "mutability")
	s.do("PATCH", path, patch(op("replace", "urn:acme:Group:x", "x"))).refused(400, "invalidPath")
	s.wantMembers(group, eve, ada)
}

// TestSchemasDescribeReferencesAndBinaries as RFC 7643, section 8.7 does.
func TestSchemasDescribeReferencesAndBinaries(t *testing.T) {
	s := newSite(t)
	find := func(urn, name, sub string) object {
		list, _ := s.do("GET", "/Schemas/"+urn, nil).status(200).get("attributes").([]any)
		for _, a := range list {
			if follow(a, "name") != name {
				continue
			}
			subs, _ := follow(a, "subAttributes").([]any)
			for _, b := range subs {
				if follow(b, "name") == sub {
					return b.(object)
				}
			}
		}
		t.Fatalf("%s has no %s.%s", urn, name, sub)
		return nil
	}
	for _, test := range []struct{ urn, name, sub, what, want string }{
		{groupURN, "members", "$ref", "referenceTypes", "[User Group]"}, {userURN, "groups", "$ref", "referenceTypes", "[Group]"},
		{userURN, "x509Certificates", "value", "type", "binary"}, {userURN, "photos", "value", "referenceTypes", "[external]"}, {enterpriseURN, "manager", "$ref", "referenceTypes", "[User]"},
	} {
		if got := fmt.Sprint(find(test.urn, test.name, test.sub)[test.what]); got != test.want {
			t.Errorf("%s.%s: %s is %s, want %s", test.name, test.sub, test.what, got, test.want)
		}
	}
}
