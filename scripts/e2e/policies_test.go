package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStartingPoliciesDoWhatTheySay: each of deploy/policies fits its vendor's catalogue, and its attempts end as its tests say.
func TestStartingPoliciesDoWhatTheySay(t *testing.T) {
	t.Parallel()
	cp := newControlPlane(t)
	scim := scimOf(t, cp, newIssuer(t))
	for _, group := range []string{"Sales", "Engineers", "Engineering Leads", "Salesforce Admins"} {
		scim.group(group)
	}
	folders, err := filepath.Glob("../../deploy/policies/*/policy.yaml")
	if err != nil || len(folders) < 4 {
		t.Fatalf("there are %d starting policies: %v", len(folders), err)
	}
	for _, policy := range folders {
		from := filepath.Dir(policy)
		id := filepath.Base(from)
		t.Run(id, func(t *testing.T) {
			to := t.TempDir()
			for _, name := range []string{"policy.yaml", "tests.yaml", "catalogue.json"} {
				data, err := os.ReadFile(filepath.Join(from, name))
				if err != nil {
					t.Fatal(err)
				}
				text := strings.NewReplacer("okta/", "corp/", "everyone: okta", "everyone: corp").Replace(string(data)) // the directory here
				if err := os.WriteFile(filepath.Join(to, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			run := func(args ...string) []byte {
				t.Helper()
				out, err := cp.Run(t.Context(), args...)
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				return out
			}
			run("apply", "-f", filepath.Join(to, "policy.yaml"))
			run("catalogue", "approve", id, "--file", filepath.Join(to, "catalogue.json"))
			run("policy", "test", "-f", filepath.Join(to, "tests.yaml"))
		})
	}
}
