package quickstart

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// binaries are the programs that a user would install.
type binaries struct {
	controlPlane string
	proxy        string
}

// build makes both programs and says every few seconds that it is still at it: the first time takes a while.
func build(ctx context.Context, say *printer, root, dir string) (binaries, error) {
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		return binaries{}, fmt.Errorf("make the folder for programs: %w", err)
	}
	b := binaries{controlPlane: filepath.Join(bin, "sallyport"), proxy: filepath.Join(bin, "sallyport-proxy")}
	for _, step := range []struct{ out, pkg string }{
		{b.controlPlane, "./controlplane/cmd/sallyport"},
		{b.proxy, "./dataplane/cmd/sallyport-proxy"},
	} {
		if err := goBuild(ctx, say, root, step.out, step.pkg); err != nil {
			return binaries{}, err
		}
	}
	return b, nil
}

func goBuild(ctx context.Context, say *printer, root, out, pkg string) error {
	begin := time.Now()
	name := filepath.Base(out)
	say.status("building %s", name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	cmd.Dir = root
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := cmd.CombinedOutput()
		done <- result{text, err}
	}()
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case r := <-done:
			if r.err != nil {
				return fmt.Errorf("build %s: %w\n%s", name, r.err, r.text)
			}
			say.status("built %s in %s", name, rounded(time.Since(begin)))
			return nil
		case <-tick.C:
			say.status("building %s: %s so far", name, time.Since(begin).Round(time.Second))
		}
	}
}
