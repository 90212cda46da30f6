package scim_test

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
)

const searchURN = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"

// found are the values of an attribute of the resources of an answer.
func (a answer) found(path string) []string {
	a.t.Helper()
	resources, _ := a.get("Resources").([]any)
	var all []string
	for _, o := range resources {
		all = append(all, fmt.Sprint(follow(o, path)))
	}
	return all
}

func (s *site) createFamily(login, family string, more ...object) string {
	s.t.Helper()
	body := oktaUser(login)
	body["name"] = object{"familyName": family}
	body["emails"] = []object{{"value": "z@" + login, "type": "home"}, {"value": family + "@" + login, "type": "work", "primary": true}}
	for _, m := range more {
		for name, v := range m {
			body[name] = v
		}
	}
	return s.do("POST", "/Users", body).status(201).id()
}

func TestSorting(t *testing.T) {
	s := newSite(t)
	s.createFamily("carl", "borg", object{"title": "Countess"})
	s.createFamily("ada", "Adams")
	s.createFamily("Bob", "adams", object{"title": "analyst"})
	s.createFamily("dora", "Çelik", object{"active": false})
	for query, want := range map[string][]string{
		"sortBy=userName":                      {"ada", "Bob", "carl", "dora"},
		"sortBy=USERNAME&sortOrder=Descending": {"dora", "carl", "Bob", "ada"},
		"sortBy=urn:ietf:params:scim:schemas:core:2.0:User:userName&startIndex=2&count=2": {"Bob", "carl"},
		"sortBy=userName&sortOrder=descending&startIndex=3":                               {"Bob", "ada"},
		"sortBy=name.familyName":                                {"ada", "Bob", "carl", "dora"}, // equal ones: the older first
		"sortBy=name.familyName&sortOrder=descending":           {"dora", "carl", "ada", "Bob"},
		"sortBy=emails":                                         {"ada", "Bob", "carl", "dora"}, // by the primary one
		"sortBy=emails.value":                                   {"ada", "Bob", "carl", "dora"},
		"sortBy=title":                                          {"Bob", "carl", "ada", "dora"}, // those without one last
		"sortBy=title&sortOrder=descending":                     {"ada", "dora", "carl", "Bob"},
		"sortBy=meta.created&count=2":                           {"carl", "ada"},
		"sortBy=active":                                         {"dora", "carl", "ada", "Bob"},
		"sortBy=userName&filter=" + url.QueryEscape(`title pr`): {"Bob", "carl"},
		"sortBy=nothing":                                        {"carl", "ada", "Bob", "dora"},
		"sortBy=userName&startIndex=9":                          nil,
		"sortBy=urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department": {"carl", "ada", "Bob", "dora"},
	} {
		if got := s.do("GET", "/Users?"+query, nil).status(200).found("userName"); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", query, got, want)
		}
	}
	s.createGroup("Zebras")
	s.createGroup("ants")
	if got := s.do("GET", "/Groups?sortBy=displayName", nil).status(200).found("displayName"); !slices.Equal(got, []string{"ants", "Zebras"}) {
		t.Errorf("groups: %v", got)
	}
	s.do("GET", "/Users?sortBy=userName&sortOrder=sideways", nil).refused(400, "invalidValue")
	s.do("GET", "/Users?sortBy="+url.QueryEscape("a b"), nil).refused(400, "invalidPath")
}

// pages follows cursors from the first page to the last, and returns what was on them.
func (s *site) pages(path, attribute string, size int) []string {
	s.t.Helper()
	var all []string
	for cursor := ""; ; {
		a := s.do("GET", fmt.Sprintf("%s&count=%d&cursor=%s", path, size, url.QueryEscape(cursor)), nil).status(200)
		got := a.found(attribute)
		if all = append(all, got...); len(got) == 0 && cursor != "" {
			s.t.Error("a page is empty")
		}
		next, more := a.get("nextCursor").(string)
		if a.get("startIndex") != nil {
			s.t.Error("a page by cursor has a startIndex")
		}
		if !more {
			return all
		}
		if len(got) != size {
			s.t.Errorf("a page that is not the last has %d of %d", len(got), size)
		}
		cursor = next
	}
}

