package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"sallyport.dev/dataplane/internal/strictjson"
)

// Arguments are a call's arguments, read strictly and found to fit the tool's pinned schema. Only
// Table.Arguments makes them, so that no verdict rests on others.
type Arguments struct {
	values          values
	connector, tool string
	any             bool   // NoArguments
	known           *parts // what is there of Recalled ones; nil: all
	failed          error  // why there are none
}

// NoArguments are those of a call that has none, for any tool: a condition finds nothing in them. They are
// held against no schema, so that what is decided by them is not a call to let through.
var NoArguments = Arguments{values: values{}, any: true}

// of tells whether the arguments were read for a tool.
func (a *Arguments) of(connector, tool string) bool {
	return a.any || a.values != nil && a.tool == tool && a.connector == connector
}

// unreadable stands for a number that a float64 does not hold: a condition that reads it fails.
type unreadable struct{}

// Arguments reads a call's arguments strictly and holds them against the tool's pinned schema. None, and
// null, are an empty object. After an error the arguments are none that Decide would allow anything by, and
// its reason is the error unless another comes first; so they are for an unknown tool, without an error.
func (t *Table) Arguments(connector, tool string, raw []byte) (Arguments, error) {
	p := t.state().connector(connector).tool(tool)
	if p == nil {
		return Arguments{}, nil
	}
	a, err := p.arguments(raw)
	if err != nil {
		return Arguments{failed: err}, err
	}
	return a, nil
}

// arguments reads and validates a call's arguments.
func (p *pinnedTool) arguments(raw []byte) (Arguments, error) {
	schema, err := p.compiled()
	if err != nil {
		return Arguments{}, err
	}
	values := map[string]any{}
	if raw = bytes.TrimSpace(raw); len(raw) > 0 && !bytes.Equal(raw, []byte("null")) {
		if values, err = decodeObject(raw); err != nil {
			return Arguments{}, fmt.Errorf("the arguments: %w", err)
		}
	}
	if err := schema.shape.unambiguous(values); err != nil {
		return Arguments{}, err
	}
	if schema.flat == nil || !schema.flat.fits(values) {
		if err := schema.validator.Validate(values); err != nil {
			return Arguments{}, fmt.Errorf("the arguments do not fit the tool's schema: %s", describe(err))
		}
	}
	schema.shape.convert(values)
	return Arguments{values: values, connector: p.connector, tool: p.name}, nil
}

// decodeObject reads one JSON object strictly. Numbers come as float64, or as json.Number where a float64
// does not hold them.
func decodeObject(data []byte) (map[string]any, error) {
	v, err := strictjson.Decode(data, strictjson.Limits{})
	if err != nil {
		return nil, fmt.Errorf("the JSON is refused: %w", err)
	}
	values, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("it must be a JSON object")
	}
	return values, boundNumbers(v)
}

// boundNumbers refuses numbers so long, or so large or small, that to compute with them exactly, as the
// validator does, would be work without bounds.
func boundNumbers(v any) error {
	switch v := v.(type) {
	case json.Number:
		mantissa, exponent, _ := strings.Cut(strings.ToLower(v.String()), "e")
		if len(mantissa) > 400 || len(strings.TrimLeft(exponent, "+-0")) > 3 {
			return errors.New("a number is too long, too large or too small")
		}
	case map[string]any:
		for _, member := range v {
			if err := boundNumbers(member); err != nil {
				return err
			}
		}
	case []any:
		for _, element := range v {
			if err := boundNumbers(element); err != nil {
				return err
			}
		}
	}
	return nil
}

// unambiguous refuses keys that fold to a property of the schema without equalling it, at any depth: a
// reader that ignores case, as many do, would take them for the property.
func (s *shape) unambiguous(v any) error {
	if s == nil {
		return nil
	}
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			child, known := s.known[key]
			if !known {
				if have, ok := s.folded[fold(key)]; ok {
					return fmt.Errorf("argument %q differs from %q only in letter case", clip(key), have)
				}
				child = s.rest
			}
			if err := child.unambiguous(member); err != nil {
				return err
			}
		}
	case []any:
		for _, element := range v {
			if err := s.each.unambiguous(element); err != nil {
				return err
			}
		}
	}
	return nil
}

// convert makes of numbers what conditions calculate with: a float64 where the schema says "number", and
// elsewhere an int64 of a whole number, so that 5 and 5.0, which are the same number, are the same value.
func (s *shape) convert(v any) any {
	switch v := v.(type) {
	case float64:
		switch {
		case s != nil && s.kind == number:
		case v == math.Trunc(v) && math.Abs(v) < 1<<63:
			return int64(v)
		case s != nil && s.kind == integer:
			return unreadable{}
		}
	case json.Number:
		return unreadable{}
	case map[string]any:
		for key, member := range v {
			var child *shape
			if s != nil {
				child = s.fields[key]
			}
			v[key] = child.convert(member)
		}
	case []any:
		var items *shape
		if s != nil {
			items = s.items
		}
		for i, element := range v {
			v[i] = items.convert(element)
		}
	}
	return v
}
