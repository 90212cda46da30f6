package scim

import (
	"cmp"
	"iter"
	"net/http"
	"slices"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
)

const listSchema = "urn:ietf:params:scim:api:messages:2.0:ListResponse"

// entry is a user or a group that a list may have; the other is nil.
type entry struct {
	user  *core.User
	group *core.Group
}

// position orders all that is listed: users by their creation, then groups by theirs.
type position struct {
	group bool
	no    uint32
}

func (e entry) position() position {
	if e.group != nil {
		return position{true, e.group.No}
	}
	return position{false, e.user.No}
}

// kinds are the types of resource that a request is about.
type kinds struct{ users, groups bool }

func listUsers(r *request) error  { return r.list(kinds{users: true}, r.readQuery) }
func listGroups(r *request) error { return r.list(kinds{groups: true}, r.readQuery) }

func searchUsers(r *request) error  { return r.list(kinds{users: true}, r.readSearch) }
func searchGroups(r *request) error { return r.list(kinds{groups: true}, r.readSearch) }
func searchAll(r *request) error    { return r.list(kinds{users: true, groups: true}, r.readSearch) }

// list answers a request for resources.
func (r *request) list(k kinds, read func() (*query, error)) error {
	q, err := read()
	if err != nil {
		return err
	}
	l := &listing{request: r, query: q, kinds: k, state: r.state()}
	if q.cursor != "" {
		if l.after, err = l.readCursor(); err != nil {
			return err
		}
	}
	collect := l.plain
	switch {
	case q.sortBy != nil && !l.byName():
		collect = l.sorted
	case q.filter != nil:
		collect = l.filtered
	}
	if err := collect(); err != nil {
		return err
	}
	return l.answer()
}

// listing is a list while it is made.
type listing struct {
	*request
	*query
	kinds kinds
	state *core.State
	after *entry // of a cursor: what the last page ended with

	resources []object
	last      entry // of resources
	more      bool  // there is another page
	total     int   // -1: it was not counted
}

// byName tells whether the order asked for is one that an index has.
func (l *listing) byName() bool {
	return l.kinds == kinds{users: true} && l.filter == nil && l.sortBy.is("userName") && l.sortBy.sub == ""
}

// full tells whether the page is. It is asked when there is one more resource.
func (l *listing) full() bool {
	l.more = len(l.resources) == l.count
	return l.more
}

// add puts a resource on the page.
func (l *listing) add(e entry, o object) {
	l.resources, l.last = append(l.resources, l.query.projection.apply(o)), e
}

// plain lists all there is, in the order of creation or of names: nothing outside the page is looked at.
func (l *listing) plain() error {
	var all iter.Seq[entry]
	if l.kinds.users {
		l.total += l.state.UserCount(l.directory)
	}
	if l.kinds.groups {
		l.total += l.state.GroupCount(l.directory)
	}
	switch {
	case l.sortBy != nil:
		var beyond *core.User
		if l.after != nil {
			beyond = l.after.user
		}
		all = users(l.state.UsersByNameOrder(l.directory, l.descending, beyond, l.start-1))
	case l.after != nil:
		all = l.everything()
	default:
		all = l.from(l.start - 1)
	}
	for e := range all {
		if l.full() {
			break
		}
		o, err := l.render(e)
		if err != nil {
			return err
		}
		l.add(e, o)
	}
	return nil
}

// filtered lists what matches. A page by cursor ends with itself; one by index needs the number of all.
func (l *listing) filtered() error {
	for e, o := range l.matching() {
		if o.err != nil {
			return o.err
		}
		l.total++
		switch {
		case l.total < l.start:
		case !l.full():
			l.add(e, o.object)
		case l.paged:
			l.total = -1
			return nil
		}
	}
	if l.paged {
		l.total = -1
	}
	return nil
}

// rendered is a resource as clients see it, or why it cannot be read.
type rendered struct {
	object object
	err    error
}

// matching yields what matches the filter, beyond the cursor.
func (l *listing) matching() iter.Seq2[entry, rendered] {
	return func(yield func(entry, rendered) bool) {
		for e := range l.candidates() {
			o, err := l.render(e)
			if err == nil {
				err = l.Context().Err()
			}
			if err != nil {
				yield(e, rendered{err: err})
				return
			}
			if (l.filter == nil || l.filter.matches(o)) && !yield(e, rendered{object: o}) {
				return
			}
		}
	}
}

// candidates yields what may match the filter, in the order of creation: by an index where the filter demands
// one value, or else all.
func (l *listing) candidates() iter.Seq[entry] {
	all := l.indexed()
	if all == nil {
		return l.everything()
	}
	after := position{}
	if l.after != nil && l.sortBy == nil {
		after = l.after.position()
	}
	return func(yield func(entry) bool) {
		for e := range all {
			if comparePositions(e.position(), after) > 0 && !yield(e) {
				return
			}
		}
	}
}

