package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestQuickstartOnce runs what a newcomer runs, twice on one folder: the second time finds everything there.
func TestQuickstartOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, run := range []string{"the first run", "a second run on the same folder"} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		cmd := exec.CommandContext(ctx, filepath.Join(repository, "scripts", "quickstart"), "--once", "--data-dir", dir)
		out, err := cmd.CombinedOutput()
		cancel()
		if err != nil || !strings.Contains(string(out), " 0 failed") {
			t.Fatalf("%s: %v\n%s", run, err, out)
		}
	}
}
