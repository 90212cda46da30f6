package scim

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"sallyport.dev/controlplane/internal/core"
)

// sortKey is what a resource is sorted by (RFC 7644, section 3.4.2.3). Of two that are equal the older one is first.
type sortKey struct {
	has    bool
	text   string
	number float64
}

// key is the value of an attribute, of a multi-valued one that of the primary element or else of the first.
func (p attrPath) key(o object) sortKey {
	path := p
	if v, _, _ := find(p.home(o), p.name); v != nil {
		if elements, many := v.([]any); many && len(elements) > 0 {
			first := elements[0]
			if i := slices.IndexFunc(elements, isPrimary); i >= 0 {
				first = elements[i]
			}
			o, path.schema = object{p.name: []any{first}}, ""
			if path.sub == "" {
				path.sub = "value"
			}
		}
	}
	values := path.values(o)
	if len(values) == 0 {
		return sortKey{}
	}
	switch v := values[0].(type) {
	case string:
		if !path.caseExact() {
			v = core.Fold(v)
		}
		return sortKey{has: true, text: v}
	case float64:
		return sortKey{has: true, number: v}
	case jsontext.Value:
		number, err := strconv.ParseFloat(string(v), 64)
		return sortKey{has: err == nil, number: number}
	case bool:
		if v {
			return sortKey{has: true, number: 1}
		}
		return sortKey{has: true}
	}
	return sortKey{}
}

// compare puts what has no value last in ascending order, and first in descending order.
func (a sortKey) compare(b sortKey) int {
	if a.has != b.has {
		if a.has {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.text, b.text), cmp.Compare(a.number, b.number))
}

// sorted lists what matches, or all, in an order that no index has. Only keys are held, and what is on the page
// is read again.
func (l *listing) sorted() error {
	type ranked struct {
		key   sortKey
		entry entry
	}
	order := func(a, b ranked) int {
		byKey := a.key.compare(b.key)
		if l.descending {
			byKey = -byKey
		}
		return cmp.Or(byKey, comparePositions(a.entry.position(), b.entry.position()))
	}
	var all []ranked
	for e, o := range l.matching() {
		if o.err != nil {
			return o.err
		}
		all = append(all, ranked{l.sortBy.key(o.object), e})
	}
	slices.SortFunc(all, order)
	l.total = len(all)
	from := min(l.start-1, len(all))
	if l.after != nil {
		o, err := l.render(*l.after)
		if err != nil {
			return err
		}
		last := ranked{l.sortBy.key(o), *l.after}
		from, _ = slices.BinarySearchFunc(all, last, func(a, b ranked) int {
			if order(a, b) <= 0 {
				return -1
			}
			return 1
		})
	}
	for _, next := range all[from:] {
		if l.full() {
			break
		}
		o, err := l.render(next.entry)
		if err != nil {
			return err
		}
		l.add(next.entry, o)
	}
	return nil
}
