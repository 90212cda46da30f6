package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// TestAnErasedPersonIsNowhere: through SCIM and through the command line, in the data folder and in a backup of it. And a
// backup that is older than the erasure brings nobody back.
func TestAnErasedPersonIsNowhere(t *testing.T) {
	t.Parallel()
	cp := newControlPlane(t, "--log-level", "debug")
	scim := scimOf(t, cp, newIssuer(t))
	marked := func(mark string) map[string]any {
		body := userBody(mark + "@corp.test")
		body["name"] = map[string]any{"givenName": mark + "-given", "familyName": mark + "-family"}
		body["urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"] = map[string]any{"employeeNumber": mark + "-number"}
		return body
	}
	bySCIM, byAdmin, stays := scim.create("/Users", marked("marked-quill")), scim.create("/Users", marked("marked-ember")), scim.create("/Users", marked("marked-lasting"))
	var members []any
	for _, id := range []string{bySCIM, byAdmin, stays} {
		members = append(members, map[string]any{"value": id})
	}
	group := scim.create("/Groups", map[string]any{"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:Group"}, "displayName": "Marked", "members": members})
	scim.patch("/Users/"+byAdmin, map[string]any{"op": "replace", "path": "title", "value": "marked-ember-title"})

	before := filepath.Join(t.TempDir(), "before")
	stop(t, cp.Process)
	copyFolder(t, cp.data(), before)
	cp.start()

	if status, _, err := scim.send(t.Context(), http.MethodDelete, "/Users/"+bySCIM, nil); err != nil || status != http.StatusNoContent {
		t.Fatalf("DELETE: %d %v", status, err)
	}
	if _, err := cp.Run(t.Context(), "users", "erase", "marked-ember@corp.test"); err == nil {
		t.Error("it erases without being told that it is meant")
	}
	cp.must("users", "erase", "marked-ember@corp.test", "--yes")
	eventually(t, func() error {
		out, err := cp.Run(t.Context(), "users", "erasures", "-o", "json")
		var list struct {
			Erasures []json.RawMessage `json:"erasures"`
		}
		if err := errors.Join(err, json.Unmarshal(out, &list)); err != nil || len(list.Erasures) > 0 {
			return fmt.Errorf("%d erasures are open (%w)", len(list.Erasures), err)
		}
		return nil
	})
	_, answer, err := scim.send(t.Context(), http.MethodGet, "/Groups/"+group, nil)
	if err != nil || len(answer["members"].([]any)) != 1 {
		t.Errorf("the group is %v (%v)", answer, err)
	}
	stop(t, cp.Process)
	after := filepath.Join(t.TempDir(), "after")
	copyFolder(t, cp.data(), after)
	for _, folder := range []string{cp.dir, after} {
		for _, mark := range []string{"marked-quill", "marked-ember"} {
			if files := holding(t, folder, mark); len(files) > 0 {
				t.Errorf("%s is in %v", mark, files)
			}
		}
	}

	// What is rebuilt from the log alone, without the checkpoint, is the same.
	restarted := func(name string) {
		t.Helper()
		cp.start()
		for id, want := range map[string]int{bySCIM: http.StatusNotFound, byAdmin: http.StatusNotFound, stays: http.StatusOK} {
			if status, answer, err := scim.send(t.Context(), http.MethodGet, "/Users/"+id, nil); err != nil || status != want {
				t.Errorf("%s: %s is answered by %d %v %v, want %d", name, id, status, answer, err, want)
			}
		}
	}
	if err := os.Remove(filepath.Join(cp.data(), "checkpoint")); err != nil {
		t.Error(err)
	}
	restarted("without the checkpoint")

	// The old backup, with the list that was kept apart from it.
	stop(t, cp.Process)
	list, err := os.ReadFile(filepath.Join(cp.data(), "erased-people"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(cp.data()); err != nil {
		t.Fatal(err)
	}
	copyFolder(t, before, cp.data())
	if err := os.WriteFile(filepath.Join(cp.data(), "erased-people"), list, 0o600); err != nil {
		t.Fatal(err)
	}
	restarted("from the old backup")
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	// The copy has another mode, which a control plane does not take for the key.
	if err := os.Chmod(filepath.Join(to, "key-encryption-key.json"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// holding are the files below a folder that hold a text.
func holding(t *testing.T, folder, text string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte(text)) {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
