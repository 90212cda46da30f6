package scim

import (
	"slices"
	"strings"
)

const patchSchema = "urn:ietf:params:scim:api:messages:2.0:PatchOp"

// maxOperations bounds one PATCH.
const maxOperations = 1000

// operation is one operation of a PATCH (RFC 7644, section 3.5.2), in any letter case.
type operation struct {
	op    string
	path  *patchPath // nil: the value is an object of attributes
	value any
}

// patchPath is attrPath, or attrPath[filter], or attrPath[filter].sub.
type patchPath struct {
	attrPath
	filter *filter
}

func readPatch(body object) ([]operation, error) {
	if err := wantSchema(body, patchSchema); err != nil {
		return nil, err
	}
	list, _, _ := find(body, "Operations")
	entries, ok := list.([]any)
	if !ok || len(entries) == 0 {
		return nil, badRequest(invalidSyntax, "a PATCH needs Operations, a list with at least one")
	}
	if len(entries) > maxOperations {
		return nil, badRequest(tooMany, "a PATCH has at most %d operations", maxOperations)
	}
	operations := make([]operation, 0, len(entries))
	for i, entry := range entries {
		o, ok := entry.(object)
		if !ok {
			return nil, badRequest(invalidSyntax, "operation %d is not an object", i+1)
		}
		op, err := readOperation(o)
		if err != nil {
			return nil, err
		}
		operations = append(operations, op)
	}
	return operations, nil
}

func readOperation(o object) (operation, error) {
	name, err := text(o, "op")
	if err != nil {
		return operation{}, err
	}
	op := operation{op: strings.ToLower(name)}
	if !slices.Contains([]string{"add", "replace", "remove"}, op.op) {
		return op, badRequest(invalidSyntax, "an operation's op is add, replace or remove, not %q", short(name))
	}
	path, err := text(o, "path")
	if err != nil {
		return op, err
	}
	if path != "" {
		if op.path, err = parsePatchPath(path); err != nil {
			return op, err
		}
	}
	op.value, _, _ = find(o, "value")
	switch {
	case op.op == "remove" && op.path == nil:
		return op, badRequest(noTarget, "a remove needs a path")
	case op.op != "remove" && op.path == nil:
		if _, ok := op.value.(object); !ok {
			return op, badRequest(invalidValue, "without a path the value is an object of attributes")
		}
	case op.op != "remove" && op.value == nil && op.op == "add":
		return op, badRequest(invalidValue, "an add needs a value")
	}
	return op, nil
}

func parsePatchPath(s string) (*patchPath, error) {
	if len(s) > maxFilter {
		return nil, badRequest(invalidPath, "the path has more than %d bytes", maxFilter)
	}
	p := &filterParser{rest: s}
	path, err := p.attrPath()
	if err != nil {
		return nil, badRequest(invalidPath, "the path %q names no attribute", short(s))
	}
	out := &patchPath{attrPath: path}
	if p.take('[') {
		if out.filter, err = p.within(path, 0); err != nil {
			return nil, err
		}
		if !p.take(']') {
			return nil, badRequest(invalidPath, "the path %q lacks a closing bracket", short(s))
		}
		out.sub, _ = p.sub()
	}
	if p.rest != "" {
		return nil, badRequest(invalidPath, "the path %q goes on after its end", short(s))
	}
	return out, nil
}

// patch makes one change to a resource's attributes, in place.
func patch(o object, op operation) error {
	if op.path == nil {
		for name, value := range op.value.(object) {
			if err := patchMember(o, op.op, name, value); err != nil {
				return err
			}
		}
		return nil
	}
	return patchPathed(o, op)
}

// patchMember handles a member of a value without path: a plain name, a schema URN with an object of its
// attributes, or the flat forms "name.givenName", `emails[type eq "work"].value` and "urn:…:User:employeeNumber".
func patchMember(o object, op, name string, value any) error {
	path, err := parsePatchPath(name)
	if err != nil {
		return err
	}
	if inner, ok := value.(object); ok && isURN(name) && !isSchema(o, path.schema) {
		target := o
		if !isCoreSchema(name) {
			target = child(o, name)
		}
		for member, v := range inner {
			if err := patchPathed(target, operation{op: op, path: &patchPath{attrPath: attrPath{name: member}}, value: v}); err != nil {
				return err
			}
		}
		return nil
	}
	return patchPathed(o, operation{op: op, path: path, value: value})
}

