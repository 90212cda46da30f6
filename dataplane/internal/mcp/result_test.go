package mcp_test

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

func TestAnswersOnTheWire(t *testing.T) {
	s := mcp.Server{Name: "sallyport", Title: "Sallyport", Version: "1", Instructions: "Ask \"first\"."}
	id := []byte(`"a"`)
	tools := [][]byte{[]byte(`{"name":"x","inputSchema":{}}`), []byte(`{"name":"y","inputSchema":{}}`)}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"initialize": {mcp.AppendInitialize(nil, id, mcp.Revision20250618, s),
			`{"jsonrpc":"2.0","id":"a","result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"completions":{},"logging":{}},"serverInfo":{"name":"sallyport","title":"Sallyport","version":"1"},"instructions":"Ask \"first\"."}}`},
		"discover": {mcp.AppendDiscover(nil, id, mcp.Server{Name: "s", Version: "1"}, 90*time.Second),
			`{"jsonrpc":"2.0","id":"a","result":{"resultType":"complete","supportedVersions":["2026-07-28","2025-11-25","2025-06-18","2025-03-26"],"capabilities":{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"completions":{},"extensions":{"io.modelcontextprotocol/tasks":{}}},"ttlMs":90000,"cacheScope":"private","_meta":{"io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}}}}`},
		"tools, stateless": {mcp.AppendList(nil, id, mcp.Revision20260728, "tools", tools, "", 0),
			`{"jsonrpc":"2.0","id":"a","result":{"tools":[{"name":"x","inputSchema":{}},{"name":"y","inputSchema":{}}],"ttlMs":0,"cacheScope":"private","resultType":"complete"}}`},
		"tools, session": {mcp.AppendList(nil, id, mcp.Revision20251125, "tools", tools[:1], "p2", time.Second),
			`{"jsonrpc":"2.0","id":"a","result":{"tools":[{"name":"x","inputSchema":{}}],"nextCursor":"p2"}}`},
		"no tools":   {mcp.AppendList(nil, id, mcp.Revision20251125, "tools", nil, "", 0), `{"jsonrpc":"2.0","id":"a","result":{"tools":[]}}`},
		"pong":       {mcp.AppendPong(nil, id), `{"jsonrpc":"2.0","id":"a","result":{}}`},
		"tool error": {mcp.AppendToolError(nil, id, mcp.Revision20251125, "no"), `{"jsonrpc":"2.0","id":"a","result":{"content":[{"type":"text","text":"no"}],"isError":true}}`},
		"tool error, stateless": {mcp.AppendToolError(nil, id, mcp.Revision20260728, "no"),
			`{"jsonrpc":"2.0","id":"a","result":{"content":[{"type":"text","text":"no"}],"isError":true,"resultType":"complete"}}`},
		"changed": {mcp.AppendListChanged(nil, mcp.NotifyToolsChanged, nil), `{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}`},
		"changed, subscribed": {mcp.AppendListChanged(nil, mcp.NotifyToolsChanged, id),
			`{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"a"}}}`},
		"subscribed": {mcp.AppendSubscribed(nil, id, mcp.Filter{ToolsChanged: true, Resources: []string{"a:b"}}),
			`{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":"a"},"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a:b"]}}}`},
		"subscription's end": {mcp.AppendSubscriptionEnd(nil, id), `{"jsonrpc":"2.0","id":"a","result":{"resultType":"complete","_meta":{"io.modelcontextprotocol/subscriptionId":"a"}}}`},
		"cancelled":          {mcp.AppendCancelled(nil, id, "gone"), `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a","reason":"gone"}}`},
	} {
		var got, want any
		if err := strictjson.Validate(c.got, strictjson.Limits{}); err != nil {
			t.Fatalf("%s: %v: %s", name, err, c.got)
		}
		if json.Unmarshal(c.got, &got) != nil || json.Unmarshal([]byte(c.want), &want) != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", name, c.got, c.want)
		}
	}
}

func TestAFilterIsRead(t *testing.T) {
	for params, want := range map[string]*mcp.Filter{
		`{"notifications":{"toolsListChanged":true,"resourceSubscriptions":["a"]}}`:  {ToolsChanged: true, Resources: []string{"a"}},
		`{"notifications":{"promptsListChanged":true,"resourcesListChanged":false}}`: {PromptsChanged: true},
		`{"notifications":{}}`: {},
		`{}`:                   nil,
		`{"notifications":[]}`: nil,
		`{"notifications":{"toolsListChanged":1}}`:        nil,
		`{"notifications":{"resourceSubscriptions":[1]}}`: nil,
		`{"notifications":{"resourceSubscriptions":"a"}}`: nil,
	} {
		got, e := mcp.ReadFilter(&mcp.Message{Params: []byte(params)}, strictjson.Limits{})
		if (e == nil) != (want != nil) || want != nil && !reflect.DeepEqual(got, *want) {
			t.Errorf("%s: %+v, %v", params, got, e)
		}
	}
}
