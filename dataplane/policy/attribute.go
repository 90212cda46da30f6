package policy

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/common/types"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// What conditions may read of a person beside id, directory and groups, which are always there: SCIM's attributes
// (RFC 7643, sections 4.1 and 4.3), each as one plain value.
var userAttributes = map[string]kind{
	"userName": text, "displayName": text, "externalId": text, "email": text, "title": text, "userType": text, "nickName": text,
	"department": text, "division": text, "organization": text, "costCenter": text, "employeeNumber": text, "manager": text,
	"locale": text, "timezone": text, "preferredLanguage": text, "country": text,
	"emails": array, "roles": array, "entitlements": array,
}

// CustomAttribute begins the name of an attribute of a schema of the company's own, as AttributesRead returns it: what follows is the
// schema's URN, a colon and the attribute (RFC 7644, section 3.10).
const CustomAttribute = "custom "

// AttributesRead lists the attributes of people that a rule's condition reads, sorted: names as SCIM has them, or CustomAttribute
// and a path. A snapshot must hold these of everyone, and needs no others.
func AttributesRead(r *policyv1.Rule) []string {
	if !strings.Contains(r.GetWhen(), "user") {
		return nil
	}
	return newCondition(r.GetWhen()).compiled().attributes
}

// ReadsOfPerson tells whether a rule's condition reads who its person is, and in which groups they are.
func ReadsOfPerson(r *policyv1.Rule) (id, groups bool) {
	if !strings.Contains(r.GetWhen(), "user") {
		return false, false
	}
	c := newCondition(r.GetWhen()).compiled()
	return c.id, c.groups
}

// attributes are what a snapshot holds of a person: one copy for all who have the same.
type attributes struct {
	text   string
	values map[string]any
	users  int // how many have it; Apply's alone
}

// nobody's are the attributes of whom nothing is read.
var noAttributes = &attributes{values: map[string]any{}}

func newAttributes(wire []byte) (*attributes, error) {
	a := &attributes{text: string(wire)}
	if err := json.Unmarshal(wire, &a.values); err != nil {
		return nil, fmt.Errorf("a user's attributes: %w", err)
	}
	for name, value := range a.values {
		if word, is := value.(string); is { // as conditions have it, so that none makes it anew
			a.values[name] = types.String(word)
		}
	}
	return a, nil
}

// customKey checks how a condition names an attribute of the company's own.
func customKey(key string) error {
	schema, name, ok := cutLast(key, ":")
	if !ok || !strings.HasPrefix(schema, "urn:") || name == "" {
		return fmt.Errorf("%q names no attribute: write user.custom[\"URN:ATTRIBUTE\"], with the URN of the schema that the directory sends it in", clip(key))
	}
	return nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// closed is the shape of an object of Sallyport's own: what it does not name there is not.
func closed(required []string, fields map[string]kind) *shape {
	s := &shape{kind: object, fields: map[string]*shape{}, required: map[string]bool{}, closed: true}
	for name, k := range fields {
		s.fields[name] = &shape{kind: k}
		if k == array {
			s.fields[name].items = &shape{kind: text}
		}
	}
	for _, name := range required {
		s.required[name] = true
	}
	s.known = s.fields
	return s
}

// What a condition may read beside `args`, as its types are checked.
var ownShapes = func() map[string]*shape {
	user := closed([]string{"id", "directory", "groups", "userName", "custom"}, userAttributes)
	for name, k := range map[string]kind{"id": text, "directory": text, "groups": array, "custom": object} {
		user.fields[name] = &shape{kind: k}
	}
	user.fields["groups"].items = &shape{kind: text}
	return map[string]*shape{
		"user": user,
		"tool": closed([]string{"name", "readOnly", "destructive", "idempotent", "openWorld"}, map[string]kind{
			"name": text, "readOnly": boolean, "destructive": boolean, "idempotent": boolean, "openWorld": boolean,
		}),
		"connector": closed([]string{"id", "title"}, map[string]kind{"id": text, "title": text}),
		"request": closed([]string{"time", "region", "client", "address", "amr"}, map[string]kind{
			"time": instant, "region": text, "client": text, "address": text, "acr": text, "amr": array, "auth_time": instant,
		}),
	}
}()

// fieldsOf lists what an object of Sallyport's own has, for people.
func (s *shape) fieldsOf() string {
	names := make([]string, 0, len(s.fields))
	for name := range s.fields {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
