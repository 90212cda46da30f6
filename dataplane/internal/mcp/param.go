package mcp

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"sallyport.dev/dataplane/internal/strictjson"
)

// ParamHeader binds a property of a tool's input schema to the header that mirrors it (x-mcp-header).
type ParamHeader struct {
	// Header is the whole header name in net/http's form, such as "Mcp-Param-Region".
	Header string
	// Path leads to the property, from the arguments on.
	Path []string
}

// ParamHeaders reads the bindings of a tool definition, ascending by header. A definition that breaks the rules for them
// is an error: clients must not offer such a tool.
func ParamHeaders(definition []byte, limits strictjson.Limits) ([]ParamHeader, error) {
	v, err := strictjson.Decode(definition, limits)
	if err != nil {
		return nil, fmt.Errorf("reading a definition: %w", err)
	}
	tool, _ := v.(map[string]any)
	schema, _ := tool["inputSchema"].(map[string]any)
	params, err := collectParams(nil, schema, nil)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(params, func(a, b ParamHeader) int { return strings.Compare(a.Header, b.Header) })
	for i := range params {
		if i > 0 && params[i].Header == params[i-1].Header {
			return nil, fmt.Errorf("two properties have the same x-mcp-header")
		}
	}
	return params, nil
}

func collectParams(params []ParamHeader, schema map[string]any, path []string) ([]ParamHeader, error) {
	properties, _ := schema["properties"].(map[string]any)
	for name, v := range properties {
		property, ok := v.(map[string]any)
		if !ok {
			continue
		}
		here := append(slices.Clone(path), name)
		if named, ok := property["x-mcp-header"]; ok {
			header, _ := named.(string)
			if !isToken(header) {
				return nil, fmt.Errorf("an x-mcp-header is no header field name")
			}
			switch property["type"] {
			case "string", "integer", "boolean":
			default:
				return nil, fmt.Errorf("an x-mcp-header stands on a property that is no string, integer or boolean")
			}
			if len(here) > strictjson.MaxEntered {
				return nil, fmt.Errorf("an x-mcp-header stands too deep")
			}
			params = append(params, ParamHeader{Header: http.CanonicalHeaderKey(ParamPrefix + header), Path: here})
		}
		var err error
		if params, err = collectParams(params, property, here); err != nil {
			return nil, err
		}
	}
	return params, nil
}

// isToken tells whether s is a field name (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

// CheckParams holds the headers that mirror arguments to a tools/call's arguments, which were read strictly.
func CheckParams(h http.Header, params []ParamHeader, arguments []byte) *Error {
	for _, p := range params {
		value, ok := header(h, p.Header)
		if !ok {
			return HeaderMismatch("a header that mirrors an argument is given more than once")
		}
		raw := lookup(arguments, p.Path)
		if strictjson.KindOf(raw) == strictjson.None || strictjson.KindOf(raw) == strictjson.Null {
			if _, there := h[p.Header]; there {
				return HeaderMismatch("a header mirrors an argument that is absent")
			}
			continue
		}
		if _, there := h[p.Header]; !there || !p.equal(value, raw) {
			return HeaderMismatch("the header " + p.Header + " is missing or differs from the arguments")
		}
	}
	return nil
}

// Value returns what the header must say for the arguments. It is not ok if there is to be no such header.
func (p ParamHeader) Value(arguments []byte) (string, bool) {
	raw := lookup(arguments, p.Path)
	switch strictjson.KindOf(raw) {
	case strictjson.String:
		text, _ := strictjson.Text(raw)
		return EncodeHeader(text), true
	case strictjson.Bool:
		return string(raw), true
	case strictjson.Number:
		if n, ok := safeInteger(string(raw)); ok {
			return strconv.FormatInt(n, 10), true
		}
	}
	return "", false
}

func (p ParamHeader) equal(value string, raw []byte) bool {
	decoded, ok := DecodeHeader(value)
	if !ok {
		return false
	}
	switch strictjson.KindOf(raw) {
	case strictjson.String:
		text, _ := strictjson.Text(raw)
		return decoded == text
	case strictjson.Bool:
		return decoded == string(raw)
	case strictjson.Number:
		inHeader, ok1 := safeInteger(decoded)
		inBody, ok2 := safeInteger(string(raw))
		return ok1 && ok2 && inHeader == inBody
	}
	return false
}

// safeInteger reads a JSON number that is an integer every parser holds exactly; 42.0 is 42.
func safeInteger(literal string) (int64, bool) {
	v, err := strictjson.Decode([]byte(literal), strictjson.Limits{MaxBytes: 64})
	f, ok := v.(float64)
	if err != nil || !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53-1 {
		return 0, false
	}
	return int64(f), true
}

// lookup returns the raw value at a path in a raw object that was read, nil if there is none.
func lookup(object []byte, path []string) []byte {
	if object == nil {
		return nil
	}
	var r strictjson.Reader
	r.Reset(object, strictjson.Limits{MaxBytes: len(object), MaxDepth: 1 << 20, MaxKeys: len(object)})
	for i := 0; r.Kind() == strictjson.Object; i++ {
		if !enterMember(&r, path[i]) {
			return nil
		}
		if i == len(path)-1 {
			return r.Value()
		}
	}
	return nil
}

// enterMember moves to the value of the member of that name in the object that is next.
func enterMember(r *strictjson.Reader, name string) bool {
	for r.Enter(); r.Next(); {
		if string(r.Key()) == name {
			return true
		}
		r.Value()
	}
	return false
}
