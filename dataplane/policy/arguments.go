package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// maxDepth bounds the nesting of arguments.
const maxDepth = 64

// Arguments are a call's arguments, read strictly and found to fit the tool's pinned schema. Only
// Table.Arguments makes them, so that no verdict rests on others.
type Arguments struct {
	values map[string]any
}

// unreadable stands for a number that a float64 does not hold: a condition that reads it fails.
type unreadable struct{}

// decodeObject reads one JSON object: each name once, valid UTF-8, no lone surrogates, no control
// characters in names, nothing behind it. Numbers that a float64 does not hold come as json.Number, and
// inexact tells that there are some.
func decodeObject(data []byte) (values map[string]any, inexact bool, err error) {
	data = bytes.TrimSpace(data)
	if len(data) == 0 || bytes.Equal(data, []byte("null")) {
		return map[string]any{}, false, nil
	}
	d := argumentDecoder{dec: jsontext.NewDecoder(bytes.NewBuffer(data))}
	v, err := d.value(0)
	if err != nil {
		return nil, false, err
	}
	if _, err := d.dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, false, errors.New("there is something behind the arguments")
	}
	values, ok := v.(map[string]any)
	if !ok {
		return nil, false, errors.New("arguments must be an object")
	}
	return values, d.inexact, nil
}

type argumentDecoder struct {
	dec     *jsontext.Decoder
	inexact bool
}

func (d *argumentDecoder) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("arguments are nested more than %d deep", maxDepth)
	}
	t, err := d.dec.ReadToken()
	if err != nil {
		return nil, jsonError(err)
	}
	switch t.Kind() {
	case '{':
		return d.object(depth)
	case '[':
		values := []any{}
		for d.dec.PeekKind() != ']' {
			v, err := d.value(depth + 1)
			if err != nil {
				return nil, err
			}
			values = append(values, v)
		}
		_, err := d.dec.ReadToken()
		return values, jsonError(err)
	case '"':
		return t.String(), nil
	case '0':
		return d.number(t.String())
	case 't', 'f':
		return t.Bool(), nil
	default:
		return nil, nil
	}
}

func (d *argumentDecoder) object(depth int) (any, error) {
	values := map[string]any{}
	for d.dec.PeekKind() != '}' {
		t, err := d.dec.ReadToken()
		if err != nil {
			return nil, jsonError(err)
		}
		name := t.String()
		if strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return nil, errors.New("a name in the arguments holds control characters")
		}
		if values[name], err = d.value(depth + 1); err != nil {
			return nil, err
		}
	}
	_, err := d.dec.ReadToken()
	return values, jsonError(err)
}

// number returns an int64 for what is written as a whole number and a float64 for the rest, if a float64
// holds the very number that was written: what another reader makes of it is then the same.
func (d *argumentDecoder) number(text string) (any, error) {
	if !strings.ContainsAny(text, ".eE") {
		if n, err := strconv.ParseInt(text, 10, 64); err == nil && -1<<53 <= n && n <= 1<<53 {
			return n, nil
		}
	} else if f, err := strconv.ParseFloat(text, 64); err == nil && digits(text) <= 17 {
		return f, nil
	}
	d.inexact = true
	return json.Number(text), nil
}

// digits counts the significant digits of a number's text: a float64 tells up to 17 of them apart.
func digits(text string) int {
	mantissa, _, _ := strings.Cut(strings.ToLower(text), "e")
	return len(strings.TrimLeft(strings.Replace(strings.TrimPrefix(mantissa, "-"), ".", "", 1), "0"))
}

// hide replaces the numbers that a float64 does not hold, once the schema has seen them.
func hide(v any) any {
	switch v := v.(type) {
	case json.Number:
		return unreadable{}
	case map[string]any:
		for name, member := range v {
			v[name] = hide(member)
		}
	case []any:
		for i, element := range v {
			v[i] = hide(element)
		}
	}
	return v
}

// jsonError is what was wrong with JSON, without its content.
func jsonError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jsontext.ErrDuplicateName):
		return errors.New("a name stands twice in one object")
	}
	return errors.New("the JSON is malformed, is not UTF-8, or ends too early")
}
