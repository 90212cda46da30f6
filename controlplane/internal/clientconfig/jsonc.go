package clientconfig

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// errNotJSON says no more: what a decoder says of bytes quotes them, and they are another's.
var errNotJSON = errors.New("it is not JSON")

// plain makes JSON of JSON with comments and trailing commas, by putting spaces in their place. What is wrong otherwise is left for the
// decoder to refuse.
func plain(data []byte) []byte {
	data = bytes.TrimPrefix(data, []byte("\uFEFF"))
	out := bytes.Clone(data)
	comma := -1 // a comma after which nothing has come yet
	for i := 0; i < len(out); i++ {
		switch c := out[i]; {
		case c == '"':
			comma = -1
			for i++; i < len(out) && out[i] != '"'; i++ {
				if out[i] == '\\' {
					i++
				}
			}
		case c == '/' && i+1 < len(out) && (out[i+1] == '/' || out[i+1] == '*'):
			end := commentEnd(out, i)
			for ; i < end; i++ {
				if out[i] != '\n' {
					out[i] = ' '
				}
			}
			i--
		case c == ',':
			comma = i
		case c == '}' || c == ']':
			if comma >= 0 {
				out[comma] = ' '
			}
			comma = -1
		case c != ' ' && c != '\t' && c != '\n' && c != '\r':
			comma = -1
		}
	}
	return out
}

// commentEnd is where the comment that begins at i is over.
func commentEnd(data []byte, i int) int {
	end := []byte("\n")
	if data[i+1] == '*' {
		end = []byte("*/")
	}
	at := bytes.Index(data[i+2:], end)
	switch {
	case at < 0:
		return len(data)
	case data[i+1] == '*':
		return i + 2 + at + len(end)
	}
	return i + 2 + at
}

// member is one member of an object. A key that is there twice is there as two members.
type member struct {
	key   string
	value json.RawMessage
}

// members reads an object without losing one of several members of the same key.
func members(data []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	open, err := d.Token()
	if err != nil {
		return nil, errNotJSON
	}
	if open != json.Delim('{') {
		return nil, errors.New("it is not an object")
	}
	var all []member
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, errNotJSON
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, errNotJSON
		}
		if len(all) == mostMembers {
			return nil, fmt.Errorf("it has more than %d members", mostMembers)
		}
		all = append(all, member{key.(string), value})
	}
	if _, err := d.Token(); err != nil {
		return nil, errNotJSON
	}
	return all, nil
}

// mostMembers bounds what one object may make of a report.
const mostMembers = 20000

// text, list and texts read values whose type is another's choice: what is not of the type is nothing.
func text(data json.RawMessage) string {
	var s string
	if json.Unmarshal(data, &s) != nil {
		return ""
	}
	return s
}

func list(data json.RawMessage) []string {
	var values []any
	if json.Unmarshal(data, &values) != nil {
		return nil
	}
	all := make([]string, 0, len(values))
	for _, v := range values {
		if s, ok := v.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// texts returns an object's members with strings for values; other values count as "".
func texts(data json.RawMessage) map[string]string {
	all, err := members(data)
	if err != nil {
		return nil
	}
	found := make(map[string]string, len(all))
	for _, m := range all {
		if v := text(m.value); v != "" || found[m.key] == "" {
			found[m.key] = v
		}
	}
	return found
}
