package e2e

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport.dev/scripts/demo/quickstart"
)

// TestUnwritableDataFolderIsSaidAtOnce: a control plane and a proxy whose folder cannot be used end, and say in one
// line which folder it is, or what is in its way.
func TestUnwritableDataFolderIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("in the way"), 0o600); err != nil {
		t.Fatal(err)
	}
	folders := map[string]string{"below a file": filepath.Join(file, "data"), "a file": file}
	if os.Getuid() != 0 { // root may write anywhere
		locked := filepath.Join(dir, "locked")
		if err := os.Mkdir(locked, 0o500); err != nil {
			t.Fatal(err)
		}
		folders["without permission"] = locked
	} else if frozen, ok := mount(t, "1m", true); ok {
		folders["on a read-only disk"] = frozen
	}
	invitation := filepath.Join(dir, "invitation")
	if err := os.WriteFile(invitation, []byte("spi_none."+base64.RawURLEncoding.EncodeToString(make([]byte, sha256.Size))), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, folder := range folders {
		for program, args := range map[string][]string{
			"control-plane": {controlPlaneProgram, "serve", "--data-dir", folder, "--scim-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--fleet-addr", "127.0.0.1:0", "--signin-addr", "127.0.0.1:0"},
			"proxy": {proxyProgram, "serve", "--data-dir", folder, "--name", "p", "--region", "r", "--control-plane", "http://127.0.0.1:1",
				"--invitation-file", invitation, "--listen", "127.0.0.1:0"},
		} {
			t.Run(program+" in a folder "+name, func(t *testing.T) {
				p, err := quickstart.Start(t.TempDir(), program, args[0], args[1:]...)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { stop(t, p) })
				select {
				case <-p.Done():
				case <-time.After(patience):
					t.Fatal("it goes on")
				}
				if p.ExitCode() < 1 {
					t.Errorf("exit code %d", p.ExitCode())
				}
				log, err := os.ReadFile(p.Log)
				if err != nil {
					t.Fatal(err)
				}
				said := 0
				for line := range strings.Lines(string(log)) {
					if strings.Contains(line, folder) || strings.Contains(line, filepath.Dir(folder)+":") {
						said++
					}
				}
				if said != 1 {
					t.Errorf("%d lines name the folder:\n%s", said, log)
				}
			})
		}
	}
}

// TestFullDiskIsSaidAndEndsByItself: with a full disk a control plane answers no write as done, says why, is not ready,
// and is itself again when there is space.
func TestFullDiskIsSaidAndEndsByItself(t *testing.T) {
	t.Parallel()
	disk, ok := mount(t, "64m", false)
	if !ok {
		t.Skip("a small disk cannot be mounted here: that takes root")
	}
	cp := &controlPlane{t: t, dir: disk, scim: freeAddress(t), admin: freeAddress(t), fleet: freeAddress(t), signin: freeAddress(t)}
	cp.start()
	scim := scimOf(t, cp, newIssuer(t))
	var answered []string
	write := func(login string) bool {
		status, _, err := scim.send(t.Context(), http.MethodPost, "/Users", userBody(login))
		if err == nil && status == http.StatusCreated {
			answered = append(answered, login)
			return true
		}
		return false
	}
	if !write("before@corp.test") {
		t.Fatal("a write before the disk is full is refused")
	}
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	refused := 0
	for i := 0; i < 400 && refused < 3; i++ {
		if !write(fmt.Sprintf("full%d@corp.test", i)) {
			refused++
		}
	}
	if refused == 0 {
		t.Error("the disk is full and writes are answered as done")
	}
	eventually(t, func() error {
		status, text := get(t, "http://"+cp.admin+"/readyz")
		if status != http.StatusServiceUnavailable || !strings.Contains(text, "full") || strings.Count(strings.TrimSpace(text), "\n") != 0 {
			return fmt.Errorf("readiness with a full disk: %d %q", status, text)
		}
		return nil
	})
	if log, err := os.ReadFile(cp.Log); err != nil || strings.Count(string(log), `"the event store takes no writes"`) != 1 || !strings.Contains(string(log), "is full: free some space") {
		t.Errorf("the log does not say it in one line (%v):\n%s", err, log)
	}
	if status, text := get(t, "http://"+cp.admin+"/healthz"); status != http.StatusOK {
		t.Errorf("liveness with a full disk: %d %s: nobody is helped by a restart", status, text)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if status, text := get(t, "http://"+cp.admin+"/readyz"); status != http.StatusOK {
			return fmt.Errorf("readiness with space again: %d %s", status, text)
		}
		if !write(fmt.Sprintf("after%d@corp.test", time.Now().UnixNano())) {
			return errors.New("there is space again and a write is refused")
		}
		return nil
	})
	check := func(when string) {
		for _, login := range answered {
			if n := len(scim.find("/Users", "userName", login)); n != 1 {
				t.Errorf("%s: %s was answered and is found %d times", when, login, n)
			}
		}
	}
	check("with space again")
	cp.Kill()
	cp.start()
	check("after a restart")
}

