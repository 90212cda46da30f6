package mcp_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

const statelessMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// headers makes a header from names and values by turns.
func headers(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

func stateless(pairs ...string) http.Header {
	return headers(append([]string{"MCP-Protocol-Version", "2026-07-28"}, pairs...)...)
}

func TestAMessageIsSpansOfWhatCame(t *testing.T) {
	body := []byte(` {"id" : "x1","params":{"arguments":{"a":[1]},"name":"push\u005ffiles",` +
		`"_meta":{"progressToken":7,"traceparent":"00-1-2-03","io.modelcontextprotocol/protocolVersion":"2026-07-28",` +
		`"io.modelcontextprotocol/clientCapabilities":{"roots":{}},"io.modelcontextprotocol/clientInfo":{"name":"a"},"other":1}},` +
		`"method":"tools/call","jsonrpc":"2.0"} `)
	var p mcp.Post
	h := stateless("Mcp-Method", "tools/call", "Mcp-Name", "push_files")
	if e := p.Read(h, body, strictjson.Limits{}); e != nil {
		t.Fatal(e)
	}
	if p.Batch || len(p.Messages) != 1 || p.Revision != mcp.Revision20260728 {
		t.Fatalf("%+v", p)
	}
	m := p.Messages[0]
	for what, pair := range map[string][2]string{
		"kind and method": {string(rune('0'+m.Kind)) + m.Method, "1tools/call"},
		"id":              {string(m.ID), `"x1"`},
		"name":            {m.Name, "push_files"},
		"arguments":       {string(m.Arguments), `{"a":[1]}`},
		"token":           {string(m.Meta.ProgressToken), "7"},
		"trace":           {m.Meta.TraceParent, "00-1-2-03"},
		"revision":        {m.Meta.Revision, "2026-07-28"},
		"capabilities":    {string(m.Meta.Capabilities), `{"roots":{}}`},
		"client":          {string(m.Meta.ClientInfo), `{"name":"a"}`},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s: %q, want %q", what, pair[0], pair[1])
		}
	}
	if string(p.ID()) != `"x1"` {
		t.Errorf("ID: %s", p.ID())
	}
}

func TestKindsOfMessage(t *testing.T) {
	for body, kind := range map[string]mcp.Kind{
		`{"jsonrpc":"2.0","id":-7,"method":"ping"}`:                             mcp.Request,
		`{"jsonrpc":"2.0","id":"","method":"custom/thing","params":{"x":1}}`:    mcp.Request,
		`{"jsonrpc":"2.0","method":"notifications/initialized"}`:                mcp.Notification,
		`{"jsonrpc":"2.0","id":3,"result":{}}`:                                  mcp.Response,
		`{"jsonrpc":"2.0","id":3,"error":{"code":-1,"message":"no"}}`:           mcp.Response,
		`{"jsonrpc":"2.0","error":{"code":-1,"message":"no"}}`:                  mcp.Response,
		`{"json\u0072pc":"2.0","id":9007199254740993,"method":"p\u0069ng"}`:     mcp.Request,
		`{"jsonrpc":"2.0","id":1,"method":"ping","unknown":{"JSONRPC":[1,{}]}}`: mcp.Request,
	} {
		var m mcp.Message
		if e := mcp.ReadMessage([]byte(body), strictjson.Limits{}, &m); e != nil {
			t.Errorf("%s: %v", body, e)
		} else if m.Kind != kind {
			t.Errorf("%s: kind %d, want %d", body, m.Kind, kind)
		}
	}
}

