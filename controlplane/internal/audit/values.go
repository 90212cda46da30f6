package audit

import (
	"bytes"
	"encoding/json"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// value is a scalar in a JSON text, with where it stands and what it is: its form says the same of two values that are
// equal, and something else of two that are not.
type value struct {
	path string // as readPath returns it
	form string
	text string // to be searched for words
}

// maxDepth bounds how deep values are looked for, and maxDigits the exponents that are written out.
const (
	maxDepth  = 64
	maxDigits = 400
)

// values calls fn with each scalar of a JSON text, as far as the text goes: what audit keeps of a value is its beginning.
// The string that is cut off is told with an empty form: it equals nothing, and its words are there.
func values(data []byte, fn func(value)) { (&walker{data: data, fn: fn}).value("", 0) }

// names are the keys of a JSON text's objects.
type walker struct {
	data []byte
	at   int
	fn   func(value)
}

func (w *walker) space() {
	for w.at < len(w.data) && (w.data[w.at] == ' ' || w.data[w.at] == '\t' || w.data[w.at] == '\n' || w.data[w.at] == '\r') {
		w.at++
	}
}

// value reads one value and says whether it was whole.
func (w *walker) value(path string, depth int) bool {
	w.space()
	if w.at >= len(w.data) || depth > maxDepth {
		return false
	}
	switch w.data[w.at] {
	case '{':
		return w.members(path, depth, '}')
	case '[':
		return w.members(path, depth, ']')
	case '"':
		s, whole := w.string()
		v := value{path: path, text: s}
		if whole {
			v.form = "s" + s
		}
		w.fn(v)
		return whole
	}
	from := w.at
	for w.at < len(w.data) && !bytes.ContainsRune([]byte(",]} \t\r\n"), rune(w.data[w.at])) {
		w.at++
	}
	word := string(w.data[from:w.at])
	// A number that ends where the text does may have gone on.
	if w.at == len(w.data) && from > 0 {
		return false
	}
	if form := scalarForm(word); form != "" {
		w.fn(value{path: path, form: form, text: word})
	}
	return w.at > from
}

func (w *walker) members(path string, depth int, end byte) bool {
	w.at++
	for i := 0; ; i++ {
		w.space()
		if w.at < len(w.data) && w.data[w.at] == end {
			w.at++
			return true
		}
		if i > 0 {
			if w.at >= len(w.data) || w.data[w.at] != ',' {
				return false
			}
			w.at++
			w.space()
		}
		below := path + "[" + strconv.Itoa(i) + "]"
		if end == '}' {
			if w.at >= len(w.data) || w.data[w.at] != '"' {
				return false
			}
			key, whole := w.string()
			w.fn(value{path: path, text: key})
			w.space()
			if !whole || w.at >= len(w.data) || w.data[w.at] != ':' {
				return false
			}
			w.at++
			below = path + member(key)
		}
		if !w.value(below, depth+1) {
			return false
		}
	}
}

// string reads a string, or what there is of it.
func (w *walker) string() (string, bool) {
	from := w.at
	for w.at++; w.at < len(w.data); w.at++ {
		switch w.data[w.at] {
		case '\\':
			w.at++
		case '"':
			w.at++
			return unquote(w.data[from:w.at]), true
		}
	}
	w.at = len(w.data)
	// What an escape or a letter lost at the cut goes too: at most an escaped pair of surrogates.
	for cut := 0; cut < 12 && from+1+cut <= len(w.data); cut++ {
		part := append(bytes.Clone(w.data[from:len(w.data)-cut]), '"')
		if json.Valid(part) && utf8.Valid(part) {
			return unquote(part), false
		}
	}
	return "", false
}

func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return ""
	}
	return s
}

// scalarForm is the form of a number or a literal; empty, if it is none. Numbers are equal by value: 1, 1.0 and 1e0.
func scalarForm(word string) string {
	switch word {
	case "true", "false", "null":
		return "l" + word
	}
	if !json.Valid([]byte(word)) {
		return ""
	}
	if i, err := strconv.ParseInt(word, 10, 64); err == nil {
		return "n" + strconv.FormatInt(i, 10)
	}
	if _, exponent, ok := strings.Cut(strings.ToLower(word), "e"); ok {
		if n, err := strconv.Atoi(exponent); err != nil || n > maxDigits || n < -maxDigits {
			return "n" + word // as it is written
		}
	}
	r, ok := new(big.Rat).SetString(word)
	if !ok {
		return ""
	}
	return "n" + r.RatString()
}

// member is a name as a part of a path.
func member(name string) string { return "[" + strconv.Quote(name) + "]" }

// readPath reads a path as an admin writes it, and returns it in the one form that values uses. False: it is none.
func readPath(text string) (string, bool) {
	var path strings.Builder
	rest := text
	if strings.HasPrefix(rest, "$.") || strings.HasPrefix(rest, "$[") {
		rest = rest[1:]
	}
	for first := true; rest != ""; first = false {
		if rest[0] == '[' {
			segment, after, ok := bracket(rest[1:])
			if !ok {
				return "", false
			}
			path.WriteString(segment)
			rest = after
			continue
		}
		if rest[0] == '.' {
			rest = rest[1:]
		} else if !first {
			return "", false
		}
		end := strings.IndexAny(rest, ".[")
		if end < 0 {
			end = len(rest)
		}
		if end == 0 {
			return "", false
		}
		path.WriteString(member(rest[:end]))
		rest = rest[end:]
	}
	return path.String(), path.Len() > 0
}

// bracket reads what follows a bracket: a place, or a quoted name.
func bracket(rest string) (segment, after string, ok bool) {
	if rest == "" {
		return "", "", false
	}
	if quote := rest[0]; quote == '\'' || quote == '"' {
		var name strings.Builder
		for i := 1; i < len(rest); i++ {
			switch {
			case rest[i] == '\\' && i+1 < len(rest):
				i++
				name.WriteByte(rest[i])
			case rest[i] == quote:
				if i+1 >= len(rest) || rest[i+1] != ']' {
					return "", "", false
				}
				return member(name.String()), rest[i+2:], true
			default:
				name.WriteByte(rest[i])
			}
		}
		return "", "", false
	}
	digits, after, found := strings.Cut(rest, "]")
	n, err := strconv.ParseUint(digits, 10, 31)
	if !found || err != nil || strconv.FormatUint(n, 10) != digits {
		return "", "", false
	}
	return "[" + digits + "]", after, true
}
