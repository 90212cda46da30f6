package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/scripts/demo/quickstart"
)

// TestTheFirstOwnerIsMadeOnceAndByTheDataFoldersOwner walks through a set-up by the command line.
func TestTheFirstOwnerIsMadeOnceAndByTheDataFoldersOwner(t *testing.T) {
	t.Parallel()
	c := &controlPlane{t: t, dir: t.TempDir(), scim: freeAddress(t), admin: freeAddress(t), fleet: freeAddress(t), signin: freeAddress(t)}
	c.launch()
	url := "http://" + c.admin
	if err := c.Ready(t.Context(), url+"/readyz"); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(c.data(), "bootstrap-token")
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("the bootstrap token's file: %v, %v", info, err)
	}
	kept := filepath.Join(c.dir, "kept-bootstrap-token")
	data, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(kept, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	bootstrap, err := quickstart.AdminOf(controlPlaneProgram, url, kept)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bootstrap.Run(t.Context(), "tokens", "list"); err == nil || !strings.Contains(err.Error(), "first-owner") {
		t.Errorf("the bootstrap token lists tokens: %v", err)
	}
	if c.Admin, err = quickstart.FirstOwner(t.Context(), controlPlaneProgram, url, c.data()); err != nil {
		t.Fatal(err)
	}
	if out, err := c.Run(t.Context(), "whoami"); err != nil || !strings.Contains(string(out), "owner") {
		t.Errorf("whoami: %s %v", out, err)
	}
	if _, err := bootstrap.Run(t.Context(), "admins", "first-owner"); err == nil {
		t.Error("the bootstrap token was exchanged twice")
	}
	gone := func() error {
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return errors.New("the bootstrap token's file is still there")
		}
		return nil
	}
	eventually(t, gone)
	stop(t, c.Process)
	c.launch()
	if err := c.Ready(t.Context(), url+"/readyz"); err != nil {
		t.Fatal(err)
	}
	if err := gone(); err != nil {
		t.Errorf("after a restart with an owner: %v", err)
	}
	stop(t, c.Process)
	c.flags = []string{"--recover-owner"}
	c.launch()
	if err := c.Ready(t.Context(), url+"/readyz"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("with --recover-owner: %v", err)
	}
}