// isSchema tells whether a URN is a schema of which a resource can have, or has, attributes.
func isSchema(o object, urn string) bool {
	_, _, has := find(o, urn)
	return has || isCoreSchema(urn) || strings.EqualFold(urn, enterpriseSchema)
}

func patchPathed(o object, op operation) error {
	path := *op.path
	if path.schema != "" && !isCoreSchema(path.schema) {
		// The path may be the extension as a whole, since a URN's last part looks like an attribute.
		whole := path.schema + ":" + path.name
		if _, _, there := find(o, whole); there && path.sub == "" || strings.EqualFold(whole, enterpriseSchema) {
			path = patchPath{attrPath: attrPath{name: whole}}
		} else {
			o = child(o, path.schema)
		}
	}
	if path.filter != nil {
		return patchElements(o, op, path)
	}
	if path.sub != "" {
		return patchSub(o, op, path)
	}
	have, name, _ := find(o, path.name)
	if name == "" {
		name = canonical(path.name)
	}
	switch op.op {
	case "remove":
		return removeValue(o, name, have, op.value)
	case "add":
		o[name] = added(have, op.value)
	case "replace":
		o[name] = replaced(have, op.value)
	}
	return nil
}

// patchSub changes a sub-attribute: of an object, or of every element of a list.
func patchSub(o object, op operation, path patchPath) error {
	have, _, _ := find(o, path.name)
	elements, many := have.([]any)
	if a := (attrPath{schema: path.schema, name: path.name}).attribute(); have == nil && a != nil {
		many = a.many
	}
	if many {
		if len(elements) == 0 && op.op != "remove" {
			return badRequest(noTarget, "%s has no element in which to set %s", short(path.name), short(path.sub))
		}
		for _, e := range elements {
			if inner, ok := e.(object); ok {
				setSub(inner, op, path.sub)
			}
		}
		return nil
	}
	setSub(child(o, path.name), op, path.sub)
	return nil
}

func setSub(inner object, op operation, sub string) {
	_, name, found := find(inner, sub)
	if !found {
		name = sub
	}
	if op.op == "remove" || op.value == nil {
		delete(inner, name)
		return
	}
	inner[name] = op.value
}

// patchElements changes the elements of a list that a filter picks. A replace or an add of one that is
// not there adds it, with what the filter demands of it, which is what directories mean.
func patchElements(o object, op operation, path patchPath) error {
	have, name, _ := find(o, path.name)
	if name == "" {
		name = canonical(path.name)
	}
	elements, _ := have.([]any)
	var kept []any
	picked := map[int]bool{} // places in kept
	for _, e := range elements {
		inner, ok := e.(object)
		if !ok || !path.filter.matches(inner) {
			kept = append(kept, e)
			continue
		}
		if op.op == "remove" && path.sub == "" {
			continue // the element goes
		}
		picked[len(kept)] = true
		switch {
		case path.sub != "":
			setSub(inner, op, path.sub)
		default:
			value, ok := op.value.(object)
			if !ok {
				return badRequest(invalidValue, "an element of %s is an object", short(path.name))
			}
			if op.op == "replace" {
				clear(inner)
			}
			merge(inner, value)
		}
		kept = append(kept, inner)
	}
	if len(picked) == 0 && op.op != "remove" {
		inner := object{}
		picked[len(kept)] = true
		path.filter.demand(inner)
		if path.sub != "" {
			inner[path.sub] = op.value
		} else if value, ok := op.value.(object); ok {
			merge(inner, value)
		} else {
			return badRequest(invalidValue, "an element of %s is an object", short(path.name))
		}
		kept = append(kept, inner)
	}
	o[name] = keepOnePrimary(kept, picked)
	return nil
}

