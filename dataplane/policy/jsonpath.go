package policy

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"sallyport.dev/dataplane/internal/strictjson"
)

// Of JSONPath (RFC 9535) redaction knows names, indexes from the front, wildcards, several of these in one bracket, and descendants: what
// can be found in one walk over a value, however large it is and however it was made to be costly. Filters, slices and indexes from the end
// are refused. Names are compared without letter case, as many readers do: to take out too much is safe.

// path is a JSONPath: its segments, of which each takes a step down, or any number of steps.
type path []segment

type segment struct {
	descend bool
	any     bool
	names   []string
	indexes []int
}

const (
	maxPath     = 500
	maxSegments = 20
	// maxEmbedded is how deep JSON in strings of JSON is looked into; what lies deeper is taken out whole.
	maxEmbedded = 3
)

// readPath reads a JSONPath, or a name, which stands for each member of that name wherever it is.
func readPath(text string) (path, error) {
	if len(text) > maxPath || !utf8.ValidString(text) {
		return nil, fmt.Errorf("%q is no path: at most %d bytes of UTF-8", clip(text), maxPath)
	}
	if !strings.HasPrefix(text, "$") {
		if text == "" || strings.ContainsAny(text, "$.[]*'\"\\") || strings.ContainsFunc(text, unicode.IsControl) {
			return nil, fmt.Errorf("%q is neither a name nor a JSONPath, which begins with $, as in $.customer.card or $..card", clip(text))
		}
		return path{{descend: true, names: []string{text}}}, nil
	}
	r := pathReader{text: text[1:]}
	var p path
	for r.text != "" {
		s, err := r.segment()
		if err != nil {
			return nil, fmt.Errorf("%q is no JSONPath that can be redacted by: %w", clip(text), err)
		}
		if p = append(p, s); len(p) > maxSegments {
			return nil, fmt.Errorf("%q has more than %d steps", clip(text), maxSegments)
		}
	}
	return p, nil
}

// pathReader reads the rest of a path.
type pathReader struct{ text string }

func (r *pathReader) take(prefix string) bool {
	rest, ok := strings.CutPrefix(r.text, prefix)
	r.text = rest
	return ok
}

func (r *pathReader) space() { r.text = strings.TrimLeft(r.text, " \t\r\n") }

func (r *pathReader) segment() (s segment, err error) {
	switch {
	case r.take(".."):
		s.descend = true
	case r.take("."):
		if strings.HasPrefix(r.text, "[") {
			return s, errors.New("a bracket stands behind a name or $, without a dot before it")
		}
	case strings.HasPrefix(r.text, "["):
	default:
		return s, fmt.Errorf("at %q: a step begins with a dot or a bracket", clip(r.text))
	}
	if !r.take("[") {
		if r.take("*") {
			s.any = true
			return s, nil
		}
		end := strings.IndexFunc(r.text, func(c rune) bool {
			return c < utf8.RuneSelf && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
		})
		if end < 0 {
			end = len(r.text)
		}
		name := r.text[:end]
		if name == "" || name[0] >= '0' && name[0] <= '9' {
			return s, fmt.Errorf("at %q: after a dot stands a name of letters, digits and _, or *; any other name stands in brackets and quotes, as in ['card-number']", clip(r.text))
		}
		s.names, r.text = []string{name}, r.text[end:]
		return s, nil
	}
	for {
		r.space()
		if err := r.selector(&s); err != nil {
			return s, err
		}
		r.space()
		if r.take("]") {
			return s, nil
		}
		if !r.take(",") {
			return s, fmt.Errorf("at %q: a bracket holds names in quotes, indexes and *, with commas between them; filters, slices and indexes from the end are not known here", clip(r.text))
		}
	}
}

