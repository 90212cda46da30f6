package mcp_test

import (
	"net/http"
	"testing"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

func TestHeaderValuesAreEncodedWhereTheyCannotTravel(t *testing.T) {
	for value, want := range map[string]string{
		"us-west1": "us-west1", "a b": "a b", "": "",
		"Hello, 世界": "=?base64?SGVsbG8sIOS4lueVjA==?=", " padded ": "=?base64?IHBhZGRlZCA=?=", "line1\nline2": "=?base64?bGluZTEKbGluZTI=?=",
		"=?base64?literal?=": "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?=", "a\r\nX: y": "=?base64?YQ0KWDogeQ==?=",
	} {
		got := mcp.EncodeHeader(value)
		if got != want {
			t.Errorf("%q: %q, want %q", value, got, want)
		}
		if back, ok := mcp.DecodeHeader(got); !ok || back != value {
			t.Errorf("%q came back as %q", value, back)
		}
	}
	for _, value := range []string{"=?base64?!!?=", "=?base64?/w==?=", "=?base64?QQ=?=", "ä", "a\x00b", "=?base64?QR==?="} {
		if got, ok := mcp.DecodeHeader(value); ok {
			t.Errorf("%q became %q", value, got)
		}
	}
}

const toolWithHeaders = `{"name":"execute_sql","inputSchema":{"type":"object","properties":{
	"region":{"type":"string","x-mcp-header":"Region"},"query":{"type":"string"},
	"limits":{"type":"object","properties":{"rows":{"type":"integer","x-mcp-header":"max-rows"},"dry":{"type":"boolean","x-mcp-header":"Dry"}}}}}}`

func TestHeadersThatMirrorArgumentsMustEqualThem(t *testing.T) {
	params, err := mcp.ParamHeaders([]byte(toolWithHeaders), strictjson.Limits{})
	if err != nil || len(params) != 3 || params[1].Header != "Mcp-Param-Max-Rows" {
		t.Fatalf("%v, %v", params, err)
	}
	const arguments = `{"region":"Zürich","limits":{"rows":42,"dry":true},"query":"x"}`
	good := func() http.Header {
		h := http.Header{}
		for _, p := range params {
			if v, ok := p.Value([]byte(arguments)); ok {
				h.Set(p.Header, v)
			}
		}
		h.Set("Mcp-Param-Unknown", "anything")
		return h
	}
	if e := mcp.CheckParams(good(), params, []byte(arguments)); e != nil {
		t.Error(e)
	}
	numeric := good()
	numeric.Set("Mcp-Param-Max-Rows", "42.0")
	if e := mcp.CheckParams(numeric, params, []byte(arguments)); e != nil {
		t.Error(e)
	}
	for name, spoil := range map[string]func(h http.Header){
		"absent":      func(h http.Header) { h.Del("Mcp-Param-Region") },
		"other":       func(h http.Header) { h.Set("Mcp-Param-Region", "Bern") },
		"not encoded": func(h http.Header) { h.Set("Mcp-Param-Region", "Zürich") },
		"twice":       func(h http.Header) { h.Add("Mcp-Param-Region", h.Get("Mcp-Param-Region")) },
		"number":      func(h http.Header) { h.Set("Mcp-Param-Max-Rows", "43") },
		"no number":   func(h http.Header) { h.Set("Mcp-Param-Max-Rows", "0x2A") },
		"bool":        func(h http.Header) { h.Set("Mcp-Param-Dry", "True") },
	} {
		h := good()
		spoil(h)
		if e := mcp.CheckParams(h, params, []byte(arguments)); e == nil || e.Code != mcp.CodeHeaderMismatch {
			t.Errorf("%s: %v", name, e)
		}
	}
	for _, arguments := range []string{`{"limits":{"dry":true}}`, `{"limits":{"dry":true,"rows":null},"region":null}`, `{"limits":{"dry":true},"region":7}`, ``} {
		if e := mcp.CheckParams(good(), params, []byte(arguments)); e == nil {
			t.Errorf("%s: headers for absent arguments are accepted", arguments)
		}
	}
	if e := mcp.CheckParams(http.Header{}, params, []byte(`{"region":null,"limits":{}}`)); e != nil {
		t.Error(e)
	}
}

func TestBrokenHeaderBindingsAreRefused(t *testing.T) {
	for _, properties := range []string{
		`"a":{"type":"string","x-mcp-header":""}`, `"a":{"type":"string","x-mcp-header":"a b"}`, `"a":{"type":"string","x-mcp-header":"a\r\nb"}`,
		`"a":{"type":"number","x-mcp-header":"A"}`, `"a":{"type":"string","x-mcp-header":7}`, `"a":{"x-mcp-header":"A"}`,
		`"a":{"type":"string","x-mcp-header":"A"},"b":{"type":"object","properties":{"c":{"type":"string","x-mcp-header":"a"}}}`,
	} {
		if p, err := mcp.ParamHeaders([]byte(`{"name":"t","inputSchema":{"properties":{`+properties+`}}}`), strictjson.Limits{}); err == nil {
			t.Errorf("%s became %v", properties, p)
		}
	}
}

func TestContentTypesAreChecked(t *testing.T) {
	const both = "application/json, text/event-stream"
	for _, c := range []struct {
		contentType, accept string
		status              int
	}{
		{"application/json", both, 0},
		{"application/json; charset=UTF-8", "text/event-stream;q=0.9,APPLICATION/JSON", 0},
		{"Application/JSON", "*/*", 0},
		{"application/json", "application/*, text/*", 0},
		{"application/json; charset=latin1", both, 415},
		{"text/plain", both, 415},
		{"application/jsonx", both, 415},
		{"", both, 415},
		{"application/json", "application/json", 406},
		{"application/json", "text/event-stream", 406},
		{"application/json", "", 406},
		{"application/json", "application/json, text/event-stream;q=0", 406},
		{"application/json", "application/jsonx, text/event-streams", 406},
	} {
		h := http.Header{}
		if c.contentType != "" {
			h.Set("Content-Type", c.contentType)
		}
		if c.accept != "" {
			h.Set("Accept", c.accept)
		}
		e := mcp.CheckPost(h)
		if c.status == 0 && e != nil || c.status != 0 && (e == nil || e.HTTPStatus("") != c.status) {
			t.Errorf("%q, %q: %+v, want %d", c.contentType, c.accept, e, c.status)
		}
	}
	if e := mcp.CheckPost(headers("Content-Type", "application/json", "Content-Type", "text/plain", "Accept", both)); e == nil {
		t.Error("two content types are accepted")
	}
}
