package policy

import "math"

// flat is a schema that asks for nothing but types, names and words: that values fit it can be seen by walking over them once, at a fraction
// of what the validator takes. It only ever says that values certainly fit; of all others the validator decides, and says why.
type flat struct {
	kind     kind            // dynamic: any value fits
	words    map[string]bool // of text; nil: any word
	fields   map[string]*flat
	required []string
	closed   bool  // no others than fields
	items    *flat // nil: any
}

// flatOf reads a schema; nil: it asks for more.
func flatOf(schema map[string]any) *flat {
	f := &flat{}
	for key, v := range schema {
		ok := true
		switch key {
		case "title", "description", "default", "examples", "$comment":
		case "$schema":
			ok = v == "https://json-schema.org/draft/2020-12/schema" || v == "http://json-schema.org/draft-07/schema#"
		case "type":
			name, _ := v.(string)
			f.kind, ok = kinds[name]
		case "properties":
			members, is := v.(map[string]any)
			ok = is
			f.fields = make(map[string]*flat, len(members))
			for name, member := range members {
				child, is := member.(map[string]any)
				if ok = ok && is; ok {
					f.fields[name] = flatOf(child)
					ok = f.fields[name] != nil
				}
			}
		case "required":
			names, is := v.([]any)
			ok = is
			for _, name := range names {
				name, is := name.(string)
				ok = ok && is
				f.required = append(f.required, name)
			}
		case "additionalProperties":
			open, is := v.(bool)
			f.closed, ok = !open, is
		case "items":
			child, is := v.(map[string]any)
			if ok = is; ok {
				f.items = flatOf(child)
				ok = f.items != nil
			}
		case "enum":
			words, is := v.([]any)
			ok = is
			f.words = map[string]bool{}
			for _, word := range words {
				word, is := word.(string)
				ok = ok && is
				f.words[word] = true
			}
		default:
			ok = false
		}
		if !ok {
			return nil
		}
	}
	// Words of no stated type, and what is said of values of another type, are left to the validator.
	if f.words != nil && f.kind != text || (f.fields != nil || f.required != nil || f.closed) && f.kind != object || f.items != nil && f.kind != array {
		return nil
	}
	return f
}

// fits tells whether a value certainly fits.
func (f *flat) fits(v any) bool {
	switch f.kind {
	case dynamic:
		return true
	case text:
		word, ok := v.(string)
		return ok && (f.words == nil || f.words[word])
	case boolean:
		_, ok := v.(bool)
		return ok
	case number:
		_, ok := v.(float64)
		return ok
	case integer:
		n, ok := v.(float64)
		return ok && n == math.Trunc(n)
	case array:
		elements, ok := v.([]any)
		if !ok || f.items == nil {
			return ok
		}
		for _, element := range elements {
			if !f.items.fits(element) {
				return false
			}
		}
		return true
	case object:
		members, ok := v.(map[string]any)
		return ok && f.fitsMembers(members)
	}
	return false
}

func (f *flat) fitsMembers(members map[string]any) bool {
	for _, name := range f.required {
		if _, ok := members[name]; !ok {
			return false
		}
	}
	for name, member := range members {
		field := f.fields[name]
		if field == nil && f.closed || field != nil && !field.fits(member) {
			return false
		}
	}
	return true
}
