package scim

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"sallyport.dev/controlplane/internal/core"
)

// maxFilter bounds a filter's text and with it the depth of its tree.
const maxFilter = 4096

// filter is a parsed filter expression (RFC 7644, section 3.4.2.2). Exactly one of its forms is set.
type filter struct {
	// A comparison: path op value. For "pr" the value is not used.
	path  attrPath
	op    string
	value any

	// A combination: "and", "or" with two operands, "not" with one.
	combine string
	left    *filter
	right   *filter

	// A value path: path[inner].
	inner *filter
}

// attrPath names an attribute: its schema where one is given, its name, and a sub-attribute where one is given. Within
// the brackets of a value path it is one of that path's attribute.
type attrPath struct {
	schema string
	name   string
	sub    string
	in     *attrPath
}

// parseFilter reads a whole filter.
func parseFilter(s string) (*filter, error) {
	if len(s) > maxFilter {
		return nil, badRequest(invalidFilter, "the filter has more than %d bytes", maxFilter)
	}
	p := &filterParser{rest: s}
	f, err := p.or(0)
	if err != nil {
		return nil, err
	}
	if p.skip(); p.rest != "" {
		return nil, badRequest(invalidFilter, "the filter goes on after its end, at %q", short(p.rest))
	}
	return f, nil
}

// filterParser is a recursive descent over RFC 7644, figure 1: not binds before and, and before or.
type filterParser struct {
	rest string
	in   *attrPath // in whose brackets it reads
}

const maxFilterDepth = 32

func (p *filterParser) or(depth int) (*filter, error) {
	return p.chain("or", func() (*filter, error) { return p.and(depth) })
}

func (p *filterParser) and(depth int) (*filter, error) {
	return p.chain("and", func() (*filter, error) { return p.unary(depth) })
}

func (p *filterParser) chain(word string, operand func() (*filter, error)) (*filter, error) {
	left, err := operand()
	for err == nil && p.word(word) {
		var right *filter
		if right, err = operand(); err == nil {
			left = &filter{combine: word, left: left, right: right}
		}
	}
	return left, err
}

func (p *filterParser) unary(depth int) (*filter, error) {
	if depth > maxFilterDepth {
		return nil, badRequest(invalidFilter, "the filter is nested too deeply")
	}
	negate := p.word("not")
	if p.take('(') {
		f, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if !p.take(')') {
			return nil, badRequest(invalidFilter, "the filter lacks a closing parenthesis at %q", short(p.rest))
		}
		if negate {
			f = &filter{combine: "not", left: f}
		}
		return f, nil
	}
	if negate {
		return nil, badRequest(invalidFilter, "\"not\" must be followed by a parenthesis")
	}
	return p.comparison(depth)
}

func (p *filterParser) comparison(depth int) (*filter, error) {
	path, err := p.attrPath()
	if err != nil {
		return nil, err
	}
	if p.take('[') {
		inner, err := p.within(path, depth)
		if err != nil {
			return nil, err
		}
		if !p.take(']') {
			return nil, badRequest(invalidFilter, "the filter lacks a closing bracket at %q", short(p.rest))
		}
		if sub, ok := p.sub(); ok {
			// emails[type eq "work"].value eq "x" asks for an element of which both hold.
			compared, err := p.operation(attrPath{name: sub, in: &path})
			if err != nil {
				return nil, err
			}
			inner = &filter{combine: "and", left: inner, right: compared}
		}
		return &filter{path: path, inner: inner}, nil
	}
	return p.operation(path)
}

// within reads the filter that stands in the brackets of a path.
func (p *filterParser) within(path attrPath, depth int) (*filter, error) {
	outer := p.in
	p.in = &path
	defer func() { p.in = outer }()
	return p.or(depth + 1)
}

