package mcp

import (
	"strconv"
	"time"

	"sallyport.dev/dataplane/internal/strictjson"
)

// Server is how the gateway presents itself.
type Server struct {
	Name, Title, Version string
	// Instructions for the model; may be empty.
	Instructions string
}

// Complete is the member that says that a result is all there is to the answer.
const Complete = `"resultType":"complete"`

// What a gateway offers, and tells when a person's list of it changes. The session era says subscriptions and logging there.
const (
	capabilities        = `{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"completions":{},"extensions":{"` + TasksExtension + `":{}}}`
	sessionCapabilities = `{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"listChanged":true,"subscribe":true},"completions":{},"logging":{}}`
	// Lists of tasks are not offered: an upstream that knows the gateway alone cannot tell whose they are.
	sessionTasks = `,"tasks":{"cancel":{},"requests":{"tools":{"call":{}}}}}`
)

func (s Server) appendInfo(dst []byte) []byte {
	dst = strictjson.Quote(append(dst, `{"name":`...), s.Name)
	if s.Title != "" {
		dst = strictjson.Quote(append(dst, `,"title":`...), s.Title)
	}
	return append(strictjson.Quote(append(dst, `,"version":`...), s.Version), '}')
}

// Info returns the server as a raw Implementation object, as clientInfo says it too.
func (s Server) Info() []byte { return s.appendInfo(nil) }

// AppendResult appends a response with a raw result.
func AppendResult(dst, id, result []byte) []byte {
	return append(append(appendHead(dst, id), result...), '}')
}

func appendHead(dst, id []byte) []byte {
	return append(append(append(dst, `{"jsonrpc":"2.0","id":`...), id...), `,"result":`...)
}

// AppendPong answers a ping.
func AppendPong(dst, id []byte) []byte { return append(appendHead(dst, id), "{}}"...) }

// AppendInitialize answers initialize with the negotiated revision.
func AppendInitialize(dst, id []byte, revision Revision, s Server) []byte {
	dst = strictjson.Quote(append(appendHead(dst, id), `{"protocolVersion":`...), string(revision))
	offered := sessionCapabilities
	if revision >= Revision20251125 {
		offered = sessionCapabilities[:len(sessionCapabilities)-1] + sessionTasks
	}
	dst = s.appendInfo(append(dst, `,"capabilities":`+offered+`,"serverInfo":`...))
	return append(s.appendInstructions(dst), "}}"...)
}

// AppendDiscover answers server/discover. What it says may differ by person, so its scope is private.
func AppendDiscover(dst, id []byte, s Server, ttl time.Duration) []byte {
	dst = append(appendHead(dst, id), `{`+Complete+`,"supportedVersions":[`...)
	for i, r := range revisions {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strictjson.Quote(dst, string(r))
	}
	dst = s.appendInstructions(append(dst, `],"capabilities":`+capabilities...))
	dst = appendCaching(dst, ttl)
	dst = s.appendInfo(append(dst, `,"_meta":{"`+MetaServerInfo+`":`...))
	return append(dst, "}}}"...)
}

func (s Server) appendInstructions(dst []byte) []byte {
	if s.Instructions == "" {
		return dst
	}
	return strictjson.Quote(append(dst, `,"instructions":`...), s.Instructions)
}

func appendCaching(dst []byte, ttl time.Duration) []byte {
	dst = strconv.AppendInt(append(dst, `,"ttlMs":`...), max(0, ttl.Milliseconds()), 10)
	return append(dst, `,"cacheScope":"private"`...)
}

// AppendList answers a list, by the name of the result's member, with raw pinned definitions in the order given. In the stateless era the result
// may be kept for ttl by the person's own client only: the list is filtered. next is empty on the last page.
func AppendList(dst, id []byte, revision Revision, member string, definitions [][]byte, next string, ttl time.Duration) []byte {
	before, after := AroundList(id, revision, member, next, ttl)
	return append(AppendArray(append(dst, before...), definitions), after...)
}

// AppendArray appends an array of raw values.
func AppendArray(dst []byte, values [][]byte) []byte {
	dst = append(dst, '[')
	for i, value := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, value...)
	}
	return append(dst, ']')
}

// AroundList returns what stands before and after the array in the answer that AppendList gives.
func AroundList(id []byte, revision Revision, member, next string, ttl time.Duration) (before, after []byte) {
	both := append(append(append(appendHead(make([]byte, 0, len(id)+192), id), `{"`...), member...), `":`...)
	n := len(both)
	if next != "" {
		both = strictjson.Quote(append(both, `,"nextCursor":`...), next)
	}
	if revision.Stateless() {
		both = append(appendCaching(both, ttl), `,`+Complete...)
	}
	both = append(both, "}}"...)
	return both[:n:n], both[n:]
}

