package core

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// document is the text of a JSON object that was taken in as one. It is looked through for single members, which costs a small part of
// what it takes to read all of it: a snapshot asks for a few attributes of a million people. In what is no object there is nothing.
type document []byte

// member returns the text of a member's value, by its name in any letter case: of the one written so, or else the first of those that
// are there, by name. Nil: there is none.
func (d document) member(name string) document {
	var found []byte
	least := ""
	rest := afterSpace(d)
	if len(rest) == 0 || rest[0] != '{' {
		return nil
	}
	for rest = rest[1:]; ; rest = rest[1:] {
		rest = afterSpace(rest)
		key, after := cutValue(rest)
		after = afterSpace(after)
		if len(key) == 0 || key[0] != '"' || len(after) == 0 || after[0] != ':' {
			return found
		}
		value, after := cutValue(afterSpace(after[1:]))
		if len(value) == 0 {
			return found
		}
		if mayBe(key[1:len(key)-1], name) {
			written := name
			if plain := key[1 : len(key)-1]; string(plain) != name || bytes.IndexByte(plain, '\\') >= 0 {
				written = unquoted(key)
			}
			switch {
			case written == name:
				found, least = value, written
			case least == name || !strings.EqualFold(written, name):
			case least == "" || written <= least:
				found, least = value, written
			}
		}
		if rest = afterSpace(after); len(rest) == 0 || rest[0] != ',' {
			return found
		}
	}
}

const jsonSpace = " \t\r\n"

// afterSpace is a text without the space that it begins with.
func afterSpace(text []byte) []byte {
	for len(text) > 0 && text[0] <= ' ' && strings.IndexByte(jsonSpace, text[0]) >= 0 {
		text = text[1:]
	}
	return text
}

// mayBe tells from the first letters and the length whether a member may have a name. Most have another.
func mayBe(written []byte, name string) bool {
	if len(written) == 0 || name == "" {
		return len(written) == len(name)
	}
	w, n := written[0], name[0]
	if w|0x20 != n|0x20 && w < utf8.RuneSelf && n < utf8.RuneSelf && w != '\\' {
		return false
	}
	if len(written) == len(name) {
		return true
	}
	// A letter that is written otherwise, or has another case of another length.
	for _, b := range written {
		if b == '\\' || b >= utf8.RuneSelf {
			return true
		}
	}
	return strings.IndexFunc(name, func(r rune) bool { return r >= utf8.RuneSelf }) >= 0
}

// cutValue cuts off the value that a JSON text begins with.
func cutValue(text []byte) (value, rest []byte) {
	depth := 0
	for i := 0; i < len(text); i++ {
		switch {
		case !marks[text[i]]:
			continue
		case text[i] == '"':
			if i = endOfString(text, i); i < 0 {
				return nil, nil
			}
		case text[i] == '{' || text[i] == '[':
			depth++
			continue
		case text[i] == '}' || text[i] == ']':
			if depth--; depth < 0 {
				return text[:i], text[i:]
			}
		case depth > 0:
			continue
		default: // the end of a number or of a word
			return text[:i], text[i:]
		}
		if depth == 0 {
			return text[:i+1], text[i+1:]
		}
	}
	return text, nil
}

// marks are the bytes at which a value, or a part of one, begins or ends.
var marks = func() (marks [256]bool) {
	for _, b := range `"{}[],:` + jsonSpace {
		marks[b] = true
	}
	return marks
}()

// endOfString is where the string that begins at a place ends; -1: nowhere.
func endOfString(text []byte, from int) int {
	for i := from + 1; i < len(text); i++ {
		switch text[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
	return -1
}

// unquoted is what a JSON string says.
func unquoted(text []byte) string {
	if plain := text[1 : len(text)-1]; bytes.IndexByte(plain, '\\') < 0 && utf8.Valid(plain) {
		return string(plain)
	}
	var s string
	_ = json.Unmarshal(text, &s) // empty where it is none
	return s
}

// text is a string that is not empty, or nil.
func (d document) text() any {
	if len(d) > 2 && d[0] == '"' {
		return text(unquoted(d))
	}
	return nil
}

// value is whatever it is, read whole.
func (d document) value() any {
	var v any
	_ = json.Unmarshal(d, &v) // nil where it is nothing
	return v
}
