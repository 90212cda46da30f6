package scim_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/scim"
)

const (
	userURN       = "urn:ietf:params:scim:schemas:core:2.0:User"
	groupURN      = "urn:ietf:params:scim:schemas:core:2.0:Group"
	enterpriseURN = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
	patchURN      = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
	listURN       = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
	errorURN      = "urn:ietf:params:scim:api:messages:2.0:Error"
)

// site is a SCIM server over a real engine, with a directory "okta" whose token its requests carry.
type site struct {
	*enginetest.Plane
	t      *testing.T
	server *httptest.Server
	token  string
	base   string
}

func newSite(t *testing.T) *site {
	t.Helper()
	p := enginetest.New(t).Start(nil)
	p.Directory("okta", "other")
	_, token := p.Token(eventv1.TokenKind_TOKEN_KIND_SCIM, "okta")
	server := httptest.NewServer(scim.New(scim.Config{Engine: p.Engine, MaxBody: 1 << 20}))
	t.Cleanup(server.Close)
	return &site{Plane: p, t: t, server: server, token: token, base: "/scim/v2"}
}

// as is the same site seen with another token.
func (s *site) as(t *testing.T, token string) *site {
	return &site{Plane: s.Plane, t: t, server: s.server, token: token, base: s.base}
}

// answer is an HTTP answer with its body read, as JSON where there is one.
type answer struct {
	t *testing.T
	*http.Response
	raw  string
	body any
}

// do sends a request; a body that is no string is sent as JSON.
func (s *site) do(method, path string, body any, header ...string) answer {
	s.t.Helper()
	var text string
	switch b := body.(type) {
	case nil:
	case string:
		text = b
	default:
		data, err := json.Marshal(b)
		enginetest.Must(s.t, err)
		text = string(data)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.server.URL+s.base+path, strings.NewReader(text))
	enginetest.Must(s.t, err)
	req.Header.Set("Authorization", "Bearer "+s.token)
	if body != nil {
		req.Header.Set("Content-Type", "application/scim+json; charset=utf-8")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	res, err := http.DefaultClient.Do(req)
	enginetest.Must(s.t, err)
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	enginetest.Must(s.t, err)
	a := answer{t: s.t, Response: res, raw: string(raw)}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &a.body); err != nil {
			s.t.Fatalf("%s %s: the answer is no JSON: %s", method, path, raw)
		}
		if got := res.Header.Get("Content-Type"); got != "application/scim+json" {
			s.t.Errorf("%s %s: the answer's type is %q", method, path, got)
		}
	}
	return a
}

// status ends the test unless the answer has this status.
func (a answer) status(want int) answer {
	a.t.Helper()
	if a.StatusCode != want {
		a.t.Fatalf("%s %s: status %d, want %d: %s", a.Request.Method, a.Request.URL.Path, a.StatusCode, want, a.raw)
	}
	return a
}

// refused checks that the answer is a SCIM error of this kind.
func (a answer) refused(status int, scimType string) {
	a.t.Helper()
	a.status(status)
	a.is("schemas[0]", errorURN).is("status", strconv.Itoa(status))
	if got, _ := a.get("scimType").(string); got != scimType {
		a.t.Errorf("%s %s: scimType %q, want %q: %s", a.Request.Method, a.Request.URL.Path, got, scimType, a.raw)
	}
	if detail, _ := a.get("detail").(string); detail == "" {
		a.t.Error("the error has no detail")
	}
}

// get follows a path such as "Resources[0].emails[1].value"; nil where it leads nowhere. A name in
// apostrophes may hold dots.
func (a answer) get(path string) any { return follow(a.body, path) }

func follow(v any, path string) any {
	for path != "" {
		switch path[0] {
		case '.':
			path = path[1:]
		case '[':
			index, rest, _ := strings.Cut(path[1:], "]")
			i, err := strconv.Atoi(index)
			list, _ := v.([]any)
			if err != nil || i >= len(list) {
				return nil
			}
			v, path = list[i], rest
		case '\'':
			name, rest, _ := strings.Cut(path[1:], "'")
			o, _ := v.(map[string]any)
			v, path = o[name], rest
		default:
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			o, _ := v.(map[string]any)
			v, path = o[path[:end]], path[end:]
		}
	}
	return v
}

// is checks one place of the answer.
func (a answer) is(path string, want any) answer {
	a.t.Helper()
	if n, ok := want.(int); ok {
		want = float64(n)
	}
	if got := a.get(path); got != want {
		a.t.Errorf("%s %s: %s is %v, want %v: %.300s", a.Request.Method, a.Request.URL.Path, path, got, want, a.raw)
	}
	return a
}

func (a answer) id() string {
	a.t.Helper()
	id, _ := a.get("id").(string)
	if id == "" {
		a.t.Fatalf("no id in %s", a.raw)
	}
	return id
}

// size is the length of the list at a path.
func (a answer) size(path string, want int) answer {
	a.t.Helper()
	list, ok := a.get(path).([]any)
	if !ok || len(list) != want {
		a.t.Errorf("%s %s: %s has %d elements, want %d: %.500s", a.Request.Method, a.Request.URL.Path, path, len(list), want, a.raw)
	}
	return a
}

type object = map[string]any

// oktaUser is what Okta posts to create a person.
func oktaUser(name string) object {
	return object{
		"schemas": []string{userURN}, "userName": name, "name": object{"givenName": "Ada", "familyName": "Lovelace"},
		"emails":      []object{{"primary": true, "value": name, "type": "work"}},
		"displayName": "Ada Lovelace", "locale": "en-US", "externalId": "00u" + name, "groups": []any{}, "active": true,
	}
}

func (s *site) createUser(name string) string {
	s.t.Helper()
	return s.do("POST", "/Users", oktaUser(name)).status(201).id()
}

func (s *site) createGroup(name string, members ...string) string {
	s.t.Helper()
	return s.do("POST", "/Groups", object{"schemas": []string{groupURN}, "displayName": name, "members": values(members)}).status(201).id()
}

func values(ids []string) []object {
	list := []object{}
	for _, id := range ids {
		list = append(list, object{"value": id})
	}
	return list
}

// patch is a PATCH body of these operations.
func patch(operations ...object) object {
	return object{"schemas": []string{patchURN}, "Operations": operations}
}

func op(name, path string, value any) object {
	o := object{"op": name}
	if path != "" {
		o["path"] = path
	}
	if value != nil {
		o["value"] = value
	}
	return o
}

// members reads a group's members.
func (s *site) members(group string) map[string]bool {
	s.t.Helper()
	list, _ := s.do("GET", "/Groups/"+group, nil).status(200).get("members").([]any)
	ids := map[string]bool{}
	for _, m := range list {
		ids[follow(m, "value").(string)] = true
	}
	return ids
}

func (s *site) wantMembers(group string, want ...string) {
	s.t.Helper()
	got := s.members(group)
	if len(got) != len(want) {
		s.t.Errorf("the group has %d members, want %d", len(got), len(want))
	}
	for _, id := range want {
		if !got[id] {
			s.t.Errorf("%s is no member", id)
		}
	}
}

func filter(expression string) string { return "?filter=" + url.QueryEscape(expression) }
