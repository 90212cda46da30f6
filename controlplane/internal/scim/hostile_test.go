package scim_test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func TestOnlyATokenOfADirectoryOpensTheDoor(t *testing.T) {
	s := newSite(t)
	basic := func(password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("anybody:"+password))
	}
	for _, header := range []string{"Bearer " + s.token, "bearer " + s.token, basic(s.token)} {
		s.do("GET", "/Users", nil, "Authorization", header).status(200)
	}
	_, admin := s.Token(eventv1.TokenKind_TOKEN_KIND_ADMIN, "root")
	_, proxy := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-1")
	revokedID, revoked := s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	s.do("GET", "/Users", nil, "Authorization", "Bearer "+revoked).status(200)
	s.Do(core.RevokeToken{ID: revokedID})
	forged := s.token[:len(s.token)-4] + "AAAA"
	for name, header := range map[string]string{
		"none": "", "admin": "Bearer " + admin, "proxy": "Bearer " + proxy, "an admin's as a password": basic(admin), "revoked": "Bearer " + revoked,
		"forged": "Bearer " + forged, "cut": "Bearer " + s.token[:20], "empty": "Bearer ", "another scheme": "Digest " + s.token, "bare": s.token,
		"prefixed as SCIM": "Bearer " + strings.Replace(admin, "_admin_", "_scim_", 1), "broken basic": "Basic %%%",
	} {
		for _, path := range []string{"/Users", "/ServiceProviderConfig", "/nowhere"} {
			a := s.do("GET", path, nil, "Authorization", header)
			if a.StatusCode != 401 || a.get("schemas[0]") != errorURN || a.get("status") != "401" {
				t.Errorf("%s, %s: %d %s", name, path, a.StatusCode, a.raw)
			}
			if got := a.Header.Get("WWW-Authenticate"); !strings.HasPrefix(got, "Bearer ") {
				t.Errorf("%s: WWW-Authenticate is %q", name, got)
			}
			if header != "" && len(header) > 20 && strings.Contains(a.raw, header[10:]) {
				t.Errorf("%s: the answer repeats the credential", name)
			}
		}
	}
}

func TestAnExpiredTokenOpensNothing(t *testing.T) {
	s := newSite(t)
	id, token, sum, err := bearer.New(eventv1.TokenKind_TOKEN_KIND_SCIM)
	enginetest.Must(t, err)
	s.Do(core.IssueToken{ID: id, Kind: eventv1.TokenKind_TOKEN_KIND_SCIM, SHA256: sum[:], Name: "brief", Directory: "okta", ExpiresAt: time.Now().Add(300 * time.Millisecond)})
	enginetest.Eventually(t, "the token to expire", func() bool {
		return s.do("GET", "/Users", nil, "Authorization", "Bearer "+token).StatusCode == 401
	})
}

// TestADirectorysTokenSeesOnlyItsDirectory: the people and groups of another are as unknown as none.
func TestADirectorysTokenSeesOnlyItsDirectory(t *testing.T) {
	s := newSite(t)
	_, foreign := s.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "other")
	other := s.as(t, foreign)
	user, own := s.createUser("ada"), other.createUser("mallory")
	group, ownGroup := s.createGroup("Engineers", user), other.createGroup("Strangers")
	other.do("GET", "/Users/"+user, nil).refused(404, "")
	other.do("PUT", "/Users/"+user, oktaUser("ada")).refused(404, "")
	other.do("PATCH", "/Users/"+user, patch(op("replace", "active", false))).refused(404, "")
	other.do("DELETE", "/Users/"+user, nil).refused(404, "")
	other.do("GET", "/Groups/"+group, nil).refused(404, "")
	other.do("PUT", "/Groups/"+group, object{"schemas": []string{groupURN}, "displayName": "Mine"}).refused(404, "")
	other.do("PATCH", "/Groups/"+group, patch(op("add", "members", values([]string{own})))).refused(404, "")
	other.do("DELETE", "/Groups/"+group, nil).refused(404, "")
	for _, member := range []string{user, group} {
		if a := other.do("PATCH", "/Groups/"+ownGroup, patch(op("add", "members", values([]string{member})))); a.StatusCode/100 != 4 {
			t.Errorf("a foreign member was taken: %d %s", a.StatusCode, a.raw)
		}
	}
	other.do("GET", "/Users", nil).is("totalResults", 1).is("Resources[0].id", own)
	other.do("GET", "/Users"+filter(`userName eq "ada"`), nil).is("totalResults", 0)
	other.do("GET", "/Users"+filter(`id eq "`+user+`"`), nil).is("totalResults", 0)
	other.do("GET", "/Groups"+filter(`id eq "`+group+`"`), nil).is("totalResults", 0)
	other.createUser("ada") // a name is unique in its directory alone
	s.do("GET", "/Users/"+user, nil).status(200).is("active", true)
	s.wantMembers(group, user)
}