func (r *pathReader) selector(s *segment) error {
	switch {
	case r.take("*"):
		s.any = true
		return nil
	case strings.HasPrefix(r.text, "'"), strings.HasPrefix(r.text, `"`):
		name, err := r.quoted()
		s.names = append(s.names, name)
		return err
	}
	end := strings.IndexFunc(r.text, func(c rune) bool { return c < '0' || c > '9' })
	if end < 0 {
		end = len(r.text)
	}
	number := r.text[:end]
	i, err := strconv.Atoi(number)
	if err != nil || len(number) > 1 && number[0] == '0' || i > 1<<31-1 {
		return fmt.Errorf("at %q: a bracket holds names in quotes, indexes and *; filters, slices and indexes from the end are not known here", clip(r.text))
	}
	s.indexes, r.text = append(s.indexes, i), r.text[end:]
	return nil
}

// quoted reads a name in quotes, whose escapes are those of JSON, and the one of the quote itself.
func (r *pathReader) quoted() (string, error) {
	mark := r.text[0]
	inner := []byte{'"'}
	for i := 1; i < len(r.text); i++ {
		switch c := r.text[i]; {
		case c == mark:
			inner = append(inner, '"')
			if err := strictjson.Validate(inner, strictjson.Limits{}); err != nil {
				return "", fmt.Errorf("a name in quotes: %w", err)
			}
			r.text = r.text[i+1:]
			name, _ := strictjson.Text(inner)
			return name, nil
		case c == '\\' && i+1 < len(r.text):
			i++
			switch next := r.text[i]; {
			case next == '\'' && mark == '\'':
				inner = append(inner, '\'')
			case next == '"' && mark == '\'':
				return "", errors.New(`in single quotes " stands without a backslash`)
			default:
				inner = append(inner, '\\', next)
			}
		case c == '"':
			inner = append(inner, '\\', '"')
		default:
			inner = append(inner, c)
		}
	}
	return "", errors.New("a name in quotes does not end")
}

// Paths are JSONPaths that are looked for together. None finds nothing.
type Paths struct{ all []path }

// newPaths reads paths, of which nil is none.
func newPaths(texts []string) (*Paths, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	p := &Paths{}
	for _, text := range texts {
		one, err := readPath(text)
		if err != nil {
			return nil, err
		}
		p.all = append(p.all, one)
	}
	return p, nil
}

// wholly finds every value.
var wholly = &Paths{all: []path{{}}}

// and are the paths of both.
func (p *Paths) and(other *Paths) *Paths {
	switch {
	case p == nil:
		return other
	case other == nil || other == p:
		return p
	}
	return &Paths{all: slices.Concat(p.all, other.all)}
}

// Redacted is what stands in place of a value that was taken out.
const Redacted = `"[redacted]"`

// Redact returns a JSON value without what the paths find in it, and whether they found something. In a string that is itself a JSON
// object or array they go on. A value that cannot be read strictly is refused: what two readers read differently may hold anything.
func (p *Paths) Redact(raw []byte) (redacted []byte, found bool, err error) {
	if p == nil || len(raw) == 0 {
		return raw, false, nil
	}
	if err := strictjson.Validate(raw, strictjson.Limits{MaxBytes: len(raw), MaxDepth: maxRedactedDepth, MaxKeys: len(raw)}); err != nil {
		return nil, false, fmt.Errorf("it is not JSON that can be read in one way alone: %w", err)
	}
	w := &redactor{paths: p, raw: raw}
	here := w.none(0)
	for i, one := range p.all {
		if len(one) == 0 {
			return []byte(Redacted), true, nil
		}
		here = append(here, reached{i, 0})
	}
	w.at = skip(raw, 0)
	w.value(0, here, 0)
	if !w.found {
		return raw, false, nil
	}
	return append(w.out, raw[w.copied:]...), true, nil
}

// maxRedactedDepth bounds how deep a value may be nested to be redacted.
const maxRedactedDepth = 256

// reached is how far a path has come: which one, and how many of its segments were walked.
type reached struct{ path, segment int }

// redactor walks over a value that was validated.
type redactor struct {
	paths  *Paths
	raw    []byte
	at     int
	out    []byte // what was redacted so far, of raw up to copied
	copied int
	found  bool
	rooms  [][]reached // by depth, used again and again
}

func (w *redactor) none(depth int) []reached {
	for len(w.rooms) <= depth {
		w.rooms = append(w.rooms, nil)
	}
	return w.rooms[depth][:0]
}

