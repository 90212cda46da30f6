package mcp

import (
	"bytes"
	"strconv"

	"sallyport.dev/dataplane/internal/strictjson"
)

// Kind is what a message is.
type Kind uint8

// The kinds of message.
const (
	Request      Kind = iota + 1 // has a method and an id
	Notification                 // has a method and no id
	Response                     // has an id and a result or an error
)

// Message is one JSON-RPC message. Its byte slices are spans of Raw, as they came; they live as long as Raw does.
type Message struct {
	Raw  []byte
	Kind Kind
	// ID is a string or an integer, raw. Nil for a notification, and for an error response that names none.
	ID     []byte
	Method string
	// Params is the raw object, nil if absent.
	Params []byte
	// Name is params.name, params.uri or params.taskId, for the methods that act on one; of a completion, that of params.ref.
	Name string
	// RefType is params.ref.type of a completion.
	RefType string
	// InputResponses, raw, and RequestState are what a request that is made again after an input_required result brings.
	InputResponses []byte
	RequestState   string
	// URI is params.uri of a notification.
	URI string
	// ProgressToken is params.progressToken of a notification of progress, raw.
	ProgressToken []byte
	// Level is params.level of logging/setLevel.
	Level string
	// Arguments is the raw object params.arguments, nil if absent.
	Arguments []byte
	// Cursor is params.cursor, raw; nil if absent.
	Cursor []byte
	// AsksForTask tells that a request of the session era wants a task for its answer (params.task).
	AsksForTask bool
	// RequestID is params.requestId of a cancellation, raw.
	RequestID []byte
	// Requested is params.protocolVersion of initialize.
	Requested string
	// ClientInfo and Capabilities are those of initialize, raw; nil if absent.
	ClientInfo, Capabilities []byte
	Meta                     Meta
	// Result and Failure are a response's raw result and error; one of them is nil.
	Result, Failure []byte

	id, name, uri, taskID, refName, refURI, progress, params, meta, result span
}

// Meta is what params._meta says.
type Meta struct {
	// Raw is the whole object, nil if absent.
	Raw []byte
	// Revision is the protocol version that a request of the stateless era names, whether supported or not.
	Revision string
	// ClientInfo and Capabilities are the raw objects that a request of the stateless era carries; nil if absent.
	ClientInfo, Capabilities []byte
	// ProgressToken is a string or an integer, raw; nil if absent.
	ProgressToken []byte
	// LogLevel is the level that a request of the stateless era asks for; empty: none.
	LogLevel string
	// TraceParent, TraceState and Baggage carry W3C trace context.
	TraceParent, TraceState, Baggage string
	// reserved tells whether there are members that only the stateless era knows.
	reserved bool
}

// span is a place in Message.Raw. Its zero value is no place.
type span struct{ start, end int }

// The members of _meta that the stateless era reserves.
const (
	metaPrefix       = "io.modelcontextprotocol/"
	MetaRevision     = metaPrefix + "protocolVersion"
	MetaCapabilities = metaPrefix + "clientCapabilities"
	MetaClientInfo   = metaPrefix + "clientInfo"
	MetaServerInfo   = metaPrefix + "serverInfo"
	MetaLogLevel     = metaPrefix + "logLevel"
	MetaSubscription = metaPrefix + "subscriptionId"
)

// Keys that mean something. One that equals such a key under case folding without being it is refused: parsers that fold,
// as some do, would read it as that key.
var (
	messageKeys = keySet("jsonrpc", "id", "method", "params", "result", "error")
	paramKeys   = keySet("name", "uri", "arguments", "_meta", "cursor", "requestId", "reason", "protocolVersion", "capabilities",
		"clientInfo", "inputResponses", "requestState", "notifications", "ref", "argument", "context", "level", "progressToken", "task", "taskId")
	refKeys  = keySet("type", "name", "uri")
	metaKeys = keySet("progressToken", "traceparent", "tracestate", "baggage",
		MetaRevision, MetaCapabilities, MetaClientInfo, MetaServerInfo, MetaLogLevel, MetaSubscription)
)

