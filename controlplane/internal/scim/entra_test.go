package scim_test

import (
	"testing"

	"github.com/google/uuid"
)

// TestEntraUpdatesAPerson sends the forms in which Entra ID writes what it changes of a person.
func TestEntraUpdatesAPerson(t *testing.T) {
	s := newSite(t)
	n := 0
	tests := []struct {
		name  string
		patch object
		want  map[string]any
	}{
		{"a capitalised op and a boolean in words", patch(op("Replace", "active", "False")), map[string]any{"active": false}},
		{"a boolean in words without a path", patch(op("Add", "", object{"active": "False"})), map[string]any{"active": false}},
		{"an element by its type", patch(op("Replace", `emails[type eq "work"].value`, "new@example.com")),
			map[string]any{"emails[0].value": "new@example.com", "emails[0].type": "work", "emails[0].primary": true, "emails[1]": nil}},
		{"an element that is not there yet", patch(op("Replace", `emails[type eq "home"].value`, "home@example.com")),
			map[string]any{"emails[0].type": "work", "emails[1].value": "home@example.com", "emails[1].type": "home"}},
		{"an element of a list that is not there yet", patch(op("Add", `addresses[type eq "work"].postalCode`, "10115")),
			map[string]any{"addresses[0].postalCode": "10115", "addresses[0].type": "work"}},
		{"the manager by path", patch(op("Add", enterpriseURN+":manager", "26118915")), map[string]any{"'" + enterpriseURN + "'.manager.value": "26118915"}},
		{"the manager as an object", patch(op("Add", enterpriseURN+":manager", object{"value": "26118915"})), map[string]any{"'" + enterpriseURN + "'.manager.value": "26118915"}},
		{"the manager's sub-attribute", patch(op("Replace", enterpriseURN+":manager.value", "26118915")), map[string]any{"'" + enterpriseURN + "'.manager.value": "26118915"}},
		{"flat keys with dots", patch(op("replace", "", object{
			"name.givenName": "Augusta", "name.familyName": "King", enterpriseURN + ":employeeNumber": "7", "displayName": "Augusta King",
		})), map[string]any{"name.givenName": "Augusta", "name.familyName": "King", "displayName": "Augusta King", "'" + enterpriseURN + "'.employeeNumber": "7"}},
		{"a flat key of an extension with an object", patch(op("replace", "", object{enterpriseURN + ":manager": object{"value": "9"}})),
			map[string]any{"'" + enterpriseURN + "'.manager.value": "9", "schemas[1]": enterpriseURN, "schemas[2]": nil}},
		{"a flat key with a filter", patch(op("replace", "", object{`emails[type eq "work"].value`: "flat@example.com"})),
			map[string]any{"emails[0].value": "flat@example.com", "emails[1]": nil}},
		{"an extension as a whole", patch(op("Add", "", object{enterpriseURN: object{"department": "Engines"}})),
			map[string]any{"'" + enterpriseURN + "'.department": "Engines", "schemas[1]": enterpriseURN}},
		{"attributes under the URN of their schema", patch(op("Replace", userURN+":title", "Countess")), map[string]any{"title": "Countess"}},
		{"an attribute in other letter case", patch(op("replace", "DISPLAYNAME", "A")), map[string]any{"displayName": "A", "DISPLAYNAME": nil}},
		{"a removal", patch(op("Remove", "locale", nil)), map[string]any{"locale": nil}},
		{"the removal of an element", patch(op("remove", `emails[type eq "work"]`, nil)), map[string]any{"emails[0]": nil}},
		{"a second primary takes the first one's place", patch(op("add", "emails", []object{{"value": "b@example.com", "type": "home", "primary": true}})),
			map[string]any{"emails[0].primary": false, "emails[1].primary": true}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := s.as(t, s.token)
			n++
			id := s.createUser("user" + string(rune('a'+n)))
			a := s.do("PATCH", "/Users/"+id, test.patch).status(200).is("id", id)
			read := s.do("GET", "/Users/"+id, nil).status(200)
			for path, want := range test.want {
				a.is(path, want)
				read.is(path, want)
			}
		})
	}
}

