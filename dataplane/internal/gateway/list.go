package gateway

import (
	"net/http"
	"strings"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/policy"
)

// separator stands between connector and tool in the names of the endpoint of all connectors. A connector's
// id has no underscore, so that the first separator is the only one that can be meant.
const separator = "__"

// tools are those that the caller may use at the endpoint.
func (g *Gateway) tools(c *caller, x *exchange) []policy.Tool {
	if c.connector != "" {
		return c.table.List(x.ID, c.ClientID, c.connector, g.Region, g.Now())
	}
	return c.table.ListAll(x.ID, c.ClientID, g.Region, g.Now())
}

// list answers tools/list from the pinned catalogue: no upstream is asked.
func (g *Gateway) list(w http.ResponseWriter, x *exchange) {
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
	tools := g.tools(x.caller, x)
	definitions := make([][]byte, len(tools))
	for i, t := range tools {
		definitions[i] = t.Definition
		if x.connector != "" {
			continue
		}
		var err error
		if definitions[i], err = mcp.RenameTool(t.Definition, t.Connector+separator+t.Name); err != nil {
			g.Log.Error("a pinned definition cannot be read, which is not possible", "connector", t.Connector, "tool", t.Name, "error", err)
			mcp.WriteError(w, x.revision, x.message.ID, &mcp.Error{Code: mcp.CodeInternal, Message: "the list cannot be made: ask an administrator"})
			return
		}
	}
	mcp.WriteJSON(w, http.StatusOK, mcp.AppendTools(nil, x.message.ID, x.revision, definitions, "", 0))
}

// named is what a call's name means at the endpoint.
func named(c *caller, name string) (connector, tool string) {
	if c.connector != "" {
		return c.connector, name
	}
	connector, tool, ok := strings.Cut(name, separator)
	if !ok {
		return "", name
	}
	return connector, tool
}
