package scim

import (
	"iter"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
)

const listSchema = "urn:ietf:params:scim:api:messages:2.0:ListResponse"

// Page sizes. A client that asks for more gets this many and asks again.
const (
	defaultCount = 100
	maxCount     = 1000
)

// page is what a list request asks for (RFC 7644, section 3.4.2.4): indexes begin at 1.
type page struct {
	start, count int
	filter       *filter
}

func (r *request) page() (page, error) {
	p := page{start: 1, count: defaultCount}
	query := r.URL.Query()
	for name, target := range map[string]*int{"startIndex": &p.start, "count": &p.count} {
		value := query.Get(name)
		if value == "" {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil {
			return p, badRequest(invalidValue, "%s must be a whole number", name)
		}
		*target = n
	}
	p.start = max(p.start, 1)
	p.count = min(max(p.count, 0), maxCount)
	if expression := query.Get("filter"); expression != "" {
		var err error
		if p.filter, err = parseFilter(expression); err != nil {
			return p, err
		}
	}
	if query.Has("sortBy") {
		return p, &scimError{status: http.StatusNotImplemented, detail: "sorting is not offered; see /ServiceProviderConfig"}
	}
	return p, nil
}

func listUsers(r *request) error {
	p, err := r.page()
	if err != nil {
		return err
	}
	s := r.state()
	render := func(u *core.User) (object, error) { return r.userResource(s, u) }
	if p.filter == nil {
		return list(r, p, s.UserCount(r.directory), s.Users(r.directory, p.start-1), render)
	}
	return filtered(r, p, r.usersNamedBy(s, p.filter), render)
}

// usersNamedBy yields the users who may match a filter: by an index where the filter demands a unique
// value, or else all of the directory.
func (r *request) usersNamedBy(s *core.State, f *filter) iter.Seq[*core.User] {
	one := func(u *core.User) iter.Seq[*core.User] {
		return func(yield func(*core.User) bool) {
			if u != nil && u.Directory == r.directory {
				yield(u)
			}
		}
	}
	if name, ok := f.equals("userName"); ok {
		return one(s.UserByName(r.directory, name))
	}
	if external, ok := f.equals("externalId"); ok {
		return one(s.UserByExternalID(r.directory, external))
	}
	if id, ok := f.equals("id"); ok {
		parsed, _ := uuid.Parse(id)
		return one(s.User(parsed))
	}
	return s.Users(r.directory, 0)
}

func listGroups(r *request) error {
	p, err := r.page()
	if err != nil {
		return err
	}
	s := r.state()
	render := func(g *core.Group) (object, error) { return r.groupResource(s, g), nil }
	if p.filter == nil {
		return list(r, p, s.GroupCount(r.directory), s.Groups(r.directory, p.start-1), render)
	}
	return filtered(r, p, r.groupsNamedBy(s, p.filter), render)
}

func (r *request) groupsNamedBy(s *core.State, f *filter) iter.Seq[*core.Group] {
	if name, ok := f.equals("displayName"); ok {
		return s.GroupsByName(r.directory, name)
	}
	if external, ok := f.equals("externalId"); ok {
		return s.GroupsByExternalID(r.directory, external)
	}
	if id, ok := f.equals("id"); ok {
		return func(yield func(*core.Group) bool) {
			parsed, _ := uuid.Parse(id)
			if g := s.Group(parsed); g != nil && g.Directory == r.directory {
				yield(g)
			}
		}
	}
	return s.Groups(r.directory, 0)
}

// list answers with a page of resources that begin at the page's start already.
func list[T any](r *request, p page, total int, from iter.Seq[T], render func(T) (object, error)) error {
	resources := []object{}
	if p.count > 0 {
		for v := range from {
			o, err := render(v)
			if err != nil {
				return err
			}
			resources = append(resources, r.project(o))
			if len(resources) == p.count {
				break
			}
		}
	}
	return r.answerList(p, total, resources)
}

// filtered answers with a page of the candidates that match.
func filtered[T any](r *request, p page, candidates iter.Seq[T], render func(T) (object, error)) error {
	resources, total := []object{}, 0
	for v := range candidates {
		o, err := render(v)
		if err != nil {
			return err
		}
		if !p.filter.matches(o) {
			continue
		}
		total++
		if total >= p.start && len(resources) < p.count {
			resources = append(resources, r.project(o))
		}
		if err := r.Context().Err(); err != nil {
			return err
		}
	}
	return r.answerList(p, total, resources)
}

func (r *request) answerList(p page, total int, resources []object) error {
	writeJSON(r.w, http.StatusOK, object{
		"schemas": []string{listSchema}, "totalResults": total, "startIndex": p.start, "itemsPerPage": len(resources), "Resources": resources,
	})
	return nil
}

// always are the attributes that no projection takes away.
var always = []string{"id", "schemas"}

// wants tells whether an attribute is to be in the answer (RFC 7644, section 3.9).
func (r *request) wants(name string) bool {
	query := r.URL.Query()
	if list := query.Get("attributes"); list != "" {
		return listed(list, name)
	}
	return !exactlyListed(query.Get("excludedAttributes"), name)
}

// project leaves out what the request does not want.
func (r *request) project(o object) object {
	query := r.URL.Query()
	if query.Get("attributes") == "" && query.Get("excludedAttributes") == "" {
		return o
	}
	out := object{}
	for name, v := range o {
		if name == always[0] || name == always[1] || r.wants(name) {
			out[name] = v
		}
	}
	return out
}

// listed tells whether a list of attributes asks for one, or for a sub-attribute of it.
func listed(list, name string) bool {
	for item := range strings.SplitSeq(list, ",") {
		item = strings.TrimSpace(item)
		if path, ok := splitAttrPath(item); ok && (path.schema == "" || isCoreSchema(path.schema)) && strings.EqualFold(path.name, name) {
			return true
		}
		if strings.EqualFold(item, name) || strings.HasPrefix(strings.ToLower(item), strings.ToLower(name)+":") {
			return true
		}
	}
	return false
}

func exactlyListed(list, name string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.TrimSpace(item), name) {
			return true
		}
	}
	return false
}
