// Package e2e tests Sallyport from outside: the real binaries, as processes of their own, on loopback, with data folders
// that are thrown away.
//
// Each test starts what it needs and ends it by its own handle. What is tested here is what no package sees alone:
// processes that are killed, planes that are away, disks that are full, and what an agent is told meanwhile.
// Nothing here links the code of the planes.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The binaries under test.
var controlPlaneProgram, proxyProgram string

// repository is the root, where the scripts are.
const repository = "../.."

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == natsProgram {
		if err := runNATS(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	flag.Parse()
	if !testing.Verbose() { // what the stand-in providers log would bury what failed
		slog.SetDefault(slog.New(slog.DiscardHandler))
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "sallyport-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	controlPlaneProgram, proxyProgram = filepath.Join(dir, "sallyport"), filepath.Join(dir, "sallyport-proxy")
	for out, pkg := range map[string]string{
		controlPlaneProgram: "./controlplane/cmd/sallyport", proxyProgram: "./dataplane/cmd/sallyport-proxy",
	} {
		args := []string{"build", "-o", out}
		if raceEnabled {
			args = append(args, "-race") // the tests are, so the programs are
		}
		cmd := exec.CommandContext(context.Background(), "go", append(args, pkg)...)
		cmd.Dir = repository
		if text, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, text)
			return 1
		}
	}
	return m.Run()
}
