package mcp

import "sallyport.dev/dataplane/internal/strictjson"

// CallOf returns the call of another tool that a call stands for, whose arguments are {"name": …, "arguments": {…}}. All else is as it
// came. The arguments were read strictly.
func CallOf(m *Message, name string, arguments bool, limits strictjson.Limits) (*Message, *Error) {
	raw := append(append([]byte(`{"jsonrpc":"2.0","id":`), m.ID...), `,"method":"`+MethodCallTool+`","params":{"name":`...)
	raw = append(strictjson.Quote(raw, name), `,"arguments":`...)
	if arguments {
		raw = append(raw, lookup(m.Arguments, []string{"arguments"})...)
	} else {
		raw = append(raw, "{}"...)
	}
	var r strictjson.Reader
	r.Reset(m.Params, limits)
	for r.Enter(); r.Next(); {
		key := string(r.Key())
		value := r.Value()
		if key != "name" && key != "arguments" {
			raw = append(append(strictjson.Quote(append(raw, ','), key), ':'), value...)
		}
	}
	call := &Message{}
	return call, ReadMessage(append(raw, "}}"...), limits, call)
}

// Described is what a definition, JSON, says for people: its title and description.
func Described(definition []byte) string {
	title, _ := strictjson.Text(lookup(definition, []string{"title"}))
	description, _ := strictjson.Text(lookup(definition, []string{"description"}))
	return title + "\n" + description
}

// AppendFound answers a call with an array, raw, of what was found: for the model to read, and structured.
func AppendFound(dst, id []byte, revision Revision, array []byte) []byte {
	dst = strictjson.Quote(append(appendHead(dst, id), `{"content":[{"type":"text","text":`...), string(array))
	dst = append(append(dst, `}],"structuredContent":{"tools":`...), array...)
	dst = append(dst, '}')
	if revision.Stateless() {
		dst = append(dst, `,`+Complete...)
	}
	return append(dst, "}}"...)
}
