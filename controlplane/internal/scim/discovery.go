package scim

import (
	"net/http"
	"strings"
)

// getServiceProviderConfig says what this server offers (RFC 7643, section 5).
func getServiceProviderConfig(r *request) error {
	writeJSON(r.w, http.StatusOK, object{
		"schemas":        []string{"urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"},
		"patch":          object{"supported": true},
		"bulk":           object{"supported": true, "maxOperations": maxBulk, "maxPayloadSize": r.server.config.MaxBody},
		"filter":         object{"supported": true, "maxResults": maxCount},
		"changePassword": object{"supported": false},
		"sort":           object{"supported": true},
		"pagination": object{
			"cursor": true, "index": true, "defaultPaginationMethod": "index", "defaultPageSize": defaultCount, "maxPageSize": maxCount,
		},
		"etag": object{"supported": true},
		"authenticationSchemes": []object{
			{"type": "oauthbearertoken", "name": "Bearer token", "description": "A SCIM token of a directory in the Authorization header.", "primary": true},
			{"type": "httpbasic", "name": "Basic", "description": "Any user name, and a SCIM token of a directory as the password."},
		},
		"meta": object{"resourceType": "ServiceProviderConfig", "location": r.base + "/ServiceProviderConfig"},
	})
	return nil
}

func (r *request) resourceTypes() []object {
	kind := func(name, endpoint, schema, description string, extensions []object) object {
		return object{
			"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:ResourceType"},
			"id":      name, "name": name, "endpoint": endpoint, "description": description, "schema": schema, "schemaExtensions": extensions,
			"meta": object{"resourceType": "ResourceType", "location": r.base + "/ResourceTypes/" + name},
		}
	}
	return []object{
		kind("User", "/Users", userSchema, "A person.", []object{{"schema": enterpriseSchema, "required": false}}),
		kind("Group", "/Groups", groupSchema, "A group of people and groups.", []object{}),
	}
}

func (r *request) schemas() []object {
	kind := func(urn, name, description string, attributes table) object {
		return object{
			"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:Schema"},
			"id":      urn, "name": name, "description": description, "attributes": describe(attributes),
			"meta": object{"resourceType": "Schema", "location": r.base + "/Schemas/" + urn},
		}
	}
	return []object{
		kind(userSchema, "User", "A person.", userAttributes),
		kind(enterpriseSchema, "EnterpriseUser", "What organisations say of a person.", enterpriseAttributes),
		kind(groupSchema, "Group", "A group of people and groups.", groupAttributes),
	}
}

func listResourceTypes(r *request) error { return r.answerDiscovery(r.resourceTypes()) }

func listSchemas(r *request) error { return r.answerDiscovery(r.schemas()) }

func getResourceType(r *request) error { return r.answerOne(r.resourceTypes()) }

func getSchema(r *request) error { return r.answerOne(r.schemas()) }

// answerDiscovery lists documents. They are not filtered: such a request must be refused (RFC 7644, section 4).
func (r *request) answerDiscovery(all []object) error {
	if r.values.Has("filter") {
		return &scimError{status: http.StatusForbidden, detail: "this list cannot be filtered"}
	}
	writeJSON(r.w, http.StatusOK, object{"schemas": []string{listSchema}, "totalResults": len(all), "startIndex": 1, "itemsPerPage": len(all), "Resources": all})
	return nil
}

func (r *request) answerOne(all []object) error {
	for _, o := range all {
		if strings.EqualFold(o["id"].(string), r.PathValue("id")) {
			writeJSON(r.w, http.StatusOK, o)
			return nil
		}
	}
	return notFound("there is no %q", short(r.PathValue("id")))
}
