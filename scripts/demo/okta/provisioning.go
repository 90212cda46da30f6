package okta

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

const (
	userSchema  = "urn:ietf:params:scim:schemas:core:2.0:User"
	groupSchema = "urn:ietf:params:scim:schemas:core:2.0:Group"
	patchSchema = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
)

// session is the provisioning work of one admin change. It is used by one goroutine, under Org.changing.
type session struct {
	org  *Org
	app  *scimApp // nil: not connected, nothing is sent
	push Push
}

type resource struct {
	ID          string `json:"id"`
	UserName    string `json:"userName"`
	DisplayName string `json:"displayName"`
}

type listResponse struct {
	TotalResults int        `json:"totalResults"`
	Resources    []resource `json:"Resources"`
}

type operation struct {
	Op    string `json:"op"`
	Path  string `json:"path,omitempty"`
	Value any    `json:"value,omitempty"`
}

type patch struct {
	Schemas    []string    `json:"schemas"`
	Operations []operation `json:"Operations"`
}

type member struct {
	Value   string `json:"value"`
	Display string `json:"display"`
}

func (s *session) send(ctx context.Context, method, path string, body, into any) error {
	begin := time.Now()
	if err := s.app.do(ctx, method, path, body, into); err != nil {
		return err
	}
	end := time.Now()
	s.push.Requests++
	s.push.Took += end.Sub(begin)
	s.push.Answered = end
	s.app.cfg.Log.Debug("provisioned", "method", method, "path", path, "took", end.Sub(begin))
	return nil
}

func (s *session) testConnection(ctx context.Context) error {
	return s.send(ctx, http.MethodGet, "/Users?startIndex=1&count=2", nil, &listResponse{})
}

