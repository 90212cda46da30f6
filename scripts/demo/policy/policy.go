// Package policy holds the demo's connectors and grants, as the YAML files that `sallyport apply` takes.
package policy

import (
	"embed"
	"fmt"
	"regexp"
)

//go:embed *.yaml analytics/*.yaml
var files embed.FS

var variable = regexp.MustCompile(`\$\{([A-Z_]+)\}`)

// Read returns a file with each ${NAME} filled in; a name without a value is an error.
func Read(name string, values map[string]string) ([]byte, error) {
	text, err := files.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the demo policy: %w", err)
	}
	var missing error
	out := variable.ReplaceAllFunc(text, func(match []byte) []byte {
		key := string(variable.FindSubmatch(match)[1])
		value, ok := values[key]
		if !ok {
			missing = fmt.Errorf("%s: ${%s} has no value", name, key)
		}
		return []byte(value)
	})
	return out, missing
}
