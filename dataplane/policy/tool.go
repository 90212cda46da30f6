package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode"

	"github.com/santhosh-tekuri/jsonschema/v6"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// maxSchemaDepth bounds the nesting of a definition.
const maxSchemaDepth = 64

// CheckTool refuses a definition that cannot be pinned: it must be one JSON object that names the tool and
// has a usable input schema.
func CheckTool(t *policyv1.Tool) error {
	p, err := readTool(t)
	if err != nil {
		return err
	}
	_, err = p.compiled()
	return err
}

// pinnedTool is a tool of a catalogue.
type pinnedTool struct {
	name       string
	definition []byte
	schema     map[string]any // the input schema, decoded
	// properties that the schema names at its top, by their fold.
	folded map[string]string

	once    sync.Once
	compile *jsonschema.Schema
	failed  error
}

func readTool(t *policyv1.Tool) (*pinnedTool, error) {
	values, _, err := decodeObject(t.GetDefinition())
	if err != nil {
		return nil, fmt.Errorf("the definition: %w", err)
	}
	if values["name"] != t.GetName() {
		return nil, errors.New("the definition is of a tool of another name")
	}
	schema, ok := values["inputSchema"].(map[string]any)
	if !ok {
		return nil, errors.New("the definition has no inputSchema")
	}
	if kind, found := schema["type"]; found && kind != "object" {
		return nil, errors.New("the inputSchema must be of type object")
	}
	p := &pinnedTool{name: t.GetName(), definition: t.GetDefinition(), schema: schema, folded: map[string]string{}}
	properties, _ := schema["properties"].(map[string]any)
	for name := range properties {
		p.folded[fold(name)] = name
	}
	return p, nil
}

// compiled is the schema's validator. A reference out of the definition is refused: nothing is fetched.
func (p *pinnedTool) compiled() (*jsonschema.Schema, error) {
	p.once.Do(func() {
		// The validator reads numbers as it does everywhere else: from JSON, decoded by its own rule.
		data, err := json.Marshal(p.schema)
		if err != nil {
			p.failed = fmt.Errorf("the inputSchema cannot be read: %w", err)
			return
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			p.failed = fmt.Errorf("the inputSchema cannot be read: %w", err)
			return
		}
		c := jsonschema.NewCompiler()
		c.UseLoader(noLoader{})
		if err := c.AddResource("tool:///input", doc); err != nil {
			p.failed = fmt.Errorf("the inputSchema is not usable: %w", err)
			return
		}
		if p.compile, err = c.Compile("tool:///input"); err != nil {
			p.failed = fmt.Errorf("the inputSchema is not usable: %s", firstLine(err))
		}
	})
	return p.compile, p.failed
}

type noLoader struct{}

// Load refuses every URL.
func (noLoader) Load(string) (any, error) {
	return nil, errors.New("a schema may not refer to another document")
}

// arguments reads and validates a call's arguments.
func (p *pinnedTool) arguments(raw []byte) (Arguments, error) {
	schema, err := p.compiled()
	if err != nil {
		return Arguments{}, err
	}
	values, inexact, err := decodeObject(raw)
	if err != nil {
		return Arguments{}, err
	}
	for name := range values {
		if have, ok := p.folded[fold(name)]; ok && have != name {
			if _, own := p.schema["properties"].(map[string]any)[name]; !own {
				return Arguments{}, fmt.Errorf("argument %q differs from %q only in letter case", clip(name), have)
			}
		}
	}
	if err := schema.Validate(values); err != nil {
		return Arguments{}, fmt.Errorf("the arguments do not fit the tool's schema: %s", describe(err))
	}
	if inexact {
		hide(values)
	}
	return Arguments{values: values}, nil
}

// describe says where arguments fail, not what they hold.
func describe(err error) string {
	var invalid *jsonschema.ValidationError
	if !errors.As(err, &invalid) {
		return "they cannot be validated"
	}
	for len(invalid.Causes) > 0 {
		invalid = invalid.Causes[0]
	}
	at := "/" + strings.Join(invalid.InstanceLocation, "/")
	return fmt.Sprintf("at %s, by %s", clip(at), strings.Join(invalid.ErrorKind.KeywordPath(), "/"))
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return clip(line)
}

func clip(s string) string {
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// fold is how names are told to differ only in letter case.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		// The smallest rune of the orbit stands for all of it.
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}
