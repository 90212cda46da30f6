package scim

import (
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
)

// apart tells whether an attribute is kept elsewhere than in core.Profile.Attributes, or is never kept: what is the
// server's to say is ignored in a whole resource (RFC 7644, section 3.5.1), and passwords are dropped.
func (a *attribute) apart() bool {
	return a.mutability == "readOnly" || a.mutability == "writeOnly" || slices.Contains([]string{"schemas", "userName", "externalId", "active"}, a.name)
}

// readUser turns a whole resource into what the core keeps. A missing `active` is true for a new user and
// leaves a user who exists as they are.
func readUser(body object, activeBefore bool) (profile core.Profile, active bool, err error) {
	if profile.UserName, err = text(body, "userName"); err != nil {
		return profile, false, err
	}
	if profile.ExternalID, err = text(body, "externalId"); err != nil {
		return profile, false, err
	}
	active = activeBefore
	if v, _, found := find(body, "active"); found && v != nil {
		var ok bool
		if active, ok = truth(v); !ok {
			return profile, false, badRequest(invalidValue, "active must be true or false")
		}
	}
	attributes := object{}
	for name, v := range body {
		if v == nil {
			continue
		}
		switch a := coreTable.find(name); {
		case a != nil && a.apart(), a != nil && userAttributes.find(name) == nil:
		case a != nil:
			if v, err = a.clean(v); err != nil {
				return profile, false, err
			}
			set(attributes, a.name, v)
		case isURN(name):
			extension, ok := v.(object)
			if !ok {
				return profile, false, badRequest(invalidValue, "the extension %s must be an object", short(name))
			}
			if extension, err = tableOf(name).clean(extension); err != nil {
				return profile, false, err
			}
			set(attributes, canonical(name), extension)
		}
	}
	if profile.DisplayName, err = text(attributes, "displayName"); err != nil {
		return profile, false, err
	}
	profile.Email = primaryEmail(attributes)
	profile.Attributes, err = marshal(attributes)
	return profile, active, err
}

// set sets an attribute, unless there is nothing in it: an empty list is no value (RFC 7643, section 2.5), and an extension
// of which all was removed is none.
func set(o object, name string, v any) {
	switch v := v.(type) {
	case []any:
		if len(v) == 0 {
			return
		}
	case object:
		if len(v) == 0 {
			return
		}
	}
	o[name] = v
}

func primaryEmail(attributes object) string {
	list, _ := attributes["emails"].([]any)
	first := ""
	for _, e := range list {
		o, _ := e.(object)
		value, _, _ := find(o, "value")
		address, _ := value.(string)
		if isPrimary(e) && address != "" {
			return address
		}
		if first == "" {
			first = address
		}
	}
	return first
}

// attributesOf is a user's resource without what only an answer has: what PATCH works on.
func attributesOf(u *core.User) (object, error) {
	o := object{}
	if len(u.Attributes) > 0 {
		var err error
		if o, err = decode(u.Attributes); err != nil {
			return nil, err
		}
	}
	o["userName"], o["active"] = u.UserName, u.Active
	if u.ExternalID != "" {
		o["externalId"] = u.ExternalID
	}
	return o, nil
}

// userResource is a user as clients see it, the groups as objects where something looks into them: see groupResource.
func (r *request) userResource(s *core.State, u *core.User, objects bool) (object, error) {
	o, err := attributesOf(u)
	if err != nil {
		return nil, err
	}
	schemas := []string{userSchema}
	for name := range o {
		if isURN(name) {
			schemas = append(schemas, name)
		}
	}
	slices.Sort(schemas[1:])
	groups, seen := []member{}, fnv.New32a()
	for g := range s.GroupsOf(u) {
		id := g.ID.String()
		groups = append(groups, member{Value: id, Ref: r.base + "/Groups/" + id, Display: g.DisplayName, Type: "direct"})
		_, _ = seen.Write(g.ID[:]) // a hash takes everything
		_, _ = io.WriteString(seen, g.DisplayName)
	}
	tag := etag(u.Version)
	if len(groups) > 0 {
		tag = fmt.Sprintf(`W/"%d.%08x"`, u.Version, seen.Sum32())
	}
	o["schemas"], o["id"], o["groups"] = schemas, u.ID.String(), groups
	if objects {
		o["groups"] = asObjects(groups)
	}
	o["meta"] = r.meta("User", "/Users/", u.ID, u.CreatedAt, u.UpdatedAt, tag)
	return o, nil
}

