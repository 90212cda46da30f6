// Package proto_test holds the contract's import rule.
package proto_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed is what generated code imports, beside the standard library and the contract itself.
var allowed = []string{
	"buf.build/gen/go/bufbuild/protovalidate/",
	"connectrpc.com/connect",
	"google.golang.org/protobuf/",
	"sallyport.dev/proto/",
}

func TestTheContractImportsNothingOfThoseWhoKeepIt(t *testing.T) {
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "./...")
	var stderr strings.Builder
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	packages := strings.Fields(string(out))
	if !slices.Contains(packages, "sallyport.dev/proto/gen/sallyport/event/v1") {
		t.Fatalf("go list names no event schema, so there is nothing to check: %q", packages)
	}
	for _, path := range packages {
		if path == "sallyport.dev/proto" {
			continue
		}
		if !slices.ContainsFunc(allowed, func(prefix string) bool { return strings.HasPrefix(path, prefix) }) {
			t.Errorf("the contract links %s\n\twhy not: whoever reads our audit stream imports this module, and gets only what generated code needs", path)
		}
	}
}
