package scim

import (
	"net/http"
	"strconv"
	"strings"
)

const searchSchema = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"

// Page sizes. A client that asks for more gets this many and asks again.
const (
	defaultCount = 100
	maxCount     = 1000
)

// query is what a request for resources asks for: in its URL, or in the body of a .search (RFC 7644,
// sections 3.4.2 and 3.4.3).
type query struct {
	filter       *filter
	filterText   string
	sortBy       *attrPath
	descending   bool
	start, count int // indexes begin at 1
	// paged tells that pages are asked for by cursor (RFC 9865), of which the first has none.
	paged      bool
	cursor     string
	projection projection
}

// readQuery reads the URL's query.
func (r *request) readQuery() (*query, error) {
	values := r.values
	asked := object{}
	for _, name := range []string{"filter", "sortBy", "sortOrder", "cursor", "attributes", "excludedAttributes"} {
		if values.Has(name) {
			asked[name] = values.Get(name)
		}
	}
	for _, name := range []string{"startIndex", "count"} {
		if value := values.Get(name); value != "" {
			asked[name] = value
			if n, err := strconv.Atoi(value); err == nil {
				asked[name] = float64(n)
			}
		}
	}
	return newQuery(asked)
}

// readSearch reads the body of a .search.
func (r *request) readSearch() (*query, error) {
	body, err := r.readObject()
	if err != nil {
		return nil, err
	}
	if err := wantSchema(body, searchSchema); err != nil {
		return nil, err
	}
	asked := object{}
	for _, name := range []string{"filter", "sortBy", "sortOrder", "cursor", "startIndex", "count", "attributes", "excludedAttributes"} {
		v, _, found := find(body, name)
		if !found || v == nil {
			continue
		}
		if list, ok := v.([]any); ok && strings.HasSuffix(strings.ToLower(name), "attributes") {
			var names []string
			for _, e := range list {
				text, ok := e.(string)
				if !ok {
					return nil, badRequest(invalidValue, "%s must be a list of attribute names", name)
				}
				names = append(names, text)
			}
			v = strings.Join(names, ",")
		}
		asked[name] = v
	}
	return newQuery(asked)
}

func newQuery(asked object) (*query, error) {
	q := &query{start: 1, count: defaultCount}
	_, q.paged = asked["cursor"]
	texts := map[string]string{}
	for name := range asked {
		if name == "startIndex" || name == "count" {
			continue
		}
		var err error
		if texts[name], err = text(asked, name); err != nil {
			return nil, err
		}
	}
	for name, target := range map[string]*int{"startIndex": &q.start, "count": &q.count} {
		v, found := asked[name]
		if !found {
			continue
		}
		n, ok := v.(float64)
		switch {
		case ok && n == float64(int(n)):
			*target = int(n)
		case q.paged && name == "count":
			return nil, badRequest(invalidCount, "count must be a whole number")
		default:
			return nil, badRequest(invalidValue, "%s must be a whole number", name)
		}
	}
	q.start = max(q.start, 1)
	q.count = min(max(q.count, 0), maxCount)
	q.cursor = texts["cursor"]
	if q.paged && q.start > 1 {
		return nil, badRequest(invalidValue, "startIndex and cursor are two ways of paging: use one")
	}
	if q.paged && q.count == 0 {
		return nil, badRequest(invalidCount, "a page by cursor has at least one resource")
	}
	var err error
	if q.filterText = texts["filter"]; q.filterText != "" {
		if q.filter, err = parseFilter(q.filterText); err != nil {
			return nil, err
		}
		if q.filter.mentions("password") {
			return nil, &scimError{status: http.StatusForbidden, scimType: sensitive, detail: "password cannot be filtered by: it is not kept, and it has no place in a request"}
		}
	}
	if q.projection, err = newProjection(texts["attributes"], texts["excludedAttributes"]); err != nil {
		return nil, err
	}
	if err := q.readSort(texts["sortBy"], texts["sortOrder"]); err != nil {
		return nil, err
	}
	return q, nil
}

func (q *query) readSort(by, order string) error {
	switch strings.ToLower(order) {
	case "", "ascending":
	case "descending":
		q.descending = true
	default:
		return badRequest(invalidValue, "sortOrder is ascending or descending")
	}
	if by == "" {
		return nil
	}
	path, ok := splitAttrPath(by)
	if !ok {
		return badRequest(invalidPath, "sortBy %q names no attribute", short(by))
	}
	q.sortBy = &path
	return nil
}
