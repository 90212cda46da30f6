package upstream

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// Upstream is one connector's server. It is safe for concurrent use.
type Upstream struct {
	pool   *Pool
	given  Target // as it was asked for
	target Target // with defaults
	wire   wire

	era    atomic.Pointer[era]
	asking *turn
	seats  seats
	lastID atomic.Uint64

	breaker breaker
}

func newUpstream(p *Pool, target Target) (*Upstream, error) {
	to, err := target.parse()
	if err != nil {
		return nil, err
	}
	u := &Upstream{pool: p, given: target, target: target.orDefaults(), asking: newTurn(), seats: seats{by: map[string]*seat{}}}
	config := p.config
	if config.Dial, err = u.target.dialer(config); err != nil {
		return nil, err
	}
	u.wire = newWire(config, u.target, to)
	switch {
	case target.Revision.Stateless():
		u.era.Store(&era{revision: target.Revision})
	case target.Revision != "", target.Legacy:
		u.era.Store(&era{})
	}
	return u, nil
}

func newWire(c Config, t Target, to *url.URL) wire {
	if t.Legacy {
		return newLegacyWire(c, t, to)
	}
	if to.Scheme == "http" && c.Proxy == nil {
		return newPlainWire(c, t, to)
	}
	return newNetWire(c, t, to)
}

// retire ends the sessions. Calls in flight go on.
func (u *Upstream) retire() {
	u.seats.mu.Lock()
	all := u.seats.by
	u.seats.by = map[string]*seat{}
	u.seats.mu.Unlock()
	for _, s := range all {
		u.goodbye(s)
	}
	u.wire.close()
}

// Call is one message on its way to an upstream.
type Call struct {
	// Message is a request or a notification, as the agent sent it.
	Message *mcp.Message
	// Revision is what the agent speaks.
	Revision mcp.Revision
	// Name is what the upstream itself calls the tool, where the agent knows it by another name.
	Name  string
	Party Party
	// Capabilities is the raw object that is declared to an upstream of the stateless era. Empty: what the message declares.
	Capabilities []byte
	// Params are the tool's bindings of arguments to headers, for an upstream of the stateless era.
	Params []mcp.ParamHeader
	// Header is the agent's request header. Of it, only Mcp-Param-* is forwarded, between two sides of the stateless era.
	Header http.Header
	// Asked tells that the agent can be asked for input.
	Asked bool
	// Task has an upstream of the session era answer by a task.
	Task bool
	// Safe tells that the call changes nothing, so that it may be made again after a failure.
	Safe bool
	// TraceParent and TraceState are the W3C trace context to hand on, if any.
	TraceParent, TraceState string
}

// Call sends the message and returns when its answer begins. The error is an *Error, an *mcp.Error where the message cannot be sent to
// this upstream, or wraps what ended ctx. The caller closes the Response; the call is cancelled at the upstream if ctx ends, or the Response is closed, before its end.
func (u *Upstream) Call(ctx context.Context, c Call) (*Response, error) {
	if err := c.Party.Credential.check(u.target.Connector); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		if err := u.admit(); err != nil {
			return nil, err
		}
		response, err := u.call(ctx, &c)
		u.judge(err)
		if err == nil || try >= u.target.Retries || !repeatable(err, c.Safe) || !pause(ctx, try) {
			return response, err
		}
	}
}

// call makes a call once, or twice where the upstream turns out to be another than it was and did not take it.
func (u *Upstream) call(ctx context.Context, c *Call) (*Response, error) {
	for again := true; ; again = false {
		known, err := u.speaks(ctx, &c.Party)
		if err != nil && ctx.Err() != nil {
			return nil, u.ended(ctx)
		}
		if err != nil {
			return nil, err
		}
		var response *Response
		var retry bool
		if known.revision.Stateless() {
			response, retry, err = u.callStateless(ctx, known, c)
		} else {
			response, retry, err = u.callSession(ctx, c)
		}
		if !retry || !again {
			return response, err
		}
		if response != nil {
			_ = response.Close()
		}
	}
}

