package okta_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"sallyport.dev/scripts/demo/okta"
)

func TestTheManagementAPISaysWhoIsAssignedByPages(t *testing.T) {
	org := okta.NewOrg(okta.Config{APIToken: "read only"})
	for _, login := range []string{"ann@example.com", "bob@example.com", "cy@example.com"} {
		if _, err := org.AddUser(okta.Profile{Login: login}); err != nil {
			t.Fatal(err)
		}
	}
	_, base, stop, err := org.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	ask := func(at, token string) (int, []map[string]any, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "SSWS "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		var page []map[string]any
		_ = json.Unmarshal([]byte(body(t, resp)), &page) // an error is no list
		next := ""
		for _, link := range resp.Header.Values("Link") {
			if at, ok := strings.CutSuffix(link, `>; rel="next"`); ok {
				next = strings.TrimPrefix(at, "<")
			}
		}
		return resp.StatusCode, page, next
	}
	if status, _, _ := ask(base+"/api/v1/apps/"+okta.OIDCAppID+"/users", "another"); status != http.StatusUnauthorized {
		t.Errorf("another token: %d", status)
	}
	if status, _, _ := ask(base+"/api/v1/apps/x/users", "read only"); status != http.StatusNotFound {
		t.Errorf("another app: %d", status)
	}
	seen := map[string]bool{}
	for next := base + "/api/v1/apps/" + okta.OIDCAppID + "/users?limit=2"; next != ""; {
		var page []map[string]any
		_, page, next = ask(next, "read only")
		for _, p := range page {
			seen[p["credentials"].(map[string]any)["userName"].(string)] = strings.HasPrefix(p["id"].(string), "00u")
		}
	}
	if len(seen) != 3 || !seen["cy@example.com"] {
		t.Errorf("seen %v", seen)
	}
	if _, page, _ := ask(base+"/api/v1/apps/"+okta.SCIMAppID+"/users", "read only"); len(page) != 0 {
		t.Errorf("assigned to the SCIM app: %v", page)
	}
}
