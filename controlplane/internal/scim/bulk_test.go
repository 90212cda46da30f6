package scim_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
)

const bulkURN = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"

func (s *site) bulk(more object, operations ...object) answer {
	s.t.Helper()
	body := object{"schemas": []string{bulkURN}, "Operations": operations}
	for name, v := range more {
		body[name] = v
	}
	return s.do("POST", "/Bulk", body)
}

// statuses are those of the operations that were tried.
func (a answer) statuses() string {
	var all []string
	operations, _ := a.get("Operations").([]any)
	for _, o := range operations {
		all = append(all, fmt.Sprint(follow(o, "status")))
	}
	return strings.Join(all, " ")
}

func (a answer) were(want string) answer {
	a.t.Helper()
	a.status(200)
	if got := a.statuses(); got != want {
		a.t.Fatalf("the operations came to %q, want %q: %s", got, want, a.raw)
	}
	return a
}

func bulkOp(method, path, bulkID string, data any) object {
	o := object{"method": method, "path": path}
	if bulkID != "" {
		o["bulkId"] = bulkID
	}
	if data != nil {
		o["data"] = data
	}
	return o
}

func newGroup(name string, members ...string) object {
	list := []object{}
	for _, m := range members {
		list = append(list, object{"value": m})
	}
	return object{"schemas": []string{groupURN}, "displayName": name, "members": list}
}

// TestBulkDoesWhatSingleRequestsDo with references to what it creates, before and after it (RFC 7644, section 3.7.2).
func TestBulkDoesWhatSingleRequestsDo(t *testing.T) {
	s := newSite(t)
	old := s.createUser("old")
	a := s.bulk(nil,
		bulkOp("POST", "/Groups", "team", newGroup("Team", "bulkId:ada", "bulkId:sub", old)), // forward
		bulkOp("POST", "/Users", "ada", oktaUser("ada")),
		bulkOp("POST", "/Groups", "sub", newGroup("Sub", "bulkId:ada")),
		bulkOp("PATCH", "/Users/bulkId:ada", "", patch(op("replace", "title", "Countess"))),
		bulkOp("PUT", "/Users/"+old, "", oktaUser("old")),
		bulkOp("PATCH", "/Groups/bulkId:team", "", patch(op("remove", fmt.Sprintf("members[value eq %q]", old), nil))),
		bulkOp("DELETE", "/Users/"+old, "", nil),
	).were("201 201 201 200 200 204 204").is("schemas[0]", "urn:ietf:params:scim:api:messages:2.0:BulkResponse").
		is("Operations[1].bulkId", "ada").is("Operations[1].method", "POST")
	location := a.get("Operations[0].location").(string)
	if a.get("Operations[0].version") == nil || !strings.HasPrefix(location, s.server.URL+"/scim/v2/Groups/") {
		t.Errorf("a creation is answered by %s", a.raw)
	}
	team := s.do("GET", strings.TrimPrefix(location, s.server.URL+"/scim/v2"), nil).status(200).size("members", 2).is("members[0].display", "ada").is("members[1].display", "Sub")
	s.do("GET", "/Users/"+team.get("members[0].value").(string), nil).status(200).is("title", "Countess")
	s.do("GET", "/Users/"+old, nil).refused(404, "")
}

// TestCirclesOfReferences are resolved between groups, and refused where nothing can come first.
func TestCirclesOfReferences(t *testing.T) {
	s := newSite(t)
	a := s.bulk(nil,
		bulkOp("POST", "/Groups", "a", newGroup("A", "bulkId:b", "bulkId:ada")),
		bulkOp("POST", "/Groups", "b", newGroup("B", "bulkId:a")),
		bulkOp("POST", "/Users", "ada", oktaUser("ada")),
	).were("201 201 201")
	for i, want := range []string{"ada B", "A"} {
		path := strings.TrimPrefix(a.get(fmt.Sprintf("Operations[%d].location", i)).(string), s.server.URL+"/scim/v2")
		var got []string
		for _, m := range s.do("GET", path, nil).status(200).get("members").([]any) {
			got = append(got, follow(m, "display").(string))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("group %d has %v, want %s", i, got, want)
		}
	}
	boss := func(login, manager string) object {
		o := oktaUser(login)
		o[enterpriseURN] = object{"manager": object{"value": "bulkId:" + manager}}
		return o
	}
	s.bulk(nil, bulkOp("POST", "/Users", "x", boss("x", "y")), bulkOp("POST", "/Users", "y", boss("y", "x"))).were("409 409")
	s.bulk(nil, bulkOp("POST", "/Users", "x", boss("x", "y")), bulkOp("POST", "/Users", "y", oktaUser("y"))).were("201 201")
	s.bulk(nil, bulkOp("POST", "/Users", "me", boss("me", "me"))).were("409")
}