// sub reads what may follow a closing bracket at once: a dot and a sub-attribute.
func (p *filterParser) sub() (string, bool) {
	if !strings.HasPrefix(p.rest, ".") {
		return "", false
	}
	whole := p.rest
	p.rest = p.rest[1:]
	path, err := p.attrPath()
	if err != nil || path.schema != "" || path.sub != "" || whole[1] == ' ' {
		p.rest = whole
		return "", false
	}
	return path.name, true
}

// operation reads what is said of an attribute: an operator and its value.
func (p *filterParser) operation(path attrPath) (*filter, error) {
	p.skip()
	op := strings.ToLower(p.run(isLetter))
	switch op {
	case "pr":
		return &filter{path: path, op: op}, nil
	case "eq", "ne", "co", "sw", "ew", "gt", "ge", "lt", "le":
	default:
		return nil, badRequest(invalidFilter, "after %q an operator is expected: eq, ne, co, sw, ew, gt, ge, lt, le or pr", short(path.name))
	}
	value, err := p.value()
	if err != nil {
		return nil, err
	}
	if _, truth := value.(bool); slices.Contains([]string{"gt", "ge", "lt", "le"}, op) && (truth || value == nil || path.kind() == "boolean" || path.kind() == "binary") {
		return nil, badRequest(invalidFilter, "%q has no order: with %s a text, a number or a time can be compared", short(path.name), op)
	}
	return &filter{path: path, op: op, value: value}, nil
}

// attrPath reads [URN ":"] name ["." sub]. A URN holds dots and colons, so the name begins after its last colon.
func (p *filterParser) attrPath() (attrPath, error) {
	p.skip()
	whole := p.run(inPath)
	path, ok := splitAttrPath(whole)
	if !ok {
		return path, badRequest(invalidFilter, "an attribute name is expected at %q", short(whole+p.rest))
	}
	path.in = p.in
	return path, nil
}

// splitAttrPath also takes the URN of an extension that ends in a number, as no attribute does: it stands for the whole.
func splitAttrPath(whole string) (attrPath, bool) {
	var path attrPath
	if i := strings.LastIndexByte(whole, ':'); i >= 0 {
		if last := whole[i+1:]; isURN(whole) && last != "" && strings.Trim(last, "0123456789.") == "" {
			return attrPath{name: whole}, true
		}
		path.schema, whole = whole[:i], whole[i+1:]
	}
	path.name, path.sub, _ = strings.Cut(whole, ".")
	valid := func(name string) bool {
		return name != "" && (isLetter(name[0]) || name[0] == '$') && !strings.ContainsFunc(name, func(c rune) bool { return c > 'z' || !inPath(byte(c)) || c == '.' })
	}
	return path, valid(path.name) && (path.sub == "" || valid(path.sub)) && !strings.HasSuffix(whole, ".")
}

// value reads a JSON string, number, true, false or null.
func (p *filterParser) value() (any, error) {
	p.skip()
	end := 0
	if strings.HasPrefix(p.rest, `"`) {
		for end = 1; end < len(p.rest) && p.rest[end] != '"'; end++ {
			if p.rest[end] == '\\' {
				end++
			}
		}
		end = min(end+1, len(p.rest))
	} else {
		for end < len(p.rest) && strings.IndexByte(" )]", p.rest[end]) < 0 {
			end++
		}
	}
	literal := p.rest[:end]
	p.rest = p.rest[end:]
	var v any
	if err := json.Unmarshal([]byte(literal), &v); err != nil {
		if b, ok := truth(literal); ok { // True and False, as some clients write them
			return b, nil
		}
		return nil, badRequest(invalidFilter, "a value is expected at %q: a string in double quotes, a number, true, false or null", short(literal))
	}
	return v, nil
}

func (p *filterParser) skip() { p.rest = strings.TrimLeft(p.rest, " ") }

func (p *filterParser) take(c byte) bool {
	p.skip()
	if p.rest == "" || p.rest[0] != c {
		return false
	}
	p.rest = p.rest[1:]
	return true
}

