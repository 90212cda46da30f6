package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAMigrationIsReportedAsPeopleMove: who used the gateway, who did not, and what is left on laptops, as table, CSV and JSON.
func TestAMigrationIsReportedAsPeopleMove(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newProxy(t, w.cp, "us-east")
	w.cp.enforced()
	report := func(flags ...string) string {
		t.Helper()
		out, err := w.cp.Run(t.Context(), append([]string{"migration", "report"}, flags...)...)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if never := report("--never", "-o", "csv"); !strings.Contains(never, ada) || !strings.Contains(never, bob) {
		t.Errorf("before anybody called, who never did: %s", never)
	}
	if err := works(t.Context(), w.session(p, ada)); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if never := report("--never", "-o", "csv"); strings.Contains(never, ada) || !strings.Contains(never, bob) {
			return fmt.Errorf("who never called: %s", never)
		}
		return nil
	})
	if moved := report("--connector", "github", "-o", "csv"); !strings.HasPrefix(moved, "user,") || !strings.Contains(moved, ada) {
		t.Errorf("of a connector: %s", moved)
	}
	if table := report(); !strings.Contains(table, "corp/Staff") || !strings.Contains(table, "github") || strings.Contains(table, ada) {
		t.Errorf("the table of counts: %s", table)
	}

	// A laptop's scan, made here of what a program's settings hold.
	home, scans := t.TempDir(), t.TempDir()
	settings := []byte(`{"mcpServers":{"tracker":{"url":"https://mcp.tracker.example/sse","headers":{"Authorization":"Bearer planted-laptop-secret"}}}}`)
	if err := errors.Join(os.MkdirAll(filepath.Join(home, ".cursor"), 0o700), os.WriteFile(filepath.Join(home, ".cursor", "mcp.json"), settings, 0o600)); err != nil {
		t.Fatal(err)
	}
	scanned, err := w.cp.Run(t.Context(), "migration", "scan", "--home", home, "--device", bob, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(scanned, []byte("mcp.tracker.example")) || bytes.Contains(scanned, []byte("planted")) {
		t.Errorf("the scan says %s", scanned)
	}
	if err := os.WriteFile(filepath.Join(scans, "laptop.json"), scanned, 0o600); err != nil {
		t.Fatal(err)
	}
	var whole struct {
		People []struct {
			User   string   `json:"user"`
			Unused []string `json:"unused"`
		} `json:"people"`
	}
	text := report("-o", "json", "--scans", scans)
	if err := json.Unmarshal([]byte(text), &whole); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	unmoved := 0
	for _, one := range whole.People {
		if strings.Contains(one.User, bob) && slices.Contains(one.Unused, "github") {
			unmoved++
		}
	}
	if unmoved != 1 || !strings.Contains(text, "mcp.tracker.example") || strings.Contains(text, "planted") {
		t.Errorf("as JSON: %s", text)
	}
}
