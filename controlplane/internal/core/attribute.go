package core

import (
	"encoding/json"
	"strings"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"
)

// Proxies are sent those attributes of people that some rule's condition reads, and no others.

// enterprise is the schema of SCIM's enterprise attributes (RFC 7643, section 4.3).
const enterprise = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"

// countReads counts the rules that read an attribute, up or down.
func (s *State) countReads(rules []*policyv1.Rule, by int) {
	for _, r := range rules {
		for _, name := range policy.AttributesRead(r) {
			n, _ := s.reads.Get(name)
			if n += by; n == 0 {
				s.reads.Delete(name)
			} else {
				s.reads.Set(name, n)
			}
		}
	}
}

// sameReads tells whether two states' rules read the same attributes.
func sameReads(a, b *State) bool {
	if a.reads.Len() != b.reads.Len() {
		return false
	}
	same := true
	a.reads.Scan(func(name string, _ int) bool {
		_, same = b.reads.Get(name)
		return same
	})
	return same
}

// AttributesOf are the attributes of a person that rules read, as proxies get them: a JSON object, or nothing.
func (s *State) AttributesOf(u *User) []byte {
	if s.reads.Len() == 0 {
		return nil
	}
	var provisioned map[string]any
	_ = json.Unmarshal(u.Attributes, &provisioned) // none, or what SCIM took in as JSON
	out, custom := map[string]any{}, map[string]any{}
	s.reads.Scan(func(name string, _ int) bool {
		if path, is := strings.CutPrefix(name, policy.CustomAttribute); is {
			if value := customAttribute(provisioned, path); value != nil {
				custom[path] = value
			}
		} else if value := attribute(u, provisioned, name); value != nil {
			out[name] = value
		}
		return true
	})
	if len(custom) > 0 {
		out["custom"] = custom
	}
	if len(out) == 0 {
		return nil
	}
	data, err := json.Marshal(out) // keys come sorted
	if err != nil {
		return nil
	}
	return data
}

// attribute is one of SCIM's attributes as conditions read it; nil: the person has none.
func attribute(u *User, provisioned map[string]any, name string) any {
	switch name {
	case "userName":
		return text(u.UserName)
	case "displayName":
		return text(u.DisplayName)
	case "externalId":
		return text(u.ExternalID)
	case "email":
		return text(u.Email)
	case "department", "division", "organization", "costCenter", "employeeNumber":
		return text(member(provisioned, enterprise, name))
	case "manager":
		if m, ok := member(provisioned, enterprise, name).(map[string]any); ok {
			return text(m["value"])
		}
		return text(member(provisioned, enterprise, name))
	case "country":
		return text(primary(named(provisioned, "addresses"), "country"))
	case "emails", "roles", "entitlements":
		return texts(named(provisioned, name), "value")
	}
	return text(named(provisioned, name))
}

// customAttribute is an attribute of another schema, by its path (RFC 7644, section 3.10): a plain value or a list of them.
func customAttribute(provisioned map[string]any, path string) any {
	i := strings.LastIndexByte(path, ':')
	switch v := member(provisioned, path[:i], path[i+1:]).(type) {
	case string, bool, float64:
		return v
	case []any:
		if list := texts(v, "value"); list != nil {
			return list
		}
	}
	return nil
}

// member is an attribute of a schema's extension. SCIM's names do not mind letter case.
func member(provisioned map[string]any, schema, name string) any {
	extension, _ := named(provisioned, schema).(map[string]any)
	return named(extension, name)
}

// named is a member by its name in any letter case: the one written so, or else the first of those that are there.
func named(members map[string]any, name string) any {
	if value, ok := members[name]; ok {
		return value
	}
	least := ""
	for key := range members {
		if strings.EqualFold(key, name) && (least == "" || key < least) {
			least = key
		}
	}
	return members[least]
}

func text(v any) any {
	if s, ok := v.(string); ok && s != "" {
		return s
	}
	return nil
}

// texts are the values of a list, plain or complex.
func texts(v any, of string) any {
	list, _ := v.([]any)
	var out []string
	for _, one := range list {
		if complex, ok := one.(map[string]any); ok {
			one = complex[of]
		}
		if s, ok := one.(string); ok && s != "" {
			out = append(out, s)
		}
	}
	if out == nil {
		return nil
	}
	return out
}

// primary is a sub-attribute of a list's primary value, or else of its first.
func primary(v any, of string) any {
	list, _ := v.([]any)
	var first any
	for _, one := range list {
		c, ok := one.(map[string]any)
		if !ok {
			continue
		}
		if c["primary"] == true {
			return c[of]
		}
		if first == nil {
			first = c[of]
		}
	}
	return first
}