// TestCursorsCoverAllOnce: for lists of every kind, whatever the size of a page (RFC 9865).
func TestCursorsCoverAllOnce(t *testing.T) {
	s := newSite(t)
	var inOrder []string
	for i := range 23 {
		login := fmt.Sprintf("user-%02d", rand.IntN(90)*100+i)
		s.createFamily(login, string(rune('A'+i%5)))
		inOrder = append(inOrder, login)
	}
	byName := slices.Sorted(slices.Values(inOrder))
	backwards := slices.Clone(byName)
	slices.Reverse(backwards)
	for path, want := range map[string][]string{
		"/Users?": inOrder, "/Users?sortBy=userName": byName, "/Users?sortBy=userName&sortOrder=descending": backwards,
		"/Users" + filter("active eq true"): inOrder, "/Users" + filter("active eq true") + "&sortBy=userName": byName,
		"/Users" + filter("active eq false"): nil, "/Users" + filter(fmt.Sprintf("userName eq %q", inOrder[3])): inOrder[3:4],
	} {
		for _, size := range []int{1, 5, 23, 100} {
			if got := s.pages(path, "userName", size); !slices.Equal(got, want) {
				t.Errorf("%s by %d: %v, want %v", path, size, got, want)
			}
		}
	}
	if got := s.pages("/Users?sortBy=name.familyName&sortOrder=descending", "userName", 4); len(got) != 23 || len(slices.Compact(slices.Sorted(slices.Values(got)))) != 23 {
		t.Errorf("by family name: %v", got)
	}
}

// TestACursorOutlivesChanges: what is created or deleted between pages neither repeats nor hides anything else.
func TestACursorOutlivesChanges(t *testing.T) {
	s := newSite(t)
	ids := map[string]string{}
	for _, login := range []string{"a", "b", "c", "d"} {
		ids[login] = s.createUser(login)
	}
	first := s.do("GET", "/Users?count=2&cursor=", nil).status(200).is("totalResults", 4)
	byName := s.do("GET", "/Users?count=2&cursor=&sortBy=userName", nil).status(200)
	s.do("DELETE", "/Users/"+ids["b"], nil).status(204)
	s.createUser("0")
	next := first.get("nextCursor").(string)
	if got := s.do("GET", "/Users?cursor="+next, nil).status(200).found("userName"); !slices.Equal(got, []string{"c", "d", "0"}) {
		t.Errorf("the next page holds %v", got)
	}
	// Where the order is by value, the place is gone with the person.
	s.do("GET", "/Users?sortBy=userName&cursor="+byName.get("nextCursor").(string), nil).refused(400, "expiredCursor")
}

func TestAForgedCursorIsRefusedOrHarmless(t *testing.T) {
	s := newSite(t)
	for _, login := range []string{"a", "b", "c"} {
		s.createUser(login)
	}
	s.User("other", "stranger")
	next := s.do("GET", "/Users?count=1&cursor=", nil).get("nextCursor").(string)
	for _, query := range []string{"cursor=x", "cursor=" + next + "A", "cursor=" + next[:len(next)-2], "sortBy=userName&cursor=" + next, "cursor=" + next + "&filter=" + url.QueryEscape("active eq true")} {
		s.do("GET", "/Users?"+query, nil).refused(400, "invalidCursor")
	}
	s.do("GET", "/Groups?cursor="+next, nil).refused(400, "invalidCursor")
	s.do("GET", "/Users?cursor=&count=x", nil).refused(400, "invalidCount")
	s.do("GET", "/Users?cursor=&count=0", nil).refused(400, "invalidCount")
	s.do("GET", "/Users?cursor=&startIndex=2", nil).refused(400, "invalidValue")
	for i := range 64 { // another place: still only what this directory has
		forged := []byte(next)
		forged[len(forged)-1-i%4] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef"[i%32]
		a := s.do("GET", "/Users?cursor="+string(forged), nil)
		if slices.Contains(a.found("userName"), "stranger") {
			t.Fatal("a forged cursor shows another directory's people")
		}
	}
}