func comparePositions(a, b position) int {
	if a.group != b.group {
		if b.group {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.no, b.no)
}

// everything yields all resources beyond the cursor of an unsorted list, in the order of creation.
func (l *listing) everything() iter.Seq[entry] {
	after := position{}
	if l.after != nil && l.sortBy == nil {
		after = l.after.position()
	}
	return func(yield func(entry) bool) {
		if l.kinds.users && !after.group {
			for u := range l.state.AllUsersAfter(l.directory, after.no) {
				if !yield(entry{user: u}) {
					return
				}
			}
			after.no = 0
		}
		if l.kinds.groups {
			for g := range l.state.AllGroupsAfter(l.directory, after.no) {
				if !yield(entry{group: g}) {
					return
				}
			}
		}
	}
}

// from yields all resources without the first ones.
func (l *listing) from(skip int) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		if l.kinds.users {
			for e := range users(l.state.Users(l.directory, skip)) {
				if !yield(e) {
					return
				}
			}
			skip = max(0, skip-l.state.UserCount(l.directory))
		}
		if l.kinds.groups {
			for e := range groups(l.state.Groups(l.directory, skip)) {
				if !yield(e) {
					return
				}
			}
		}
	}
}

func users(all iter.Seq[*core.User]) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		all(func(u *core.User) bool { return yield(entry{user: u}) })
	}
}

func groups(all iter.Seq[*core.Group]) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		all(func(g *core.Group) bool { return yield(entry{group: g}) })
	}
}

// indexed yields, in the order of creation, those whom a value names that the filter demands and an index has;
// nil where there is no such value.
func (l *listing) indexed() iter.Seq[entry] {
	if l.filter == nil {
		return nil
	}
	if id, ok := l.filter.equals("id"); ok {
		parsed, _ := uuid.Parse(id)
		return l.those(l.state.User(parsed), l.state.Group(parsed))
	}
	if name, ok := l.filter.equals("userName"); ok { // groups have none
		return l.those(l.state.UserByName(l.directory, name), nil)
	}
	if id, ok := l.filter.demands("members"); ok { // users have none
		parsed, _ := uuid.Parse(id)
		return l.groupsWith(parsed)
	}
	if address, ok := l.filter.demands("emails"); ok && l.kinds.users { // groups have none
		return users(slices.Values(l.state.UsersByEmail(l.directory, address)))
	}
	if id, ok := l.filter.demands("groups"); ok && l.kinds.users { // as above
		parsed, _ := uuid.Parse(id)
		return l.usersIn(l.state.Group(parsed))
	}
	if l.kinds.users && l.kinds.groups {
		return nil
	}
	if external, ok := l.filter.equals("externalId"); ok {
		if l.kinds.users {
			return l.those(l.state.UserByExternalID(l.directory, external), nil)
		}
		return groups(l.state.GroupsByExternalID(l.directory, external))
	}
	if name, ok := l.filter.equals("displayName"); ok && l.kinds.groups {
		return groups(l.state.GroupsByName(l.directory, name))
	}
	return nil
}

// those yields the user and the group, so far as they are there, of this directory and asked for.
func (l *listing) those(u *core.User, g *core.Group) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		if u != nil && u.Directory == l.directory && l.kinds.users && !yield(entry{user: u}) {
			return
		}
		if g != nil && g.Directory == l.directory && l.kinds.groups {
			yield(entry{group: g})
		}
	}
}

// usersIn yields the users who are directly in a group, which may be none.
func (l *listing) usersIn(g *core.Group) iter.Seq[entry] {
	if g == nil || g.Directory != l.directory {
		return users(slices.Values[[]*core.User](nil))
	}
	return users(l.state.Members(g, 0))
}

// groupsWith yields the groups of which somebody is directly a member.
func (l *listing) groupsWith(member uuid.UUID) iter.Seq[entry] {
	var all []*core.Group
	if u := l.state.User(member); u != nil && u.Directory == l.directory && l.kinds.groups {
		all = slices.SortedFunc(l.state.GroupsOf(u), func(a, b *core.Group) int { return cmp.Compare(a.No, b.No) })
	} else if g := l.state.Group(member); g != nil {
		return nil // groups in groups have no such index here: they are few
	}
	return groups(slices.Values(all))
}

func (l *listing) render(e entry) (object, error) {
	if e.group != nil {
		return l.groupResource(l.state, e.group, l.wantsMembers(), l.reads("members")), nil
	}
	return l.userResource(l.state, e.user, l.reads("groups"))
}

// wantsMembers tells whether members are needed at all.
func (q *query) wantsMembers() bool { return q.projection.wants("members") || q.reads("members") }

// reads tells whether an attribute is looked into, and not only written.
func (q *query) reads(name string) bool {
	return q.projection.partly(name) || q.filter.mentions(name) || q.sortBy != nil && q.sortBy.is(name)
}

func (l *listing) answer() error {
	resources := l.resources
	if resources == nil {
		resources = []object{}
	}
	o := object{"schemas": []string{listSchema}, "itemsPerPage": len(resources), "Resources": resources}
	if l.total >= 0 {
		o["totalResults"] = l.total
	}
	if !l.paged {
		o["startIndex"] = l.start
	} else if l.more {
		o["nextCursor"] = l.writeCursor(l.last)
	}
	writeJSON(l.w, http.StatusOK, o)
	return nil
}
