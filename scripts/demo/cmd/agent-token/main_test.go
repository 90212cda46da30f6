package main

import (
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/scripts/demo/okta"
	"sallyport.dev/scripts/demo/quickstart"
)

const maya = "maya.chen@acme.example"

func running(t *testing.T) (issuer string) {
	t.Helper()
	org := okta.NewOrg(okta.Config{Audience: "http://127.0.0.1:9/mcp"})
	issuer, _, stop, err := org.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if _, err := org.AddUser(okta.Profile{Login: maya}); err != nil {
		t.Fatal(err)
	}
	return issuer
}

func TestTokenIsFoundByEachWayToNameTheQuickstart(t *testing.T) {
	issuer := running(t)
	dir := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv(quickstart.KeyIssuer, "")
	if err := quickstart.WriteEnv(quickstart.StateOf(dir), map[string]string{quickstart.KeyIssuer: issuer}); err != nil {
		t.Fatal(err)
	}
	ways := map[string][]string{
		"data folder": {"--data-dir", dir, maya},
		"env file":    {"--env", quickstart.StateOf(dir), maya},
	}
	for name, args := range ways {
		if token, err := run(t.Context(), args); err != nil || strings.Count(token, ".") != 2 {
			t.Errorf("%s: %q, %v", name, token, err)
		}
	}
	if _, err := run(t.Context(), []string{maya}); err == nil || !strings.Contains(err.Error(), "./scripts/quickstart") {
		t.Errorf("nothing runs: error = %v", err)
	}
	last, err := quickstart.LastRun()
	if err != nil {
		t.Fatal(err)
	}
	if err := quickstart.WriteEnv(last, map[string]string{quickstart.KeyIssuer: issuer}); err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), []string{maya}); err != nil {
		t.Errorf("the last run: %v", err)
	}
	t.Setenv(quickstart.KeyIssuer, issuer)
	if _, err := run(t.Context(), []string{maya}); err != nil {
		t.Errorf("the environment: %v", err)
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"a@b.example", "c@d.example"}, {"--env", filepath.Join(t.TempDir(), "none"), maya}} {
		if _, err := run(t.Context(), args); err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}
