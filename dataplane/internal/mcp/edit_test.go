package mcp_test

import (
	"testing"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

func TestAnEditTouchesOnlyWhatItNames(t *testing.T) {
	const caps = `"io.modelcontextprotocol/clientCapabilities":{}`
	const version = `"io.modelcontextprotocol/protocolVersion":"2026-07-28"`
	for _, c := range []struct {
		name      string
		in        string
		edit      mcp.Edit
		out       string
		unchanged bool
	}{
		{"nothing", `{ "jsonrpc":"2.0", "id":1,"method":"ping" }`, mcp.Edit{}, `{ "jsonrpc":"2.0", "id":1,"method":"ping" }`, true},
		{"the same era", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{` + version + `,` + caps + `}}}`, mcp.Edit{Revision: "2026-07-28"},
			`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{` + version + `,` + caps + `}}}`, true},
		{"name and id", `{"params":{"name" : "gh__push","arguments":{"name":"x"}},"id":"a","jsonrpc":"2.0","method":"tools/call"}`, mcp.Edit{Name: "push", ID: []byte("7")},
			`{"params":{"name" : "push","arguments":{"name":"x"}},"id":7,"jsonrpc":"2.0","method":"tools/call"}`, false},
		{"to the stateless era, no params", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, mcp.Edit{Revision: "2026-07-28", ClientInfo: []byte(`{"name":"s"}`)},
			`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{` + version + `,` + caps + `,"io.modelcontextprotocol/clientInfo":{"name":"s"}}}}`, false},
		{"to the stateless era, empty params", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{ }}`, mcp.Edit{Revision: "2026-07-28"},
			`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{` + version + `,` + caps + `} }}`, false},
		{"to the stateless era, params", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}`, mcp.Edit{Revision: "2026-07-28"},
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{` + version + `,` + caps + `},"name":"a"}}`, false},
		{"to the stateless era, _meta", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"progressToken":"p"}}}`, mcp.Edit{Revision: "2026-07-28"},
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","_meta":{"progressToken":"p",` + version + `,` + caps + `}}}`, false},
		{"to the session era", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{` + caps + `,"progressToken":"p",` + version + `,"traceparent":"00"},"name":"a"}}`, mcp.Edit{Revision: "2025-11-25"},
			`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":"p","traceparent":"00"},"name":"a"}}`, false},
		{"a response's id", `{"jsonrpc":"2.0","result":{"id":9},"id":7}`, mcp.Edit{ID: []byte(`"a"`)}, `{"jsonrpc":"2.0","result":{"id":9},"id":"a"}`, false},
		{"a result to the stateless era", `{"jsonrpc":"2.0","result":{"content":[]},"id":7}`, mcp.Edit{ID: []byte(`"a"`), Revision: "2026-07-28"},
			`{"jsonrpc":"2.0","result":{"content":[],"resultType":"complete"},"id":"a"}`, false},
		{"an empty result to the stateless era", `{"jsonrpc":"2.0","id":7,"result":{ }}`, mcp.Edit{Revision: "2026-07-28"}, `{"jsonrpc":"2.0","id":7,"result":{ "resultType":"complete"}}`, false},
		{"a result that names its type", `{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete"}}`, mcp.Edit{Revision: "2026-07-28"}, `{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete"}}`, true},
		{"a result to the session era", `{"jsonrpc":"2.0","id":7,"result":{}}`, mcp.Edit{Revision: "2025-11-25"}, `{"jsonrpc":"2.0","id":7,"result":{}}`, true},
		{"an error to the stateless era", `{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}`, mcp.Edit{Revision: "2026-07-28"}, `{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":""}}`, true},
	} {
		var m mcp.Message
		if e := mcp.ReadMessage([]byte(c.in), strictjson.Limits{}, &m); e != nil {
			t.Fatalf("%s: %v", c.name, e)
		}
		if got := string(c.edit.Append(nil, &m)); got != c.out {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.out)
		}
		if c.edit.Changes(&m) == c.unchanged {
			t.Errorf("%s: Changes is %v", c.name, !c.unchanged)
		}
	}
}

func TestATaskHasAnotherNameWhereverItIsNamed(t *testing.T) {
	for in, out := range map[string]string{
		`{"taskId":"a","status":"working"}`:                                                              `{"taskId":"b","status":"working"}`,
		`{"task":{"ttl":1,"taskId":"a"},"x":"a"}`:                                                        `{"task":{"ttl":1,"taskId":"b"},"x":"a"}`,
		`{"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"a"},"y":{"taskId":"a"}}}`:           `{"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"b"},"y":{"taskId":"a"}}}`,
		`{"result":{"taskId":"a","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"\u0061"}}}}`: `{"result":{"taskId":"a","_meta":{"io.modelcontextprotocol/related-task":{"taskId":"b"}}}}`,
		`{"taskId":"c"}`: `{"taskId":"c"}`,
		`{"taskId":7,"task":"a","_meta":[],"result":null}`: `{"taskId":7,"task":"a","_meta":[],"result":null}`,
	} {
		if got := string(mcp.RenameTask([]byte(in), "a", "b")); got != out {
			t.Errorf("%s became %s", in, got)
		}
	}
}