func TestAPatchThatCannotBeChangesNothing(t *testing.T) {
	s := newSite(t)
	id := s.createUser("ada")
	s.createUser("bob")
	before := s.do("GET", "/Users/"+id, nil).raw
	tests := map[string]struct {
		op       object
		status   int
		scimType string
	}{
		"read-only":             {op("replace", "groups", []any{}), 400, "mutability"},
		"the id":                {op("replace", "id", uuid.NewString()), 400, "mutability"},
		"no such op":            {op("move", "title", "x"), 400, "invalidSyntax"},
		"remove without a path": {op("remove", "", nil), 400, "noTarget"},
		"no path":               {op("replace", "..", "x"), 400, "invalidPath"},
		"a path after its end":  {op("replace", `emails[type eq "work"].value x`, "x"), 400, "invalidPath"},
		"an open bracket":       {op("replace", `emails[type eq "work"`, "x"), 400, "invalidPath"},
		"a bad filter":          {op("replace", `emails[type is "work"].value`, "x"), 400, "invalidFilter"},
		"active as a number":    {op("replace", "active", 7), 400, "invalidValue"},
		"userName as an object": {op("replace", "userName", object{"value": "x"}), 400, "invalidValue"},
		"userName removed":      {op("remove", "userName", nil), 400, "mutability"},
		"userName of another":   {op("replace", "userName", "BOB"), 409, "uniqueness"},
		"emails as a text":      {op("replace", "emails", "a@b"), 400, "invalidValue"},
		"a value that is none":  {op("replace", "", "text"), 400, "invalidValue"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := s.as(t, s.token)
			s.do("PATCH", "/Users/"+id, patch(op("replace", "title", "Changed"), test.op)).refused(test.status, test.scimType)
			if after := s.do("GET", "/Users/"+id, nil).raw; after != before {
				t.Errorf("the person changed: %s", after)
			}
		})
	}
}

// TestEntraRemovesTheMembersThatItNames: a Remove with a list of values must not empty the group.
func TestEntraRemovesTheMembersThatItNames(t *testing.T) {
	s := newSite(t)
	ada, bob, eve := s.createUser("ada"), s.createUser("bob"), s.createUser("eve")
	id := s.createGroup("Engineers", ada, bob)
	path := "/Groups/" + id
	s.do("PATCH", path, patch(op("Add", "members", []object{{"$ref": nil, "value": eve}}))).status(204)
	s.wantMembers(id, ada, bob, eve)
	s.do("PATCH", path, patch(op("Remove", "members", []object{{"$ref": nil, "value": bob}}))).status(204)
	s.wantMembers(id, ada, eve)
	s.do("PATCH", path, patch(op("Remove", "members", []any{}))).status(204)
	s.wantMembers(id, ada, eve)
	s.do("PATCH", path, patch(op("Replace", "displayName", "Makers"))).status(204)
	s.do("GET", path+"?excludedAttributes=members", nil).status(200).is("displayName", "Makers").is("members", nil)
	s.do("PATCH", path, patch(op("Remove", "members", nil))).status(204)
	s.wantMembers(id)
}

func TestEntraLooksUp(t *testing.T) {
	s := newSite(t)
	id := s.createUser("ada@example.com")
	s.createUser("bob@example.com")
	group := s.createGroup("Engineers")
	for expression, want := range map[string]int{
		`userName eq "ada@example.com"`: 1, `externalId eq "00uada@example.com"`: 1, `externalId eq "00UADA@example.com"`: 0,
		`emails[type eq "work"].value eq "ada@example.com"`: 1, `emails[type eq "home"].value eq "ada@example.com"`: 0,
		`emails[type eq "work" and value eq "ada@example.com"]`: 1, `emails.value eq "ADA@example.com"`: 1,
		`userName eq "ada@example.com" and active eq true`: 1, `userName eq "ada@example.com" and active eq "False"`: 0,
		userURN + `:userName eq "ada@example.com"`: 1, `id eq "` + id + `"`: 1, `userName eq "` + uuid.NewString() + `"`: 0,
		`userName eq "ada@example.com" or userName eq "bob@example.com"`: 2, `not (userName eq "ada@example.com")`: 1, `title pr`: 0,
	} {
		s.do("GET", "/Users"+filter(expression), nil).status(200).is("totalResults", want).size("Resources", want)
	}
	for expression, want := range map[string]int{`displayName eq "engineers"`: 1, `id eq "` + group + `"`: 1, `externalId eq "x"`: 0, `displayName eq "Engineers" and id eq "` + group + `"`: 1} {
		s.do("GET", "/Groups"+filter(expression)+"&excludedAttributes=members", nil).status(200).is("totalResults", want).is("Resources[0].members", nil)
	}
}
