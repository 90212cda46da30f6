package okta_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport.dev/scripts/demo/okta"
)

// recorder is the other end: it writes down each request and answers as a SCIM server would, from what it was sent.
type recorder struct {
	t *testing.T

	mu     sync.Mutex // guards what follows
	seen   []string   // "METHOD path body", ids by name
	header http.Header
	users  map[string]map[string]any
	groups map[string]string
	refuse func(method, path string) (status int, header http.Header, body string)
}

func startRecorder(t *testing.T) (*recorder, string) {
	t.Helper()
	r := &recorder{t: t, users: map[string]map[string]any{}, groups: map[string]string{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return r, server.URL + "/scim/v2"
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	data, err := io.ReadAll(req.Body)
	if err != nil {
		r.t.Error(err)
	}
	path := strings.TrimPrefix(req.URL.Path, "/scim/v2")
	line := req.Method + " " + path
	if req.URL.RawQuery != "" {
		line += "?" + req.URL.Query().Encode()
	}
	if len(data) > 0 {
		line += " " + string(data)
	}
	r.seen = append(r.seen, line)
	r.header = req.Header
	if r.refuse != nil {
		if status, header, text := r.refuse(req.Method, path); status != 0 {
			for k, v := range header {
				w.Header()[k] = v
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, text)
			return
		}
	}
	var in map[string]any
	if len(data) > 0 {
		if err := json.Unmarshal(data, &in); err != nil {
			r.t.Errorf("%s: %v", line, err)
		}
	}
	switch {
	case req.Method == http.MethodGet && (path == "/Users" || path == "/Groups"):
		r.list(w, path, req.URL.Query().Get("filter"))
	case req.Method == http.MethodPost && path == "/Users":
		id := fmt.Sprintf("u%d", len(r.users)+1)
		in["id"] = id
		delete(in, "password")
		r.users[id] = in
		answer(w, http.StatusCreated, in)
	case req.Method == http.MethodPost && path == "/Groups":
		id := fmt.Sprintf("g%d", len(r.groups)+1)
		r.groups[id], _ = in["displayName"].(string)
		answer(w, http.StatusCreated, map[string]any{"id": id, "displayName": in["displayName"]})
	case req.Method == http.MethodGet:
		answer(w, http.StatusOK, r.users[strings.TrimPrefix(path, "/Users/")])
	case req.Method == http.MethodPut:
		r.users[strings.TrimPrefix(path, "/Users/")] = in
		answer(w, http.StatusOK, in)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (r *recorder) list(w http.ResponseWriter, path, filter string) {
	found := []map[string]any{}
	for id, u := range r.users {
		if name, _ := u["userName"].(string); path == "/Users" && strings.EqualFold(filter, `userName eq "`+name+`"`) {
			found = append(found, map[string]any{"id": id, "userName": name})
		}
	}
	for id, name := range r.groups {
		if path == "/Groups" && strings.EqualFold(filter, `displayName eq "`+name+`"`) {
			found = append(found, map[string]any{"id": id, "displayName": name})
		}
	}
	answer(w, http.StatusOK, map[string]any{"totalResults": len(found), "Resources": found})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/scim+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// took returns what was sent since it was asked last.
func (r *recorder) took() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.seen
	r.seen = nil
	return out
}

func (r *recorder) want(what string, lines ...string) {
	r.t.Helper()
	if got := r.took(); !slices.Equal(got, lines) {
		r.t.Errorf("%s sent\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(lines, "\n  "))
	}
}

func connected(t *testing.T, cfg okta.Config) (*okta.Org, *recorder) {
	t.Helper()
	r, base := startRecorder(t)
	org := okta.NewOrg(cfg)
	if _, err := org.ConnectSCIM(t.Context(), base, "scim-token"); err != nil {
		t.Fatal(err)
	}
	r.want("the connection test", "GET /Users?count=2&startIndex=1")
	return org, r
}

func must(t *testing.T) func(okta.Push, error) okta.Push {
	return func(p okta.Push, err error) okta.Push {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
}

// hired is an org with one assigned person in one pushed group.
func hired(t *testing.T) (*okta.Org, *recorder, okta.Person) {
	t.Helper()
	org, r := connected(t, okta.Config{})
	must(t)(org.CreateGroup(t.Context(), "Sallyport Users", okta.Assignment))
	must(t)(org.CreateGroup(t.Context(), "Engineers", okta.Pushed))
	if _, err := org.AddUser(okta.Profile{Login: maya, GivenName: "Maya", FamilyName: "Chen"}); err != nil {
		t.Fatal(err)
	}
	must(t)(org.AddToGroup(t.Context(), "Engineers", maya))
	must(t)(org.AddToGroup(t.Context(), "Sallyport Users", maya))
	r.took()
	p, err := org.Person(maya)
	if err != nil {
		t.Fatal(err)
	}
	return org, r, p
}

const (
	patchOf     = `{"schemas":["urn:ietf:params:scim:api:messages:2.0:PatchOp"],"Operations":[%s]}`
	filterMaya  = "GET /Users?count=100&filter=userName+eq+%22maya.chen%40acme.example%22&startIndex=1"
	assertName  = `{"op":"replace","value":{"displayName":"Engineers","id":"g1"}}`
	addMaya     = `{"op":"add","path":"members","value":[{"value":"u1","display":"maya.chen@acme.example"}]}`
	removeMaya  = `{"op":"remove","path":"members[value eq \"u1\"]"}`
	patchGroup1 = "PATCH /Groups/g1 " + patchOf
)

func TestProvisioningFollowsAssignmentAndPush(t *testing.T) {
	org, r := connected(t, okta.Config{})
	push := must(t)

	push(org.CreateGroup(t.Context(), "Sallyport Users", okta.Assignment))
	r.want("an assignment group")

	push(org.CreateGroup(t.Context(), "Engineers", okta.Pushed))
	r.want("a pushed group",
		"GET /Groups?count=100&filter=displayName+eq+%22Engineers%22&startIndex=1",
		`POST /Groups {"displayName":"Engineers","members":[],"schemas":["urn:ietf:params:scim:schemas:core:2.0:Group"]}`)

	p, err := org.AddUser(okta.Profile{Login: maya, GivenName: "Maya", FamilyName: "Chen"})
	if err != nil {
		t.Fatal(err)
	}
	push(org.AddToGroup(t.Context(), "Engineers", maya))
	r.want("joining a pushed group without the app")

	got := push(org.AddToGroup(t.Context(), "Sallyport Users", maya))
	sent := r.took()
	if len(sent) != 4 || got.Requests != 4 || got.Took <= 0 || got.Answered.IsZero() {
		t.Fatalf("assignment sent %d requests, told %+v:\n%s", len(sent), got, strings.Join(sent, "\n"))
	}
	if sent[0] != filterMaya {
		t.Errorf("first %s, want the lookup", sent[0])
	}
	var created map[string]any
	if err := json.Unmarshal([]byte(strings.TrimPrefix(sent[1], "POST /Users ")), &created); err != nil {
		t.Fatalf("%s: %v", sent[1], err)
	}
	if pw, _ := created["password"].(string); len(pw) != 8 {
		t.Errorf("placeholder password = %q", pw)
	}
	delete(created, "password")
	want := map[string]any{
		"schemas":     []any{"urn:ietf:params:scim:schemas:core:2.0:User"},
		"userName":    maya,
		"name":        map[string]any{"givenName": "Maya", "familyName": "Chen"},
		"emails":      []any{map[string]any{"primary": true, "value": maya, "type": "work"}},
		"displayName": "Maya Chen", "locale": "en-US", "externalId": p.ID, "groups": []any{}, "active": true,
	}
	if a, b := canonical(t, created), canonical(t, want); a != b {
		t.Errorf("created\n  %s\nwant\n  %s", a, b)
	}
	if want := fmt.Sprintf(patchGroup1, assertName); sent[2] != want {
		t.Errorf("sent %s, want the name first: %s", sent[2], want)
	}
	if want := fmt.Sprintf(patchGroup1, addMaya); sent[3] != want {
		t.Errorf("sent %s, want %s", sent[3], want)
	}
	if r.header.Get("Authorization") != "Bearer scim-token" || r.header.Get("User-Agent") != "Okta SCIM Client 1.0.0" ||
		r.header.Get("Content-Type") != "application/scim+json; charset=utf-8" {
		t.Errorf("headers = %v", r.header)
	}
}

func TestMembershipUpdateMixesRemoveAndAdd(t *testing.T) {
	org, r, _ := hired(t)
	if _, err := org.AddUser(okta.Profile{Login: "tom@acme.example"}); err != nil {
		t.Fatal(err)
	}
	must(t)(org.AddToGroup(t.Context(), "Sallyport Users", "tom@acme.example"))
	r.took()
	must(t)(org.ChangeGroup(t.Context(), "Engineers", []string{"tom@acme.example"}, []string{maya}))
	r.want("the swap", fmt.Sprintf(patchGroup1, assertName),
		fmt.Sprintf(patchGroup1, removeMaya+`,{"op":"add","path":"members","value":[{"value":"u2","display":"tom@acme.example"}]}`))
}

func TestFullPushReplacesMembers(t *testing.T) {
	org, r, _ := hired(t)
	must(t)(org.PushGroup(t.Context(), "Engineers"))
	r.want("push now", fmt.Sprintf(patchGroup1, assertName),
		fmt.Sprintf(patchGroup1, `{"op":"replace","path":"members","value":[{"value":"u1","display":"maya.chen@acme.example"}]}`))
}

func TestRenameIsAPathlessReplace(t *testing.T) {
	org, r, _ := hired(t)
	must(t)(org.RenameGroup(t.Context(), "Engineers", "Staff Engineers"))
	r.want("the rename", fmt.Sprintf(patchGroup1, `{"op":"replace","value":{"displayName":"Staff Engineers","id":"g1"}}`))
}

func TestUnlinkWithDelete(t *testing.T) {
	org, r, _ := hired(t)
	must(t)(org.UnlinkGroup(t.Context(), "Engineers"))
	r.want("unlinking", "DELETE /Groups/g1")
	must(t)(org.RemoveFromGroup(t.Context(), "Engineers", maya))
	r.want("a change of an unlinked group")
}

func TestProfileUpdateReadsThenPutsTheWhole(t *testing.T) {
	org, r, p := hired(t)
	must(t)(org.UpdateProfile(t.Context(), maya, okta.Profile{Login: "maya.ito@acme.example", GivenName: "Maya", FamilyName: "Ito"}))
	sent := r.took()
	if len(sent) != 2 || sent[0] != "GET /Users/u1" || !strings.HasPrefix(sent[1], "PUT /Users/u1 ") {
		t.Fatalf("sent %s", strings.Join(sent, "\n"))
	}
	for _, part := range []string{`"userName":"maya.ito@acme.example"`, `"externalId":"` + p.ID + `"`, `"id":"u1"`, `"familyName":"Ito"`, `"active":true`} {
		if !strings.Contains(sent[1], part) {
			t.Errorf("%s lacks %s", sent[1], part)
		}
	}
	renamed, err := org.Person("maya.ito@acme.example")
	if err != nil || renamed.ID != p.ID {
		t.Errorf("the id changed with the name: %+v %v", renamed, err)
	}
}

func TestDeactivationIsOnePatchAndThenSilence(t *testing.T) {
	org, r, _ := hired(t)
	got := must(t)(org.Deactivate(t.Context(), maya))
	if got.Requests != 1 {
		t.Errorf("push = %+v", got)
	}
	r.want("deactivation", `PATCH /Users/u1 `+fmt.Sprintf(patchOf, `{"op":"replace","value":{"active":false}}`))

	must(t)(org.RemoveFromGroup(t.Context(), "Engineers", maya))
	must(t)(org.AddToGroup(t.Context(), "Engineers", maya))
	must(t)(org.PushGroup(t.Context(), "Engineers"))
	r.want("group changes of an inactive person", fmt.Sprintf(patchGroup1, assertName),
		fmt.Sprintf(patchGroup1, `{"op":"replace","path":"members","value":[]}`))
}

func TestReactivationPutsThePersonAndAssertsNoMembership(t *testing.T) {
	org, r, _ := hired(t)
	must(t)(org.Deactivate(t.Context(), maya))
	r.took()
	must(t)(org.Reactivate(t.Context(), maya))
	sent := r.took()
	if len(sent) != 2 || sent[0] != "GET /Users/u1" || !strings.Contains(sent[1], `"active":true`) {
		t.Errorf("sent %s", strings.Join(sent, "\n"))
	}
	must(t)(org.PushGroup(t.Context(), "Engineers"))
	if sent := r.took(); len(sent) != 2 || !strings.Contains(sent[1], `"u1"`) {
		t.Errorf("push now sent %s", strings.Join(sent, "\n"))
	}
}

func TestSuspensionSendsNothing(t *testing.T) {
	org, r, _ := hired(t)
	if err := suspend(org); err != nil {
		t.Fatal(err)
	}
	must(t)(org.RemoveFromGroup(t.Context(), "Engineers", maya))
	r.want("suspension")
}

func TestUnassignmentDeactivates(t *testing.T) {
	org, r, _ := hired(t)
	must(t)(org.RemoveFromGroup(t.Context(), "Sallyport Users", maya))
	r.want("unassignment", `PATCH /Users/u1 `+fmt.Sprintf(patchOf, `{"op":"replace","value":{"active":false}}`))
}

func TestWhoIsThereAlreadyIsTakenOver(t *testing.T) {
	org, r := connected(t, okta.Config{})
	r.users["u9"] = map[string]any{"id": "u9", "userName": "Maya.Chen@Acme.Example", "nickName": "M"}
	must(t)(org.CreateGroup(t.Context(), "Sallyport Users", okta.Assignment))
	if _, err := org.AddUser(okta.Profile{Login: maya}); err != nil {
		t.Fatal(err)
	}
	must(t)(org.AddToGroup(t.Context(), "Sallyport Users", maya))
	sent := r.took()
	if len(sent) != 3 || sent[0] != filterMaya || sent[1] != "GET /Users/u9" || !strings.Contains(sent[2], `"nickName":"M"`) {
		t.Errorf("sent %s", strings.Join(sent, "\n"))
	}
}

func TestThrottlingWaitsAsLongAsItSays(t *testing.T) {
	var waits []time.Duration
	org, r := connected(t, okta.Config{Wait: func(_ context.Context, d time.Duration) error {
		waits = append(waits, d)
		return nil
	}})
	refusals := 2
	r.refuse = func(string, string) (int, http.Header, string) {
		refusals--
		switch refusals {
		case 1:
			return http.StatusTooManyRequests, http.Header{"Retry-After": {"7"}}, ""
		case 0:
			return http.StatusBadGateway, nil, ""
		}
		return 0, nil, ""
	}
	got := must(t)(org.CreateGroup(t.Context(), "Engineers", okta.Pushed))
	if got.Requests != 2 || len(waits) != 2 || waits[0] != 7*time.Second || waits[1] != 100*time.Millisecond {
		t.Errorf("push = %+v after waits %v", got, waits)
	}
}

func TestRetriesEnd(t *testing.T) {
	tries := 0
	org, r := connected(t, okta.Config{Wait: func(context.Context, time.Duration) error { return nil }})
	r.refuse = func(string, string) (int, http.Header, string) {
		tries++
		return http.StatusServiceUnavailable, nil, `{"detail":"disk full"}`
	}
	_, err := org.CreateGroup(t.Context(), "Engineers", okta.Pushed)
	var refused *okta.SCIMError
	if !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || refused.Detail != "disk full" || tries != 10 {
		t.Errorf("error = %v after %d tries", err, tries)
	}
}

func TestRefusalCarriesTheServersDetailAndIsFinal(t *testing.T) {
	org, r := connected(t, okta.Config{})
	r.refuse = func(method, _ string) (int, http.Header, string) {
		if method == http.MethodPost {
			return http.StatusConflict, nil, `{"scimType":"uniqueness","detail":"the name is taken"}`
		}
		return 0, nil, ""
	}
	_, err := org.CreateGroup(t.Context(), "Engineers", okta.Pushed)
	if err == nil || !strings.Contains(err.Error(), "POST /Groups: status 409 uniqueness: the name is taken") {
		t.Errorf("error = %v", err)
	}
	if sent := r.took(); len(sent) != 2 {
		t.Errorf("a refusal was tried again: %v", sent)
	}
}

func TestConnectionTestFailsOnAWrongToken(t *testing.T) {
	r, base := startRecorder(t)
	r.refuse = func(string, string) (int, http.Header, string) {
		return http.StatusUnauthorized, nil, `{"detail":"token unknown"}`
	}
	org := okta.NewOrg(okta.Config{})
	if _, err := org.ConnectSCIM(t.Context(), base, "wrong"); err == nil || !strings.Contains(err.Error(), "token unknown") {
		t.Errorf("error = %v", err)
	}
	r.took()
	if _, err := org.CreateGroup(t.Context(), "Engineers", okta.Pushed); err != nil {
		t.Fatal(err)
	}
	r.want("a change of an org that is not connected")
}

func canonical(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
