package scim

import (
	"slices"
	"strings"
)

const (
	userSchema       = "urn:ietf:params:scim:schemas:core:2.0:User"
	groupSchema      = "urn:ietf:params:scim:schemas:core:2.0:Group"
	enterpriseSchema = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
)

// attribute is one row of the schema tables, by which input is checked, filters and sorting compare, answers are
// projected, and from which /Schemas is written.
type attribute struct {
	name        string
	kind        string // string, boolean, complex, reference, dateTime, binary
	many        bool
	mutability  string // default readWrite
	returned    string // default default
	uniqueness  string // default none
	caseExact   bool
	required    bool
	refers      string // of a reference: to what, default external
	description string
	sub         table
}

// table is the attributes of a schema, or the sub-attributes of one of them.
type table []attribute

// find returns an attribute by its name in any letter case, or nil.
func (t table) find(name string) *attribute {
	for i := range t {
		if strings.EqualFold(t[i].name, name) {
			return &t[i]
		}
	}
	return nil
}

// commonAttributes are those of every resource (RFC 7643, section 3.1). /Schemas does not have them.
var commonAttributes = table{
	{name: "schemas", kind: "reference", many: true, returned: "always"},
	{name: "id", kind: "string", mutability: "readOnly", returned: "always", caseExact: true},
	{name: "externalId", kind: "string", caseExact: true},
	{name: "meta", kind: "complex", mutability: "readOnly", sub: table{
		{name: "resourceType", kind: "string", caseExact: true}, {name: "created", kind: "dateTime"}, {name: "lastModified", kind: "dateTime"},
		{name: "location", kind: "reference", caseExact: true}, {name: "version", kind: "string", caseExact: true},
	}},
}

// coreTable is where a path without a schema's URN leads.
var coreTable = slices.Concat(commonAttributes, userAttributes, groupAttributes)

// tableOf is the attributes of a schema; none where it is not known.
func tableOf(urn string) table {
	switch {
	case urn == "" || isCoreSchema(urn):
		return coreTable
	case strings.EqualFold(urn, enterpriseSchema):
		return enterpriseAttributes
	}
	return nil
}

// attribute is the row of a path's attribute, or of its sub-attribute; nil for one that no table has.
func (p attrPath) attribute() *attribute {
	within := tableOf(p.schema)
	if p.in != nil {
		within = nil
		if a := p.in.attribute(); a != nil {
			within = a.sub
		}
	}
	a := within.find(p.name)
	if a != nil && p.sub != "" {
		a = a.sub.find(p.sub)
	}
	return a
}

// alwaysReturned tells whether no projection takes an attribute away.
func alwaysReturned(name string) bool {
	a := coreTable.find(name)
	return a != nil && a.returned == "always"
}

// valued is the shape that most multi-valued attributes share (RFC 7643, section 2.4).
func valued(name, description string) attribute { return valuedBy("string", name, description) }

func valuedBy(kind, name, description string) attribute {
	return attribute{name: name, kind: "complex", many: true, description: description, sub: table{
		{name: "value", kind: kind, description: "The value."},
		{name: "display", kind: "string", description: "The value as people read it."},
		{name: "type", kind: "string", description: "What the value is for, such as work or home."},
		{name: "primary", kind: "boolean", description: "Whether this is the preferred value. At most one is."},
	}}
}

func plain(name, description string) attribute {
	return attribute{name: name, kind: "string", description: description}
}

var userAttributes = table{
	{name: "userName", kind: "string", required: true, uniqueness: "server", description: "What the person signs in as; unique in the directory, whatever the letter case."},
	{name: "name", kind: "complex", description: "The parts of the person's name.", sub: table{
		plain("formatted", "The whole name."), plain("familyName", "The family name."), plain("givenName", "The given name."),
		plain("middleName", "The middle name."), plain("honorificPrefix", "Such as Dr."), plain("honorificSuffix", "Such as III."),
	}},
	plain("displayName", "The name as people read it."),
	plain("nickName", "The casual name."),
	{name: "profileUrl", kind: "reference", description: "A page about the person."},
	plain("title", "The title, such as Vice President."),
	plain("userType", "The relation to the organisation, such as Contractor."),
	plain("preferredLanguage", "As in Accept-Language."),
	plain("locale", "For formats of dates and numbers."),
	plain("timezone", "From the IANA time zone database."),
	{name: "active", kind: "boolean", description: "Whether the person may act. False ends sessions, streams and calls in flight."},
	{name: "password", kind: "string", mutability: "writeOnly", returned: "never", description: "Accepted and dropped: people sign in at their identity provider."},
	valued("emails", "Email addresses."),
	valued("phoneNumbers", "Telephone numbers."),
	valued("ims", "Instant messaging addresses."),
	valuedBy("reference", "photos", "Pictures, by URL."),
	{name: "addresses", kind: "complex", many: true, description: "Postal addresses.", sub: table{
		plain("formatted", "The whole address."), plain("streetAddress", "The street with its number."), plain("locality", "The city."),
		plain("region", "The state or region."), plain("postalCode", "The postal code."), plain("country", "ISO 3166-1 alpha-2."),
		plain("type", "Such as work or home."), {name: "primary", kind: "boolean", description: "Whether this is the preferred address."},
	}},
	{name: "groups", kind: "complex", many: true, mutability: "readOnly", description: "The groups of which the user is directly a member.", sub: table{
		{name: "value", kind: "string", mutability: "readOnly", description: "The group's id."},
		{name: "$ref", kind: "reference", mutability: "readOnly", refers: "Group", description: "The group's URL."},
		{name: "display", kind: "string", mutability: "readOnly", description: "The group's displayName."},
		{name: "type", kind: "string", mutability: "readOnly", description: "direct."},
	}},
	valued("entitlements", "What the person is entitled to, in the directory's words."),
	valued("roles", "Roles, in the directory's words."),
	valuedBy("binary", "x509Certificates", "Certificates of the person."),
}

