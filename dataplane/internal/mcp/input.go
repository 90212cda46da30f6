package mcp

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"

	"sallyport.dev/dataplane/internal/strictjson"
)

// Asked is what a server asks of its client.
type Asked struct {
	// Key names it among what one result asks. In the session era each is a request of its own.
	Key    string
	Method string
	// Params is the raw object; nil if absent.
	Params []byte
}

// InputRequired is a result that asks for something before the request is made again (2026-07-28, multi round-trip requests).
type InputRequired struct {
	Asked []Asked // ascending by key
	// State, to be sent back as it is; empty: none.
	State string
}

// maxAsked bounds what one result may ask.
const maxAsked = 16

// errAsked: a result asks in a way that cannot be understood.
var errAsked = &Error{Code: CodeInternal, Message: "the upstream asks for input in a way that cannot be understood"}

// ReadInputRequired reads a result that asks for input; nil: it asks for none.
func ReadInputRequired(result []byte, limits strictjson.Limits) (*InputRequired, *Error) {
	if !bytes.Contains(result, []byte("input_required")) && bytes.IndexByte(result, '\\') < 0 {
		return nil, nil //nolint:nilnil // most results
	}
	var r strictjson.Reader
	r.Reset(result, limits)
	var requests []byte
	required := false
	out := &InputRequired{}
	for r.Enter(); r.Next(); {
		key := string(r.Key())
		raw := r.Value()
		switch key {
		case "resultType":
			required = isText(raw, "input_required")
		case "inputRequests":
			requests = raw
		case "requestState":
			out.State, _ = strictjson.Text(raw)
		}
	}
	if !required || r.Err() != nil {
		return nil, nil //nolint:nilnil,nilerr // what is wrong with it otherwise is the agent's to see
	}
	if requests == nil {
		return out, nil
	}
	asked, e := readAsked(requests)
	out.Asked = asked
	return out, e
}

// readAsked reads what is asked, ascending by key.
func readAsked(requests []byte) (asked []Asked, e *Error) {
	var wire map[string]struct {
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
	}
	if json.Unmarshal(requests, &wire) != nil || len(wire) > maxAsked {
		return nil, errAsked
	}
	for _, key := range slices.Sorted(maps.Keys(wire)) {
		asked = append(asked, Asked{Key: key, Method: wire[key].Method, Params: wire[key].Params})
	}
	return asked, nil
}

// AppendInputRequired answers a request by asking for input first.
func AppendInputRequired(dst, id []byte, q *InputRequired) []byte {
	dst = appendAsked(append(appendHead(dst, id), `{"resultType":"input_required","inputRequests":`...), q.Asked)
	if q.State != "" {
		dst = strictjson.Quote(append(dst, `,"requestState":`...), q.State)
	}
	return append(dst, "}}"...)
}

func appendAsked(dst []byte, asked []Asked) []byte {
	dst = append(dst, '{')
	for i, a := range asked {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(strictjson.Quote(dst, a.Key), `:{"method":`...)
		dst = strictjson.Quote(dst, a.Method)
		if a.Params != nil {
			dst = append(append(dst, `,"params":`...), a.Params...)
		}
		dst = append(dst, '}')
	}
	return append(dst, '}')
}

// ReadInputResponses reads what a client answers, raw results by key.
func ReadInputResponses(m *Message) (map[string]json.RawMessage, *Error) {
	answers := map[string]json.RawMessage{}
	if m.InputResponses == nil {
		return answers, nil
	}
	if err := json.Unmarshal(m.InputResponses, &answers); err != nil || len(answers) > maxAsked {
		return nil, InvalidParams(`"inputResponses" must be an object of results`)
	}
	return answers, nil
}

// WithoutResponse returns a request without the answer to one question, which another than the upstream asked, and what was answered; itself
// and nil, where there is none.
func WithoutResponse(m *Message, key string, limits strictjson.Limits) (*Message, json.RawMessage, *Error) {
	answers, e := ReadInputResponses(m)
	answer, there := answers[key]
	if e != nil || !there {
		return m, nil, e
	}
	delete(answers, key)
	again, e := rewrite(m, answers, m.RequestState, limits, len(answers) > 0)
	return again, answer, e
}

// Again returns a request as it is made again with answers, raw results by key, and the state that came with the questions.
// It takes the place of what m had of these.
func Again(m *Message, answers map[string]json.RawMessage, state string, limits strictjson.Limits) (*Message, *Error) {
	return rewrite(m, answers, state, limits, len(answers) > 0 || state != "")
}