type keys struct {
	list  [][]byte
	known map[string]bool
}

func keySet(names ...string) keys {
	k := keys{known: map[string]bool{}}
	for _, name := range names {
		k.list = append(k.list, []byte(name))
		k.known[name] = true
	}
	return k
}

// mimics tells whether a key would be taken for one of the set by a parser that folds case.
func (k *keys) mimics(key []byte) bool {
	if k.known[string(key)] {
		return false
	}
	for _, name := range k.list {
		// The letters that fold to ASCII, ſ and the Kelvin sign, are longer than what they fold to.
		if len(key) >= len(name) && bytes.EqualFold(key, name) {
			return true
		}
	}
	return false
}

// maxID bounds an id that is a string, in bytes.
const maxID = 1024

var (
	errMimic    = invalidRequest("a key differs from one of the protocol's in letter case only")
	errMessage  = invalidRequest("a message must be a JSON object")
	errVersion  = invalidRequest(`"jsonrpc" must be "2.0"`)
	errID       = invalidRequest(`"id" must be a string or an integer`)
	errMethod   = invalidRequest(`"method" must be a string`)
	errShape    = invalidRequest("a message must be one request, notification or response")
	errParams   = invalidRequest(`"params" must be an object`)
	errMeta     = invalidRequest(`"_meta" must be an object`)
	errMetaText = invalidRequest(`a member of "_meta" has the wrong type`)
	errNameType = InvalidParams("the name in params must be a string")
	errNoName   = InvalidParams("params names nothing to act on")
	errArgs     = InvalidParams(`"arguments" must be an object`)
	errRequest  = InvalidParams("params has a member of the wrong type")
)

// ReadMessage reads one message, strictly. On an error m holds what was read until then, the id if it came first.
func ReadMessage(data []byte, limits strictjson.Limits, m *Message) *Error {
	var r strictjson.Reader
	return m.read(&r, data, limits)
}

func (m *Message) read(r *strictjson.Reader, data []byte, limits strictjson.Limits) *Error {
	data = bytes.TrimSpace(data)
	*m = Message{Raw: data}
	r.Reset(data, limits)
	if kind := r.Kind(); kind != strictjson.Object && kind != strictjson.None {
		return errMessage
	}
	wrong := m.members(r)
	if wrong != nil && r.Err() == nil {
		return wrong
	}
	if err := r.End(); err != nil {
		return parseError(err)
	}
	return m.finish()
}

// members reads the message's own members. It goes on after an error that a later id may still be told with.
func (m *Message) members(r *strictjson.Reader) (wrong *Error) {
	note := func(e *Error) {
		if wrong == nil {
			wrong = e
		}
	}
	version := false
	for r.Enter(); r.Next(); {
		key := r.Key()
		switch string(key) {
		case "jsonrpc":
			if !isText(r.Value(), "2.0") {
				note(errVersion)
			}
			version = true
		case "id":
			raw := r.Value()
			if !validID(raw) {
				note(errID)
				continue
			}
			m.ID, m.id = raw, spanOf(r, raw)
		case "method":
			raw := r.Value()
			text, ok := m.methodText(raw)
			if !ok {
				note(errMethod)
			}
			m.Method = text
		case "params":
			if r.Kind() != strictjson.Object {
				note(errParams)
				r.Value()
				continue
			}
			if e := m.readParams(r); e != nil {
				note(e)
			}
		case "result":
			m.Result = r.Value()
			m.result = spanOf(r, m.Result)
		case "error":
			m.Failure = r.Value()
		default:
			if messageKeys.mimics(key) {
				note(errMimic)
			}
			r.Value()
		}
	}
	if !version {
		note(errVersion)
	}
	return wrong
}

// isText tells whether a raw value is a string that stands for want.
func isText(raw []byte, want string) bool {
	if len(raw) == len(want)+2 && raw[0] == '"' && string(raw[1:len(raw)-1]) == want {
		return true
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return false
	}
	text, ok := strictjson.Text(raw)
	return ok && text == want
}