// AppendToolError answers tools/call with a result that says, where the model reads it, why the call did not happen.
func AppendToolError(dst, id []byte, revision Revision, text string) []byte {
	dst = strictjson.Quote(append(appendHead(dst, id), `{"content":[{"type":"text","text":`...), text)
	dst = append(dst, `}],"isError":true`...)
	if revision.Stateless() {
		dst = append(dst, `,`+Complete...)
	}
	return append(dst, "}}"...)
}

// Filter is what a subscriptions/listen request asks for, or is granted.
type Filter struct {
	ToolsChanged, PromptsChanged, ResourcesChanged bool
	// Resources are the URIs whose changes are asked for.
	Resources []string
	// Tasks tells that word of tasks is asked for. It is never granted: who polls is told.
	Tasks bool
}

// ReadFilter reads params.notifications of subscriptions/listen.
func ReadFilter(m *Message, limits strictjson.Limits) (Filter, *Error) {
	var f Filter
	v, err := strictjson.Decode(m.Params, limits)
	if err != nil {
		return f, InvalidParams(`"notifications" must be an object`)
	}
	params, _ := v.(map[string]any)
	wanted, ok := params["notifications"].(map[string]any)
	if !ok {
		return f, InvalidParams(`"notifications" must be an object`)
	}
	wrong := false
	flag := func(key string) bool {
		b, ok := wanted[key].(bool)
		wrong = wrong || wanted[key] != nil && !ok
		return b
	}
	f.ToolsChanged, f.PromptsChanged, f.ResourcesChanged = flag("toolsListChanged"), flag("promptsListChanged"), flag("resourcesListChanged")
	_, f.Tasks = wanted["taskIds"]
	uris, ok := wanted["resourceSubscriptions"].([]any)
	wrong = wrong || wanted["resourceSubscriptions"] != nil && !ok
	for _, uri := range uris {
		s, ok := uri.(string)
		wrong = wrong || !ok
		f.Resources = append(f.Resources, s)
	}
	if wrong {
		return Filter{}, InvalidParams(`a member of "notifications" has the wrong type`)
	}
	return f, nil
}

// AppendSubscribed appends the notification that must be first on the stream of a subscriptions/listen with that id: what
// was granted.
func AppendSubscribed(dst, id []byte, granted Filter) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":"`+NotifySubscriptionsAccepted+`","params":{"_meta":{"`+MetaSubscription+`":`...)
	dst = append(append(dst, id...), `},"notifications":{`...)
	first := true
	add := func(on bool, key string) {
		if !on {
			return
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(append(append(dst, '"'), key...), `":true`...)
	}
	add(granted.ToolsChanged, "toolsListChanged")
	add(granted.PromptsChanged, "promptsListChanged")
	add(granted.ResourcesChanged, "resourcesListChanged")
	if len(granted.Resources) > 0 {
		if !first {
			dst = append(dst, ',')
		}
		dst = append(dst, `"resourceSubscriptions":[`...)
		for i, uri := range granted.Resources {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = strictjson.Quote(dst, uri)
		}
		dst = append(dst, ']')
	}
	return append(dst, "}}}"...)
}

// AppendNotification appends a notification with raw params.
func AppendNotification(dst []byte, method string, params []byte) []byte {
	dst = strictjson.Quote(append(dst, `{"jsonrpc":"2.0","method":`...), method)
	return append(append(append(dst, `,"params":`...), params...), '}')
}

// AppendListChanged appends a list_changed notification (NotifyToolsChanged and its like). subscription is the raw id
// of the subscriptions/listen on whose stream it goes; nil in the session era.
func AppendListChanged(dst []byte, method string, subscription []byte) []byte {
	dst = append(append(append(dst, `{"jsonrpc":"2.0","method":"`...), method...), '"')
	if subscription != nil {
		dst = append(append(append(dst, `,"params":{"_meta":{"`+MetaSubscription+`":`...), subscription...), "}}"...)
	}
	return append(dst, '}')
}

// AppendResourceUpdated appends a notification that a resource changed. subscription is as in AppendListChanged.
func AppendResourceUpdated(dst []byte, uri string, subscription []byte) []byte {
	dst = strictjson.Quote(append(dst, `{"jsonrpc":"2.0","method":"`+NotifyResourceUpdated+`","params":{"uri":`...), uri)
	if subscription != nil {
		dst = append(append(append(dst, `,"_meta":{"`+MetaSubscription+`":`...), subscription...), '}')
	}
	return append(dst, "}}"...)
}

// AppendSubscriptionEnd answers a subscriptions/listen whose stream the gateway ends.
func AppendSubscriptionEnd(dst, id []byte) []byte {
	dst = append(appendHead(dst, id), `{`+Complete+`,"_meta":{"`+MetaSubscription+`":`...)
	return append(append(dst, id...), "}}}"...)
}

// AppendCancelled appends a notification that cancels the request with that raw id.
func AppendCancelled(dst, id []byte, reason string) []byte {
	dst = append(append(dst, `{"jsonrpc":"2.0","method":"`+NotifyCancelled+`","params":{"requestId":`...), id...)
	return append(strictjson.Quote(append(dst, `,"reason":`...), reason), "}}"...)
}