// rewrite writes a request anew with these answers, if it is to have any, and this state.
func rewrite(m *Message, answers map[string]json.RawMessage, state string, limits strictjson.Limits, answered bool) (*Message, *Error) {
	params := []byte{'{'}
	if m.Params != nil {
		var r strictjson.Reader
		r.Reset(m.Params, limits)
		for r.Enter(); r.Next(); {
			key := string(r.Key())
			raw := r.Value()
			if key == "inputResponses" || key == "requestState" {
				continue
			}
			params = append(append(strictjson.Quote(params, key), ':'), raw...)
			params = append(params, ',')
		}
	}
	if answered {
		params = append(params, `"inputResponses":{`...)
		for i, key := range slices.Sorted(maps.Keys(answers)) {
			if i > 0 {
				params = append(params, ',')
			}
			params = append(append(strictjson.Quote(params, key), ':'), answers[key]...)
		}
		params = append(params, "},"...)
	}
	if state != "" {
		params = append(strictjson.Quote(append(params, `"requestState":`...), state), ',')
	}
	if len(params) > 1 {
		params = params[:len(params)-1] // the last comma
	}
	raw := append(append([]byte(`{"jsonrpc":"2.0","id":`), m.ID...), `,"method":`...)
	raw = append(append(append(strictjson.Quote(raw, m.Method), `,"params":`...), params...), "}}"...)
	again := &Message{}
	return again, ReadMessage(raw, limits, again)
}

// AppendRequest appends a request.
func AppendRequest(dst, id []byte, a Asked) []byte {
	dst = append(append(append(dst, `{"jsonrpc":"2.0","id":`...), id...), `,"method":`...)
	dst = strictjson.Quote(dst, a.Method)
	if a.Params != nil {
		dst = append(append(dst, `,"params":`...), a.Params...)
	}
	return append(dst, '}')
}

// AppendAnswer appends a client's response, its result or its error raw, under an id, raw.
func AppendAnswer(dst, id []byte, m *Message) []byte {
	if m.Failure != nil {
		return AppendFailure(dst, id, m.Failure)
	}
	return AppendResult(dst, id, m.Result)
}

// AppendFailure appends an error response with a raw error.
func AppendFailure(dst, id, failure []byte) []byte {
	dst = append(append(append(dst, `{"jsonrpc":"2.0","id":`...), id...), `,"error":`...)
	return append(append(dst, failure...), '}')
}

// Asks are kinds of what a server may ask of its client, as a set.
type Asks struct {
	Sampling, Elicitation, Roots bool
	// Form and URL are ways of elicitation that a client has.
	Form, URL bool
}

// Of tells whether a method is one of them.
func (a Asks) Of(method string) bool {
	switch method {
	case MethodCreateMessage:
		return a.Sampling
	case MethodElicit:
		return a.Elicitation
	case MethodListRoots:
		return a.Roots
	}
	return false
}

// maxCapability bounds what is said of one capability; one that says more says nothing.
const maxCapability = 256

// ReadCapabilities returns which of these a client's capabilities, a raw object, offer, and an object of just those that are
// in the set may.
func ReadCapabilities(raw []byte, may Asks, limits strictjson.Limits) (has Asks, kept []byte) {
	kept = []byte{'{'}
	var r strictjson.Reader
	r.Reset(raw, limits)
	for r.Enter(); r.Next(); {
		key := string(r.Key())
		value := r.Value()
		if strictjson.KindOf(value) != strictjson.Object {
			continue
		}
		switch {
		case key == "sampling" && may.Sampling:
			has.Sampling = true
		case key == "elicitation" && may.Elicitation:
			has.Elicitation = true
			has.Form, has.URL = elicits(value)
		case key == "roots" && may.Roots:
			has.Roots, value = true, []byte("{}") // that they changed is not passed on, so that a server asks again
		default:
			continue
		}
		if len(value) > maxCapability {
			value = []byte("{}")
		}
		if len(kept) > 1 {
			kept = append(kept, ',')
		}
		kept = append(append(strictjson.Quote(kept, key), ':'), value...)
	}
	return has, append(kept, '}')
}

// elicits reads the ways of elicitation that a client declares. One that names none has forms (2025-11-25, elicitation).
func elicits(capability []byte) (form, page bool) {
	var ways map[string]json.RawMessage
	if json.Unmarshal(capability, &ways) != nil {
		return false, false
	}
	return ways["form"] != nil || ways["url"] == nil, ways["url"] != nil
}

// WithoutCapabilities returns a client's capabilities, a raw object, without those that are not in the set may. It is raw
// itself where nothing goes.
func WithoutCapabilities(raw []byte, may Asks, limits strictjson.Limits) []byte {
	if len(raw) <= len("{}") || may.Sampling && may.Elicitation && may.Roots {
		return raw
	}
	kept := []byte{'{'}
	changed := false
	var r strictjson.Reader
	r.Reset(raw, limits)
	for r.Enter(); r.Next(); {
		key := string(r.Key())
		value := r.Value()
		if key == "sampling" && !may.Sampling || key == "elicitation" && !may.Elicitation || key == "roots" && !may.Roots {
			changed = true
			continue
		}
		if len(kept) > 1 {
			kept = append(kept, ',')
		}
		kept = append(append(strictjson.Quote(kept, key), ':'), value...)
	}
	if !changed {
		return raw
	}
	return append(kept, '}')
}
