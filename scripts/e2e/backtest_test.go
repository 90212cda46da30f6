package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/scripts/demo/agent"
)

// backtested is what `policy backtest -o json` says, and the exit code.
type backtested struct {
	Calls, Changed, Unchanged string
	Unknown                   []struct{ Obstacle, Calls string }
	Changes                   []struct {
		UserName                   string `json:"user_name"`
		Tool, Before, After, Calls string
	}
	exit int
}

// backtest decides what was called again under the rules of a folder of files.
func (w *world) backtest(rules string) backtested {
	w.t.Helper()
	dir := w.t.TempDir()
	text := "kind: Grant\ngroup: corp/Staff\nconnector: github\nrules:\n" + rules
	if err := os.WriteFile(filepath.Join(dir, "github.yaml"), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	out, err := w.cp.Run(w.t.Context(), "policy", "backtest", "-f", dir, "--since", "1h", "-o", "json")
	var exit *exec.ExitError
	b := backtested{}
	if errors.As(err, &exit) {
		b.exit = exit.ExitCode()
	} else if err != nil {
		w.t.Fatal(err)
	}
	if err := json.Unmarshal(out, &b); err != nil {
		w.t.Fatalf("%v: %s (exit code %d)", err, out, b.exit)
	}
	return b
}

// TestABacktestSaysWhatAPolicyWouldHaveRefused: of calls that were made through a proxy, one of them with arguments that audit keeps in part,
// by the command that CI runs, before the policy is applied; and once it is, of an earlier time it is told what was then.
func TestABacktestSaysWhatAPolicyWouldHaveRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	east := newProxy(t, w.cp, "us-east")
	const asItIs = "  - allow: [list_branches]\n  - allow: [push_files]\n    when: has(args.branch) && args.branch.startsWith(\"agent/\")\n"
	w.cp.apply("kind: Grant\ngroup: corp/Staff\nconnector: github\nrules:\n" + asItIs)
	w.cp.enforced()
	adas, bobs := w.session(east, ada), w.session(east, bob)
	push := func(s *agent.Session, branch, content string) {
		s.Call(t.Context(), "github__push_files", map[string]any{
			"owner": "acme", "repo": "payments", "branch": branch, "message": "m", "files": []any{map[string]any{"path": "a.go", "content": content}},
		})
	}
	for range 3 {
		if err := works(t.Context(), adas); err != nil {
			t.Fatal(err)
		}
	}
	push(adas, "agent/x", strings.Repeat("a long file\n", 1000))
	push(bobs, "agent/y", "a short file")
	push(bobs, "main", "a short file")
	const made = 6
	eventually(t, func() error {
		all, err := w.audit(&adminv1.AuditFilter{})
		if err == nil && len(all) != made {
			err = fmt.Errorf("%d calls are recorded, not %d", len(all), made)
		}
		return err
	})

	if b := w.backtest(asItIs); b.exit != 0 || b.Unchanged != fmt.Sprint(made) || len(b.Unknown) != 0 {
		t.Errorf("as it is: %+v", b)
	}
	b := w.backtest("  - allow: [push_files]\n    when: has(args.branch) && args.branch.startsWith(\"agent/\") && args.branch != \"agent/x\"\n")
	newly := map[string]string{}
	for _, c := range b.Changes {
		if c.Before != "BACKTEST_VERDICT_ALLOWED" || c.After != "BACKTEST_VERDICT_DENIED" {
			t.Errorf("changed: %+v", c)
		}
		newly[c.UserName+" "+c.Tool] = c.Calls
	}
	if b.exit != 2 || b.Calls != fmt.Sprint(made) || b.Changed != "4" || b.Unchanged != "2" || len(b.Unknown) != 0 ||
		len(newly) != 2 || newly["corp/"+ada+" list_branches"] != "3" || newly["corp/"+ada+" push_files"] != "1" {
		t.Errorf("with less: %+v", b)
	}
	// What no condition read when it was called is not known of the long one.
	b = w.backtest("  - allow: [list_branches]\n  - allow: [push_files]\n    when: has(args.branch) && args.branch.startsWith(\"agent/\") && args.message != \"x\"\n")
	if b.exit != 0 || b.Unchanged != "5" || len(b.Unknown) != 1 || b.Unknown[0].Obstacle != "BACKTEST_OBSTACLE_ARGUMENTS" || b.Unknown[0].Calls != "1" {
		t.Errorf("with another condition: %+v", b)
	}
	if out, err := w.cp.Run(t.Context(), "policy", "backtest", "-f", filepath.Join(t.TempDir(), "none"), "--since", "1h"); err == nil {
		t.Errorf("without files: %s", out)
	}

	// Nothing was changed by asking. Once it is, it is told as it was.
	if err := works(t.Context(), adas); err != nil {
		t.Fatal(err)
	}
	explain := func(more ...string) (said struct {
		Version  string
		Decision struct{ Verdict string }
		Standing *struct{ Until string }
	}) {
		t.Helper()
		out, err := w.cp.Run(t.Context(), append([]string{"access", "explain", ada, "github__list_branches", "--args", mustJSON(t, payments), "-o", "json"}, more...)...)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &said); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return said
	}
	before := explain()
	w.cp.apply("kind: Grant\ngroup: corp/Staff\nconnector: github\nrules:\n  - allow: [push_files]\n    when: has(args.branch) && args.branch.startsWith(\"agent/\")\n")
	if now := explain(); before.Decision.Verdict != "VERDICT_ALLOWED" || now.Decision.Verdict != "VERDICT_DENIED" || now.Standing != nil {
		t.Errorf("before %+v, now %+v", before, now)
	}
	if was := explain("--as-of", before.Version); was.Decision.Verdict != "VERDICT_ALLOWED" || was.Version != before.Version || was.Standing == nil || was.Standing.Until == "" {
		t.Errorf("as of version %s: %+v", before.Version, was)
	}
	if out, err := w.cp.Run(t.Context(), "access", "explain", ada, "github__list_branches", "--as-of", before.Version); err != nil || !strings.Contains(string(out), "which stood from") {
		t.Errorf("%v: %s", err, out)
	}
}