func (m *Message) methodText(raw []byte) (string, bool) {
	if len(raw) > 2 {
		if s, ok := interned[string(raw[1:len(raw)-1])]; ok && raw[0] == '"' {
			return s, true
		}
	}
	s, ok := strictjson.Text(raw)
	return s, ok && s != ""
}

func (m *Message) readParams(r *strictjson.Reader) (wrong *Error) {
	note := func(e *Error) {
		if wrong == nil {
			wrong = e
		}
	}
	start := r.Offset()
	for r.Enter(); r.Next(); {
		key := r.Key()
		switch string(key) {
		case "name":
			m.name = spanOf(r, r.Value())
		case "uri":
			m.uri = spanOf(r, r.Value())
		case "taskId":
			m.taskID = spanOf(r, r.Value())
		case "task":
			m.AsksForTask = strictjson.KindOf(r.Value()) == strictjson.Object
		case "arguments":
			m.Arguments = r.Value()
		case "_meta":
			if r.Kind() != strictjson.Object {
				note(errMeta)
				r.Value()
				continue
			}
			if e := m.readMeta(r); e != nil {
				note(e)
			}
		case "cursor":
			m.Cursor = r.Value()
		case "requestId":
			m.RequestID = r.Value()
		case "ref":
			if r.Kind() != strictjson.Object {
				r.Value() // of no method that acts on it, or without the name that finishName asks for
				continue
			}
			if e := m.readRef(r); e != nil {
				note(e)
			}
		case "inputResponses":
			m.InputResponses = r.Value()
		case "requestState":
			text, ok := strictjson.Text(r.Value())
			if !ok {
				note(errRequest)
			}
			m.RequestState = text
		case "progressToken":
			m.ProgressToken = r.Value()
			m.progress = spanOf(r, m.ProgressToken)
		case "level":
			m.Level, _ = strictjson.Text(r.Value())
		case "protocolVersion":
			m.Requested, _ = strictjson.Text(r.Value())
		case "capabilities":
			m.Capabilities = r.Value()
		case "clientInfo":
			m.ClientInfo = r.Value()
		default:
			if paramKeys.mimics(key) {
				note(errMimic)
			}
			r.Value()
		}
	}
	if r.Err() != nil {
		return wrong
	}
	m.params = span{start, r.Offset()}
	m.Params = m.Raw[start:r.Offset()]
	return wrong
}

// readRef reads what a completion is about.
func (m *Message) readRef(r *strictjson.Reader) (wrong *Error) {
	for r.Enter(); r.Next(); {
		switch key := r.Key(); string(key) {
		case "type":
			m.RefType, _ = strictjson.Text(r.Value())
		case "name":
			m.refName = spanOf(r, r.Value())
		case "uri":
			m.refURI = spanOf(r, r.Value())
		default:
			if refKeys.mimics(key) {
				wrong = errMimic
			}
			r.Value()
		}
	}
	return wrong
}

func (m *Message) readMeta(r *strictjson.Reader) (wrong *Error) {
	start := r.Offset()
	text := func(into *string) {
		s, ok := strictjson.Text(r.Value())
		if !ok && wrong == nil {
			wrong = errMetaText
		}
		*into = s
	}
	object := func(into *[]byte) {
		*into = r.Value()
		if strictjson.KindOf(*into) != strictjson.Object && wrong == nil {
			wrong = errMetaText
		}
	}
	for r.Enter(); r.Next(); {
		key := r.Key()
		m.Meta.reserved = m.Meta.reserved || reservedMeta(key)
		switch string(key) {
		case MetaRevision:
			m.Meta.Revision = m.revisionText(r.Value(), &wrong)
		case MetaCapabilities:
			object(&m.Meta.Capabilities)
		case MetaClientInfo:
			object(&m.Meta.ClientInfo)
		case MetaLogLevel:
			text(&m.Meta.LogLevel)
		case "progressToken":
			m.Meta.ProgressToken = r.Value()
			m.progress = spanOf(r, m.Meta.ProgressToken)
			if !validID(m.Meta.ProgressToken) && wrong == nil {
				wrong = errMetaText
			}
		case "traceparent":
			text(&m.Meta.TraceParent)
		case "tracestate":
			text(&m.Meta.TraceState)
		case "baggage":
			text(&m.Meta.Baggage)
		default:
			if metaKeys.mimics(key) && wrong == nil {
				wrong = errMimic
			}
			r.Value()
		}
	}
	if r.Err() == nil {
		m.meta = span{start, r.Offset()}
		m.Meta.Raw = m.Raw[start:r.Offset()]
	}
	return wrong
}

