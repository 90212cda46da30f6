package mcp

import (
	"bytes"
	"cmp"
	"slices"

	"sallyport.dev/dataplane/internal/strictjson"
)

// Edit says how a message is forwarded otherwise than it came.
type Edit struct {
	// Revision is what the receiver speaks. Empty: as the message came. A result for the stateless era that names no
	// type is the sort that every result of the session era is: complete.
	Revision Revision
	// ID, raw, replaces the id of a request or a response.
	ID []byte
	// Name replaces params.name, params.uri or params.taskId.
	Name string
	// Task has a call of the session era ask for a task.
	Task bool
	// ClientInfo is a raw object for _meta, where the receiver's era needs it and _meta is changed. Capabilities is the raw
	// object that takes the place of the message's own; empty: those stay, and where there are none, none are declared.
	ClientInfo, Capabilities []byte
	// ProgressToken, raw, takes the place of the one by which progress is told, where _meta stays otherwise.
	ProgressToken []byte
	// TraceParent takes the place of the message's own W3C trace context, where that has one.
	TraceParent string
}

// Changes tells whether the edit changes the message: if not, Raw can be forwarded.
func (e *Edit) Changes(m *Message) bool {
	return len(e.ID) > 0 && m.id != (span{}) || len(e.ProgressToken) > 0 && m.progress != (span{}) || e.Name != "" && e.Name != m.Name && m.name != (span{}) || e.changesMeta(m) || e.completes(m) || e.asksForTask(m)
}

func (e *Edit) asksForTask(m *Message) bool { return e.Task && !m.AsksForTask && m.params != (span{}) }

// completes tells whether a result lacks the type that the receiver's era needs.
func (e *Edit) completes(m *Message) bool {
	if m.Kind != Response || !e.Revision.Stateless() || len(m.Result) == 0 || m.Result[0] != '{' {
		return false
	}
	var r strictjson.Reader
	r.Reset(m.Result, strictjson.Limits{MaxBytes: len(m.Result), MaxDepth: 1 << 20, MaxKeys: len(m.Result)})
	for r.Enter(); r.Next(); r.Value() {
		if string(r.Key()) == "resultType" {
			return false
		}
	}
	return true
}

func (e *Edit) changesMeta(m *Message) bool {
	switch {
	case e.Revision == "" || m.Kind == Response:
		return false
	case e.TraceParent != "" && m.Meta.TraceParent != "" && e.TraceParent != m.Meta.TraceParent:
		return true
	case !e.Revision.Stateless():
		return m.Meta.reserved
	case m.Kind == Notification:
		return false // the stateless era wants none of it in a notification
	}
	return m.Meta.Revision != string(e.Revision) || m.Meta.Capabilities == nil || len(e.Capabilities) > 0 && !bytes.Equal(e.Capabilities, m.Meta.Capabilities)
}

// splice replaces a span. Splices of one message never overlap.
type splice struct {
	at   span
	with []byte
}

// Append appends the message as the edit changes it: all bytes outside the changed spans are as they came.
func (e *Edit) Append(dst []byte, m *Message) []byte {
	var buf [4]splice
	splices := buf[:0]
	if len(e.ID) > 0 && m.id != (span{}) {
		splices = append(splices, splice{m.id, e.ID})
	}
	if e.Name != "" && m.name != (span{}) {
		splices = append(splices, splice{m.name, strictjson.Quote(nil, e.Name)})
	}
	if len(e.ProgressToken) > 0 && m.progress != (span{}) && !e.changesMeta(m) {
		splices = append(splices, splice{m.progress, e.ProgressToken})
	}
	if e.changesMeta(m) {
		splices = append(splices, e.meta(m))
	}
	if e.asksForTask(m) { // a call has other params before and behind
		splices = append(splices, splice{span{m.params.start + 1, m.params.start + 1}, []byte(`"task":{},`)})
	}
	if e.completes(m) {
		member := Complete
		if !isEmptyObject(m.Result) {
			member = "," + Complete
		}
		end := m.result.end - 1 // the closing brace
		splices = append(splices, splice{span{end, end}, []byte(member)})
	}
	slices.SortStableFunc(splices, func(a, b splice) int { return a.at.start - b.at.start })
	from := 0
	for _, s := range splices {
		dst = append(append(dst, m.Raw[from:s.at.start]...), s.with...)
		from = s.at.end
	}
	return append(dst, m.Raw[from:]...)
}

// meta builds what _meta becomes, and finds the place for it where there is none.
func (e *Edit) meta(m *Message) splice {
	meta := e.appendMeta(nil, m)
	if m.meta != (span{}) {
		return splice{m.meta, meta}
	}
	member := append([]byte(`"_meta":`), meta...)
	if m.params == (span{}) {
		end := len(m.Raw) - 1 // the closing brace; there is a member before it
		return splice{span{end, end}, append(append([]byte(`,"params":{`), member...), '}')}
	}
	inside := m.params.start + 1
	if !isEmptyObject(m.Params) {
		member = append(member, ',')
	}
	return splice{span{inside, inside}, member}
}

func isEmptyObject(raw []byte) bool {
	for _, c := range raw[1:] {
		if c != ' ' && c != '\t' && c != '\n' && c != '\r' {
			return c == '}'
		}
	}
	return true
}

// appendMeta appends the message's _meta without the members that the stateless era reserves, and with those that it wants if
// the receiver is of that era.
func (e *Edit) appendMeta(dst []byte, m *Message) []byte {
	dst = append(dst, '{')
	first := true
	add := func(key, raw string) {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(strictjson.Quote(dst, key), ':'), raw...)
	}
	if m.Meta.Raw != nil {
		var r strictjson.Reader
		r.Reset(m.Meta.Raw, strictjson.Limits{MaxBytes: len(m.Meta.Raw), MaxDepth: 1 << 20, MaxKeys: len(m.Meta.Raw)})
		for r.Enter(); r.Next(); {
			key := string(r.Key())
			raw := r.Value()
			switch {
			case reservedMeta([]byte(key)):
			case key == "traceparent" && e.TraceParent != "":
				add(key, string(strictjson.Quote(nil, e.TraceParent)))
			default:
				add(key, string(raw))
			}
		}
	}
	if e.Revision.Stateless() {
		add(MetaRevision, string(strictjson.Quote(nil, string(e.Revision))))
		add(MetaCapabilities, cmp.Or(string(e.Capabilities), string(m.Meta.Capabilities), "{}"))
		if m.Meta.LogLevel != "" {
			add(MetaLogLevel, string(strictjson.Quote(nil, m.Meta.LogLevel)))
		}
		if len(e.ClientInfo) > 0 {
			add(MetaClientInfo, string(e.ClientInfo))
		}
	}
	return append(dst, '}')
}
