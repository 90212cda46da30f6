package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"
)

// scimClient is a directory that pushes people and groups.
type scimClient struct {
	t     testing.TB
	base  string
	token string
}

// scimOf makes a directory "corp" with the issuer and a token for it.
func scimOf(t testing.TB, c *controlPlane, i *issuer) *scimClient {
	t.Helper()
	c.must("directories", "create", "corp", "--issuer", i.url, "--audience", audience, "--user-claim", "uid", "--user-attribute", "externalId")
	token, err := c.Issue(t.Context(), "scim", "--directory", "corp")
	if err != nil {
		t.Fatal(err)
	}
	return &scimClient{t: t, base: "http://" + c.scim + "/scim/v2", token: token}
}

// at is the same directory at another control plane.
func (s *scimClient) at(c *controlPlane) *scimClient {
	return &scimClient{t: s.t, base: "http://" + c.scim + "/scim/v2", token: s.token}
}

// send makes one request. An error says that the fate of the request is not known.
func (s *scimClient) send(ctx context.Context, method, path string, body any) (status int, answer map[string]any, err error) {
	var encoded []byte
	if body != nil {
		if encoded, err = json.Marshal(body); err != nil {
			return 0, nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, bytes.NewReader(encoded))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/scim+json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, err
	}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			return 0, nil, fmt.Errorf("%s %s answers %d and no JSON: %w", method, path, resp.StatusCode, err)
		}
	}
	return resp.StatusCode, answer, nil
}

// create makes a resource that must be made, and returns its id.
func (s *scimClient) create(path string, body any) string {
	s.t.Helper()
	status, answer, err := s.send(s.t.Context(), http.MethodPost, path, body)
	if err != nil || status != http.StatusCreated {
		s.t.Fatalf("POST %s: %d %v %v", path, status, answer, err)
	}
	id, _ := answer["id"].(string)
	return id
}

func userBody(login string) map[string]any {
	return map[string]any{
		"schemas":  []string{"urn:ietf:params:scim:schemas:core:2.0:User"},
		"userName": login, "externalId": login, "active": true,
		"name":   map[string]any{"givenName": "A", "familyName": "Person"},
		"emails": []any{map[string]any{"value": login, "primary": true}},
	}
}

func groupBody(name string, members ...string) map[string]any {
	list := []any{}
	for _, m := range members {
		list = append(list, map[string]any{"value": m})
	}
	return map[string]any{"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:Group"}, "displayName": name, "members": list}
}

func (s *scimClient) user(login string) string { return s.create("/Users", userBody(login)) }

func (s *scimClient) group(name string, members ...string) string {
	return s.create("/Groups", groupBody(name, members...))
}

// patch applies one operation.
func (s *scimClient) patch(path string, op map[string]any) {
	s.t.Helper()
	status, answer, err := s.send(s.t.Context(), http.MethodPatch, path, map[string]any{
		"schemas": []string{"urn:ietf:params:scim:api:messages:2.0:PatchOp"}, "Operations": []any{op},
	})
	if err != nil || status/100 != 2 {
		s.t.Fatalf("PATCH %s: %d %v %v", path, status, answer, err)
	}
}

// deactivate turns a person off.
func (s *scimClient) deactivate(id string) {
	s.t.Helper()
	s.patch("/Users/"+id, map[string]any{"op": "replace", "value": map[string]any{"active": false}})
}

// find returns the resources with an attribute's value.
func (s *scimClient) find(path, attribute, value string) []map[string]any {
	s.t.Helper()
	status, answer, err := s.send(s.t.Context(), http.MethodGet, path+"?filter="+url.QueryEscape(fmt.Sprintf("%s eq %q", attribute, value)), nil)
	if err != nil || status != http.StatusOK {
		s.t.Fatalf("GET %s: %d %v %v", path, status, answer, err)
	}
	var out []map[string]any
	resources, _ := answer["Resources"].([]any)
	for _, r := range resources {
		if m, ok := r.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