// fill writes until there is no space.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // the disk is full: that is what is wanted
	for _, size := range []int{64 << 10, 1 << 10, 1} {
		for {
			if _, err := f.Write(make([]byte, size)); errors.Is(err, syscall.ENOSPC) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 10_000))
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestAProxyWithAFullDiskMakesNoCallThatItCannotRecord: it says so to agents and load balancers, and goes on when there is room; that may be
// made by delivery alone.
func TestAProxyWithAFullDiskMakesNoCallThatItCannotRecord(t *testing.T) {
	t.Parallel()
	disk, ok := mount(t, "8m", false)
	if !ok {
		t.Skip("a small disk cannot be mounted here: that takes root")
	}
	w := newWorld(t)
	p := newProxyIn(t, w.cp, disk)
	w.cp.enforced()
	l := w.startLoad(p, 2)
	l.more(20)
	w.cp.Kill() // nothing is delivered
	l.more(20)
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	full := func() {
		t.Helper()
		eventually(t, func() error {
			if status, text := get(t, "http://"+p.listen+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "audit spool") || strings.Contains(text, disk) {
				return fmt.Errorf("readiness with a full disk: %d %q", status, text)
			}
			return nil
		})
		before := w.github.Calls.Count("create_branch")
		status, _, text := post(t, p, w.issuer.token(ada), nil, goodCall)
		if status == http.StatusOK && !strings.Contains(text, "cannot record calls at the moment") {
			t.Errorf("a call that cannot be recorded is answered %d %s", status, text)
		}
		if w.github.Calls.Count("list_branches") != 0 || w.github.Calls.Count("create_branch") > before {
			t.Error("calls are made without a record")
		}
	}
	full()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	l.more(20)

	// Now there is room for a few hundred records, and they fill it.
	fill(t, ballast)
	info, err := os.Stat(ballast)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(ballast, info.Size()-256<<10); err != nil {
		t.Fatal(err)
	}
	full()
	// What is delivered makes room.
	w.cp.start()
	l.more(20)
	l.stop()
	b := &breaker{t: t, w: w, p: p, load: l, hits: map[string]int{"disk full": 2}}
	b.recorded()
}

// TestAFullDiskOfTheControlPlaneLosesNoRecord: what it cannot store it does not acknowledge, and takes once there is room.
func TestAFullDiskOfTheControlPlaneLosesNoRecord(t *testing.T) {
	t.Parallel()
	disk, ok := mount(t, "64m", false)
	if !ok {
		t.Skip("a small disk cannot be mounted here: that takes root")
	}
	cp := &controlPlane{t: t, dir: disk, scim: freeAddress(t), admin: freeAddress(t), fleet: freeAddress(t), signin: freeAddress(t)}
	cp.start()
	w := settle(t, cp)
	p := newProxy(t, cp, "us-east")
	cp.enforced()
	l := w.startLoad(p, 2)
	l.more(20)
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	eventually(t, func() error {
		if status, text := get(t, "http://"+cp.admin+"/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "full") {
			return fmt.Errorf("readiness with a full disk: %d %q", status, text)
		}
		return nil
	})
	l.more(50) // a proxy goes on
	// A restart finds the disk as full as it was.
	cp.Kill()
	cp.launch()
	l.more(20)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if ended(cp.Process) { // which says so
		cp.launch()
	}
	if err := cp.Ready(t.Context(), "http://"+cp.admin+"/readyz"); err != nil {
		t.Fatal(err)
	}
	l.more(20)
	l.stop()
	b := &breaker{t: t, w: w, p: p, load: l, hits: map[string]int{"disk full": 1}}
	b.recorded()
}
