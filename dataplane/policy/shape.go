package policy

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
)

// kind is the type of value that a schema lets through, where it lets through one.
type kind uint8

const (
	dynamic kind = iota
	text
	boolean
	integer
	number
	array
	object
	instant // a point in time; no JSON value is one
)

var kinds = map[string]kind{"string": text, "boolean": boolean, "integer": integer, "number": number, "array": array, "object": object}

// shape is what a JSON schema says of the values that fit it, as far as conditions and the reading of
// arguments use it. It says less than the schema and never more: what it says holds for each value that
// the validator lets through.
type shape struct {
	kind     kind
	fields   map[string]*shape // the properties that the schema itself names
	required map[string]bool
	items    *shape // of each element
	rest     *shape // of each property that is not named
	closed   bool   // there are no others than fields: it is none of a schema

	// also are schemas that may count for the same value, by allOf and the like. What they say is used for
	// the names that arguments may have, not for types: known are the fields of them all, each is of elements.
	also   []*shape
	known  map[string]*shape
	folded map[string]string // names of known, by their fold
	each   *shape
}

// maxShapes bounds the work on one schema.
const maxShapes = 20_000

// shapes reads the shapes of one document.
type shapes struct {
	root map[string]any
	// byPath has each shape by its JSON pointer: what refers to itself is read once.
	byPath map[string]*shape
	// opaque: references are not followed, since the document renames what they are relative to.
	opaque bool
}

// shapeOf reads the shape of a schema.
func shapeOf(schema map[string]any) (*shape, error) {
	r := &shapes{root: schema, byPath: map[string]*shape{}, opaque: renames(schema, true)}
	s := r.read("", schema)
	steps := 0
	weights := map[*shape]int{}
	for _, one := range r.byPath {
		if one.weight(weights) > maxShapes {
			return nil, errors.New("the schema is too intricate: alternatives of alternatives multiply")
		}
		if steps += one.settle(); steps > 10*maxShapes {
			return nil, errors.New("the schema is too intricate")
		}
	}
	if len(r.byPath) >= maxShapes {
		return nil, errors.New("the schema is too intricate")
	}
	return s, nil
}

// renames tells whether a schema below the root has an identity of its own.
func renames(v any, root bool) bool {
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			if (key == "$id" || key == "id") && !root {
				if _, ok := member.(string); ok {
					return true
				}
			}
			if renames(member, false) {
				return true
			}
		}
	case []any:
		for _, element := range v {
			if renames(element, false) {
				return true
			}
		}
	}
	return false
}

// read returns the shape of the schema at a path; of what is no object, none.
func (r *shapes) read(path string, v any) *shape {
	schema, ok := v.(map[string]any)
	if !ok || len(r.byPath) >= maxShapes {
		return nil
	}
	if s := r.byPath[path]; s != nil {
		return s
	}
	s := &shape{}
	r.byPath[path] = s
	_, dynamicRef := schema["$dynamicRef"]
	_, refers := schema["$ref"]
	refers = refers || dynamicRef
	if refers && !dynamicRef {
		target := r.follow(schema["$ref"])
		if target != nil && annotationsOnly(schema) {
			r.byPath[path] = target
			return target
		}
		s.apply(target)
	}
	// What stands beside a reference counts in some drafts and not in others: nothing rests on it.
	own := s
	if refers {
		own = &shape{}
		s.apply(own)
	} else if name, ok := schema["type"].(string); ok {
		s.kind = kinds[name]
	}
	own.fields = r.readAll(path+"/properties", schema["properties"])
	if required, _ := schema["required"].([]any); !refers {
		s.required = map[string]bool{}
		for _, name := range required {
			if name, ok := name.(string); ok {
				s.required[name] = true
			}
		}
	}
	if schema["prefixItems"] == nil {
		own.items = r.read(path+"/items", schema["items"])
	}
	s.rest = r.read(path+"/additionalProperties", schema["additionalProperties"])
	for _, key := range []string{"allOf", "anyOf", "oneOf"} {
		list, _ := schema[key].([]any)
		for i, element := range list {
			s.apply(r.read(path+"/"+key+"/"+strconv.Itoa(i), element))
		}
	}
	for _, key := range []string{"if", "then", "else", "not"} {
		s.apply(r.read(path+"/"+key, schema[key]))
	}
	for _, dependent := range r.readAll(path+"/dependentSchemas", schema["dependentSchemas"]) {
		s.apply(dependent)
	}
	return s
}

func (r *shapes) readAll(path string, v any) map[string]*shape {
	members, _ := v.(map[string]any)
	all := make(map[string]*shape, len(members))
	for name, member := range members {
		all[name] = r.read(path+"/"+escape(name), member)
	}
	return all
}

func (s *shape) apply(other *shape) {
	if other != nil {
		s.also = append(s.also, other)
	}
}

// annotationsOnly tells whether nothing beside a reference restricts a value.
func annotationsOnly(schema map[string]any) bool {
	for key := range schema {
		switch key {
		case "$ref", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment":
		default:
			return false
		}
	}
	return true
}

// follow returns the shape that a reference within the document is to.
func (r *shapes) follow(ref any) *shape {
	pointer, ok := ref.(string)
	if !ok || r.opaque {
		return nil
	}
	pointer, ok = strings.CutPrefix(pointer, "#")
	if !ok || pointer != "" && pointer[0] != '/' || strings.Contains(pointer, "%") {
		return nil
	}
	var at any = r.root
	for part := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		if pointer == "" {
			break
		}
		members, ok := at.(map[string]any)
		if !ok {
			return nil
		}
		at = members[strings.NewReplacer("~1", "/", "~0", "~").Replace(part)]
	}
	return r.read(pointer, at)
}

// weight is how many schemas one value is held against, at most: alternatives of alternatives multiply.
// What applies itself to the same value again is left to the validator, which refuses it.
func (s *shape) weight(known map[*shape]int) int {
	if w, ok := known[s]; ok {
		return w
	}
	known[s] = 0
	w := 1
	for _, other := range s.also {
		w = min(w+other.weight(known), maxShapes+1)
	}
	known[s] = w
	return w
}

// settle collects the fields of all that is applied to the same value, and tells how much work it was.
func (s *shape) settle() (steps int) {
	s.known, s.folded, s.each = map[string]*shape{}, map[string]string{}, nil
	seen := map[*shape]bool{s: true}
	for todo := []*shape{s}; len(todo) > 0; todo = todo[1:] {
		one := todo[0]
		steps += 1 + len(one.fields)
		for name, field := range one.fields {
			if _, known := s.known[name]; !known {
				s.known[name] = field
				s.folded[fold(name)] = name
			}
		}
		if s.each == nil {
			s.each = one.items
		}
		for _, other := range one.also {
			if !seen[other] {
				seen[other] = true
				todo = append(todo, other)
			}
		}
		if steps > maxShapes {
			return 100 * maxShapes
		}
	}
	return steps
}

func escape(name string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(name) }

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