// callStateless sends a call of the stateless era. It may be retried where the upstream refused the revision.
func (u *Upstream) callStateless(ctx context.Context, known era, c *Call) (response *Response, retry bool, err error) {
	m := c.Message
	edit := mcp.Edit{Revision: known.revision, Name: c.Name, ClientInfo: u.pool.info, Capabilities: c.Capabilities, TraceParent: c.TraceParent}
	sent := m.Raw
	if edit.Changes(m) {
		sent = edit.Append(make([]byte, 0, len(m.Raw)+256), m)
	}
	fields, fit := u.statelessFields(known.revision, c)
	if !fit {
		return nil, false, errMirrors
	}
	r := request{method: http.MethodPost, fields: fields, body: sent}
	response, err = u.exchange(ctx, &r, exchange{sent: m.ID, answer: m.ID, asked: c.Asked, method: m.Method})
	if refusesRevision(response) || leftTheEra(err) {
		if learned := u.era.Load(); learned != nil && *learned == known {
			u.unlearn(learned)
		}
		return response, refusesRevision(response) && u.target.Revision == "", err
	}
	return response, false, err
}

// callSession sends a call within a session. It may be retried where the session turned out to be lost: the upstream has
// then not taken the call.
func (u *Upstream) callSession(ctx context.Context, c *Call) (response *Response, retry bool, err error) {
	m := c.Message
	seat, current, err := u.opened(ctx, &c.Party)
	if err != nil && ctx.Err() != nil {
		return nil, false, u.ended(ctx)
	}
	if err != nil {
		if known := u.era.Load(); known != nil && leftTheEra(err) {
			u.unlearn(known)
		}
		return nil, false, err
	}
	if level := current.level.Load(); c.Party.LogLevel != "" && (level == nil || *level != c.Party.LogLevel) {
		u.setLevel(ctx, current, &c.Party)
	}
	// The session may be shared, so the agent's id, which another agent may use too, is replaced.
	edit := mcp.Edit{Revision: current.revision, Name: c.Name, Task: c.Task, TraceParent: c.TraceParent}
	if m.ID != nil {
		edit.ID = u.newID()
	}
	sent := m.Raw
	if edit.Changes(m) {
		sent = edit.Append(make([]byte, 0, len(m.Raw)+64), m)
	}
	r := request{method: http.MethodPost, fields: u.sessionFields(traceFields(baseFields(), c), current, c.Party.Credential), body: sent}
	x := exchange{sent: edit.ID, answer: m.ID, agent: c.Revision, asked: c.Asked, method: m.Method, session: current, credential: c.Party.Credential}
	response, err = u.exchange(ctx, &r, x)
	if err != nil {
		u.release(seat)
	} else {
		response.exchange.seat = seat
	}
	if isKind(err, SessionLost) {
		seat.lose(current)
		return nil, true, err
	}
	return response, false, err
}

// Stateless tells whether the upstream is of the stateless era.
func (u *Upstream) Stateless(ctx context.Context, p Party) (bool, error) {
	known, err := u.speaks(ctx, &p)
	return known.revision.Stateless(), err
}

// Listen opens the stream on which an upstream of the session era says what belongs to no request. It has no last event.
func (u *Upstream) Listen(ctx context.Context, p Party) (*Response, error) {
	seat, current, err := u.opened(ctx, &p)
	if err != nil {
		return nil, err
	}
	r := request{method: http.MethodGet, fields: u.sessionFields([]field{{"Accept", "text/event-stream"}}, current, p.Credential)}
	response, err := u.exchange(ctx, &r, exchange{method: mcp.MethodListen, sent: []byte("null"), session: current, credential: p.Credential})
	if err != nil {
		u.release(seat)
	} else {
		response.exchange.seat = seat
	}
	if isKind(err, SessionLost) {
		seat.lose(current)
	}
	if err == nil && !response.Stream {
		_ = response.Close()
		return nil, u.fail(BadResponse, "it has no stream of notifications")
	}
	if err == nil {
		response.listens = true
	}
	return response, err
}