func (m *Message) revisionText(raw []byte, wrong **Error) string {
	for _, r := range revisions {
		if isText(raw, string(r)) {
			return string(r)
		}
	}
	s, ok := strictjson.Text(raw)
	if (!ok || s == "") && *wrong == nil {
		*wrong = errMetaText
	}
	return s
}

// reservedMeta tells which members of _meta mean something in the stateless era only.
func reservedMeta(key []byte) bool {
	switch string(key) {
	case MetaRevision, MetaCapabilities, MetaClientInfo, MetaLogLevel:
		return true
	}
	return false
}

// finish checks what only the whole message tells.
func (m *Message) finish() *Error {
	if m.Method == "" {
		return m.finishResponse()
	}
	if m.Result != nil || m.Failure != nil {
		return errShape
	}
	if m.Kind = Notification; m.ID != nil {
		m.Kind = Request
	}
	if m.Arguments != nil && strictjson.KindOf(m.Arguments) != strictjson.Object {
		return errArgs
	}
	if m.Cursor != nil && strictjson.KindOf(m.Cursor) != strictjson.String {
		return errRequest
	}
	if m.InputResponses != nil && strictjson.KindOf(m.InputResponses) != strictjson.Object {
		return errRequest
	}
	if m.RequestID != nil && !validID(m.RequestID) {
		return errRequest
	}
	if m.Method == MethodInitialize && m.Requested == "" {
		return InvalidParams(`initialize must name a "protocolVersion"`)
	}
	return m.finishName()
}

func (m *Message) finishName() *Error {
	switch naming(m.Method) {
	case "":
		m.name = span{}
		if m.Method == NotifyResourceUpdated && m.uri != (span{}) {
			m.URI, _ = strictjson.Text(m.Raw[m.uri.start:m.uri.end])
		}
		return nil
	case "uri":
		m.name = m.uri
	case "taskId":
		m.name = m.taskID
	case "ref":
		switch m.RefType {
		case RefPrompt:
			m.name = m.refName
		case RefResource:
			m.name = m.refURI
		default:
			return InvalidParams(`params.ref must be of type "` + RefPrompt + `" or "` + RefResource + `"`)
		}
	}
	if m.name == (span{}) {
		return errNoName
	}
	text, ok := strictjson.Text(m.Raw[m.name.start:m.name.end])
	if !ok {
		return errNameType
	}
	if text == "" {
		return errNoName
	}
	m.Name = text
	return nil
}

func (m *Message) finishResponse() *Error {
	if (m.Result == nil) == (m.Failure == nil) || m.Params != nil || m.ID == nil && m.Failure == nil {
		return errShape
	}
	for _, raw := range [][]byte{m.Result, m.Failure} {
		if raw != nil && strictjson.KindOf(raw) != strictjson.Object {
			return errShape
		}
	}
	m.Kind = Response
	return nil
}

func spanOf(r *strictjson.Reader, raw []byte) span { return span{r.Offset() - len(raw), r.Offset()} }

// validID tells whether raw is an id that every parser reads as the same one: a string, or an integer of 64 bits that is
// written as one.
func validID(raw []byte) bool {
	switch strictjson.KindOf(raw) {
	case strictjson.String:
		return len(raw) <= maxID
	case strictjson.Number:
		if len(raw) > 20 || string(raw) == "-0" {
			return false
		}
		_, err := strconv.ParseInt(string(raw), 10, 64)
		return err == nil
	}
	return false
}