func TestMessagesWithAnotherReadingAreRefused(t *testing.T) {
	for body, code := range map[string]int{
		``:         mcp.CodeParse,
		`{"a":1,}`: mcp.CodeParse,
		`"x"`:      mcp.CodeInvalidRequest,
		`7`:        mcp.CodeInvalidRequest,
		`{}`:       mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping"} {}`:                                                          mcp.CodeParse,
		`{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}`:                                       mcp.CodeParse,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}`:                 mcp.CodeParse,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":{"y":1,"y":2}}}}`: mcp.CodeParse,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"a\u0000":1}}}`:                            mcp.CodeParse,
		`{"jsonrpc":"2.0","id":1,"method":"ping","Method":"tools/call"}`:                                       mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","paramſ":{}}`:                                                 mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","re\u017fult":{}}`:                                            mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Arguments":{}}}`:                  mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","NAME":"b"}}`:                      mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_Meta":{}}}`:                                       mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"ProgressToken":1}}}`:                      mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToKen":1}}}`:                      mcp.CodeInvalidRequest,
		`{"id":1,"method":"ping"}`:                                                              mcp.CodeInvalidRequest,
		`{"jsonrpc":"1.0","id":1,"method":"ping"}`:                                              mcp.CodeInvalidRequest,
		`{"jsonrpc":2.0,"id":1,"method":"ping"}`:                                                mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":null,"method":"ping"}`:                                           mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":{},"method":"ping"}`:                                             mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":[1],"method":"ping"}`:                                            mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":true,"method":"ping"}`:                                           mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1.5,"method":"ping"}`:                                            mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1.0,"method":"ping"}`:                                            mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1e3,"method":"ping"}`:                                            mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":-0,"method":"ping"}`:                                             mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":9223372036854775808,"method":"ping"}`:                            mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":"` + strings.Repeat("x", 1100) + `","method":"ping"}`:            mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":7}`:                                                   mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":""}`:                                                  mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}`:                                  mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`:                                       mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","result":{}}`:                                                         mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"result":7}`:                                                   mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1}`:                                                              mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}`:                                  mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":null}`:                                mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":7}}`:                         mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"progressToken":1.5}}}`:     mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"traceparent":1}}}`:         mcp.CodeInvalidRequest,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":[]}}`:   mcp.CodeInvalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":null}}`: mcp.CodeInvalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":"{}"}}`: mcp.CodeInvalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}`:                    mcp.CodeInvalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":""}}`:                   mcp.CodeInvalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"uri":"a"}}`:                   mcp.CodeInvalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call"}`:                                        mcp.CodeInvalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":7}}`:                  mcp.CodeInvalidParams,
		`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`:                            mcp.CodeInvalidParams,
	} {
		var p mcp.Post
		e := p.Read(headers(), []byte(body), strictjson.Limits{})
		if e == nil {
			t.Errorf("%s: accepted", body)
			continue
		}
		if e.Code != code {
			t.Errorf("%s: %d %s, want %d", body, e.Code, e.Message, code)
		}
		if status := e.HTTPStatus(""); code != mcp.CodeInvalidParams && status != http.StatusBadRequest {
			t.Errorf("%s: status %d", body, status)
		}
	}
}

