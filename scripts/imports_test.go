// Package scripts_test holds the import rules of the stand-ins and the whole-system tests.
package scripts_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestTheSystemIsTestedFromOutside(t *testing.T) {
	const verdicts = "sallyport.dev/dataplane/policy"
	// What policy links itself comes along with it.
	visible := append(linkedByEach(t, verdicts)[verdicts], verdicts)
	for pkg, linked := range linkedByEach(t, "./...") {
		for _, path := range linked {
			if strings.HasPrefix(path, "sallyport.dev/controlplane") {
				t.Errorf("%s links %s\n\twhy not: whole-system tests start the real binaries and speak to them as anybody would", pkg, path)
			}
			if strings.HasPrefix(path, "sallyport.dev/dataplane") && !slices.Contains(visible, path) {
				t.Errorf("%s links %s\n\twhy not: of the data plane only policy is visible, for figures of the verdict alone", pkg, path)
			}
		}
	}
}

func TestTheStandInOktaSharesNoCodeWithWhatItTests(t *testing.T) {
	const okta = "sallyport.dev/scripts/demo/okta"
	linked, ok := linkedByEach(t, "./...")[okta]
	if !ok {
		t.Fatalf("there is no %s: correct this test", okta)
	}
	for _, path := range linked {
		if strings.HasPrefix(path, "sallyport.dev/") && !strings.HasPrefix(path, okta) {
			t.Errorf("%s links %s\n\twhy not: a mistake made on both sides of a protocol is seen by no test", okta, path)
		}
	}
}

// linkedByEach asks the go command for everything that each of these packages links, tests left out.
func linkedByEach(t *testing.T, packages string) map[string][]string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}} {{join .Deps \" \"}}", packages)
	var stderr strings.Builder
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	linked := map[string][]string{}
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			linked[fields[0]] = fields[1:]
		}
	}
	return linked
}