// newID returns an id that no other request to this upstream has.
func (u *Upstream) newID() []byte { return strconv.AppendUint(nil, u.lastID.Add(1), 10) }

// limits for messages that upstreams send.
func (u *Upstream) limits() strictjson.Limits {
	return strictjson.Limits{MaxBytes: int(max(u.target.MaxResponse, int64(u.target.MaxEvent))), MaxDepth: 256, MaxKeys: 1 << 20}
}

// baseFields are the header of every POST.
func baseFields() []field {
	return append(make([]field, 0, 10), field{"Content-Type", "application/json"}, field{"Accept", "application/json, text/event-stream"})
}

func (u *Upstream) credential(fields []field, c Credential) []field {
	if c.Query != "" {
		fields = append(fields, field{queryField, c.Query})
	}
	if c.Header == "" {
		return fields
	}
	return append(fields, field{http.CanonicalHeaderKey(c.Header), c.Value})
}

// maxTrace is the most bytes of a field of trace context that is handed on: what must at least be (W3C Trace Context, section 3.3.1.5).
const maxTrace = 512

func traceFields(fields []field, c *Call) []field {
	for _, f := range [...]field{{"Traceparent", c.TraceParent}, {"Tracestate", c.TraceState}} {
		if f.value != "" && len(f.value) <= maxTrace && printable(f.value) {
			fields = append(fields, f)
		}
	}
	return fields
}

func (u *Upstream) sessionFields(fields []field, s *session, c Credential) []field {
	if s.id != "" {
		fields = append(fields, field{mcp.HeaderSession, s.id})
	}
	if s.revision != "" {
		fields = append(fields, field{mcp.HeaderRevision, string(s.revision)})
	}
	return u.credential(fields, c)
}

// maxMirrors is the most bytes of header that an agent may have an upstream be sent. Many servers take 16 KiB in all, and break the
// connection at more: one agent could make an upstream look ill to all others.
const maxMirrors = 8 << 10

var errMirrors = mcp.InvalidParams("the name or an argument is too long for the headers that the server wants it in")

// statelessFields are the header of a request of the stateless era. Not fit: what the agent asks for would make it too large.
func (u *Upstream) statelessFields(revision mcp.Revision, c *Call) (fields []field, fit bool) {
	m := c.Message
	fields = append(traceFields(baseFields(), c), field{mcp.HeaderRevision, string(revision)}, field{mcp.HeaderMethod, mcp.EncodeHeader(m.Method)})
	if m.Kind == mcp.Request && m.Name != "" && mcp.Mirrored(m.Method) {
		name := m.Name
		if c.Name != "" {
			name = c.Name
		}
		fields = append(fields, field{mcp.HeaderName, mcp.EncodeHeader(name)})
	}
	for _, p := range c.Params {
		if value, ok := p.Value(m.Arguments); ok {
			fields = append(fields, field{p.Header, value})
		}
	}
	if c.Revision.Stateless() {
		fields = c.agentParams(fields)
	}
	size := 0
	for _, f := range fields {
		size += len(f.name) + len(f.value)
	}
	return u.credential(fields, c.Party.Credential), size <= maxMirrors
}

// agentParams hands on the Mcp-Param headers that are not bound to an argument that is known here.
func (c *Call) agentParams(fields []field) []field {
next:
	for name, values := range c.Header {
		if !strings.HasPrefix(name, mcp.ParamPrefix) || len(values) != 1 || !printable(values[0]) {
			continue
		}
		for _, p := range c.Params {
			if p.Header == name {
				continue next
			}
		}
		fields = append(fields, field{name, values[0]})
	}
	return fields
}

// printable tells whether a value can stand in a header.
func printable(value string) bool {
	for i := 0; i < len(value); i++ {
		if value[i] < ' ' && value[i] != '\t' || value[i] > 0x7e {
			return false
		}
	}
	return true
}