func TestAMalformedBodyIsRefused(t *testing.T) {
	s := newSite(t)
	id := s.createUser("ada")
	deep := func(n int) string {
		return `{"schemas":["` + userURN + `"],"userName":"deep","name":` + strings.Repeat(`{"x":`, n) + "1" + strings.Repeat("}", n) + "}"
	}
	valid := `{"schemas":["` + userURN + `"],"userName":"x"}`
	for name, test := range map[string]struct {
		body, contentType string
		status            int
		scimType          string
	}{
		"no JSON":                           {"{", "", 400, "invalidSyntax"},
		"nothing":                           {"", "", 400, "invalidSyntax"},
		"null":                              {"null", "", 400, "invalidSyntax"},
		"a list":                            {"[]", "", 400, "invalidSyntax"},
		"two objects":                       {valid + valid, "", 400, "invalidSyntax"},
		"a name twice":                      {`{"schemas":["` + userURN + `"],"userName":"x","userName":"y"}`, "", 400, "invalidSyntax"},
		"a name twice in other letter case": {`{"schemas":["` + userURN + `"],"userName":"x","active":true,"Active":false}`, "", 400, "invalidSyntax"},
		"a name twice by Unicode's folding": {`{"schemas":["` + userURN + `"],"userName":"x","displayName":"a","diſplayName":"b"}`, "", 400, "invalidSyntax"},
		"a nested name twice":               {`{"schemas":["` + userURN + `"],"userName":"x","name":{"givenName":"a","givenname":"b"}}`, "", 400, "invalidSyntax"},
		"bytes that are no UTF-8":           {"{\"schemas\":[\"" + userURN + "\"],\"userName\":\"\xff\"}", "", 400, "invalidSyntax"},
		"nested deeply":                     {deep(30), "", 400, "invalidSyntax"},
		"nested very deeply":                {deep(100_000), "", 400, "invalidSyntax"},
		"no schemas":                        {`{"userName":"x"}`, "", 400, "invalidSyntax"},
		"another schema":                    {`{"schemas":["` + groupURN + `"],"userName":"x"}`, "", 400, "invalidSyntax"},
		"no userName":                       {`{"schemas":["` + userURN + `"]}`, "", 400, "invalidValue"},
		"userName of a wrong type":          {`{"schemas":["` + userURN + `"],"userName":7}`, "", 400, "invalidValue"},
		"too large":                         {`{"schemas":["` + userURN + `"],"userName":"` + strings.Repeat("x", 2<<20) + `"}`, "", 413, ""},
		"userName too long":                 {`{"schemas":["` + userURN + `"],"userName":"` + strings.Repeat("x", 2000) + `"}`, "", 400, "invalidValue"},
		"another content type":              {valid, "text/plain", 415, ""},
		"a form":                            {"a=b", "application/x-www-form-urlencoded", 415, ""},
		"a broken content type":             {valid, "application/json; =", 415, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.as(t, s.token)
			contentType := test.contentType
			if contentType == "" {
				contentType = "application/json"
			}
			s.do("POST", "/Users", test.body, "Content-Type", contentType).refused(test.status, test.scimType)
			s.do("PUT", "/Users/"+id, test.body, "Content-Type", contentType).refused(test.status, test.scimType)
		})
	}
	s.do("GET", "/Users", nil).is("totalResults", 1).is("Resources[0].userName", "ada")
	many := make([]object, 1001)
	for i := range many {
		many[i] = op("replace", "title", "x")
	}
	s.do("PATCH", "/Users/"+id, patch(many...)).refused(400, "tooMany")
	s.do("PATCH", "/Users/"+id, patch()).refused(400, "invalidSyntax")
	s.do("PATCH", "/Users/"+id, object{"schemas": []string{userURN}, "Operations": []object{op("replace", "title", "x")}}).refused(400, "invalidSyntax")
}

