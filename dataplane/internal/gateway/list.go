package gateway

import (
	"cmp"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/policy"
)

// listing is one of the lists that a server has, and the result's member that it is.
type listing struct {
	kind   policyv1.Kind
	member string
}

var listings = map[string]listing{
	mcp.MethodListTools:             {policyv1.Kind_KIND_TOOL, "tools"},
	mcp.MethodListPrompts:           {policyv1.Kind_KIND_PROMPT, "prompts"},
	mcp.MethodListResources:         {policyv1.Kind_KIND_RESOURCE, "resources"},
	mcp.MethodListResourceTemplates: {policyv1.Kind_KIND_RESOURCE_TEMPLATE, "resourceTemplates"},
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
	if x.connector != "" {
		if _, known := x.table.Connector(x.connector); !known {
			g.refused(x.caller, x.message.Method, auditv1.Reason_REASON_TOOL_UNKNOWN)
			mcp.WriteError(w, x.revision, x.message.ID, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "there is no such connector here", Status: http.StatusNotFound})
			return
		}
	}
	offered, next, ok := g.page(g.offered(x, l.kind), x.message.Cursor)
	if !ok {
		mcp.WriteError(w, x.revision, x.message.ID, mcp.InvalidParams("the cursor is not one that this server gave"))
		return
	}
	definitions := make([][]byte, 0, len(offered))
	for _, t := range offered {
		definition := t.Definition
		if x.connector == "" {
			definition = t.ExposedDefinition()
		}
		if definition != nil {
			definitions = append(definitions, definition)
		}
	}
	mcp.WriteJSON(w, http.StatusOK, mcp.AppendList(nil, x.message.ID, x.revision, l.member, definitions, next, 0))
}

// page cuts a list to the page that a cursor, raw, asks for. A cursor tells what was shown last, so that it stays good when the list
// changes; what it tells is no secret, and gives nobody anything that is not in the list.
func (g *Gateway) page(all []policy.Tool, cursor []byte) (page []policy.Tool, next string, ok bool) {
	if len(cursor) > 0 {
		text, _ := strictjson.Text(cursor)
		plain, err := base64.RawURLEncoding.DecodeString(text)
		connector, name, found := strings.Cut(string(plain), "\x00")
		if err != nil || !found {
			return nil, "", false
		}
		from, shown := slices.BinarySearchFunc(all, [2]string{connector, name}, func(t policy.Tool, last [2]string) int {
			return cmp.Or(strings.Compare(t.Connector, last[0]), strings.Compare(t.Name, last[1]))
		})
		if shown {
			from++
		}
		all = all[from:]
	}
	if len(all) <= g.PageSize {
		return all, "", true
	}
	last := all[g.PageSize-1]
	return all[:g.PageSize], base64.RawURLEncoding.EncodeToString([]byte(last.Connector + "\x00" + last.Name)), true
}
