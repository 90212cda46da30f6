package core

import (
	"encoding/binary"
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
	out, custom := map[string]any{}, map[string]any{}
	s.reads.Scan(func(name string, _ int) bool {
		if path, is := strings.CutPrefix(name, policy.CustomAttribute); is {
			if value := customAttribute(document(u.Attributes), path); value != nil {
				custom[path] = value
			}
		} else if value := attribute(u, name); value != nil {
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

// AppendAttributes appends to a key what a person's attributes of some names say: the same for those who have the same.
func AppendAttributes(key []byte, u *User, names []string) []byte {
	for _, name := range names {
		var value any
		if path, is := strings.CutPrefix(name, policy.CustomAttribute); is {
			value = customAttribute(document(u.Attributes), path)
		} else {
			value = attribute(u, name)
		}
		said, plain := value.(string)
		switch {
		case value == nil:
			key = append(key, 0)
			continue
		case !plain:
			data, _ := json.Marshal(value) // it came as JSON
			said = string(data)
		}
		key = binary.AppendUvarint(key, uint64(len(said))+1)
		key = append(key, said...)
	}
	return key
}

// attribute is one of SCIM's attributes as conditions read it; nil: the person has none.
func attribute(u *User, name string) any {
	provisioned := document(u.Attributes)
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
		return provisioned.member(enterprise).member(name).text()
	case "manager":
		manager := provisioned.member(enterprise).member(name)
		if value := manager.member("value"); value != nil {
			return value.text()
		}
		return manager.text()
	case "country":
		return primary(provisioned.member("addresses").value(), "country")
	case "emails", "roles", "entitlements":
		return texts(provisioned.member(name).value(), "value")
	}
	return provisioned.member(name).text()
}

// customAttribute is an attribute of another schema, by its path (RFC 7644, section 3.10): a plain value or a list of them.
func customAttribute(provisioned document, path string) any {
	i := strings.LastIndexByte(path, ':')
	switch v := provisioned.member(path[:i]).member(path[i+1:]).value().(type) {
	case string, bool, float64:
		return v
	case []any:
		if list := texts(v, "value"); list != nil {
			return list
		}
	}
	return nil
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
