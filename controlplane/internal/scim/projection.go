package scim

import (
	"slices"
	"strings"
)

// projection says which attributes an answer has (RFC 7644, section 3.9). Its zero value: all that are returned by default.
type projection struct {
	only, without []attrPath
}

// maxNames bounds the attributes that one request names.
const maxNames = 200

func newProjection(only, without string) (p projection, err error) {
	if p.only, err = readNames("attributes", only); err != nil {
		return p, err
	}
	p.without, err = readNames("excludedAttributes", without)
	return p, err
}

func readNames(parameter, list string) ([]attrPath, error) {
	var paths []attrPath
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		path, ok := splitAttrPath(item)
		if !ok {
			return nil, badRequest(invalidValue, "%s names %q, which is no attribute", parameter, short(item))
		}
		if paths = append(paths, path); len(paths) > maxNames {
			return nil, badRequest(tooMany, "%s names more than %d attributes", parameter, maxNames)
		}
	}
	return paths, nil
}

// wants tells whether an attribute, or a part of it, is to be in the answer.
func (p projection) wants(name string) bool {
	if alwaysReturned(name) {
		return true
	}
	if len(p.only) > 0 {
		return slices.ContainsFunc(p.only, func(path attrPath) bool { return path.leads(name) })
	}
	return !slices.ContainsFunc(p.without, func(path attrPath) bool { return path.sub == "" && path.is(name) })
}

// partly tells whether the projection picks sub-attributes of an attribute.
func (p projection) partly(name string) bool {
	return slices.ContainsFunc(append(slices.Clone(p.only), p.without...), func(path attrPath) bool { return path.sub != "" && path.is(name) })
}

// is tells whether a path means an attribute of the resource itself, or an extension as a whole.
func (p attrPath) is(name string) bool {
	return (p.schema == "" || isCoreSchema(p.schema)) && strings.EqualFold(p.name, name) || strings.EqualFold(p.schema+":"+p.name, name)
}

// leads tells whether a path means an attribute or something in it.
func (p attrPath) leads(name string) bool { return p.is(name) || strings.EqualFold(p.schema, name) }

// apply leaves out of a resource what is not wanted. The resource may be changed.
func (p projection) apply(o object) object {
	if len(p.only) == 0 && len(p.without) == 0 {
		return o
	}
	for name, v := range o {
		switch {
		case !p.wants(name):
			delete(o, name)
		case alwaysReturned(name):
		case len(p.only) > 0:
			o[name] = keepParts(v, p.parts(p.only, name), true)
		default:
			o[name] = keepParts(v, p.parts(p.without, name), false)
		}
	}
	return o
}

// parts are what the paths name within an attribute: nil where one names all of it.
func (projection) parts(paths []attrPath, name string) []attrPath {
	var parts []attrPath
	for _, path := range paths {
		switch {
		case path.is(name) && path.sub == "":
			return nil
		case path.is(name):
			parts = append(parts, attrPath{name: path.sub})
		case strings.EqualFold(path.schema, name): // of an extension
			parts = append(parts, attrPath{name: path.name, sub: path.sub})
		}
	}
	return parts
}

// keepParts leaves in a value only the parts, or all others.
func keepParts(v any, parts []attrPath, keep bool) any {
	if len(parts) == 0 {
		return v
	}
	switch v := v.(type) {
	case []any:
		for i, e := range v {
			v[i] = keepParts(e, parts, keep)
		}
	case object:
		for name, inner := range v {
			var within []attrPath
			whole, named := false, false
			for _, part := range parts {
				if strings.EqualFold(part.name, name) {
					named, whole = true, whole || part.sub == ""
					within = append(within, attrPath{name: part.sub})
				}
			}
			switch {
			case named && !whole:
				v[name] = keepParts(inner, within, keep)
			case named != keep:
				delete(v, name)
			}
		}
	}
	return v
}
