package quickstart

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/scripts/demo/policy"
)

func TestEnvFileIsReadBackAndPrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "env")
	want := map[string]string{KeySCIMURL: "http://127.0.0.1:1/scim/v2", KeySCIMToken: "a=b", KeyIssuer: "http://127.0.0.1:2/oauth2/default"}
	if err := WriteEnv(path, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadEnv(path)
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s = %q, want %q", key, got[key], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("read %v", got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(path, []byte("# comment\n\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadEnv(path); err == nil {
		t.Error("a line without = was taken")
	}
}

func TestPorts(t *testing.T) {
	given, err := ParsePorts("scim=18081, us-east=18090")
	if err != nil || given["scim"] != 18081 || given["us-east"] != 18090 || len(given) != 2 {
		t.Errorf("ports = %v, %v", given, err)
	}
	for _, wrong := range []string{"scim", "scim=x", "scim=0", "scim=70000", "mail=25"} {
		if _, err := ParsePorts(wrong); err == nil {
			t.Errorf("%q was taken", wrong)
		}
	}
	addrs, err := addresses(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	distinct := map[string]bool{}
	for _, name := range portNames {
		if !strings.HasPrefix(addrs[name], "127.0.0.1:") {
			t.Errorf("%s = %q", name, addrs[name])
		}
		distinct[addrs[name]] = true
	}
	if len(distinct) != len(portNames) {
		t.Errorf("addresses = %v", addrs)
	}
}

func TestPolicyIsFilledIn(t *testing.T) {
	values := map[string]string{"GITHUB_URL": "http://a", "JIRA_URL": "http://b", "CONFLUENCE_URL": "http://c", "SALESFORCE_URL": "http://d", "ANALYTICS_URL": "http://e"}
	for _, name := range []string{"connectors.yaml", "engineers.yaml", "sales.yaml", "analytics/connector.yaml", "analytics/grants.yaml"} {
		text, err := policy.Read(name, values)
		if err != nil || strings.Contains(string(text), "${") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := policy.Read("connectors.yaml", nil); err == nil {
		t.Error("a missing address was not noticed")
	}
}

func TestProcessIsAskedToStop(t *testing.T) {
	dir := t.TempDir()
	p, err := Start(dir, "sleeper", "/bin/sh", "-c", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !strings.Contains(p.Tail(), "up") {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	if err := p.Ready(t.Context(), server.URL); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(); err != nil {
		t.Errorf("a second stop: %v", err)
	}
	if !strings.Contains(p.Tail(), "bye") {
		t.Errorf("log = %q", p.Tail())
	}
}

func TestProcessThatEndsBeforeItIsReadyShowsItsLog(t *testing.T) {
	p, err := Start(t.TempDir(), "broken", "/bin/sh", "-c", "echo the disk is full >&2; exit 3")
	if err != nil {
		t.Fatal(err)
	}
	err = p.Ready(t.Context(), "http://127.0.0.1:1/readyz")
	if err == nil || !strings.Contains(err.Error(), "the disk is full") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error = %v", err)
	}
}
