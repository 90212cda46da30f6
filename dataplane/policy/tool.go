package policy

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"unicode"

	"github.com/santhosh-tekuri/jsonschema/v6"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

const (
	// maxSchemaDepth bounds the nesting of a definition, as the strict reader does.
	maxSchemaDepth = 64
	// maxDefinition bounds its size in bytes.
	maxDefinition = 256 << 10
	// maxName bounds a prompt's name, a URI and a URI template.
	maxName = 2000
)

// CheckTool refuses a definition that cannot be pinned: it must be one JSON object that names the tool and
// has a usable input schema, which refers to nothing outside itself.
func CheckTool(t *policyv1.Tool) error {
	name := t.GetName()
	if kind := t.GetKind(); kind > policyv1.Kind_KIND_TOOL {
		return checkOther(kind, t)
	}
	if name == "" || len(name) > 128 || strings.ContainsFunc(name, func(r rune) bool { return !isToolRune(r) }) {
		return fmt.Errorf("%q is no tool name: 1 to 128 letters, digits, '_', '-' and '.'", clip(name))
	}
	_, err := newTool("", t).compiled()
	return err
}

// checkOther refuses what cannot be pinned of a prompt, a resource or a template.
func checkOther(kind policyv1.Kind, t *policyv1.Tool) error {
	key := map[policyv1.Kind]string{policyv1.Kind_KIND_PROMPT: "name", policyv1.Kind_KIND_RESOURCE: "uri", policyv1.Kind_KIND_RESOURCE_TEMPLATE: "uriTemplate"}[kind]
	switch name := t.GetName(); {
	case key == "":
		return errors.New("it is of a kind that is not known")
	case name == "" || len(name) > maxName || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("%q is no %s: 1 to %d characters, none of them a control character", clip(name), key, maxName)
	case len(t.GetDefinition()) > maxDefinition:
		return fmt.Errorf("the definition is larger than %d bytes", maxDefinition)
	}
	values, err := decodeObject(t.GetDefinition())
	if err != nil {
		return fmt.Errorf("the definition: %w", err)
	}
	if values[key] != t.GetName() {
		return fmt.Errorf("the definition is of another %s", key)
	}
	return nil
}

// pinnedTool is a tool of a catalogue, or what else is pinned there. Its definition is read when a call first needs it: a snapshot may
// hold more tools than a proxy ever calls.
type pinnedTool struct {
	connector, name string // name is a label
	kind            policyv1.Kind
	definition      []byte
	number          uint32 // short for this pin of the tool
	place           int    // in the catalogue
	exposed         string // the name at the endpoint of all connectors

	renameOnce sync.Once
	renamed    []byte // the definition under that name

	once   sync.Once
	ready  *inputSchema
	failed error

	annotationsOnce sync.Once
	annotations     annotations

	digestOnce sync.Once
	sum        []byte
}

// inputSchema is what arguments are held against.
type inputSchema struct {
	shape     *shape
	validator *jsonschema.Schema
	flat      *flat // nil: the validator alone knows
}

func newTool(connector string, t *policyv1.Tool) *pinnedTool {
	kind := max(t.GetKind(), policyv1.Kind_KIND_TOOL)
	return &pinnedTool{connector: connector, kind: kind, name: Label(kind, t.GetName()), definition: t.GetDefinition()}
}

// readSchema returns the input schema of a definition.
func readSchema(t *policyv1.Tool) (map[string]any, error) {
	if len(t.GetDefinition()) > maxDefinition {
		return nil, fmt.Errorf("the definition is larger than %d bytes", maxDefinition)
	}
	values, err := decodeObject(t.GetDefinition())
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
	return schema, nil
}

// compiled is what the tool's arguments are held against.
func (p *pinnedTool) compiled() (*inputSchema, error) {
	p.once.Do(func() { p.ready, p.failed = compileSchema(&policyv1.Tool{Name: p.name, Definition: p.definition}) })
	return p.ready, p.failed
}

func compileSchema(t *policyv1.Tool) (*inputSchema, error) {
	schema, err := readSchema(t)
	if err != nil {
		return nil, err
	}
	s, err := shapeOf(schema)
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.UseLoader(noLoader{})
	if err := c.AddResource("tool:///input", schema); err != nil {
		return nil, fmt.Errorf("the inputSchema is not usable: %s", firstLine(err))
	}
	validator, err := c.Compile("tool:///input")
	if err != nil {
		return nil, fmt.Errorf("the inputSchema is not usable: %s", firstLine(err))
	}
	return &inputSchema{shape: s, validator: validator, flat: flatOf(schema)}, nil
}

type noLoader struct{}

// Load refuses every URL.
func (noLoader) Load(string) (any, error) {
	return nil, errors.New("a schema may not refer to another document")
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
