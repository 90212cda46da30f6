package scim_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/scim"
)

// TestEveryErrorOfTheProtocol provokes each status of RFC 7644, section 3.12 and each scimType of its table 9 and of
// RFC 9865 that a server like this one can have an occasion for.
func TestEveryErrorOfTheProtocol(t *testing.T) {
	s := newSite(t)
	ada, _ := s.createUser("ada"), s.createUser("bob")
	group := s.createGroup("Engineers", ada)
	title := patch(op("replace", "title", "x"))
	tests := []struct {
		name, method, path string
		body               any
		header             []string
		status             int
		scimType           string
	}{
		{"a token that is none", "GET", "/Users", nil, []string{"Authorization", "Bearer nothing"}, 401, ""},
		{"what must not be filtered", "GET", "/Schemas" + filter(`name eq "User"`), nil, nil, 403, ""},
		{"a secret in a URL", "GET", "/Users" + filter(`password eq "hunter2"`), nil, nil, 403, "sensitive"},
		{"no such resource", "GET", "/Users/" + uuid.NewString(), nil, nil, 404, ""},
		{"no such endpoint", "GET", "/Robots", nil, nil, 404, ""},
		{"a method that is not there", "DELETE", "/Users", nil, nil, 405, ""},
		{"a method that is not there", "PUT", "/Bulk", object{}, nil, 405, ""},
		{"a method that is not there", "POST", "/Schemas", object{}, nil, 405, ""},
		{"another's userName", "POST", "/Users", oktaUser("ADA"), nil, 409, "uniqueness"},
		{"a version that is not current", "PATCH", "/Users/" + ada, title, []string{"If-Match", `W/"1"`}, 412, ""},
		{"too long a body", "POST", "/Users", `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, nil, 413, ""},
		{"another media type", "POST", "/Users", oktaUser("x"), []string{"Content-Type", "text/plain"}, 415, ""},
		{"the person of a token", "GET", "/Me", nil, nil, 501, ""},
		{"a filter", "GET", "/Users" + filter("userName is"), nil, nil, 400, "invalidFilter"},
		{"too many operations", "PATCH", "/Users/" + ada, patch(many(1001, op("replace", "title", "x"))...), nil, 400, "tooMany"},
		{"what is the server's", "PATCH", "/Users/" + ada, patch(op("replace", "meta.created", "x")), nil, 400, "mutability"},
		{"what is required", "PATCH", "/Groups/" + group, patch(op("remove", "displayName", nil)), nil, 400, "mutability"},
		{"a member is immutable", "PATCH", "/Groups/" + group, patch(op("replace", fmt.Sprintf(`members[value eq %q].display`, ada), "x")), nil, 400, "mutability"},
		{"no JSON", "POST", "/Users", "{", nil, 400, "invalidSyntax"},
		{"a path", "PATCH", "/Users/" + ada, patch(op("replace", "a b", "x")), nil, 400, "invalidPath"},
		{"no target", "PATCH", "/Users/" + ada, patch(op("remove", "", nil)), nil, 400, "noTarget"},
		{"no element to set a part of", "PATCH", "/Users/" + ada, patch(op("replace", "phoneNumbers.value", "1")), nil, 400, "noTarget"},
		{"a value", "PATCH", "/Users/" + ada, patch(op("replace", "active", "maybe")), nil, 400, "invalidValue"},
		{"a cursor", "GET", "/Users?cursor=x", nil, nil, 400, "invalidCursor"},
		{"a count by cursor", "GET", "/Users?cursor=&count=0", nil, nil, 400, "invalidCount"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := s.as(t, s.token)
			a := s.do(test.method, test.path, test.body, test.header...)
			a.refused(test.status, test.scimType)
			if test.status == 401 && a.Header.Get("WWW-Authenticate") == "" {
				t.Error("it does not say how to authenticate")
			}
			if test.status == 405 && a.Header.Get("Allow") == "" {
				t.Error("it does not say which methods there are")
			}
		})
	}
	s.do("PATCH", "/Users/"+ada, patch(op("replace", "title", "y"))).status(200)

	older := s.as(t, s.token)
	older.base = "/scim/v1"
	older.do("GET", "/Users", nil).refused(400, "invalidVers")
}

// stuck is an engine that cannot store.
type stuck struct{ *engine.Engine }

func (stuck) Do(context.Context, *eventv1.Actor, core.Command) (engine.Outcome, error) {
	return engine.Outcome{}, fmt.Errorf("%w: /var/lib/inner is full", engine.ErrUnavailable)
}

// TestWhatCannotBeStoredIsToBeSentAgain: a client is told when, and nothing of what is inside.
func TestWhatCannotBeStoredIsToBeSentAgain(t *testing.T) {
	base := newSite(t)
	ada := base.createUser("ada")
	server := httptest.NewServer(scim.New(scim.Config{Engine: stuck{base.Engine}}))
	t.Cleanup(server.Close)
	s := base.as(t, base.token)
	s.server = server
	for path, method := range map[string]string{"/Users": "POST", "/Users/" + ada: "PUT", "/Groups": "POST"} {
		body := oktaUser("eve")
		if path == "/Groups" {
			body = newGroup("Engineers")
		}
		a := s.do(method, path, body)
		a.refused(503, "")
		if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 1 || strings.Contains(a.raw, "inner") {
			t.Errorf("Retry-After is %q: %s", a.Header.Get("Retry-After"), a.raw)
		}
	}
	s.do("GET", "/Users/"+ada, nil).status(200) // what is there can be read
}

func many[T any](n int, v T) []T {
	all := make([]T, n)
	for i := range all {
		all[i] = v
	}
	return all
}

// TestASubAttributeIsCheckedByTheSchema, in whole resources and in changes, and what no schema knows is kept as sent.
func TestASubAttributeIsCheckedByTheSchema(t *testing.T) {
	s := newSite(t)
	with := func(name string, v any) object {
		o := oktaUser("x")
		o[name] = v
		return o
	}
	for name, v := range map[string]any{
		"name": object{"givenName": 7}, "emails": []any{object{"value": object{}}}, "phoneNumbers": []any{"555"}, "addresses": []any{object{"primary": "perhaps"}},
		enterpriseURN: object{"department": []any{"x"}}, "NAME": "Ada", "title": 7, "roles": object{"value": "x"},
	} {
		body := with(name, v)
		if name == "NAME" {
			delete(body, "name")
		}
		s.do("POST", "/Users", body).refused(400, "invalidValue")
	}
	body := oktaUser("ada")
	body["emails"] = []any{object{"VALUE": "a@b", "Primary": "True", "note": object{"x": 1}, "type": nil}, nil}
	body["urn:acme:1.0:User"] = object{"badge": 7, "tags": []any{"a", nil}}
	body[strings.ToUpper(enterpriseURN)] = object{"DEPARTMENT": "Engines", "manager": "7"}
	created := s.do("POST", "/Users", body).status(201).is("emails[0].value", "a@b").is("emails[0].primary", true).is("emails[0].note.x", 1).is("emails[0].type", nil).size("emails", 1).
		is("'urn:acme:1.0:User'.badge", 7).is("'"+enterpriseURN+"'.department", "Engines").is("'"+enterpriseURN+"'.manager.value", "7")
	if len(created.get("schemas").([]any)) != 3 {
		t.Errorf("schemas: %v", created.get("schemas"))
	}
}

// TestWhoAPersonIsOutlivesSilence: an externalId that is left out or removed stays; only another one makes another
// person.
func TestWhoAPersonIsOutlivesSilence(t *testing.T) {
	s := newSite(t)
	id := s.createUser("ada")
	whole := oktaUser("ada")
	delete(whole, "externalId")
	s.do("PUT", "/Users/"+id, whole).status(200).is("id", id).is("externalId", "00uada")
	s.do("PATCH", "/Users/"+id, patch(op("remove", "externalId", nil))).status(200).is("id", id).is("externalId", "00uada")
	s.do("PATCH", "/Users/"+id, patch(op("replace", "", object{"externalId": nil}))).status(200).is("id", id).is("externalId", "00uada")
	other := s.do("PATCH", "/Users/"+id, patch(op("replace", "externalId", "00uother"))).status(200)
	if other.id() == id {
		t.Error("a changed externalId left the person who they were")
	}
	s.do("GET", "/Users/"+id, nil).refused(404, "")
}