func TestHeadersOfTheStatelessEraMustEqualTheBody(t *testing.T) {
	call := `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"push",` + statelessMeta + `}}`
	read := `{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"file:///ä",` + statelessMeta + `}}`
	none := `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + statelessMeta + `}}`
	for _, c := range []struct {
		name string
		body string
		h    http.Header
		code int
	}{
		{"all equal", call, stateless("Mcp-Method", "tools/call", "Mcp-Name", "push"), 0},
		{"encoded though not needed", call, stateless("Mcp-Method", "tools/call", "Mcp-Name", "=?base64?cHVzaA==?="), 0},
		{"beyond ASCII", read, stateless("Mcp-Method", "resources/read", "Mcp-Name", "=?base64?ZmlsZTovLy/DpA==?="), 0},
		{"no name is needed", none, stateless("Mcp-Method", "tools/list"), 0},
		{"a notification", `{"jsonrpc":"2.0","method":"notifications/x"}`, stateless("Mcp-Method", "notifications/x"), 0},
		{"beyond ASCII as it is", read, stateless("Mcp-Method", "resources/read", "Mcp-Name", "file:///ä"), mcp.CodeHeaderMismatch},
		{"broken base64", call, stateless("Mcp-Method", "tools/call", "Mcp-Name", "=?base64?cHVzaA=?="), mcp.CodeHeaderMismatch},
		{"no method", call, stateless("Mcp-Name", "push"), mcp.CodeHeaderMismatch},
		{"another method", call, stateless("Mcp-Method", "tools/list", "Mcp-Name", "push"), mcp.CodeHeaderMismatch},
		{"another case", call, stateless("Mcp-Method", "Tools/Call", "Mcp-Name", "push"), mcp.CodeHeaderMismatch},
		{"two methods", call, stateless("Mcp-Method", "tools/call", "Mcp-Method", "tools/call", "Mcp-Name", "push"), mcp.CodeHeaderMismatch},
		{"no name", call, stateless("Mcp-Method", "tools/call"), mcp.CodeHeaderMismatch},
		{"another name", call, stateless("Mcp-Method", "tools/call", "Mcp-Name", "pull"), mcp.CodeHeaderMismatch},
		{"two names", call, stateless("Mcp-Method", "tools/call", "Mcp-Name", "push", "Mcp-Name", "pull"), mcp.CodeHeaderMismatch},
		{"no version", call, headers("Mcp-Method", "tools/call", "Mcp-Name", "push"), mcp.CodeHeaderMismatch},
		{"another version", call, headers("Mcp-Protocol-Version", "2025-11-25"), mcp.CodeHeaderMismatch},
		{"two versions", call, headers("Mcp-Protocol-Version", "2026-07-28", "Mcp-Protocol-Version", "2026-07-28"), mcp.CodeHeaderMismatch},
		{"a notification of another method", `{"jsonrpc":"2.0","method":"notifications/x"}`, stateless("Mcp-Method", "x"), mcp.CodeHeaderMismatch},
		{"no _meta", `{"jsonrpc":"2.0","id":1,"method":"tools/list"}`, stateless("Mcp-Method", "tools/list"), mcp.CodeInvalidParams},
		{"no capabilities", `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"capabilities":{},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}`,
			stateless("Mcp-Method", "tools/list"), mcp.CodeInvalidParams},
		{"a response", `{"jsonrpc":"2.0","id":1,"result":{}}`, stateless("Mcp-Method", "x"), mcp.CodeInvalidRequest},
		{"an unknown version", strings.ReplaceAll(call, "2026-07-28", "2099-01-01"), headers("Mcp-Protocol-Version", "2099-01-01"), mcp.CodeUnsupportedRevision},
		{"an unknown old version", none, headers("Mcp-Protocol-Version", "2024-11-05"), mcp.CodeHeaderMismatch},
		{"an unknown old version, alone", `{"jsonrpc":"2.0","id":1,"method":"ping"}`, headers("Mcp-Protocol-Version", "2024-11-05"), mcp.CodeUnsupportedRevision},
	} {
		var p mcp.Post
		e := p.Read(c.h, []byte(c.body), strictjson.Limits{})
		switch {
		case c.code == 0 && e != nil:
			t.Errorf("%s: %v", c.name, e)
		case c.code != 0 && e == nil:
			t.Errorf("%s: accepted", c.name)
		case c.code != 0 && (e.Code != c.code || e.HTTPStatus(p.Revision) != http.StatusBadRequest):
			t.Errorf("%s: %d %s, status %d, want %d and 400", c.name, e.Code, e.Message, e.HTTPStatus(p.Revision), c.code)
		}
		if m := c.body; c.code != 0 && strings.Contains(m, `"id":1`) && string(p.ID()) != "1" {
			t.Errorf("%s: the error has lost the id", c.name)
		}
	}
}

func TestAnUnsupportedVersionIsAnsweredWithThoseThatAreSupported(t *testing.T) {
	var p mcp.Post
	body := `{"jsonrpc":"2.0","id":"q","method":"server/discover","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2031-01-01"}}}`
	e := p.Read(headers("Mcp-Protocol-Version", "2031-01-01"), []byte(body), strictjson.Limits{})
	if e == nil {
		t.Fatal("accepted")
	}
	w := httptest.NewRecorder()
	mcp.WriteError(w, p.Revision, p.ID(), e)
	want := `{"jsonrpc":"2.0","id":"q","error":{"code":-32022,"message":"this protocol version is not supported",` +
		`"data":{"supported":["2026-07-28","2025-11-25","2025-06-18","2025-03-26"],"requested":"2031-01-01"}}}`
	if w.Code != 400 || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestStatusOfErrorsFollowsTheEra(t *testing.T) {
	for _, c := range []struct {
		e                  *mcp.Error
		stateless, session int
	}{
		{mcp.MethodNotFound(), 404, 200},
		{mcp.InvalidParams("x"), 400, 200},
		{mcp.MissingCapability([]byte(`{"elicitation":{}}`)), 400, 400},
		{mcp.HeaderMismatch("x"), 400, 400},
		{&mcp.Error{Code: mcp.CodeInternal}, 200, 200},
		{&mcp.Error{Code: -32000, Status: 403}, 403, 403},
	} {
		if got := c.e.HTTPStatus(mcp.Revision20260728); got != c.stateless {
			t.Errorf("%d: %d in the stateless era, want %d", c.e.Code, got, c.stateless)
		}
		if got := c.e.HTTPStatus(mcp.Revision20251125); got != c.session {
			t.Errorf("%d: %d in the session era, want %d", c.e.Code, got, c.session)
		}
	}
}

func TestAnErrorWithoutIDLeavesItOut(t *testing.T) {
	if got := string(mcp.AppendError(nil, nil, &mcp.Error{Code: -32700, Message: `a "b"`})); got != `{"jsonrpc":"2.0","error":{"code":-32700,"message":"a \"b\""}}` {
		t.Error(got)
	}
}

func TestBatchesAreSplitForTheOneRevisionThatHasThem(t *testing.T) {
	batch := ` [{"jsonrpc":"2.0","id":1,"method":"ping"}, {"jsonrpc":"2.0","method":"notifications/x"},{"jsonrpc":"2.0","id":1,"result":{}}]`
	for _, c := range []struct {
		named  string
		opened mcp.Revision
		ok     bool
	}{
		{"2025-03-26", "2025-03-26", true}, {"", "2025-03-26", true},
		{"", "2025-11-25", false}, {"2025-03-26", "2025-11-25", false}, {"2025-06-18", "2025-06-18", false}, {"2026-07-28", "", false}, {"1999-01-01", "", false},
	} {
		h := headers()
		if c.named != "" {
			h.Set("Mcp-Protocol-Version", c.named)
		}
		var p mcp.Post
		e := p.Read(h, []byte(batch), strictjson.Limits{})
		if e == nil {
			e = p.InSession(c.opened)
		}
		if (e == nil) != c.ok {
			t.Errorf("%q in a session of %s: %v", c.named, c.opened, e)
		}
		if e == nil && (!p.Batch || len(p.Messages) != 3 || p.Messages[1].Kind != mcp.Notification || p.ID() != nil) {
			t.Errorf("%+v", p)
		}
		if e != nil && e.HTTPStatus(p.Revision) != 400 {
			t.Errorf("status %d", e.HTTPStatus(p.Revision))
		}
	}
	for _, bad := range []string{
		`[]`, `[1]`, `[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":1,"method":"ping"}]`,
		`[{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-03-26"}}]`,
		`[{"jsonrpc":"2.0","id":1,"method":"ping","params":{` + statelessMeta + `}}]`,
		`[` + strings.Repeat(`{"jsonrpc":"2.0","method":"x"},`, 100) + `{"jsonrpc":"2.0","method":"x"}]`,
		`[[{"jsonrpc":"2.0","id":1,"method":"ping"}]]`,
	} {
		var p mcp.Post
		if e := p.Read(headers(), []byte(bad), strictjson.Limits{}); e == nil {
			t.Errorf("%.60s: accepted", bad)
		}
	}
}

