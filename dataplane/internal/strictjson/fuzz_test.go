package strictjson_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strconv"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport.dev/dataplane/internal/strictjson"
)

// FuzzAgainstJSONText holds the scanner to another implementation: what it accepts, jsontext accepts too and reads
// as the same value, and all its ways of reading agree with one another.
func FuzzAgainstJSONText(f *testing.F) {
	for _, c := range refusals {
		f.Add([]byte(c.input))
	}
	f.Add([]byte(toolCall))
	f.Add([]byte(` {"a":[1,-0.5e7,"\ud83d\ude00é"],"b":{"\u0061":null},"c":9007199254740993,"d":1e999} `))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours := strictjson.Validate(data, strictjson.Limits{})
		value, decodeErr := strictjson.Decode(data, strictjson.Limits{})
		if (ours == nil) != (decodeErr == nil) || ours != nil && ours.Error() != decodeErr.Error() {
			t.Fatalf("Validate: %v; Decode: %v", ours, decodeErr)
		}
		var r strictjson.Reader
		r.Reset(data, strictjson.Limits{})
		walk(&r)
		if end := r.End(); (ours == nil) != (end == nil) || ours != nil && ours.Error() != end.Error() {
			t.Fatalf("Validate: %v; Reader: %v", ours, end)
		}
		if ours != nil {
			return
		}
		dec := jsontext.NewDecoder(bytes.NewReader(data), jsontext.AllowDuplicateNames(false), jsontext.AllowInvalidUTF8(false))
		theirs, err := oracle(dec)
		if err != nil {
			t.Fatalf("accepted what jsontext refuses: %v", err)
		}
		if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
			t.Fatalf("accepted trailing data: %v", err)
		}
		if !reflect.DeepEqual(value, theirs) {
			t.Fatalf("read as %#v, by jsontext as %#v", value, theirs)
		}
	})
}

// oracle builds jsontext's reading in the shape that Decode gives.
func oracle(dec *jsontext.Decoder) (any, error) {
	tok, err := dec.ReadToken()
	if err != nil {
		return nil, err
	}
	switch tok.Kind() {
	case '{':
		m := map[string]any{}
		for dec.PeekKind() != '}' {
			name, err := dec.ReadToken()
			if err != nil {
				return nil, err
			}
			key := name.String()
			if m[key], err = oracle(dec); err != nil {
				return nil, err
			}
		}
		_, err := dec.ReadToken()
		return m, err
	case '[':
		list := []any{}
		for dec.PeekKind() != ']' {
			v, err := oracle(dec)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.ReadToken()
		return list, err
	case '"':
		return tok.String(), nil
	case '0':
		return number(tok.String()), nil
	case 't', 'f':
		return tok.Bool(), nil
	}
	return nil, nil
}

// number says by exact arithmetic what a float64 holds.
func number(literal string) any {
	f, err := strconv.ParseFloat(literal, 64)
	if err != nil {
		return json.Number(literal)
	}
	if f == 0 {
		for _, c := range literal {
			if c == 'e' || c == 'E' {
				break
			}
			if c >= '1' && c <= '9' {
				return json.Number(literal)
			}
		}
		return f
	}
	if !sameRational(literal, strconv.FormatFloat(f, 'g', -1, 64)) {
		return json.Number(literal)
	}
	return f
}
