package policy

import (
	"encoding/json"
	"testing"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"pgregory.net/rapid"
)

var flatNames = []string{"a", "b", "key", "fields"}

// drawFlat draws a schema, most often one that is flat.
func drawFlat(t *rapid.T, depth int) map[string]any {
	s := map[string]any{}
	kind := rapid.SampledFrom([]string{"string", "boolean", "integer", "number", "array", "object", ""}).Draw(t, "type")
	if depth == 0 {
		kind = "object"
	}
	if kind != "" {
		s["type"] = kind
	}
	one := func(name string) bool { return rapid.IntRange(0, 2).Draw(t, name) == 0 }
	if (kind == "object" || rapid.IntRange(0, 20).Draw(t, "odd") == 0) && depth < 3 {
		properties := map[string]any{}
		for _, name := range flatNames {
			if one("has") {
				properties[name] = drawFlat(t, depth+1)
			}
		}
		s["properties"] = properties
		if one("required") {
			s["required"] = []any{rapid.SampledFrom(flatNames).Draw(t, "name")}
		}
		if one("additional") {
			s["additionalProperties"] = rapid.Bool().Draw(t, "open")
		}
	}
	if kind == "array" && one("items") && depth < 3 {
		s["items"] = drawFlat(t, depth+1)
	}
	if kind == "string" && one("enum") {
		s["enum"] = []any{"a", "key"}
	}
	if rapid.IntRange(0, 10).Draw(t, "more") == 0 {
		more := rapid.SampledFrom([]string{`{"minLength":2}`, `{"minimum":1}`, `{"maxItems":1}`, `{"enum":[1,"a"]}`, `{"const":"a"}`, `{"not":{}}`, `{"additionalProperties":{"type":"string"}}`, `{"items":false}`,
			`{"type":["string","null"]}`, `{"format":"uuid"}`, `{"description":"x","title":"y","default":1,"examples":[1]}`, `{"patternProperties":{"a":false}}`, `{"minProperties":1}`, `{"required":["a","a"]}`}).Draw(t, "what")
		var members map[string]any
		_ = json.Unmarshal([]byte(more), &members)
		for key, v := range members {
			s[key] = v
		}
	}
	return s
}

func drawValue(t *rapid.T, depth int) any {
	n := rapid.IntRange(0, 8).Draw(t, "value")
	if depth == 0 {
		n = 7
	}
	if depth > 3 {
		n %= 6
	}
	switch n {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.SampledFrom([]float64{0, 1, -3, 2.5, 1e300, 1 << 53}).Draw(t, "number")
	case 3:
		return json.Number(rapid.SampledFrom([]string{"9007199254740993", "1e400", "0.1000000000000000055511151231257827"}).Draw(t, "large"))
	case 4, 5:
		return rapid.SampledFrom([]string{"", "a", "key"}).Draw(t, "word")
	case 6:
		all := make([]any, rapid.IntRange(0, 2).Draw(t, "length"))
		for i := range all {
			all[i] = drawValue(t, depth+1)
		}
		return all
	}
	members := map[string]any{}
	for _, name := range flatNames {
		if rapid.Bool().Draw(t, "there") {
			members[name] = drawValue(t, depth+1)
		}
	}
	return members
}

// TestWhatCertainlyFitsAFlatSchemaFitsTheSchema, and where no number is too exact, the other way about: or else it would be of no use.
func TestWhatCertainlyFitsAFlatSchemaFitsTheSchema(t *testing.T) {
	taken, fitted := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		schema := drawFlat(t, 0)
		raw, err := json.Marshal(map[string]any{"name": "x", "inputSchema": schema})
		if err != nil {
			t.Fatal(err)
		}
		s, err := compileSchema(&policyv1.Tool{Name: "x", Definition: raw})
		if err != nil || s.flat == nil {
			return
		}
		taken++
		v := drawValue(t, 0)
		fits := s.flat.fits(v)
		if fits {
			fitted++
		}
		if err := s.validator.Validate(v); fits && err != nil {
			t.Fatalf("%s: %v is said to fit, and %v", raw, v, err)
		} else if !fits && err == nil && !holdsNumber(v) {
			t.Fatalf("%s: %v fits and is not said to", raw, v)
		}
	})
	if taken == 0 || fitted == 0 {
		t.Errorf("%d schemas were flat, and %d values fitted", taken, fitted)
	}
}

func holdsNumber(v any) bool {
	switch v := v.(type) {
	case json.Number:
		return true
	case []any:
		for _, one := range v {
			if holdsNumber(one) {
				return true
			}
		}
	case map[string]any:
		for _, one := range v {
			if holdsNumber(one) {
				return true
			}
		}
	}
	return false
}