func TestInitializeIsNegotiated(t *testing.T) {
	for requested, want := range map[string]mcp.Revision{
		"2025-03-26": "2025-03-26", "2025-06-18": "2025-06-18", "2025-11-25": "2025-11-25",
		"2024-11-05": "2025-11-25", "2026-07-28": "2025-11-25", "": "2025-11-25", "x": "2025-11-25",
	} {
		if got := mcp.Negotiate(requested); got != want {
			t.Errorf("%q: %s, want %s", requested, got, want)
		}
	}
	var p mcp.Post // a client may name in the header what it asks for
	body := `{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{"roots":{}},"clientInfo":{"name":"c"}}}`
	if e := p.Read(headers("Mcp-Protocol-Version", "2024-11-05"), []byte(body), strictjson.Limits{}); e != nil {
		t.Fatal(e)
	}
	if m := p.Messages[0]; m.Requested != "2024-11-05" || string(m.Capabilities) != `{"roots":{}}` || string(m.ClientInfo) != `{"name":"c"}` {
		t.Errorf("%+v", m)
	}
}

func TestReadingATypicalCallAllocatesOnlyItsName(t *testing.T) {
	body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"push","arguments":{"branch":"agent/x"},` + statelessMeta + `}}`)
	h := stateless("Mcp-Method", "tools/call", "Mcp-Name", "push")
	var p mcp.Post
	if n := testing.AllocsPerRun(100, func() {
		if e := p.Read(h, body, strictjson.Limits{}); e != nil {
			t.Fatal(e)
		}
	}); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPostRead(b *testing.B) {
	body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"push","arguments":{"branch":"agent/x","files":[{"path":"a.go","content":"package a\n"}]},` + statelessMeta + `}}`)
	h := stateless("Mcp-Method", "tools/call", "Mcp-Name", "push")
	var p mcp.Post
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if e := p.Read(h, body, strictjson.Limits{}); e != nil {
			b.Fatal(e)
		}
	}
}