// word takes a word in any letter case, if it stands there as a whole.
func (p *filterParser) word(w string) bool {
	p.skip()
	if len(p.rest) < len(w) || !strings.EqualFold(p.rest[:len(w)], w) {
		return false
	}
	if after := p.rest[len(w):]; after == "" || after[0] == ' ' || after[0] == '(' {
		p.rest = after
		return true
	}
	return false
}

func (p *filterParser) run(in func(byte) bool) string {
	end := 0
	for end < len(p.rest) && in(p.rest[end]) {
		end++
	}
	run := p.rest[:end]
	p.rest = p.rest[end:]
	return run
}

// inPath tells whether a byte can stand in a path.
func inPath(c byte) bool {
	return isLetter(c) || '0' <= c && c <= '9' || strings.IndexByte("_-$.:", c) >= 0
}

func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func isURN(name string) bool { return len(name) > 4 && strings.EqualFold(name[:4], "urn:") }

func short(s string) string {
	if len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "…"
	}
	return s
}

// matches tells whether a resource, or an element of a multi-valued attribute, satisfies the filter.
func (f *filter) matches(o object) bool {
	switch f.combine {
	case "and":
		return f.left.matches(o) && f.right.matches(o)
	case "or":
		return f.left.matches(o) || f.right.matches(o)
	case "not":
		return !f.left.matches(o)
	}
	values := f.path.values(o)
	if f.inner != nil {
		for _, v := range values {
			if element, ok := v.(object); ok && f.inner.matches(element) {
				return true
			}
		}
		return false
	}
	compare := f.path.comparison()
	if f.op == "ne" { // not one of the values is equal
		for _, v := range values {
			if compare("eq", v, f.value) {
				return false
			}
		}
		return f.value != nil || len(values) > 0
	}
	if f.op == "eq" && f.value == nil {
		return len(values) == 0
	}
	for _, v := range values {
		if compare(f.op, v, f.value) {
			return true
		}
	}
	return false
}

// comparison is how values of an attribute are compared: times as moments, texts to the letter or not.
func (p attrPath) comparison() func(op string, have, want any) bool {
	exact := p.caseExact()
	if p.kind() != "dateTime" {
		return func(op string, have, want any) bool { return compare(op, have, want, exact) }
	}
	return func(op string, have, want any) bool {
		if a, ok := moment(have); ok {
			if b, ok := moment(want); ok {
				return compareNumber(op, float64(a.Compare(b)), 0)
			}
		}
		return compare(op, have, want, exact)
	}
}

