package scim

import (
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
)

func isConflict(err error) bool {
	var refusal *core.Error
	return errors.As(err, &refusal) && refusal.Code == core.Conflict
}

// groupResource is a group as clients see it, with all of its members where they are wanted: as objects where
// something looks into them, or else as what is only written, which takes a fraction of the time and memory.
func (r *request) groupResource(s *core.State, g *core.Group, wanted, objects bool) object {
	o := object{
		"schemas": []string{groupSchema}, "id": g.ID.String(), "displayName": g.DisplayName,
		"meta": r.meta("Group", "/Groups/", g.ID, g.CreatedAt, g.UpdatedAt, etag(g.Version)),
	}
	if g.ExternalID != "" {
		o["externalId"] = g.ExternalID
	}
	if !wanted {
		return o
	}
	members := r.membersOf(s, g)
	if o["members"] = members; objects {
		o["members"] = asObjects(members)
	}
	return o
}

func asObjects(members []member) []any {
	all := make([]any, len(members))
	for i, m := range members {
		all[i] = m.object()
	}
	return all
}

// membersOf are the members that a group has: users first, then groups.
func (r *request) membersOf(s *core.State, g *core.Group) []member {
	members := make([]member, 0, g.MemberCount)
	for u := range s.Members(g, 0) {
		id := u.ID.String()
		members = append(members, member{Value: id, Ref: r.base + "/Users/" + id, Display: u.UserName, Type: "User"})
	}
	for child := range s.MemberGroups(g) {
		id := child.ID.String()
		members = append(members, member{Value: id, Ref: r.base + "/Groups/" + id, Display: child.DisplayName, Type: "Group"})
	}
	return members
}

// member is one of a group's, or a group of a person's.
type member struct {
	Ref     string `json:"$ref"`
	Display string `json:"display"`
	Type    string `json:"type"`
	Value   string `json:"value"`
}

func (m member) object() object {
	return object{"value": m.Value, "$ref": m.Ref, "display": m.Display, "type": m.Type}
}

// members reads a list of {"value": id}. An id that is no group of the directory is taken for a user's:
// whether it is one is the core's to say, at the time of the change.
func (r *request) members(v any) (users, groups []uuid.UUID, err error) {
	if v == nil {
		return nil, nil, nil
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	s := r.state()
	for _, e := range list {
		value := e
		if o, ok := e.(object); ok {
			value, _, _ = find(o, "value")
		}
		name, ok := value.(string)
		if !ok {
			return nil, nil, badRequest(invalidValue, "a member is an object with a value, the member's id")
		}
		id, err := uuid.Parse(name)
		if err != nil {
			return nil, nil, badRequest(invalidValue, "member %q is no id of this server", short(name))
		}
		if s.Group(id) != nil {
			groups = append(groups, id)
		} else {
			users = append(users, id)
		}
	}
	return users, groups, nil
}

func (r *request) group(s *core.State) (*core.Group, error) {
	id, err := r.id()
	if err != nil {
		return nil, err
	}
	g := s.Group(id)
	if g == nil || g.Directory != r.directory {
		return nil, notFound("there is no group %s", id)
	}
	return g, nil
}

func getGroup(r *request) error {
	s := r.state()
	g, err := r.group(s)
	if err != nil {
		return err
	}
	return r.answerGroup(http.StatusOK, s, g.ID)
}

// readGroup reads what a whole group resource says of the group itself.
func readGroup(body object) (name, externalID string, err error) {
	if err := wantSchema(body, groupSchema); err != nil {
		return "", "", err
	}
	if name, err = text(body, "displayName"); err != nil {
		return "", "", err
	}
	externalID, err = text(body, "externalId")
	return name, externalID, err
}

func createGroup(r *request) error {
	body, err := r.readObject()
	if err != nil {
		return err
	}
	name, externalID, err := readGroup(body)
	if err != nil {
		return err
	}
	list, _, _ := find(body, "members")
	users, groups, err := r.members(list)
	if err != nil {
		return err
	}
	out, err := r.do(core.CreateGroup{Directory: r.directory, DisplayName: name, ExternalID: externalID, Users: users, Groups: groups})
	if err != nil {
		return err
	}
	id, err := uuid.Parse(out.Events[0].GetGroupCreated().GetGroupId())
	if err != nil {
		return err
	}
	return r.answerGroup(http.StatusCreated, out.State, id)
}

// replaceGroup makes name and members what the body says. A body that does not mention members leaves
// them alone: to empty a group is to be said.
func replaceGroup(r *request) error {
	body, err := r.readObject()
	if err != nil {
		return err
	}
	name, externalID, err := readGroup(body)
	if err != nil {
		return err
	}
	update := core.UpdateGroup{DisplayName: &name}
	if externalID != "" {
		update.ExternalID = &externalID
	}
	if list, _, found := find(body, "members"); found {
		change := core.MemberChange{Op: core.ReplaceMembers}
		if change.Users, change.Groups, err = r.members(list); err != nil {
			return err
		}
		update.Members = append(update.Members, change)
	}
	return r.updateGroup(update, http.StatusOK)
}

// patchGroup changes members without looking at the others, so that it costs the same in a group of any
// size and parallel changes lose nothing. Only where a filter picks members by more than their ids it looks, and makes
// the change for the version that it saw.
func patchGroup(r *request) error {
	body, err := r.readObject()
	if err != nil {
		return err
	}
	operations, err := readPatch(body)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		p := &groupPatch{request: r}
		for _, op := range operations {
			if err := p.operation(op); err != nil {
				return err
			}
		}
		p.update.IfVersion = p.saw
		err := r.updateGroup(p.update, http.StatusNoContent)
		if p.saw == 0 || try == updateTries || !isConflict(err) {
			return err
		}
	}
}