// assign gives a person the app: provisioned if active, then put into the pushed groups that already hold them.
func (s *session) assign(ctx context.Context, u *person) error {
	if err := s.provisionUser(ctx, u); err != nil {
		return err
	}
	for _, g := range s.org.pushedGroupsOf(u) {
		if err := s.pushMembers(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

// unassign takes the app away, unless another assignment group still gives it.
func (s *session) unassign(ctx context.Context, u *person) error {
	if s.org.isAssigned(u) {
		return nil
	}
	return s.deactivateUser(ctx, u)
}

// provisionUser creates the person at the server, or takes over and updates who is there under that name.
func (s *session) provisionUser(ctx context.Context, u *person) error {
	if s.app == nil || u.status != Active {
		return nil
	}
	id := u.scimID
	if id == "" {
		var err error
		if id, err = s.findUser(ctx, u.profile.Login); err != nil {
			return err
		}
	}
	if id != "" {
		s.setSCIMID(u, id)
		return s.putUser(ctx, u, true)
	}
	body := s.mapped(u, true)
	body["schemas"] = []string{userSchema}
	body["groups"] = []any{}
	body["password"] = placeholder()
	var created resource
	if err := s.send(ctx, http.MethodPost, "/Users", body, &created); err != nil {
		return err
	}
	if created.ID == "" {
		return &SCIMError{Method: http.MethodPost, Path: "/Users", Status: http.StatusCreated, Detail: "the answer has no id"}
	}
	s.setSCIMID(u, created.ID)
	s.setLive(u, true)
	return nil
}

// putUser reads the person at the server, lays the mapped attributes over what is there, and writes the whole back.
func (s *session) putUser(ctx context.Context, u *person, active bool) error {
	if s.app == nil {
		return nil
	}
	path := "/Users/" + url.PathEscape(u.scimID)
	whole := map[string]any{}
	if err := s.send(ctx, http.MethodGet, path, nil, &whole); err != nil {
		return err
	}
	maps.Copy(whole, s.mapped(u, active))
	if err := s.send(ctx, http.MethodPut, path, whole, nil); err != nil {
		return err
	}
	s.setLive(u, active)
	return nil
}

func (s *session) deactivateUser(ctx context.Context, u *person) error {
	if s.app == nil || u.scimID == "" || !u.live {
		return nil
	}
	body := patch{Schemas: []string{patchSchema}, Operations: []operation{{Op: "replace", Value: map[string]any{"active": false}}}}
	if err := s.send(ctx, http.MethodPatch, "/Users/"+url.PathEscape(u.scimID), body, nil); err != nil {
		return err
	}
	s.setLive(u, false)
	return nil
}

func (s *session) findUser(ctx context.Context, login string) (string, error) {
	found, err := s.lookup(ctx, "/Users", "userName", login)
	if err != nil {
		return "", err
	}
	for _, r := range found {
		if strings.EqualFold(r.UserName, login) {
			return r.ID, nil
		}
	}
	return "", nil
}

func (s *session) lookup(ctx context.Context, path, attribute, value string) ([]resource, error) {
	filter := fmt.Sprintf(`%s eq "%s"`, attribute, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value))
	var list listResponse
	err := s.send(ctx, http.MethodGet, path+"?filter="+url.QueryEscape(filter)+"&startIndex=1&count=100", nil, &list)
	return list.Resources, err
}

// mapped is the app's attribute mapping.
func (s *session) mapped(u *person, active bool) map[string]any {
	s.org.mu.Lock()
	defer s.org.mu.Unlock()
	p := u.profile
	return map[string]any{
		"userName":    p.Login,
		"name":        map[string]any{"givenName": p.GivenName, "familyName": p.FamilyName},
		"emails":      []map[string]any{{"primary": true, "value": p.Login, "type": "work"}},
		"displayName": p.DisplayName(),
		"locale":      "en-US",
		"externalId":  u.id,
		"active":      active,
	}
}

func (s *session) setSCIMID(u *person, id string) {
	s.org.mu.Lock()
	defer s.org.mu.Unlock()
	u.scimID = id
}

func (s *session) setLive(u *person, live bool) {
	s.org.mu.Lock()
	defer s.org.mu.Unlock()
	u.live = live
}

// createGroup links a group of that name if the server has one, else creates it without members.
func (s *session) createGroup(ctx context.Context, g *group) error {
	if s.app == nil {
		return nil
	}
	found, err := s.lookup(ctx, "/Groups", "displayName", g.name)
	if err != nil {
		return err
	}
	for _, r := range found {
		if strings.EqualFold(r.DisplayName, g.name) {
			s.linkGroup(g, r.ID)
			// What a linked group holds is not known, so it gets the whole list.
			return s.replaceMembers(ctx, g)
		}
	}
	var created resource
	body := map[string]any{"schemas": []string{groupSchema}, "displayName": g.name, "members": []any{}}
	if err := s.send(ctx, http.MethodPost, "/Groups", body, &created); err != nil {
		return err
	}
	if created.ID == "" {
		return errors.New("POST /Groups: the answer has no id")
	}
	s.linkGroup(g, created.ID)
	return nil
}

func (s *session) linkGroup(g *group, id string) {
	s.org.mu.Lock()
	defer s.org.mu.Unlock()
	g.scimID = id
}

// assertGroupName sends the name, as Okta does on a rename and before every membership update.
func (s *session) assertGroupName(ctx context.Context, g *group) error {
	if s.app == nil || g.scimID == "" {
		return nil
	}
	return s.patchGroup(ctx, g, operation{Op: "replace", Value: map[string]any{"id": g.scimID, "displayName": g.name}})
}

// pushMembers sends the difference between what the group holds and what the server was told. People who are not
// active are left out of both directions: leaving a group while inactive sends nothing.
func (s *session) pushMembers(ctx context.Context, g *group) error {
	if s.app == nil || g.scimID == "" {
		return nil
	}
	add, remove := s.difference(g)
	if len(add) == 0 && len(remove) == 0 {
		return nil
	}
	if err := s.assertGroupName(ctx, g); err != nil {
		return err
	}
	var ops []operation
	for _, u := range remove {
		ops = append(ops, operation{Op: "remove", Path: fmt.Sprintf(`members[value eq "%s"]`, u.scimID)})
	}
	if len(add) > 0 {
		ops = append(ops, operation{Op: "add", Path: "members", Value: members(add)})
	}
	if err := s.patchGroup(ctx, g, ops...); err != nil {
		return err
	}
	for _, u := range remove {
		delete(g.sent, u.id)
	}
	for _, u := range add {
		g.sent[u.id] = true
	}
	return nil
}

func (s *session) replaceMembers(ctx context.Context, g *group) error {
	if s.app == nil || g.scimID == "" {
		return nil
	}
	if err := s.assertGroupName(ctx, g); err != nil {
		return err
	}
	all := s.pushable(g)
	if err := s.patchGroup(ctx, g, operation{Op: "replace", Path: "members", Value: members(all)}); err != nil {
		return err
	}
	clear(g.sent)
	for _, u := range all {
		g.sent[u.id] = true
	}
	return nil
}

func (s *session) deleteGroup(ctx context.Context, g *group) error {
	if s.app == nil || g.scimID == "" {
		return nil
	}
	if err := s.send(ctx, http.MethodDelete, "/Groups/"+url.PathEscape(g.scimID), nil, nil); err != nil {
		return err
	}
	s.org.mu.Lock()
	defer s.org.mu.Unlock()
	g.scimID, g.pushed = "", false
	clear(g.sent)
	return nil
}

func (s *session) patchGroup(ctx context.Context, g *group, ops ...operation) error {
	return s.send(ctx, http.MethodPatch, "/Groups/"+url.PathEscape(g.scimID), patch{Schemas: []string{patchSchema}, Operations: ops}, nil)
}

func (s *session) difference(g *group) (add, remove []*person) {
	for _, u := range s.pushable(g) {
		if !g.sent[u.id] {
			add = append(add, u)
		}
	}
	s.org.mu.Lock()
	defer s.org.mu.Unlock()
	for id := range g.sent {
		if u := s.org.people[id]; g.members[id] == nil && u.live && u.status == Active {
			remove = append(remove, u)
		}
	}
	slices.SortFunc(remove, byLogin)
	return add, remove
}

// pushable are the members whom the app knows as active, by login.
func (s *session) pushable(g *group) []*person {
	s.org.mu.Lock()
	defer s.org.mu.Unlock()
	var out []*person
	for _, u := range g.members {
		if u.live && u.status == Active {
			out = append(out, u)
		}
	}
	slices.SortFunc(out, byLogin)
	return out
}

func byLogin(a, b *person) int { return strings.Compare(a.profile.Login, b.profile.Login) }

func members(people []*person) []member {
	out := make([]member, 0, len(people))
	for _, u := range people {
		out = append(out, member{Value: u.scimID, Display: u.profile.Login})
	}
	return out
}

// placeholder is the password that Okta invents where passwords are not synchronised. It opens nothing.
func placeholder() string { return rand.Text()[:8] }