func (r *request) meta(kind, path string, id uuid.UUID, created, updated core.Moment, tag string) object {
	return object{
		"resourceType": kind, "created": stamp(created.Time()), "lastModified": stamp(updated.Time()),
		"location": r.base + path + id.String(), "version": tag,
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// etag is a resource's version as a tag. That of a person who is in groups says also which, behind a dot: they are in the
// resource, so that a copy with others is no current one. They are not the person's to change, so that a change insists
// on the version alone.
func etag(version uint64) string { return `W/"` + strconv.FormatUint(version, 10) + `"` }

// tags are those that a header lists.
func tags(header string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for tag := range strings.SplitSeq(header, ",") {
			tag = strings.Trim(strings.TrimPrefix(strings.TrimSpace(tag), "W/"), `"`)
			if tag != "" && !yield(tag) {
				return
			}
		}
	}
}

// id reads the path's id. What is no id names nothing.
func (r *request) id() (uuid.UUID, error) {
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil {
		return uuid.Nil, notFound("there is no resource %q", short(r.PathValue("id")))
	}
	return id, nil
}

// ifMatch is the version that the request insists on, which is the current one if that is among several; zero: none
// (RFC 7644, section 3.14).
func (r *request) ifMatch(current uint64) (insisted uint64, err error) {
	any := false
	for tag := range tags(r.Header.Get("If-Match")) {
		if tag == "*" {
			return 0, nil
		}
		any = true
		number, _, _ := strings.Cut(tag, ".")
		version, err := strconv.ParseUint(number, 10, 64)
		if err == nil && (insisted == 0 || version == current) {
			insisted = version
		}
	}
	if any && insisted == 0 {
		return 0, &scimError{status: http.StatusPreconditionFailed, detail: "If-Match names a version that never was: read the resource again"}
	}
	return insisted, nil
}

// copyIsCurrent tells whether the client said that it has a resource of this tag.
func (r *request) copyIsCurrent(tag string) bool {
	for theirs := range tags(r.Header.Get("If-None-Match")) {
		if theirs == "*" {
			return true
		}
		for ours := range tags(tag) {
			if ours == theirs {
				return true
			}
		}
	}
	return false
}

func (r *request) user(s *core.State) (*core.User, error) {
	id, err := r.id()
	if err != nil {
		return nil, err
	}
	u := s.User(id)
	if u == nil || u.Directory != r.directory {
		return nil, notFound("there is no user %s", id)
	}
	return u, nil
}

func getUser(r *request) error {
	s := r.state()
	u, err := r.user(s)
	if err != nil {
		return err
	}
	return r.answerUser(http.StatusOK, s, u)
}

func createUser(r *request) error {
	body, err := r.readObject()
	if err != nil {
		return err
	}
	if err := wantSchema(body, userSchema); err != nil {
		return err
	}
	profile, active, err := readUser(body, true)
	if err != nil {
		return err
	}
	out, err := r.do(core.CreateUser{Directory: r.directory, Profile: profile, Active: active})
	if err != nil {
		return err
	}
	return r.answerUser(http.StatusCreated, out.State, out.State.UserByName(r.directory, profile.UserName))
}

func replaceUser(r *request) error {
	body, err := r.readObject()
	if err != nil {
		return err
	}
	if err := wantSchema(body, userSchema); err != nil {
		return err
	}
	return r.updateUser(func(u *core.User) (core.Profile, bool, error) { return readUser(clone(body).(object), u.Active) })
}

func patchUser(r *request) error {
	body, err := r.readObject()
	if err != nil {
		return err
	}
	operations, err := readPatch(body)
	if err != nil {
		return err
	}
	return r.updateUser(func(u *core.User) (core.Profile, bool, error) {
		o, err := attributesOf(u)
		if err != nil {
			return core.Profile{}, false, err
		}
		for _, op := range operations {
			if err := op.permitted(userAttributes); err != nil {
				return core.Profile{}, false, err
			}
			op.value = clone(op.value)
			if err := patch(o, op); err != nil {
				return core.Profile{}, false, err
			}
		}
		return readUser(o, u.Active)
	})
}

// permitted refuses to change by a path what is the server's to say, and to remove what must be there
// (RFC 7644, section 3.5.2). The table is of the resource's own attributes.
func (op operation) permitted(own table) error {
	if op.path == nil || op.path.schema != "" && !isCoreSchema(op.path.schema) {
		return nil
	}
	a := own.find(op.path.name)
	if a == nil {
		a = commonAttributes.find(op.path.name)
	}
	switch {
	case a == nil:
	case a.mutability == "readOnly":
		return badRequest(mutability, "%s is read-only", a.name)
	case a.required && op.op == "remove":
		return badRequest(mutability, "%s is required: it can be replaced, not removed", a.name)
	}
	return nil
}

// updateTries bounds how often a change is made anew because another came between.
const updateTries = 10

// updateUser reads the user, lets change say what is to be, and writes it against the version that was
// read; when another change came between and the client did not insist on a version, it does so again.
func (r *request) updateUser(change func(*core.User) (core.Profile, bool, error)) error {
	for try := 1; ; try++ {
		u, err := r.user(r.state())
		if err != nil {
			return err
		}
		insisted, err := r.ifMatch(u.Version)
		if err != nil {
			return err
		}
		profile, active, err := change(u)
		if err != nil {
			return err
		}
		if profile.ExternalID == "" { // to say nothing of who this is makes nobody else of the person
			profile.ExternalID = u.ExternalID
		}
		version := u.Version
		if insisted != 0 {
			version = insisted
		}
		out, err := r.do(core.UpdateUser{Directory: r.directory, ID: u.ID, IfVersion: version, Profile: profile, Active: active})
		if insisted == 0 && try < updateTries && isConflict(err) {
			continue
		}
		if err != nil {
			return err
		}
		// A changed externalId made another person of it: the answer shows who is there now.
		return r.answerUser(http.StatusOK, out.State, out.State.UserByName(r.directory, profile.UserName))
	}
}

func deleteUser(r *request) error {
	id, err := r.id()
	if err != nil {
		return err
	}
	var current uint64
	if u := r.state().User(id); u != nil {
		current = u.Version
	}
	version, err := r.ifMatch(current)
	if err != nil {
		return err
	}
	if _, err := r.do(core.DeleteUser{Directory: r.directory, ID: id, IfVersion: version}); err != nil {
		return err
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

func (r *request) answerUser(status int, s *core.State, u *core.User) error {
	if u == nil { // deleted by another between the change and its answer
		return notFound("the user is gone")
	}
	o, err := r.userResource(s, u, r.projection.partly("groups"))
	if err != nil {
		return err
	}
	return r.answer(status, o)
}

// answer sends a resource with its location and version, of which a request may want only a part.
func (r *request) answer(status int, o object) error {
	meta := o["meta"].(object)
	if status == http.StatusCreated {
		r.w.Header().Set("Location", meta["location"].(string))
	}
	tag := meta["version"].(string)
	r.w.Header().Set("ETag", tag)
	if r.Method == http.MethodGet && r.copyIsCurrent(tag) {
		r.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	writeJSON(r.w, status, r.projection.apply(o))
	return nil
}