// FuzzPost holds that what is accepted is what encoding/json, which folds case and keeps last duplicates, reads too, and
// that any edit of it is accepted again and means the same but for the edit.
func FuzzPost(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"push","arguments":{"a":1},` + statelessMeta + `}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":"a","method":"resources/read","params":{"uri":"x","_meta":{}}}`))
	f.Add([]byte(`[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","method":"n"}]`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var p mcp.Post
		if p.Read(headers(), body, strictjson.Limits{}) != nil {
			return
		}
		for i := range p.Messages {
			m := &p.Messages[i]
			var theirs struct {
				ID     json.RawMessage
				Method string
				Params struct {
					Name, URI string
					Arguments json.RawMessage
				}
			}
			if err := json.Unmarshal(m.Raw, &theirs); err != nil {
				var wrong *json.UnmarshalTypeError
				if !errors.As(err, &wrong) {
					t.Fatalf("accepted what encoding/json refuses: %v", err)
				}
				continue
			}
			name := theirs.Params.Name
			if strings.HasPrefix(m.Method, "resources/") {
				name = theirs.Params.URI
			}
			if theirs.Method != m.Method || string(theirs.ID) != string(m.ID) || string(theirs.Params.Arguments) != string(m.Arguments) || m.Name != "" && name != m.Name {
				t.Fatalf("read otherwise: %+v and %+v", theirs, m)
			}
			for _, to := range mcp.Revisions() {
				edit := mcp.Edit{Revision: to, ID: []byte(`"new"`), Name: "other"}
				var again mcp.Message
				if e := mcp.ReadMessage(edit.Append(nil, m), strictjson.Limits{}, &again); e != nil {
					t.Fatalf("the edited message is refused: %v\n%s", e, edit.Append(nil, m))
				}
				if again.Kind != m.Kind || again.Method != m.Method || string(again.Arguments) != string(m.Arguments) ||
					m.Name != "" && again.Name != "other" || m.ID != nil && string(again.ID) != `"new"` ||
					m.Kind == mcp.Request && (again.Meta.Revision != "") != to.Stateless() {
					t.Fatalf("edited into something else:\n%s\n%s", m.Raw, again.Raw)
				}
			}
		}
	})
}
