package scim

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sallyport.dev/controlplane/internal/core"
)

// object is a JSON object.
type object = map[string]any

// readObject reads a request's body: one JSON object, every name at most once, valid UTF-8.
func (r *request) readObject() (object, error) {
	if ct := r.Header.Get("Content-Type"); ct != "" {
		media, _, err := mime.ParseMediaType(ct)
		if err != nil || media != "application/scim+json" && media != "application/json" {
			return nil, &scimError{status: http.StatusUnsupportedMediaType, detail: "the body must be application/scim+json or application/json"}
		}
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	body, err := decode(data)
	if err != nil || body == nil {
		return nil, badRequest(invalidSyntax, "the body is not one JSON object with each name once, in UTF-8")
	}
	if body, err = unwrapped(body); err != nil {
		return nil, err
	}
	if depth(body) > 12 {
		return nil, badRequest(invalidSyntax, "the body is nested too deeply")
	}
	if name, twice := doubled(body); twice {
		return nil, badRequest(invalidSyntax, "the body has %q twice: letter case tells no attributes apart", short(name))
	}
	return body, nil
}

// decode reads a JSON object. A number that no float64 holds is kept as it is written, in a jsontext.Value.
func decode(data []byte) (object, error) {
	var options []json.Options
	if hasLongNumber(data) {
		options = append(options, exactNumbers)
	}
	var o object
	err := json.Unmarshal(data, &o, options...)
	return o, err
}

// exactNumbers reads each value by itself, which takes longer.
var exactNumbers = json.WithUnmarshalers(json.UnmarshalFromFunc(func(d *jsontext.Decoder, v *any) error {
	if d.PeekKind() != '0' {
		return errors.ErrUnsupported
	}
	raw, err := d.ReadValue()
	if err != nil {
		return err
	}
	if *v = raw.Clone(); len(raw) <= exactDigits {
		*v, err = strconv.ParseFloat(string(raw), 64)
	}
	return err
}))

// exactDigits is how many digits of a number a float64 keeps, whatever they are.
const exactDigits = 15

// hasLongNumber tells whether a number is written with more.
func hasLongNumber(data []byte) bool {
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '0' <= c && c <= '9':
			from := i
			for i+1 < len(data) && bytes.IndexByte([]byte("0123456789.eE+-"), data[i+1]) >= 0 {
				i++
			}
			if i+1-from > exactDigits {
				return true
			}
		}
	}
	return false
}

// unwrapped moves what lies below the URN of a core schema, as if it were an extension, to where it belongs.
func unwrapped(body object) (object, error) {
	for name, v := range body {
		if !isCoreSchema(name) {
			continue
		}
		inner, ok := v.(object)
		if !ok {
			return nil, badRequest(invalidValue, "%s must be an object", short(name))
		}
		out := maps.Clone(body)
		delete(out, name)
		for name, v := range inner {
			if _, _, twice := find(out, name); twice {
				return nil, badRequest(invalidSyntax, "the body has %q twice, below its schema and beside it", short(name))
			}
			out[name] = v
		}
		return unwrapped(out)
	}
	return body, nil
}

// doubled finds two names of one object that are the same attribute, since letter case does not matter
// (RFC 7643, section 2.1): which of the two would count is chance.
func doubled(v any) (string, bool) {
	switch v := v.(type) {
	case object:
		seen := make(map[string]bool, len(v))
		for name, member := range v {
			folded := core.Fold(name)
			if seen[folded] {
				return name, true
			}
			seen[folded] = true
			if name, twice := doubled(member); twice {
				return name, true
			}
		}
	case []any:
		for _, element := range v {
			if name, twice := doubled(element); twice {
				return name, true
			}
		}
	}
	return "", false
}

func depth(v any) int {
	deepest := 0
	switch v := v.(type) {
	case object:
		for _, member := range v {
			deepest = max(deepest, depth(member))
		}
	case []any:
		for _, element := range v {
			deepest = max(deepest, depth(element))
		}
	default:
		return 0
	}
	return deepest + 1
}

// marshal writes JSON of which the same value always has the same bytes.
func marshal(v any) ([]byte, error) { return json.Marshal(v, json.Deterministic(true)) }

func writeJSON(w http.ResponseWriter, status int, body any) {
	a := &answer{w: w, status: status, buffer: buffers.Get().(*bytes.Buffer)}
	defer buffers.Put(a.buffer)
	a.buffer.Reset()
	w.Header().Set("Content-Type", "application/scim+json")
	// The client may have gone: there is nobody to tell. Everything that is answered can be encoded.
	if err := json.MarshalWrite(a, body, json.Deterministic(true), jsontext.EscapeForHTML(true)); err == nil {
		a.end()
	} else if !a.large {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// answer is a body on its way: a small one is sent whole, with its length, and a large one while it is written.
type answer struct {
	w      http.ResponseWriter
	status int
	buffer *bytes.Buffer
	large  bool
}

const smallAnswer = 64 << 10

var buffers = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, smallAnswer)) }}

func (a *answer) Write(p []byte) (int, error) {
	if !a.large && a.buffer.Len()+len(p) <= smallAnswer {
		return a.buffer.Write(p)
	}
	if !a.large {
		a.large = true
		a.w.WriteHeader(a.status)
		if _, err := a.w.Write(a.buffer.Bytes()); err != nil {
			return 0, err
		}
	}
	return a.w.Write(p)
}

func (a *answer) end() {
	if !a.large {
		a.w.Header().Set("Content-Length", strconv.Itoa(a.buffer.Len()))
		a.w.WriteHeader(a.status)
		_, _ = a.w.Write(a.buffer.Bytes()) // as above
	}
}

// find returns a member by its name, whatever the letter case (RFC 7643, section 2.1), and the name as it stands.
func find(o object, name string) (any, string, bool) {
	if v, ok := o[name]; ok {
		return v, name, true
	}
	for have, v := range o {
		if strings.EqualFold(have, name) {
			return v, have, true
		}
	}
	return nil, "", false
}

// text returns a member that must be a string; absent and null are the empty string.
func text(o object, name string) (string, error) {
	v, _, _ := find(o, name)
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	}
	return "", badRequest(invalidValue, "%s must be a string", name)
}

// truth reads a boolean, also in the words in which some clients write it: "True", "false".
func truth(v any) (value, ok bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		return strings.EqualFold(v, "true"), strings.EqualFold(v, "true") || strings.EqualFold(v, "false")
	}
	return false, false
}

// clone copies a JSON value, so that a change to the copy leaves the original alone.
func clone(v any) any {
	switch v := v.(type) {
	case object:
		c := make(object, len(v))
		for name, member := range v {
			c[name] = clone(member)
		}
		return c
	case []any:
		c := make([]any, len(v))
		for i, element := range v {
			c[i] = clone(element)
		}
		return c
	}
	return v
}