func TestAnUnknownPathIsAnsweredInTheProtocol(t *testing.T) {
	s := newSite(t)
	for _, path := range []string{"", "/", "/Nothing", "/Users/x/y", "/users", "/v3"} {
		s.do("GET", path, nil).refused(404, "")
	}
	for _, id := range []string{"x", "00919288221112222", uuid.NewString(), "%2e%2e", strings.Repeat("9", 500)} {
		s.do("GET", "/Users/"+id, nil).refused(404, "")
		s.do("PATCH", "/Groups/"+id, patch(op("replace", "displayName", "x"))).refused(404, "")
	}
}

func TestABadQueryIsRefused(t *testing.T) {
	s := newSite(t)
	s.createUser("ada")
	for query, scimType := range map[string]string{
		"?startIndex=x": "invalidValue", "?count=1.5": "invalidValue", filter("userName"): "invalidFilter", filter(`userName eq`): "invalidFilter",
		filter(`userName eq "a`): "invalidFilter", filter(`userName eq "a" xor`): "invalidFilter", filter(strings.Repeat("(", 100) + `a eq 1`): "invalidFilter",
		filter(strings.Repeat("a", 5000)): "invalidFilter", filter("not userName pr"): "invalidFilter", filter(`emails[type eq "x"`): "invalidFilter",
	} {
		s.do("GET", "/Users"+query, nil).refused(400, scimType)
	}
}

func TestPagesCoverAllOnce(t *testing.T) {
	s := newSite(t)
	want := map[string]bool{}
	for i := range 25 {
		want[s.User("okta", fmt.Sprintf("user-%02d", i)).ID.String()] = true
	}
	for _, query := range []string{"", filter(`active eq true`)} {
		got := map[string]bool{}
		for start := 1; start <= 25; start += 10 {
			separator := "?"
			if query != "" {
				separator = "&"
			}
			a := s.do("GET", fmt.Sprintf("/Users%s%sstartIndex=%d&count=10", query, separator, start), nil).status(200).
				is("totalResults", 25).is("startIndex", start).is("itemsPerPage", min(10, 26-start))
			for _, u := range a.get("Resources").([]any) {
				id := follow(u, "id").(string)
				if got[id] || !want[id] {
					t.Errorf("%s came twice, or is none of ours", id)
				}
				got[id] = true
			}
		}
		if len(got) != 25 {
			t.Errorf("pages held %d of 25 people", len(got))
		}
	}
	s.do("GET", "/Users?count=0", nil).status(200).is("totalResults", 25).size("Resources", 0)
	s.do("GET", "/Users?startIndex=-3&count=-1", nil).status(200).is("startIndex", 1).size("Resources", 0)
	s.do("GET", "/Users?startIndex=26", nil).status(200).is("totalResults", 25).size("Resources", 0)
	s.do("GET", "/Users?startIndex=99999999&count=5", nil).status(200).size("Resources", 0)
	s.do("GET", "/Users?count=100000", nil).status(200).size("Resources", 25)
}

func TestDiscoveryTellsWhatIsOffered(t *testing.T) {
	s := newSite(t)
	s.do("GET", "/ServiceProviderConfig", nil).status(200).is("patch.supported", true).is("bulk.supported", true).is("bulk.maxOperations", 1000).is("sort.supported", true).is("pagination.cursor", true).is("filter.supported", true).
		is("authenticationSchemes[0].type", "oauthbearertoken").is("authenticationSchemes[1].type", "httpbasic")
	s.do("GET", "/ResourceTypes", nil).status(200).is("totalResults", 2).is("Resources[0].endpoint", "/Users").is("Resources[1].endpoint", "/Groups")
	s.do("GET", "/ResourceTypes/User", nil).status(200).is("schema", userURN).is("schemaExtensions[0].schema", enterpriseURN)
	s.do("GET", "/ResourceTypes/Robot", nil).refused(404, "")
	all := s.do("GET", "/Schemas", nil).status(200).is("totalResults", 3)
	if strings.Contains(all.raw, "null") {
		t.Error("the schemas hold a null")
	}
	for _, urn := range []string{userURN, groupURN, enterpriseURN} {
		s.do("GET", "/Schemas/"+urn, nil).status(200).is("id", urn)
	}
	s.do("GET", "/Schemas"+filter(`id eq "x"`), nil).refused(403, "")
}

