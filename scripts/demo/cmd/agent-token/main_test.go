package main

import (
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/scripts/demo/quickstart"
)

const maya = "maya.chen@acme.example"

func TestTheGatewayIsFoundByEachWayToNameTheQuickstart(t *testing.T) {
	const gateway = "http://127.0.0.1:9/mcp"
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv(quickstart.KeyMCPUSEast, "")
	if err := quickstart.WriteEnv(quickstart.StateOf(dir), map[string]string{quickstart.KeyMCPUSEast: gateway}); err != nil {
		t.Fatal(err)
	}
	found := func(name, env, dataDir string) {
		t.Helper()
		if got, err := findGateway(env, dataDir); err != nil || got != gateway {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	found("data folder", "", dir)
	found("env file", quickstart.StateOf(dir), "")
	if _, err := run(t.Context(), []string{maya}); err == nil || !strings.Contains(err.Error(), "./scripts/quickstart") {
		t.Errorf("nothing runs: error = %v", err)
	}
	last, err := quickstart.LastRun()
	if err != nil {
		t.Fatal(err)
	}
	if err := quickstart.WriteEnv(last, map[string]string{quickstart.KeyMCPUSEast: gateway}); err != nil {
		t.Fatal(err)
	}
	found("the last run", "", "")
	if err := quickstart.WriteEnv(last, map[string]string{quickstart.KeyMCPUSEast: "http://127.0.0.1:10/mcp"}); err != nil {
		t.Fatal(err)
	}
	t.Setenv(quickstart.KeyMCPUSEast, gateway)
	found("the environment", "", "")
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"a@b.example", "c@d.example"}, {"--env", filepath.Join(t.TempDir(), "none"), maya}} {
		if _, err := run(t.Context(), args); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}
