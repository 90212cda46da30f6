package gateway

import (
	"cmp"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"sync"

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
	return x.table.Offers(kind, x.asks(g.Region, x.connector, "", g.Now()))
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
	// The same list is asked for again and again: by each agent of the person, and by all who are in the same groups.
	key, same := x.table.ListKey(x.ID, g.Now())
	of := listKey{key, l.kind, x.connector}
	if same && len(x.message.Cursor) == 0 {
		if array := g.lists.get(of); array != nil {
			g.listed(x, array.plain)
			x.write(w, l.member, array, "")
			return
		}
	}
	whole := g.offered(x, l.kind)
	if g.FindTools > 0 && l.kind == policyv1.Kind_KIND_TOOL && x.connector == "" && len(whole) > g.FindTools {
		g.listed(x, mcp.AppendArray(nil, finders))
		mcp.WriteJSON(w, http.StatusOK, mcp.AppendList(nil, x.message.ID, x.revision, l.member, finders, "", 0))
		return
	}
	offered, next, ok := g.page(whole, x.message.Cursor)
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
	array := &packed{plain: mcp.AppendArray(nil, definitions)}
	if same && len(x.message.Cursor) == 0 && next == "" {
		array.pack()
		g.lists.put(of, array)
	}
	g.listed(x, array.plain)
	x.write(w, l.member, array, next)
}

// write answers with a list's array, compressed where it is and the agent takes that.
func (x *exchange) write(w http.ResponseWriter, member string, array *packed, next string) {
	before, after := mcp.AroundList(x.message.ID, x.revision, member, next, 0)
	if array.deflated != nil && acceptsGzip(x.header["Accept-Encoding"]) {
		head, tail := array.gzip(before, after)
		mcp.WriteList(w, true, head, array.deflated, tail)
		return
	}
	mcp.WriteList(w, false, before, array.plain, after)
}

// listKey is what a list is of. The table keeps its place for as long as the proxy has the same log: an older one's keys never come again.
type listKey struct {
	policy.ListKey
	kind      policyv1.Kind
	connector string
}

// kept are the arrays of lists that fit one page.
type kept struct {
	mu    sync.RWMutex
	all   map[listKey]*packed
	bytes int
}

// keptBytes bounds what is kept. When it is full all is made anew.
const keptBytes = 64 << 20

func (k *kept) get(key listKey) *packed {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.all[key]
}

func (k *kept) put(key listKey, array *packed) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.bytes+array.size() > keptBytes || k.all == nil {
		k.all, k.bytes = map[listKey]*packed{}, 0
	}
	if array.size() > keptBytes {
		return
	}
	if old := k.all[key]; old != nil {
		k.bytes -= old.size()
	}
	k.bytes += array.size()
	k.all[key] = array
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
