package core

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
)

// FieldDifference is one place in which two definitions differ: a JSON Pointer, and the values, JSON; empty where there is none.
type FieldDifference struct{ Path, Pinned, Offered string }

// readDefinition reads a definition, numbers as they are written. Nil: it is no JSON.
func readDefinition(definition []byte) any {
	d := json.NewDecoder(bytes.NewReader(definition))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	return v
}

// sameDefinition tells whether two definitions say the same, whatever their white space and the order of their keys.
func sameDefinition(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	x, y := readDefinition(a), readDefinition(b)
	return x != nil && y != nil && Plain(x) == Plain(y)
}

// DefinitionDifferences compares two definitions field by field, ascending by path. Either may be empty.
func DefinitionDifferences(pinned, offered []byte) []FieldDifference {
	var all []FieldDifference
	differ("", readDefinition(pinned), readDefinition(offered), len(pinned) > 0, len(offered) > 0, &all)
	return all
}

func differ(path string, a, b any, inA, inB bool, all *[]FieldDifference) {
	x, isX := a.(map[string]any)
	y, isY := b.(map[string]any)
	if (isX || !inA) && (isY || !inB) && (isX || isY) && (path == "" || isX && isY) {
		keys := map[string]bool{}
		for k := range x {
			keys[k] = true
		}
		for k := range y {
			keys[k] = true
		}
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			va, hasA := x[k]
			vb, hasB := y[k]
			differ(path+"/"+pointer(k), va, vb, hasA, hasB, all)
		}
		return
	}
	d := FieldDifference{Path: path}
	if inA {
		d.Pinned = Plain(a)
	}
	if inB {
		d.Offered = Plain(b)
	}
	if d.Pinned != d.Offered {
		*all = append(*all, d)
	}
}

// pointer is a key as a part of a JSON Pointer (RFC 6901), with what cannot be seen escaped.
func pointer(key string) string {
	return Visible(strings.NewReplacer("~", "~0", "/", "~1").Replace(key))
}

// Plain writes a value as JSON in which everything that a terminal would not show is escaped: it says the same, and all of it can be seen.
func Plain(v any) string {
	var out strings.Builder
	plain(&out, v)
	return out.String()
}

func plain(out *strings.Builder, v any) {
	switch v := v.(type) {
	case nil:
		out.WriteString("null")
	case bool:
		out.WriteString(strconv.FormatBool(v))
	case json.Number:
		out.WriteString(v.String())
	case string:
		plainText(out, v)
	case []any:
		out.WriteByte('[')
		for i, one := range v {
			if i > 0 {
				out.WriteString(", ")
			}
			plain(out, one)
		}
		out.WriteByte(']')
	case map[string]any:
		out.WriteByte('{')
		for i, key := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				out.WriteString(", ")
			}
			plainText(out, key)
			out.WriteString(": ")
			plain(out, v[key])
		}
		out.WriteByte('}')
	}
}

func plainText(out *strings.Builder, s string) {
	out.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\t':
			out.WriteString(`\t`)
		case shows(r):
			out.WriteRune(r)
		case r > 0xFFFF:
			high, low := utf16.EncodeRune(r)
			fmt.Fprintf(out, `\u%04x\u%04x`, high, low)
		default:
			fmt.Fprintf(out, `\u%04x`, r)
		}
	}
	out.WriteByte('"')
}

// shows tells whether a terminal shows a character as itself, in its place.
func shows(r rune) bool {
	return r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Zs, r) && !invisible(r)
}

// Visible writes out what a terminal would not show: <U+200B>.
func Visible(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !shows(r) }) < 0 {
		return s
	}
	var out strings.Builder
	for _, r := range s {
		if shows(r) {
			out.WriteRune(r)
		} else {
			fmt.Fprintf(&out, "<U+%04X>", r)
		}
	}
	return out.String()
}
