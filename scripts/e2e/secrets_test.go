package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/scripts/demo/servers"
)

// TestSecretsAreNowhereInTheClear plants a connector's credential, passwords that a directory sends and a token that an
// agent puts into its arguments, uses all of them, and looks through everything that was kept.
func TestSecretsAreNowhereInTheClear(t *testing.T) {
	t.Parallel()
	const (
		credential = "planted-connector-credential-5f1e9a"
		password   = "planted-scim-password-77b0c2"
		changed    = "planted-changed-password-19ddab"
	)
	planted := "ghp_" + "Ab3dEf6hIj9kLm2nOp5qRs8tUv1wXy4zAb7d" // has the form of a GitHub token
	w := newWorld(t, "--log-level", "debug")
	p := newProxy(t, w.cp, "us-east", "--log-level", "debug")

	salesforce := servers.NewSalesforce(credential)
	url, end, err := salesforce.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	w.cp.apply(fmt.Sprintf("kind: Connector\nid: salesforce\nurl: %s\nallowedRanges: [127.0.0.0/8]\nauth: {type: header, header: Authorization}\n", url))
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte("Bearer "+credential), 0o600); err != nil {
		t.Fatal(err)
	}
	w.cp.must("secrets", "set", "--connector", "salesforce", "--header", "Authorization", "--value-file", file)
	w.connect("salesforce", url, "auth: {type: header, header: Authorization}\n")

	carol := userBody("carol@corp.test")
	carol["password"] = password
	id := w.scim.create("/Users", carol)
	w.scim.patch("/Users/"+id, map[string]any{"op": "replace", "value": map[string]any{"password": changed}})
	carol["password"] = changed
	if status, answer, err := w.scim.send(t.Context(), http.MethodPut, "/Users/"+id, carol); err != nil || status != http.StatusOK {
		t.Fatalf("PUT: %d %v %v", status, answer, err)
	} else if text := mustJSON(t, answer); bytes.Contains([]byte(text), []byte(changed)) {
		t.Error("SCIM's answer holds the password")
	}
	w.cp.enforced()
	s := w.session(p, ada)
	if res := s.Call(t.Context(), "salesforce__query_records", map[string]any{"object": "Account"}); !res.OK {
		t.Fatalf("the call with the credential: %s", res.Text)
	}
	s.Call(t.Context(), "github__list_branches", map[string]any{"owner": "acme", "repo": planted})
	token := w.issuer.token(ada)
	if status, _, body := post(t, p, token, nil, goodCall); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	w.cp.must("vault", "rotate")
	if res := s.Call(t.Context(), "salesforce__query_records", map[string]any{"object": "Account"}); !res.OK {
		t.Fatalf("the call after the vault's keys were rotated: %s", res.Text)
	}
	eventually(t, func() error {
		got, err := w.audit(&adminv1.AuditFilter{Person: ada})
		if err != nil {
			return err
		}
		return got.twoPhases(4)
	})
	out, err := w.cp.Run(t.Context(), "audit", "search", "--person", ada, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	secrets := map[string]string{
		"the connector's credential": credential, "a SCIM password": password, "a changed SCIM password": changed,
		"a token in arguments": planted, "an agent's access token": token, "the directory's SCIM token": w.scim.token,
	}
	look := func(where string, data []byte) {
		for name, secret := range secrets {
			if bytes.Contains(data, []byte(secret)) {
				t.Errorf("%s is in %s", name, where)
			}
		}
	}
	look("what audit search prints", out)
	for _, dir := range []string{w.cp.data(), p.data(), filepath.Dir(w.cp.Log), filepath.Dir(p.Log)} {
		files := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files++
			look(path, data)
			return nil
		})
		if err != nil || files == 0 {
			t.Errorf("%s: %d files, %v", dir, files, err)
		}
	}
	// The search itself must be able to find something.
	if !bytes.Contains(out, []byte("query_records")) {
		t.Errorf("audit search does not show the call:\n%s", out)
	}
}