var enterpriseAttributes = table{
	plain("employeeNumber", "The number that the organisation gave the person."),
	plain("costCenter", "The cost centre."), plain("organization", "The organisation."),
	plain("division", "The division."), plain("department", "The department."),
	{name: "manager", kind: "complex", description: "Whom the person reports to.", sub: table{
		plain("value", "The manager's id."), {name: "$ref", kind: "reference", refers: "User", description: "The manager's URL."}, plain("displayName", "The manager's name."),
	}},
}

var groupAttributes = table{
	{name: "displayName", kind: "string", required: true, description: "The name as people read it. Two groups may share one."},
	{name: "members", kind: "complex", many: true, description: "Users and groups that are directly members.", sub: table{
		{name: "value", kind: "string", mutability: "immutable", description: "The member's id."},
		{name: "$ref", kind: "reference", mutability: "immutable", refers: "User Group", description: "The member's URL."},
		{name: "display", kind: "string", mutability: "readOnly", description: "The member's name."},
		{name: "type", kind: "string", mutability: "immutable", description: "User or Group."},
	}},
}

// isCoreSchema tells whether a URN is that of the core schemas, whose attributes lie at the top.
func isCoreSchema(urn string) bool {
	return strings.EqualFold(urn, userSchema) || strings.EqualFold(urn, groupSchema)
}

// canonical is an attribute's name in the letter case of its schema, or as it came where it is none of ours.
func canonical(name string) string {
	if a := coreTable.find(name); a != nil {
		return a.name
	}
	if strings.EqualFold(name, enterpriseSchema) {
		return enterpriseSchema
	}
	return name
}

// clean checks a value by its attribute's row and returns it as it is kept: without what is null, with the names
// of the schema, and with truth values where words stand for them. What the schema does not know stays as it came.
func (a *attribute) clean(v any) (any, error) {
	if !a.many {
		return a.cleanOne(v)
	}
	elements, ok := v.([]any)
	if !ok {
		return nil, badRequest(invalidValue, "%s must be a list", a.name)
	}
	kept := make([]any, 0, len(elements))
	for _, e := range elements {
		if e == nil {
			continue
		}
		c, err := a.cleanOne(e)
		if err != nil {
			return nil, badRequest(invalidValue, "in %s, %s", a.name, err.Error())
		}
		kept = append(kept, c)
	}
	return keepOnePrimary(kept, nil), nil
}

func (a *attribute) cleanOne(v any) (any, error) {
	switch a.kind {
	case "complex":
		if bare, ok := v.(string); ok && !a.many && a.sub.find("value") != nil { // some send a manager's id so
			v = object{"value": bare}
		}
		o, ok := v.(object)
		if !ok {
			return nil, badRequest(invalidValue, "an element of %s must be an object", a.name)
		}
		return a.sub.clean(o)
	case "boolean":
		if b, ok := truth(v); ok {
			return b, nil
		}
		return nil, badRequest(invalidValue, "%s must be true or false", a.name)
	}
	if _, ok := v.(string); !ok {
		return nil, badRequest(invalidValue, "%s must be a string", a.name)
	}
	return v, nil
}

// clean checks the members of an object, each by its row.
func (t table) clean(o object) (object, error) {
	kept := make(object, len(o))
	for name, v := range o {
		a := t.find(name)
		switch {
		case v == nil, strings.EqualFold(name, "password"):
		case a == nil:
			kept[name] = withoutPasswords(v)
		default:
			c, err := a.clean(v)
			if err != nil {
				return nil, err
			}
			kept[a.name] = c
		}
	}
	return kept, nil
}

// withoutPasswords is a value that no schema here knows, as it came: save that no password is kept, wherever it stands.
func withoutPasswords(v any) any {
	switch v := v.(type) {
	case object:
		for name, inner := range v {
			if strings.EqualFold(name, "password") {
				delete(v, name)
			} else {
				v[name] = withoutPasswords(inner)
			}
		}
	case []any:
		for i, inner := range v {
			v[i] = withoutPasswords(inner)
		}
	}
	return v
}

// describe writes the table as /Schemas has it (RFC 7643, section 7).
func describe(t table) []object {
	all := make([]object, len(t))
	for i, a := range t {
		o := object{
			"name": a.name, "type": a.kind, "multiValued": a.many, "description": a.description, "required": a.required,
			"mutability": or(a.mutability, "readWrite"), "returned": or(a.returned, "default"),
		}
		if a.kind == "string" || a.kind == "reference" {
			o["caseExact"] = a.caseExact || a.kind == "reference"
			o["uniqueness"] = or(a.uniqueness, "none")
		}
		if a.kind == "reference" {
			o["referenceTypes"] = strings.Split(or(a.refers, "external"), " ")
		}
		if a.kind == "binary" {
			o["caseExact"] = true
		}
		if a.sub != nil {
			o["subAttributes"] = describe(a.sub)
		}
		all[i] = o
	}
	return all
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