// groupPatch is what the operations of a PATCH come to.
type groupPatch struct {
	*request
	update core.UpdateGroup
	// saw is the version of which members were looked at; zero: of none.
	saw uint64
}

func (p *groupPatch) operation(op operation) error {
	if op.path != nil {
		return p.attribute(op.op, op.path, op.value)
	}
	values := op.value.(object)
	for _, name := range sortedNames(values) {
		inner, isObject := values[name].(object)
		if isObject && isCoreSchema(name) {
			if err := p.operation(operation{op: op.op, value: inner}); err != nil {
				return err
			}
			continue
		}
		path, err := parsePatchPath(name)
		if err != nil {
			return err
		}
		if path.is("meta") { // sent along with the rest of what was read
			continue
		}
		if err := p.attribute(op.op, path, values[name]); err != nil {
			return err
		}
	}
	return nil
}

func sortedNames(o object) []string {
	names := make([]string, 0, len(o))
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (p *groupPatch) attribute(op string, path *patchPath, value any) error {
	if path.schema != "" && !isCoreSchema(path.schema) {
		return badRequest(invalidPath, "a group has no attributes of %q", short(path.schema))
	}
	switch strings.ToLower(path.name) {
	case "members":
		return p.members(op, path, value)
	case "displayname", "externalid":
		if err := (operation{op: op, path: path}).permitted(groupAttributes); err != nil {
			return err
		}
		s, ok := value.(string)
		if op == "remove" || value == nil {
			s, ok = "", true
		}
		if !ok {
			return badRequest(invalidValue, "%s must be a string", path.name)
		}
		if strings.EqualFold(path.name, "displayName") {
			p.update.DisplayName = &s
		} else {
			p.update.ExternalID = &s
		}
		return nil
	case "id": // sent along with each rename; it must be the group's own
		if s, ok := value.(string); !ok || !strings.EqualFold(s, p.PathValue("id")) {
			return badRequest(mutability, "id is read-only")
		}
		return nil
	case "schemas":
		return nil
	case "meta":
		return badRequest(mutability, "meta is read-only")
	}
	return badRequest(invalidPath, "a group has no attribute %q that could be changed", short(path.name))
}

func (p *groupPatch) members(op string, path *patchPath, value any) error {
	if path.sub != "" {
		return badRequest(mutability, "a member cannot be changed: remove it and add another")
	}
	if path.filter != nil {
		return p.picked(op, path.filter, value)
	}
	if op == "remove" && value == nil { // no filter and no list: all of them
		op = "replace"
	}
	return p.change(core.MemberOp(op), value)
}

// change adds a change of the members that a value names.
func (p *groupPatch) change(op core.MemberOp, value any) (err error) {
	change := core.MemberChange{Op: op}
	change.Users, change.Groups, err = p.request.members(value)
	p.update.Members = append(p.update.Members, change)
	return err
}

// picked changes the members that a filter picks: they are removed, or give way to those of a value. An add adds those that
// the filter names, which are all that it says of them.
func (p *groupPatch) picked(op string, f *filter, value any) error {
	var ids []any
	if named, ok := f.anyOf("value"); ok {
		for _, id := range named {
			ids = append(ids, id)
		}
	} else if err := p.look(f, &ids); err != nil {
		return err
	}
	switch {
	case op == "add":
		return p.change(core.AddMembers, ids)
	case op == "replace" && value == nil:
		return badRequest(invalidValue, "a replace of members needs those that take their place")
	}
	err := p.change(core.RemoveMembers, ids)
	if err == nil && op == "replace" {
		err = p.change(core.AddMembers, value)
	}
	return err
}

// look finds the members that satisfy a filter.
func (p *groupPatch) look(f *filter, ids *[]any) error {
	if len(p.update.Members) > 0 {
		return badRequest(invalidFilter, "after another change of members they are picked by their ids, as in members[value eq %q]", "id")
	}
	s := p.state()
	g, err := p.group(s)
	if err != nil {
		return err
	}
	for _, m := range p.membersOf(s, g) {
		if f.matches(m.object()) {
			*ids = append(*ids, m.Value)
		}
	}
	p.saw = g.Version
	if insisted, err := p.ifMatch(g.Version); err != nil || insisted != 0 && insisted != g.Version {
		return &scimError{status: http.StatusPreconditionFailed, detail: "the group changed since it was read: read it again"}
	}
	return nil
}

func (r *request) updateGroup(update core.UpdateGroup, status int) error {
	id, err := r.id()
	if err != nil {
		return err
	}
	if insisted, err := r.ifMatchOf(id); err != nil {
		return err
	} else if insisted != 0 {
		update.IfVersion = insisted
	}
	update.Directory, update.ID = r.directory, id
	out, err := r.do(update)
	if err != nil {
		return err
	}
	if status == http.StatusNoContent && !r.values.Has("attributes") {
		if g := out.State.Group(id); g != nil {
			r.w.Header().Set("ETag", etag(g.Version))
		}
		r.w.WriteHeader(status)
		return nil
	}
	return r.answerGroup(http.StatusOK, out.State, id)
}

// ifMatchOf is the version of a group that the request insists on.
func (r *request) ifMatchOf(id uuid.UUID) (uint64, error) {
	var current uint64
	if g := r.state().Group(id); g != nil {
		current = g.Version
	}
	return r.ifMatch(current)
}

func (r *request) answerGroup(status int, s *core.State, id uuid.UUID) error {
	g := s.Group(id)
	if g == nil {
		return notFound("the group is gone")
	}
	o := r.groupResource(s, g, r.projection.wants("members"), r.projection.partly("members"))
	return r.answer(status, o)
}

func deleteGroup(r *request) error {
	id, err := r.id()
	if err != nil {
		return err
	}
	version, err := r.ifMatchOf(id)
	if err != nil {
		return err
	}
	if _, err := r.do(core.DeleteGroup{Directory: r.directory, ID: id, IfVersion: version}); err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}
