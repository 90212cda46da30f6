package gateway

import (
	"strings"

	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/policy"
)

// separator stands between connector and name in the names of tools and prompts at the endpoint of all connectors, and
// uriSeparator between connector and URI. A connector's id has neither an underscore nor a plus.
const (
	separator    = "__"
	uriSeparator = "+"
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
	kind, between := policyv1.Kind_KIND_TOOL, separator
	switch {
	case m.Method == mcp.MethodGetPrompt, m.Method == mcp.MethodComplete && m.RefType == mcp.RefPrompt:
		kind = policyv1.Kind_KIND_PROMPT
	case m.Method == mcp.MethodComplete:
		kind, between = policyv1.Kind_KIND_RESOURCE_TEMPLATE, uriSeparator
	case m.Method == mcp.MethodReadResource, m.Method == mcp.MethodSubscribe, m.Method == mcp.MethodUnsubscribe:
		kind, between = policyv1.Kind_KIND_RESOURCE, uriSeparator
	}
	t := target{connector: c.connector, name: m.Name}
	if t.connector == "" {
		var ok bool
		if t.connector, t.name, ok = strings.Cut(m.Name, between); !ok {
			t.connector, t.name = "", m.Name
		}
	}
	t.label = policy.Label(kind, t.name)
	return t
}