// value walks over the value at w.at, where paths have come as far as here says, and steps behind it.
func (w *redactor) value(depth int, here []reached, embedded int) {
	if len(here) == 0 {
		w.at = end(w.raw, w.at)
		return
	}
	switch w.raw[w.at] {
	case '{', '[':
		object := w.raw[w.at] == '{'
		w.at = skip(w.raw, w.at+1)
		for i := 0; w.raw[w.at] != '}' && w.raw[w.at] != ']'; i++ {
			name := ""
			if object {
				from := w.at
				w.at = end(w.raw, w.at)
				name, _ = strictjson.Text(w.raw[from:w.at])
				w.at = skip(w.raw, skip(w.raw, w.at)+1) // the colon
				i = -1
			}
			if next, whole := w.step(depth+1, here, name, i); whole {
				w.replace(w.at, end(w.raw, w.at), []byte(Redacted))
			} else {
				w.value(depth+1, next, embedded)
			}
			if w.at = skip(w.raw, w.at); w.raw[w.at] == ',' {
				w.at = skip(w.raw, w.at+1)
			}
		}
		w.at++
	case '"':
		from, to := w.at, end(w.raw, w.at)
		w.at = to
		w.text(from, to, here, embedded)
	default:
		w.at = end(w.raw, w.at)
	}
}

// step is how far paths have come in a member of a name, or in an element of an index. whole: one of them ends there.
func (w *redactor) step(depth int, here []reached, name string, index int) (next []reached, whole bool) {
	next = w.none(depth)
	add := func(p reached) {
		if !slices.Contains(next, p) {
			next = append(next, p)
		}
	}
	for _, p := range here {
		s := &w.paths.all[p.path][p.segment]
		if s.descend {
			add(p)
		}
		if !s.finds(name, index) {
			continue
		}
		if p.segment++; p.segment == len(w.paths.all[p.path]) {
			return nil, true
		}
		add(p)
	}
	w.rooms[depth] = next
	return next, false
}

func (s *segment) finds(name string, index int) bool {
	if s.any {
		return true
	}
	if index >= 0 {
		return slices.Contains(s.indexes, index)
	}
	for _, n := range s.names {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// text looks into a string that is JSON.
func (w *redactor) text(from, to int, here []reached, embedded int) {
	if to-from < 4 {
		return
	}
	inner, _ := strictjson.Text(w.raw[from:to])
	trimmed := strings.TrimLeft(inner, " \t\r\n")
	if trimmed == "" || trimmed[0] != '{' && trimmed[0] != '[' {
		return
	}
	raw := []byte(inner)
	if strictjson.Validate(raw, strictjson.Limits{MaxBytes: len(raw), MaxDepth: maxRedactedDepth, MaxKeys: len(raw)}) != nil {
		return
	}
	if embedded >= maxEmbedded {
		w.replace(from, to, []byte(Redacted))
		return
	}
	inside := &redactor{paths: w.paths, raw: raw}
	inside.at = skip(raw, 0)
	inside.value(0, slices.Clone(here), embedded+1)
	if inside.found {
		w.replace(from, to, strictjson.Quote(nil, string(append(inside.out, raw[inside.copied:]...))))
	}
}

// replace puts something in place of what lies from one place to another.
func (w *redactor) replace(from, to int, by []byte) {
	w.out = append(append(w.out, w.raw[w.copied:from]...), by...)
	w.copied, w.at, w.found = to, to, true
}

// skip is the first place from i on where no white space is.
func skip(raw []byte, i int) int {
	for i < len(raw) && (raw[i] == ' ' || raw[i] == '\t' || raw[i] == '\n' || raw[i] == '\r') {
		i++
	}
	return i
}

// end is where the value that begins at i ends, in JSON that was validated.
func end(raw []byte, i int) int {
	depth := 0
	for {
		switch raw[i] {
		case '"':
			for i++; raw[i] != '"'; i++ {
				if raw[i] == '\\' {
					i++
				}
			}
			i++
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		default:
			n := bytes.IndexAny(raw[i:], ",:]}\"{[ \t\r\n")
			if n < 0 {
				n = len(raw) - i
			}
			i += max(n, 1)
		}
		if depth == 0 {
			return i
		}
	}
}
