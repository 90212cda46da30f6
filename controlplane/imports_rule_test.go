package controlplane_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A rule forbids imports. Paths are exact, or end in "/..." and mean the package and all below it.
type rule struct {
	who    []string // the packages that are bound, of this module
	unless []string // of those, the ones that are not
	never  []string // what they must not import
	except []string // of that, what they may
	linked bool     // not through others either; otherwise only their own import lines count
	why    string
}

// under means each path and all below it.
func under(paths ...string) []string {
	patterns := make([]string, len(paths))
	for i, path := range paths {
		patterns[i] = path + "/..."
	}
	return patterns
}

func matches(path string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		tree, ok := strings.CutSuffix(pattern, "/...")
		return path == tree || ok && strings.HasPrefix(path, tree+"/")
	})
}

// check reports each import of the module's packages that a rule forbids, and each rule about a package that is
// neither there nor planned: a rule that a rename left behind would pass for ever.
func check(t *testing.T, module string, rules []rule, planned []string) {
	t.Helper()
	imports := importsOf(t)

	for _, rule := range rules {
		for path := range imports {
			if !matches(path, under(module)) || !matches(path, rule.who) || matches(path, rule.unless) {
				continue
			}
			if chain := rule.broken(path, imports); chain != nil {
				t.Errorf("%s\n\twhy not: %s", strings.Join(chain, "\n\t→ "), rule.why)
			}
		}
		for _, pattern := range slices.Concat(rule.who, rule.unless, rule.never, rule.except) {
			path := strings.TrimSuffix(pattern, "/...")
			if matches(path, under(module)) && path != module && imports[path] == nil && !slices.Contains(planned, path) {
				t.Errorf("a rule names %s, and there is no such package: correct the rule", path)
			}
		}
	}
	for _, path := range planned {
		if imports[path] != nil {
			t.Errorf("%s is written: take it out of planned", path)
		}
	}
}

// broken returns the shortest way from path to a package that the rule forbids, or nil.
func (r rule) broken(path string, imports map[string][]string) []string {
	seen := map[string]bool{path: true}
	for ways := [][]string{{path}}; len(ways) > 0; ways = ways[1:] {
		way := ways[0]
		for _, next := range imports[way[len(way)-1]] {
			if seen[next] {
				continue
			}
			seen[next] = true
			longer := append(slices.Clone(way), next)
			if matches(next, r.never) && !matches(next, r.except) {
				return longer
			}
			if r.linked {
				ways = append(ways, longer)
			}
		}
	}
	return nil
}

// importsOf asks the go command for what each package of this module and all that they link import, tests left out.
func importsOf(t *testing.T) map[string][]string {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports", "./...")
	var stderr strings.Builder
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}

	imports := map[string][]string{}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		err := decoder.Decode(&pkg)
		if errors.Is(err, io.EOF) {
			return imports
		}
		if err != nil {
			t.Fatalf("reading what go list says: %v", err)
		}
		if pkg.Imports == nil {
			pkg.Imports = []string{}
		}
		imports[pkg.ImportPath] = pkg.Imports
	}
}
