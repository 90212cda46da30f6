package policy

import (
	"fmt"
	"reflect"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// facts are what a condition may read beside the request itself.
type facts struct {
	args      values
	person    *person
	groups    []string
	tool      *pinnedTool
	connector *connector
	// known are the parts of args that are there; nil: all. missed: a condition reads others.
	known  *parts
	missed bool
}

// variables are all that a condition may read. They lie on the heap, since evaluation needs them there; facts and requests do not,
// so that a verdict without such a condition leaves nothing behind.
type variables struct {
	facts
	request Request
	// What `user` and `request` are.
	asUser, asRequest record
}

func (f *facts) with(r *Request) *variables {
	v := &variables{facts: *f, request: *r}
	v.asUser, v.asRequest = record{of: v, members: (*variables).user}, record{of: v, members: (*variables).requested}
	return v
}

// ResolveName returns a variable's value.
func (v *variables) ResolveName(name string) (any, bool) {
	switch name {
	case "args":
		return map[string]any(v.args), true
	case "user":
		return &v.asUser, true
	case "request":
		return &v.asRequest, true
	case "tool":
		return v.tool.facts(), true
	case "connector":
		return map[string]any{"id": v.connector.id, "title": v.connector.settings.GetTitle()}, true
	}
	return nil, false
}

// Parent is nil: there are no other variables.
func (v *variables) Parent() interpreter.Activation { return nil }

// now is the time that conditions read: to the second, so that between two boundaries nothing changes.
func (v *variables) now() time.Time { return v.request.Now.Truncate(time.Second) }

// user returns a member of `user`.
func (v *variables) user(name string) (any, bool) {
	switch name {
	case "id":
		return v.person.id.String(), true
	case "directory":
		return v.person.directory, true
	case "groups":
		if v.groups == nil {
			return []string{}, true
		}
		return v.groups, true
	}
	value, ok := v.person.attributes.values[name]
	if !ok && name == "custom" {
		return map[string]any{}, true
	}
	return value, ok
}

// requested returns a member of `request`.
func (v *variables) requested(name string) (any, bool) {
	from := v.request.From
	if from == nil {
		from = &Origin{}
	}
	switch name {
	case "time":
		return v.now().UTC(), true
	case "region":
		return v.request.Region, true
	case "client":
		return v.request.Client, true
	case "address":
		return from.Address, true
	case "acr":
		return from.ACR, from.ACR != ""
	case "amr":
		if from.AMR == nil {
			return []string{}, true
		}
		return from.AMR, true
	case "auth_time":
		return from.AuthTime, !from.AuthTime.IsZero()
	}
	return nil, false
}

// record is a variable of which members are read one by one: none is made that nobody reads. To CEL it is a map.
type record struct {
	of      *variables
	members func(v *variables, name string) (any, bool)
}

var _ traits.Mapper = (*record)(nil)

// Find returns a member.
func (r *record) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	value, ok := r.members(r.of, string(name))
	if !ok {
		return nil, false
	}
	return types.DefaultTypeAdapter.NativeToValue(value), true
}

// Get returns a member, or an error.
func (r *record) Get(key ref.Val) ref.Val {
	if value, ok := r.Find(key); ok {
		return value
	}
	return types.NewErr("no such key: %v", key)
}

// Contains tells whether there is a member.
func (r *record) Contains(key ref.Val) ref.Val {
	_, ok := r.Find(key)
	return types.Bool(ok)
}

// Conditions are checked when they are written, and none that goes through all members passes.

// Iterator has nothing to go through.
func (r *record) Iterator() traits.Iterator {
	return types.DefaultTypeAdapter.NativeToValue(map[string]any{}).(traits.Mapper).Iterator()
}

// Size is an error.
func (r *record) Size() ref.Val { return types.NewErr("it has no size") }

// ConvertToNative is an error.
func (r *record) ConvertToNative(to reflect.Type) (any, error) {
	return nil, fmt.Errorf("it cannot be made a %v", to)
}

// ConvertToType is an error.
func (r *record) ConvertToType(ref.Type) ref.Val { return types.NewErr("it cannot be converted") }

// Equal is false: it is compared with nothing.
func (r *record) Equal(ref.Val) ref.Val { return types.False }

// Type is a map's.
func (r *record) Type() ref.Type { return types.MapType }

// Value is the record.
func (r *record) Value() any { return r }

// values are decoded arguments. They are all that most conditions read; a map goes into an interface without an
// allocation.
type values map[string]any

// ResolveName returns a variable's value.
func (v values) ResolveName(name string) (any, bool) {
	if name == "args" {
		return map[string]any(v), true
	}
	return nil, false
}

// Parent is nil: there are no other variables.
func (values) Parent() interpreter.Activation { return nil }