func TestBulkErrors(t *testing.T) {
	s := newSite(t)
	ada := s.createUser("ada")
	tag := s.do("GET", "/Users/"+ada, nil).Header.Get("ETag")
	s.do("PATCH", "/Users/"+ada, patch(op("replace", "title", "x"))).status(200)
	stale := bulkOp("PATCH", "/Users/"+ada, "", patch(op("replace", "title", "y")))
	stale["version"] = tag
	a := s.bulk(nil,
		bulkOp("POST", "/Users", "u", oktaUser("ada")), bulkOp("POST", "/Groups", "g", newGroup("G", "bulkId:u")), bulkOp("POST", "/Groups", "h", newGroup("H", "bulkId:nothing")),
		stale, bulkOp("DELETE", "/Users/"+uuid.NewString(), "", nil), bulkOp("POST", "/Users", "", oktaUser("eve")), bulkOp("GET", "/Users", "", nil),
		bulkOp("PUT", "/Users", "", oktaUser("eve")), bulkOp("POST", "/Nothing", "n", object{}), bulkOp("PATCH", "/Users/"+ada, "", nil), bulkOp("POST", "/Bulk", "b", object{}),
		bulkOp("POST", "/Users", "last", oktaUser("last")),
	).were("409 409 409 412 404 400 400 400 400 400 400 201")
	a.is("Operations[0].response.scimType", "uniqueness").is("Operations[0].response.schemas[0]", errorURN).is("Operations[3].response.status", "412")

	// failOnErrors: nothing is tried after so many.
	bad := bulkOp("DELETE", "/Users/"+uuid.NewString(), "", nil)
	s.bulk(object{"failOnErrors": 2}, bad, bulkOp("POST", "/Users", "one", oktaUser("one")), bad, bulkOp("POST", "/Users", "two", oktaUser("two"))).were("404 201 404")
	s.do("GET", "/Users"+filter(`userName eq "two"`), nil).is("totalResults", 0)

	s.bulk(object{"failOnErrors": 0}, bad).refused(400, "invalidValue")
	s.bulk(nil).refused(400, "invalidSyntax")
	s.bulk(nil, bulkOp("POST", "/Users", "u", oktaUser("p")), bulkOp("POST", "/Users", "u", oktaUser("q"))).refused(400, "invalidValue")
	s.do("POST", "/Bulk", object{"schemas": []string{bulkURN}, "Operations": []any{7}}).refused(400, "invalidSyntax")
	s.bulk(nil, slices.Repeat([]object{bad}, 1001)...).refused(413, "")
	s.do("POST", "/Bulk", `{"schemas":["`+strings.Repeat("x", 1<<20)+`"]}`).refused(413, "")
}

// TestBulkStaysInItsDirectory, as each of its operations does by itself.
func TestBulkStaysInItsDirectory(t *testing.T) {
	s := newSite(t)
	stranger := s.User("other", "stranger")
	id := stranger.ID.String()
	s.bulk(nil, bulkOp("DELETE", "/Users/"+id, "", nil), bulkOp("PATCH", "/Users/"+id, "", patch(op("replace", "title", "x"))), bulkOp("POST", "/Groups", "g", newGroup("G", id))).were("404 404 400")
	if s.Engine.State().User(stranger.ID) == nil {
		t.Error("the stranger is gone")
	}
}
