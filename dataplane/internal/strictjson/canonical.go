package strictjson

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
)

// Canonical appends to dst the one text of a value: as Decode reads it, members in the order of their names, without white space.
// Two texts have the same one if policy reads the same in them: 5 and 5.0 are one number.
func Canonical(dst, data []byte, limits Limits) ([]byte, error) {
	v, err := Decode(data, limits)
	if err != nil {
		return nil, err
	}
	return appendValue(dst, v), nil
}

func appendValue(dst []byte, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		dst = append(dst, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendValue(append(Quote(dst, name), ':'), v[name])
		}
		return append(dst, '}')
	case []any:
		dst = append(dst, '[')
		for i, element := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendValue(dst, element)
		}
		return append(dst, ']')
	case string:
		return Quote(dst, v)
	case bool:
		return strconv.AppendBool(dst, v)
	case float64:
		if v == 0 { // of which there are two
			v = 0
		}
		return strconv.AppendFloat(dst, v, 'g', -1, 64)
	case json.Number:
		return append(dst, v...)
	}
	return append(dst, "null"...)
}