func TestSearchSaysInABodyWhatAQuerySays(t *testing.T) {
	s := newSite(t)
	ada := s.createFamily("ada", "Lovelace")
	s.createFamily("bob", "Builder")
	s.createGroup("Ants", ada)
	search := func(path string, more object) answer {
		body := object{"schemas": []string{searchURN}}
		for name, v := range more {
			body[name] = v
		}
		return s.do("POST", path, body)
	}
	a := search("/Users/.search", object{"filter": `userName sw "a"`, "attributes": []string{"name.familyName"}}).status(200).is("totalResults", 1).is("Resources[0].name.familyName", "Lovelace")
	if a.get("Resources[0].userName") != nil || a.get("Resources[0].id") == nil {
		t.Errorf("projected: %s", a.raw)
	}
	search("/Groups/.search", object{"filter": `displayName eq "ants"`}).status(200).is("Resources[0].members[0].value", ada)
	// At the root: everything, users first, in one paging.
	if got := search("/.search", object{"sortBy": "id", "startIndex": 2, "count": 2}).status(200).is("totalResults", 3).found("meta.resourceType"); !slices.Equal(got, []string{"User", "Group"}) {
		t.Errorf("all, from the second: %v", got)
	}
	if got := search("/.search", object{}).status(200).found("meta.resourceType"); !slices.Equal(got, []string{"User", "User", "Group"}) {
		t.Errorf("all: %v", got)
	}
	if got := search("/.search", object{"startIndex": 3}).status(200).found("displayName"); !slices.Equal(got, []string{"Ants"}) {
		t.Errorf("the third: %v", got)
	}
	first := search("/.search", object{"cursor": "", "count": 2}).status(200).size("Resources", 2)
	if got := search("/.search", object{"cursor": first.get("nextCursor"), "count": 2}).status(200).found("displayName"); !slices.Equal(got, []string{"Ants"}) {
		t.Errorf("the second page: %v", got)
	}
	search("/.search", object{"filter": `meta.resourceType eq "Group"`}).status(200).is("totalResults", 1)
	search("/.search", object{"filter": fmt.Sprintf("id eq %q", ada)}).status(200).is("Resources[0].userName", "ada")
	search("/.search", object{"count": "many"}).refused(400, "invalidValue")
	search("/.search", object{"attributes": []any{1}}).refused(400, "invalidValue")
	s.do("POST", "/.search", object{"schemas": []string{listURN}}).refused(400, "invalidSyntax")
}

