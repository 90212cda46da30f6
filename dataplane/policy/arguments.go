package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"sallyport.dev/dataplane/internal/strictjson"
)

// Arguments are a call's arguments, read strictly and found to fit the tool's pinned schema. Only
// Table.Arguments makes them, so that no verdict rests on others.
type Arguments struct {
	values map[string]any
}

// unreadable stands for a number that a float64 does not hold: a condition that reads it fails.
type unreadable struct{}

// decodeObject reads one JSON object strictly. Whole numbers come as int64, others as float64; inexact
// tells that there are numbers that a float64 does not hold, which come as json.Number.
func decodeObject(data []byte) (values map[string]any, inexact bool, err error) {
	data = bytes.TrimSpace(data)
	if len(data) == 0 || bytes.Equal(data, []byte("null")) {
		return map[string]any{}, false, nil
	}
	v, err := strictjson.Decode(data, strictjson.Limits{})
	if err != nil {
		return nil, false, fmt.Errorf("the JSON is refused: %w", err)
	}
	values, ok := v.(map[string]any)
	if !ok {
		return nil, false, errors.New("it must be a JSON object")
	}
	whole(values, &inexact)
	return values, inexact, nil
}

// whole makes an int64 of each whole number that a float64 tells from its neighbours: conditions then
// calculate with 5 whether it was written 5 or 5.0.
func whole(v any, inexact *bool) any {
	switch v := v.(type) {
	case float64:
		if v == math.Trunc(v) && math.Abs(v) <= 1<<53 {
			return int64(v)
		}
	case json.Number:
		*inexact = true
	case map[string]any:
		for name, member := range v {
			v[name] = whole(member, inexact)
		}
	case []any:
		for i, element := range v {
			v[i] = whole(element, inexact)
		}
	}
	return v
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
