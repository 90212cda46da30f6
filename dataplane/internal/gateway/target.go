package gateway

import (
	"strings"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/policy"
)

// target is what a message acts on.
type target struct {
	connector string
	// label is the policy's name for it, name the upstream's own.
	label, name string
}

// resourceLabel is the policy's name for a resource.
func resourceLabel(uri string) string { return policy.Label(policyv1.Kind_KIND_RESOURCE, uri) }

// targetOf says what a message acts on, at the endpoint where it came.
func targetOf(c *caller, m *mcp.Message) target {
	kind := policyv1.Kind_KIND_TOOL
	switch {
	case m.Method == mcp.MethodGetPrompt, m.Method == mcp.MethodComplete && m.RefType == mcp.RefPrompt:
		kind = policyv1.Kind_KIND_PROMPT
	case m.Method == mcp.MethodComplete:
		kind = policyv1.Kind_KIND_RESOURCE_TEMPLATE
	case m.Method == mcp.MethodReadResource, m.Method == mcp.MethodSubscribe, m.Method == mcp.MethodUnsubscribe:
		kind = policyv1.Kind_KIND_RESOURCE
	}
	t := target{connector: c.connector, name: m.Name}
	if t.connector == "" {
		t.connector, t.name = c.meant(kind, m.Name)
	}
	t.label = policy.Label(kind, t.name)
	return t
}

// meant is what a name stands for at the endpoint of all connectors.
func (c *caller) meant(kind policyv1.Kind, name string) (connector, own string) {
	if kind == policyv1.Kind_KIND_TOOL || kind == policyv1.Kind_KIND_PROMPT {
		if connector, own, ok := c.table.Named(kind, name); ok {
			return connector, own
		}
		// A name that means nothing is recorded as what it looks like, where that is nothing either.
		if connector, own, ok := strings.Cut(name, policy.NameSeparator); ok && c.table.Definition(connector, policy.Label(kind, own)) == nil {
			return connector, own
		}
		return "", name
	}
	// There is no end of URIs. A connector's id has no plus, so that the first one can mean one thing only.
	if connector, uri, ok := strings.Cut(name, policy.URISeparator); ok {
		return connector, uri
	}
	return "", name
}
