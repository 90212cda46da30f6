package upstream

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// FuzzRestorer holds the restorer, on any valid response, to what a reading of the whole message gives.
func FuzzRestorer(f *testing.F) {
	f.Add(`{"jsonrpc":"2.0","id":12,"result":{"id":3,"x":"\"},{\\"}}`)
	f.Add(` { "result" : {"a":[{"id":1}]} , "id" : 12 , "jsonrpc":"2.0" } `)
	f.Add(`{"jsonrpc":"2.0","idx":1,"\u0069d":7,"error":{"code":1,"message":""},"id":12}`)
	f.Add(`{"id":12,"jsonrpc":"2.0","result":{"content":[{"type":"text","text":"}"}],"a":{"resultType":1}}}`)
	f.Add(`{"jsonrpc":"2.0","result":{ "resultType" : "complete" },"id":12}`)
	f.Add(`{"jsonrpc":"2.0","result":{ },"id":12}`)
	f.Add(`{"jsonrpc":"2.0","id":12,"error":{"code":1,"message":""}}`)
	f.Add(`{"jsonrpc":"2.0","id":12,"result":{"resultType":"complete","x":["\\\"\\","}\\\\"]}}`)
	f.Fuzz(func(t *testing.T, in string) {
		var m mcp.Message
		if mcp.ReadMessage([]byte(in), strictjson.Limits{}, &m) != nil || m.Kind != mcp.Response || m.ID == nil {
			return
		}
		if !strings.Contains(in, `"id"`) {
			return // its key is escaped, which servers do not do
		}
		for name, edit := range map[string]mcp.Edit{"id": {ID: []byte(`"agent"`)}, "completed": {ID: []byte(`"agent"`), Revision: mcp.LatestStateless}} {
			if edit.Revision != "" && (strings.Contains(in, `\u`) || m.Failure == nil && m.Result[0] != '{') {
				continue // a key is escaped, or it is no result of a tool
			}
			want := string(edit.Append(nil, &m))
			for how, from := range map[string]io.Reader{"whole": strings.NewReader(in), "bytewise": iotest.OneByteReader(strings.NewReader(in))} {
				r := &restorer{from: from, sent: m.ID, answer: edit.ID, complete: edit.Revision.Stateless(), asked: true, whole: true, fail: errors.New}
				got, err := io.ReadAll(r)
				if err != nil || strings.TrimSpace(string(got)) != want {
					t.Fatalf("%s, %s: %q, %v, want %q", name, how, got, err, want)
				}
			}
		}
		other := &restorer{from: strings.NewReader(in), sent: []byte("987654321987"), answer: []byte("1"), fail: errors.New}
		if got, err := io.ReadAll(other); err == nil && string(m.ID) != "987654321987" {
			t.Fatalf("another id passed: %q", got)
		}
	})
}

// TestAnAnswerThatIsNoPlainResultPassesOnlyIfItIsReadWhole, wherever that shows, and however it is hidden from whoever reads a part.
func TestAnAnswerThatIsNoPlainResultPassesOnlyIfItIsReadWhole(t *testing.T) {
	padding := `"x":[{"a":1,"b":"` + strings.Repeat(`y\"\\`, 100_000) + `"},[2,true],"}"]`
	for in, plain := range map[string]bool{
		`"result":{` + padding + `}`:                                                           true,
		`"result":{"resultType":"complete",` + padding + `}`:                                   true,
		`"result":{` + padding + `,"y":{"resultType":"task","inputRequests":{}},"z":"result"}`: true,
		`"result":{"resultType":"input_required",` + padding + `}`:                             false,
		`"result":{` + padding + `,"resultType":"input_required"}`:                             false,
		`"result":{` + padding + `,"resultType": null}`:                                        false,
		`"result":{` + padding + `,"r\u0065sultType":"input_required"}`:                        false,
		`"result":{` + padding + `,"resulttype":"input_required"}`:                             false,
		`"result":{"resultType":"complete",` + padding + `,"resultType":"complete"}`:           false,
		`"result":{"resultType":"complete",` + padding + `,"inputRequests":{}}`:                false,
		`"result":{"resultType":"complete",` + padding + `},"result":{}`:                       false,
		`"result":{},` + padding + `,"error":{}`:                                               false,
		`"error":{` + padding + `}`:                                                            false,
		`"result":{"resultType":"complete",` + padding + `}},{`:                                false,
	} {
		for _, around := range [][2]string{{`{"jsonrpc":"2.0","id":5,`, `}`}, {`{"jsonrpc":"2.0",`, `,"id":5}`}} {
			for _, complete := range []bool{true, false} {
				r := &restorer{from: strings.NewReader(around[0] + in + around[1]), sent: []byte("5"), answer: []byte("6"), complete: complete, asked: true, fail: errors.New}
				if _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); (err == nil) != plain {
					t.Errorf("%.60s…%s, to be completed %v: %v", around[0]+in, (in + around[1])[len(in)-40:], complete, err)
				}
			}
		}
	}
}

func TestALargeAnswerPassesWithoutBeingKept(t *testing.T) {
	const size = 8 << 20
	in := io.MultiReader(strings.NewReader(`{"jsonrpc":"2.0","id":5,"result":{"x":"`), io.LimitReader(zeros{}, size), strings.NewReader(`"}}`))
	r := &restorer{from: in, sent: []byte("5"), answer: []byte("6"), fail: errors.New}
	n, err := io.Copy(io.Discard, struct{ io.Reader }{r})
	if err != nil || n < size {
		t.Fatal(n, err)
	}
	if cap(r.kept) > small || cap(r.rest) > small {
		t.Errorf("keeps %d and %d bytes", cap(r.kept), cap(r.rest))
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}