func TestProjections(t *testing.T) {
	s := newSite(t)
	id := s.createFamily("ada", "Lovelace", object{
		"schemas": []string{userURN, enterpriseURN}, enterpriseURN: object{"department": "Engines", "manager": object{"value": "7", "displayName": "Charles"}},
		"urn:acme:1.0:User": object{"badge": "7", "floor": "2"},
	})
	group := s.createGroup("Engineers", id)
	for query, want := range map[string]struct{ has, lacks []string }{
		"attributes=userName":                                  {[]string{"userName", "id", "schemas"}, []string{"name", "emails", "meta", enterpriseURN}},
		"attributes=name.familyName,emails.VALUE":              {[]string{"name.familyName", "emails[1].value", "id"}, []string{"emails[0].type", "userName"}},
		"attributes=" + userURN + ":userName":                  {[]string{"userName"}, []string{"name"}},
		"attributes=" + enterpriseURN:                          {[]string{"'" + enterpriseURN + "'.department", "'" + enterpriseURN + "'.manager.value"}, []string{"userName"}},
		"attributes=" + enterpriseURN + ":department":          {[]string{"'" + enterpriseURN + "'.department"}, []string{"'" + enterpriseURN + "'.manager"}},
		"attributes=" + enterpriseURN + ":manager.displayName": {[]string{"'" + enterpriseURN + "'.manager.displayName"}, []string{"'" + enterpriseURN + "'.manager.value", "'" + enterpriseURN + "'.department"}},
		"attributes=urn:acme:1.0:User:badge":                   {[]string{"'urn:acme:1.0:User'.badge"}, []string{"'urn:acme:1.0:User'.floor"}},
		"excludedAttributes=name,emails,groups":                {[]string{"userName", "meta.version"}, []string{"name", "emails", "groups"}},
		"excludedAttributes=id,schemas,meta.location":          {[]string{"id", "schemas", "meta.version"}, []string{"meta.location"}},
		"excludedAttributes=emails.type":                       {[]string{"emails[0].value"}, []string{"emails[0].type", "emails[1].type"}},
		"excludedAttributes=" + enterpriseURN + ":manager":     {[]string{"'" + enterpriseURN + "'.department"}, []string{"'" + enterpriseURN + "'.manager"}},
		"attributes=password":                                  {[]string{"id"}, []string{"password", "userName"}},
		"attributes=groups.display":                            {[]string{"groups[0].display"}, []string{"groups[0].value"}},
	} {
		for path, prefix := range map[string]string{"/Users/" + id + "?" + query: "", "/Users?" + query: "Resources[0]."} {
			a := s.do("GET", path, nil).status(200)
			for _, p := range want.has {
				if a.get(prefix+p) == nil {
					t.Errorf("%s lacks %s: %s", path, p, a.raw)
				}
			}
			for _, p := range want.lacks {
				if a.get(prefix+p) != nil {
					t.Errorf("%s has %s: %s", path, p, a.raw)
				}
			}
		}
	}
	s.do("GET", "/Groups/"+group+"?attributes=members.value", nil).status(200).is("members[0].value", id).is("members[0].display", nil).is("displayName", nil)
	s.do("GET", "/Groups/"+group+"?excludedAttributes=members.$ref", nil).status(200).is("members[0].value", id).is("members[0].$ref", nil)
	s.do("GET", "/Groups?excludedAttributes=members", nil).status(200).is("Resources[0].members", nil).is("Resources[0].displayName", "Engineers")
	// A change is answered by the same rule, and a bad rule changes nothing.
	s.do("PUT", "/Users/"+id+"?attributes=userName", oktaUser("ada")).status(200).is("name", nil).is("userName", "ada")
	s.do("POST", "/Users?attributes=a%20b", oktaUser("eve")).refused(400, "invalidValue")
	s.do("GET", "/Users"+filter(`userName eq "eve"`), nil).status(200).is("totalResults", 0)
	s.do("GET", "/Users?attributes="+strings.Repeat("a,", 300), nil).refused(400, "tooMany")
}

// TestGroupsAreFoundByAMember, in each way to say it.
func TestGroupsAreFoundByAMember(t *testing.T) {
	s := newSite(t)
	ada, bob := s.createUser("ada"), s.createUser("bob")
	s.createGroup("Others", bob)
	s.createGroup("Ants", ada)
	bees := s.createGroup("Bees", ada, bob)
	for _, expression := range []string{`members eq "%s"`, `members.value eq "%s"`, `members[value eq "%s"]`, `displayName pr and members[value eq "%s" and type eq "User"]`} {
		a := s.do("GET", "/Groups"+filter(fmt.Sprintf(expression, ada)), nil).status(200)
		if got := a.found("displayName"); !slices.Equal(got, []string{"Ants", "Bees"}) {
			t.Errorf("%s: %v", expression, got)
		}
	}
	s.do("GET", "/Groups"+filter(`members eq "nobody"`), nil).status(200).is("totalResults", 0)
	for expression, want := range map[string][]string{`groups.value eq "%s"`: {"ada", "bob"}, `groups[value eq "%s"] and userName sw "b"`: {"bob"}, `not (groups.value eq "%s")`: nil} {
		if got := s.do("GET", "/Users"+filter(fmt.Sprintf(expression, bees)), nil).status(200).found("userName"); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", expression, got, want)
		}
	}
	s.do("GET", "/Groups"+filter(`not (members pr)`), nil).status(200).is("totalResults", 0)
}

func TestAGroupOfManyIsReadWithAllOfThem(t *testing.T) {
	s := newSite(t)
	var ids []string
	for i := range 300 {
		ids = append(ids, s.User("okta", fmt.Sprintf("user-%d", i)).ID.String())
	}
	s.do("GET", "/Groups/"+s.createGroup("All", ids...), nil).status(200).size("members", 300).is("members[299].display", "user-299")
}
