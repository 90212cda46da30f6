package gateway

import (
	"net/http"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/policy"
)

// listing is one of the lists that a server has.
type listing struct {
	kind policyv1.Kind
	// member is the result's, of definition by key: what names one of them, and what stands between a connector and that.
	member, key, between string
}

var listings = map[string]listing{
	mcp.MethodListTools:             {policyv1.Kind_KIND_TOOL, "tools", "name", separator},
	mcp.MethodListPrompts:           {policyv1.Kind_KIND_PROMPT, "prompts", "name", separator},
	mcp.MethodListResources:         {policyv1.Kind_KIND_RESOURCE, "resources", "uri", uriSeparator},
	mcp.MethodListResourceTemplates: {policyv1.Kind_KIND_RESOURCE_TEMPLATE, "resourceTemplates", "uriTemplate", uriSeparator},
}

// offered are those of a kind that the caller may use at the endpoint.
func (g *Gateway) offered(x *exchange, kind policyv1.Kind) []policy.Tool {
	switch {
	case kind != policyv1.Kind_KIND_TOOL:
		return x.table.Offers(kind, x.ID, x.ClientID, x.connector, g.Region, g.Now())
	case x.connector != "":
		return x.table.List(x.ID, x.ClientID, x.connector, g.Region, g.Now())
	}
	return x.table.ListAll(x.ID, x.ClientID, g.Region, g.Now())
}

// list answers a list from the pinned catalogue: no upstream is asked.
func (g *Gateway) list(w http.ResponseWriter, x *exchange, l listing) {
	if len(x.message.Cursor) > 0 { // every list is one page
		mcp.WriteError(w, x.revision, x.message.ID, mcp.InvalidParams("the cursor is not one that this server gave"))
		return
	}
	if x.connector != "" {
		if _, known := x.table.Connector(x.connector); !known {
			g.refused(x.caller, x.message.Method, auditv1.Reason_REASON_TOOL_UNKNOWN)
			mcp.WriteError(w, x.revision, x.message.ID, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "there is no such connector here", Status: http.StatusNotFound})
			return
		}
	}
	offered := g.offered(x, l.kind)
	definitions := make([][]byte, len(offered))
	for i, t := range offered {
		definitions[i] = t.Definition
		if x.connector != "" {
			continue
		}
		var err error
		if definitions[i], err = mcp.Rename(t.Definition, l.key, t.Connector+l.between+t.Name); err != nil {
			g.Log.Error("a pinned definition cannot be read, which is not possible", "connector", t.Connector, "name", t.Name, "error", err)
			mcp.WriteError(w, x.revision, x.message.ID, &mcp.Error{Code: mcp.CodeInternal, Message: "the list cannot be made: ask an administrator"})
			return
		}
	}
	mcp.WriteJSON(w, http.StatusOK, mcp.AppendList(nil, x.message.ID, x.revision, l.member, definitions, "", 0))
}