// demand puts what a filter's equalities say into a new element.
func (f *filter) demand(o object) {
	switch {
	case f.combine == "and":
		f.left.demand(o)
		f.right.demand(o)
	case f.combine == "" && f.op == "eq" && f.path.sub == "":
		o[f.path.name] = f.value
	}
}

// added is what an add makes of a value: lists grow by what they lack, objects are merged, the rest is set.
func added(have, value any) any {
	elements, ok := have.([]any)
	if !ok {
		if old, isObject := have.(object); isObject {
			if more, ok := value.(object); ok {
				merge(old, more)
				return old
			}
		}
		return value
	}
	more, ok := value.([]any)
	if !ok {
		more = []any{value}
	}
	all, fresh := slices.Clone(elements), map[int]bool{}
	for _, m := range more {
		if !slices.ContainsFunc(all, func(e any) bool { return sameElement(e, m) }) {
			fresh[len(all)] = true
			all = append(all, m)
		}
	}
	return keepOnePrimary(all, fresh)
}

// merge sets the members of an object, under the names that they have there in whatever letter case.
func merge(o, more object) {
	for name, v := range more {
		if _, have, found := find(o, name); found {
			name = have
		}
		o[name] = v
	}
}

func sameElement(a, b any) bool {
	x, errX := marshal(a)
	y, errY := marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// replaced is what a replace makes of a value: sub-attributes that are not named stay (RFC 7644, section 3.5.2.3).
func replaced(have, value any) any {
	old, ok := have.(object)
	more, isObject := value.(object)
	if ok && isObject {
		merge(old, more)
		return old
	}
	return value
}

// removeValue removes an attribute, or only the elements of a list that a value names: some clients send
// what is to go as the value.
func removeValue(o object, name string, have, value any) error {
	elements, ok := have.([]any)
	if !ok || value == nil {
		delete(o, name)
		return nil
	}
	named, ok := value.([]any)
	if !ok {
		named = []any{value}
	}
	o[name] = slices.DeleteFunc(elements, func(e any) bool {
		return slices.ContainsFunc(named, func(n any) bool { return names(n, e) })
	})
	return nil
}

// names tells whether an element is meant by a value: the whole of it, or an object with its "value".
func names(n, element any) bool {
	if sameElement(n, element) {
		return true
	}
	a, okA := n.(object)
	b, okB := element.(object)
	if !okA || !okB {
		return false
	}
	x, _, foundX := find(a, "value")
	y, _, foundY := find(b, "value")
	return foundX && foundY && x == y
}

// keepOnePrimary lets at most one element be primary (RFC 7643, section 2.4): the last of those that
// were just set, or else the first.
func keepOnePrimary(all []any, fresh map[int]bool) []any {
	keep := -1
	for i, e := range all {
		if isPrimary(e) && (keep < 0 || fresh[i]) {
			keep = i
		}
	}
	for i, e := range all {
		if i != keep && isPrimary(e) {
			o := e.(object)
			_, name, _ := find(o, "primary")
			o[name] = false
		}
	}
	return all
}

func isPrimary(e any) bool {
	o, ok := e.(object)
	if !ok {
		return false
	}
	v, _, _ := find(o, "primary")
	yes, _ := truth(v)
	return yes
}

// child returns an object within an object, which it makes where there is none.
func child(o object, name string) object {
	v, have, _ := find(o, name)
	if inner, ok := v.(object); ok {
		return inner
	}
	if have == "" {
		have = canonical(name)
	}
	inner := object{}
	o[have] = inner
	return inner
}

func wantSchema(body object, schema string) error {
	list, _, _ := find(body, "schemas")
	schemas, ok := list.([]any)
	if !ok {
		return badRequest(invalidSyntax, "schemas is missing: it must name %s", schema)
	}
	for _, s := range schemas {
		if name, ok := s.(string); ok && strings.EqualFold(name, schema) {
			return nil
		}
	}
	return badRequest(invalidSyntax, "schemas must name %s", schema)
}