// moment reads a dateTime (RFC 7643, section 2.3.5). One without a zone is taken for UTC's.
func moment(v any) (time.Time, bool) {
	text, _ := v.(string)
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// kind is the type of an attribute's values; empty where it is not known.
func (p attrPath) kind() string {
	a := p.attribute()
	if a != nil && a.kind == "complex" { // its value is what is compared
		a = a.sub.find("value")
	}
	if a == nil {
		return ""
	}
	return a.kind
}

// home is the object in which a path's attribute lies: the resource, or an extension of it.
func (p attrPath) home(o object) object {
	if p.schema == "" || isCoreSchema(p.schema) {
		return o
	}
	extension, _, _ := find(o, p.schema)
	inner, _ := extension.(object)
	return inner
}

// values are what a path leads to: the elements of a multi-valued attribute, each element's "value"
// where the path names no sub-attribute and the filter compares.
func (p attrPath) values(o object) []any {
	v, _, found := find(p.home(o), p.name)
	if !found && p.schema != "" && p.sub == "" { // an extension as a whole
		v, _, _ = find(o, p.schema+":"+p.name)
	}
	elements, many := v.([]any)
	if !many {
		elements = []any{v}
	}
	var all []any
	for _, e := range elements {
		if inner, ok := e.(object); ok && (p.sub != "" || many) {
			name := p.sub
			if name == "" {
				all = append(all, inner)
				continue
			}
			e, _, _ = find(inner, name)
		} else if p.sub != "" {
			continue
		}
		if e != nil && e != "" {
			all = append(all, e)
		}
	}
	return all
}

// caseExact tells whether an attribute is compared to the letter (RFC 7643, section 2.2).
func (p attrPath) caseExact() bool {
	a := p.attribute()
	if a != nil && a.kind == "complex" { // its value is what is compared
		a = a.sub.find("value")
	}
	return a != nil && a.caseExact
}

func compare(op string, have, want any, exact bool) bool {
	if op == "pr" {
		return true
	}
	if element, ok := have.(object); ok { // emails eq "x" means emails.value eq "x"
		v, _, found := find(element, "value")
		return found && compare(op, v, want, exact)
	}
	switch have := have.(type) {
	case string:
		want, ok := want.(string)
		if !ok {
			return false
		}
		if !exact {
			have, want = core.Fold(have), core.Fold(want)
		}
		return compareText(op, have, want)
	case bool:
		want, ok := truth(want)
		return ok && op == "eq" && have == want
	case float64:
		want, ok := want.(float64)
		return ok && compareNumber(op, have, want)
	case jsontext.Value:
		number, err := strconv.ParseFloat(string(have), 64)
		return err == nil && compare(op, number, want, exact)
	}
	return false
}

func compareText(op, have, want string) bool {
	switch op {
	case "eq":
		return have == want
	case "co":
		return strings.Contains(have, want)
	case "sw":
		return strings.HasPrefix(have, want)
	case "ew":
		return strings.HasSuffix(have, want)
	case "gt":
		return have > want
	case "ge":
		return have >= want
	case "lt":
		return have < want
	case "le":
		return have <= want
	}
	return false
}

func compareNumber(op string, have, want float64) bool {
	switch op {
	case "eq":
		return have == want
	case "gt":
		return have > want
	case "ge":
		return have >= want
	case "lt":
		return have < want
	case "le":
		return have <= want
	}
	return false
}

// equals returns the text that a filter demands of an attribute, if it is one comparison, or several
// joined by and, of which one says so: what an index can answer.
func (f *filter) equals(name string) (string, bool) {
	switch {
	case f == nil:
	case f.combine == "and":
		if v, ok := f.left.equals(name); ok {
			return v, true
		}
		return f.right.equals(name)
	case f.op == "eq" && f.path.sub == "" && f.path.is(name):
		v, ok := f.value.(string)
		return v, ok
	}
	return "", false
}

// demands returns the "value" that a filter demands of an element of a multi-valued attribute, in each way to say it.
func (f *filter) demands(name string) (string, bool) {
	switch {
	case f.combine == "and":
		if v, ok := f.left.demands(name); ok {
			return v, true
		}
		return f.right.demands(name)
	case f.combine != "" || !f.path.is(name):
	case f.inner != nil:
		return f.inner.equals("value")
	case f.op == "eq" && (f.path.sub == "" || strings.EqualFold(f.path.sub, "value")):
		v, ok := f.value.(string)
		return v, ok
	}
	return "", false
}

// anyOf returns the texts one of which a filter demands of an attribute, where it demands nothing else.
func (f *filter) anyOf(name string) (texts []string, ok bool) {
	if f.combine == "or" {
		left, okLeft := f.left.anyOf(name)
		right, okRight := f.right.anyOf(name)
		return append(left, right...), okLeft && okRight
	}
	if f.combine != "" {
		return nil, false
	}
	text, ok := f.equals(name)
	return []string{text}, ok
}

// mentions tells whether a filter looks at an attribute of the resource.
func (f *filter) mentions(name string) bool {
	switch {
	case f == nil:
		return false
	case f.combine != "":
		return f.left.mentions(name) || f.right.mentions(name)
	}
	return f.path.is(name)
}
