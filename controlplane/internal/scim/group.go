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
		"meta": r.meta("Group", "/Groups/", g.ID, g.CreatedAt, g.UpdatedAt, g.Version),
	}
	if g.ExternalID != "" {
		o["externalId"] = g.ExternalID
	}
	if !wanted {
		return o
	}
	members := make([]member, 0, g.MemberCount)
	for u := range s.Members(g, 0) {
		id := u.ID.String()
		members = append(members, member{Value: id, Ref: r.base + "/Users/" + id, Display: u.UserName, Type: "User"})
	}
	for child := range s.MemberGroups(g) {
		id := child.ID.String()
		members = append(members, member{Value: id, Ref: r.base + "/Groups/" + id, Display: child.DisplayName, Type: "Group"})
	}
	if o["members"] = members; objects {
		all := make([]any, len(members))
		for i, m := range members {
			all[i] = object{"value": m.Value, "$ref": m.Ref, "display": m.Display, "type": m.Type}
		}
		o["members"] = all
	}
	return o
}

// member is one of a group's.
type member struct {
	Ref     string `json:"$ref"`
	Display string `json:"display"`
	Type    string `json:"type"`
	Value   string `json:"value"`
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
// size and parallel changes lose nothing.
func patchGroup(r *request) error {
	body, err := r.readObject()
	if err != nil {
		return err
	}
	operations, err := readPatch(body)
	if err != nil {
		return err
	}
	var update core.UpdateGroup
	for _, op := range operations {
		if err := r.groupOperation(&update, op); err != nil {
			return err
		}
	}
	return r.updateGroup(update, http.StatusNoContent)
}

func (r *request) groupOperation(update *core.UpdateGroup, op operation) error {
	if op.path == nil {
		values := op.value.(object)
		for _, name := range sortedNames(values) {
			if err := r.groupAttribute(update, op.op, &patchPath{attrPath: attrPath{name: name}}, values[name]); err != nil {
				return err
			}
		}
		return nil
	}
	return r.groupAttribute(update, op.op, op.path, op.value)
}

func sortedNames(o object) []string {
	names := make([]string, 0, len(o))
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (r *request) groupAttribute(update *core.UpdateGroup, op string, path *patchPath, value any) error {
	switch strings.ToLower(path.name) {
	case "members":
		return r.groupMembers(update, op, path, value)
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
			update.DisplayName = &s
		} else {
			update.ExternalID = &s
		}
		return nil
	case "id": // sent along with each rename; it must be the group's own
		if s, ok := value.(string); !ok || !strings.EqualFold(s, r.PathValue("id")) {
			return badRequest(mutability, "id is read-only")
		}
		return nil
	case "schemas":
		return nil
	}
	return badRequest(invalidPath, "a group has no attribute %q that could be changed", short(path.name))
}

func (r *request) groupMembers(update *core.UpdateGroup, op string, path *patchPath, value any) error {
	change := core.MemberChange{Op: core.MemberOp(op)}
	var err error
	switch {
	case path.sub != "":
		return badRequest(mutability, "a member cannot be changed: remove it and add another")
	case path.filter != nil:
		id, ok := path.filter.equals("value")
		if !ok || path.filter.combine != "" {
			return badRequest(invalidFilter, `members are picked by members[value eq "id"]`)
		}
		change.Users, change.Groups, err = r.members(id)
		if op != "remove" {
			change.Op = core.AddMembers
		}
	case op == "remove" && value == nil: // no filter and no list: all of them
		change.Op = core.ReplaceMembers
	default:
		change.Users, change.Groups, err = r.members(value)
	}
	update.Members = append(update.Members, change)
	return err
}

func (r *request) updateGroup(update core.UpdateGroup, status int) error {
	id, err := r.id()
	if err != nil {
		return err
	}
	if update.IfVersion, err = r.ifMatch(); err != nil {
		return err
	}
	update.Directory, update.ID = r.directory, id
	out, err := r.do(update)
	if err != nil {
		return err
	}
	if status == http.StatusNoContent && !r.URL.Query().Has("attributes") {
		if g := out.State.Group(id); g != nil {
			r.w.Header().Set("ETag", etag(g.Version))
		}
		r.w.WriteHeader(status)
		return nil
	}
	return r.answerGroup(http.StatusOK, out.State, id)
}

func (r *request) answerGroup(status int, s *core.State, id uuid.UUID) error {
	g := s.Group(id)
	if g == nil {
		return notFound("the group is gone")
	}
	o := r.groupResource(s, g, r.projection.wants("members"), r.projection.partly("members"))
	return r.answer(status, o, g.Version)
}

func deleteGroup(r *request) error {
	id, err := r.id()
	if err != nil {
		return err
	}
	version, err := r.ifMatch()
	if err != nil {
		return err
	}
	if _, err := r.do(core.DeleteGroup{Directory: r.directory, ID: id, IfVersion: version}); err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}
