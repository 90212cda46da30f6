package gateway

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"unicode"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/policy"
)

// Where the endpoint of all connectors has more tools for a person than a client can take, and an admin said so (Config.FindTools), it
// lists two of its own in their place: one finds tools, the other calls what was found. A call by it is decided and recorded as the call
// that it stands for. No other name there can be one of these: each has a connector's before it.

const (
	findTools = "find_tools"
	callTool  = "call_tool"
)

// finders are the definitions of the two.
var finders = [][]byte{
	[]byte(`{"name":"` + findTools + `","title":"Find tools","description":"This server has more tools than a list can hold. Finds those that fit words of their name or description, and returns their definitions. Call one of them by ` + callTool + `.",` +
		`"inputSchema":{"type":"object","properties":{"query":{"type":"string","description":"Words to look for, such as: pull request review"},"limit":{"type":"integer","minimum":1,"maximum":50,"description":"Most tools to return. Default: 10"}},"required":["query"],"additionalProperties":false},` +
		`"annotations":{"readOnlyHint":true,"openWorldHint":false}}`),
	[]byte(`{"name":"` + callTool + `","title":"Call a tool","description":"Calls a tool that ` + findTools + ` found, with arguments that fit its input schema.",` +
		`"inputSchema":{"type":"object","properties":{"name":{"type":"string","description":"The tool's name, as ` + findTools + ` gave it"},"arguments":{"type":"object","description":"The tool's arguments"}},"required":["name"],"additionalProperties":false}}`),
}

const (
	foundByDefault = 10
	foundAtMost    = 50
	maxQuery       = 1000
)

// finding tells whether a call is of one of the two.
func (g *Gateway) finding(x *exchange) bool {
	m := x.message
	return g.FindTools > 0 && x.connector == "" && m.Method == mcp.MethodCallTool && (m.Name == findTools || m.Name == callTool)
}

// find answers a call of one of the two.
func (g *Gateway) find(w http.ResponseWriter, r *http.Request, x *exchange) {
	values, err := strictjson.Decode(x.message.Arguments, g.JSON)
	arguments, ok := values.(map[string]any)
	refuse := func(why string) {
		g.refused(x.caller, x.message.Method, auditv1.Reason_REASON_ARGUMENTS_INVALID)
		mcp.WriteJSON(w, http.StatusOK, mcp.AppendToolError(nil, x.message.ID, x.revision, why))
	}
	if err != nil || !ok {
		refuse("the arguments cannot be read")
		return
	}
	if x.message.Name == callTool {
		name, ok := arguments["name"].(string)
		inner, isObject := arguments["arguments"].(map[string]any)
		if !ok || !isObject && arguments["arguments"] != nil || name == findTools || name == callTool {
			refuse(`"name" must be that of a tool that ` + findTools + ` found, and "arguments" an object`)
			return
		}
		m, e := mcp.CallOf(x.message, name, inner != nil, g.JSON)
		if e != nil {
			refuse(e.Message)
			return
		}
		x.message, x.found = m, true
		g.Call(w, r, x)
		return
	}
	query, ok := arguments["query"].(string)
	limit := float64(foundByDefault)
	if arguments["limit"] != nil {
		limit, _ = arguments["limit"].(float64)
	}
	words := wordsOf(query)
	if !ok || len(query) > maxQuery || len(words) == 0 || limit < 1 || limit > foundAtMost || limit != float64(int(limit)) {
		refuse(`"query" must hold words to look for, and "limit" be 1 to 50`)
		return
	}
	found := search(x.table.List(x.asks(g.Region, "", "", g.Now())), words, int(limit))
	mcp.WriteJSON(w, http.StatusOK, mcp.AppendFound(nil, x.message.ID, x.revision, mcp.AppendArray(nil, found)))
}

func wordsOf(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
}

// search returns the definitions of the tools that fit best: by how many of the words they have, then by where, then in the order given.
func search(all []policy.Tool, words []string, limit int) [][]byte {
	type match struct {
		tool        policy.Tool
		hits, score int
	}
	var matches []match
	for _, t := range all {
		m := match{tool: t}
		name := strings.ToLower(t.Exposed())
		parts := wordsOf(name)
		told := strings.ToLower(mcp.Described(t.Definition))
		for _, word := range words {
			score := 0
			switch {
			case slices.Contains(parts, word):
				score = 4
			case strings.Contains(name, word):
				score = 2
			}
			if strings.Contains(told, word) {
				score++
			}
			if score > 0 {
				m.hits++
				m.score += score
			}
		}
		if m.hits > 0 {
			matches = append(matches, m)
		}
	}
	slices.SortStableFunc(matches, func(a, b match) int { return cmp.Or(b.hits-a.hits, b.score-a.score) })
	var found [][]byte
	for _, m := range matches[:min(len(matches), limit)] {
		if definition := m.tool.ExposedDefinition(); definition != nil {
			found = append(found, definition)
		}
	}
	return found
}
