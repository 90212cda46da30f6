package scim

import "strings"

const (
	userSchema       = "urn:ietf:params:scim:schemas:core:2.0:User"
	groupSchema      = "urn:ietf:params:scim:schemas:core:2.0:Group"
	enterpriseSchema = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
)

// attribute is one row of the schema table, from which input is read and /Schemas is written.
type attribute struct {
	name        string
	kind        string // string, boolean, complex, reference, binary
	many        bool
	mutability  string // default readWrite
	returned    string // default default
	uniqueness  string // default none
	caseExact   bool
	required    bool
	description string
	sub         []attribute
}

// valued is the shape that most multi-valued attributes share (RFC 7643, section 2.4).
func valued(name, description string) attribute {
	return attribute{name: name, kind: "complex", many: true, description: description, sub: []attribute{
		{name: "value", kind: "string", description: "The value."},
		{name: "display", kind: "string", description: "The value as people read it."},
		{name: "type", kind: "string", description: "What the value is for, such as work or home."},
		{name: "primary", kind: "boolean", description: "Whether this is the preferred value. At most one is."},
	}}
}

func plain(name, description string) attribute {
	return attribute{name: name, kind: "string", description: description}
}

var userAttributes = []attribute{
	{name: "userName", kind: "string", required: true, uniqueness: "server", description: "What the person signs in as; unique in the directory, whatever the letter case."},
	{name: "name", kind: "complex", description: "The parts of the person's name.", sub: []attribute{
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
	valued("photos", "Pictures, by URL."),
	{name: "addresses", kind: "complex", many: true, description: "Postal addresses.", sub: []attribute{
		plain("formatted", "The whole address."), plain("streetAddress", "The street with its number."), plain("locality", "The city."),
		plain("region", "The state or region."), plain("postalCode", "The postal code."), plain("country", "ISO 3166-1 alpha-2."),
		plain("type", "Such as work or home."), {name: "primary", kind: "boolean", description: "Whether this is the preferred address."},
	}},
	{name: "groups", kind: "complex", many: true, mutability: "readOnly", description: "The groups of which the user is directly a member.", sub: []attribute{
		{name: "value", kind: "string", mutability: "readOnly", description: "The group's id."},
		{name: "$ref", kind: "reference", mutability: "readOnly", description: "The group's URL."},
		{name: "display", kind: "string", mutability: "readOnly", description: "The group's displayName."},
		{name: "type", kind: "string", mutability: "readOnly", description: "direct."},
	}},
	valued("entitlements", "What the person is entitled to, in the directory's words."),
	valued("roles", "Roles, in the directory's words."),
	valued("x509Certificates", "Certificates of the person."),
}

var enterpriseAttributes = []attribute{
	plain("employeeNumber", "The number that the organisation gave the person."),
	plain("costCenter", "The cost centre."), plain("organization", "The organisation."),
	plain("division", "The division."), plain("department", "The department."),
	{name: "manager", kind: "complex", description: "Whom the person reports to.", sub: []attribute{
		plain("value", "The manager's id."), {name: "$ref", kind: "reference", description: "The manager's URL."}, plain("displayName", "The manager's name."),
	}},
}

var groupAttributes = []attribute{
	{name: "displayName", kind: "string", required: true, description: "The name as people read it. Two groups may share one."},
	{name: "members", kind: "complex", many: true, description: "Users and groups that are directly members.", sub: []attribute{
		{name: "value", kind: "string", mutability: "immutable", description: "The member's id."},
		{name: "$ref", kind: "reference", mutability: "immutable", description: "The member's URL."},
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
	for _, table := range [][]attribute{userAttributes, groupAttributes} {
		for _, a := range table {
			if strings.EqualFold(a.name, name) {
				return a.name
			}
		}
	}
	for _, common := range []string{"externalId", "schemas", enterpriseSchema} {
		if strings.EqualFold(common, name) {
			return common
		}
	}
	return name
}

func known(table []attribute, name string) *attribute {
	for i, a := range table {
		if strings.EqualFold(a.name, name) {
			return &table[i]
		}
	}
	return nil
}

// describe writes the table as /Schemas has it (RFC 7643, section 7).
func describe(table []attribute) []object {
	all := make([]object, len(table))
	for i, a := range table {
		o := object{
			"name": a.name, "type": a.kind, "multiValued": a.many, "description": a.description, "required": a.required,
			"mutability": or(a.mutability, "readWrite"), "returned": or(a.returned, "default"),
		}
		if a.kind == "string" || a.kind == "reference" {
			o["caseExact"] = a.caseExact || a.kind == "reference"
			o["uniqueness"] = or(a.uniqueness, "none")
		}
		if a.kind == "reference" {
			o["referenceTypes"] = []string{"external"}
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