func TestVersionsGuardAChange(t *testing.T) {
	s := newSite(t)
	id := s.createUser("ada")
	tag := s.do("GET", "/Users/"+id, nil).Header.Get("ETag")
	s.do("GET", "/Users/"+id, nil, "If-None-Match", tag).status(304)
	s.do("PATCH", "/Users/"+id, patch(op("replace", "title", "a")), "If-Match", tag).status(200)
	s.do("PATCH", "/Users/"+id, patch(op("replace", "title", "b")), "If-Match", tag).refused(412, "")
	s.do("PUT", "/Users/"+id, oktaUser("ada"), "If-Match", `W/"x"`).refused(412, "")
	s.do("DELETE", "/Users/"+id, nil, "If-Match", tag).refused(412, "")
	group := s.createGroup("Engineers")
	tag = s.do("GET", "/Groups/"+group, nil).Header.Get("ETag")
	s.do("PATCH", "/Groups/"+group, patch(op("add", "members", values([]string{id}))), "If-Match", tag).status(204)
	s.do("PATCH", "/Groups/"+group, patch(op("replace", "members", []any{})), "If-Match", tag).refused(412, "")
	s.wantMembers(group, id)
}

// TestParallelPatchesOfOneGroupLoseNothing: each of a hundred clients adds one member and removes another.
func TestParallelPatchesOfOneGroupLoseNothing(t *testing.T) {
	s := newSite(t)
	const n = 100
	var come, leave []string
	for i := range n {
		come = append(come, s.User("okta", fmt.Sprintf("come-%d", i)).ID.String())
		leave = append(leave, s.User("okta", fmt.Sprintf("go-%d", i)).ID.String())
	}
	id := s.createGroup("Engineers", leave...)
	status := make([]int, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			body := fmt.Sprintf(`{"schemas":[%q],"Operations":[{"op":"remove","path":"members[value eq \"%s\"]"},{"op":"add","path":"members","value":[{"value":%q}]}]}`, patchURN, leave[i], come[i])
			req, err := http.NewRequestWithContext(t.Context(), "PATCH", s.server.URL+"/scim/v2/Groups/"+id, strings.NewReader(body))
			if err != nil {
				return
			}
			req.SetBasicAuth(rand.Text(), s.token)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			res.Body.Close()
			status[i] = res.StatusCode
		})
	}
	all.Wait()
	for i, got := range status {
		if got != 204 {
			t.Errorf("PATCH %d: status %d", i, got)
		}
	}
	s.wantMembers(id, come...)
}

// TestParallelPatchesOfOnePersonLoseNothing: each changes an attribute of its own.
func TestParallelPatchesOfOnePersonLoseNothing(t *testing.T) {
	s := newSite(t)
	id := s.createUser("ada")
	names := []string{"title", "nickName", "userType", "timezone", "preferredLanguage", "locale"}
	status := make([]int, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			body := fmt.Sprintf(`{"schemas":[%q],"Operations":[{"op":"replace","path":%q,"value":"changed"}]}`, patchURN, name)
			req, err := http.NewRequestWithContext(t.Context(), "PATCH", s.server.URL+"/Users/"+id, strings.NewReader(body))
			if err != nil {
				return
			}
			req.Header.Set("Authorization", "Bearer "+s.token)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			res.Body.Close()
			status[i] = res.StatusCode
		})
	}
	all.Wait()
	a := s.do("GET", "/Users/"+id, nil).status(200)
	for i, name := range names {
		if status[i] != 200 {
			t.Errorf("PATCH of %s: status %d", name, status[i])
		}
		a.is(name, "changed")
	}
}
