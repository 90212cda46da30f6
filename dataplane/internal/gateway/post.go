package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/meter"
	"sallyport.dev/dataplane/internal/strictjson"
	"sallyport.dev/dataplane/policy"
)

// exchange is one message with whom it came from and how it is to be answered.
type exchange struct {
	*caller
	message  *mcp.Message
	revision mcp.Revision
	session  mcp.Session // of the session era; zero: none
	began    time.Time
	spent    spent
	header   http.Header
	found    bool // a call by call_tool
	// What an agent of the stateless era brought back of what it was asked. foreignState: it is not this region's.
	roundTrip    *roundTrip
	foreignState bool
	approved     approval
	// ask is what is decided, of a call whose arguments were read.
	ask *policy.Request
	// redaction is what is taken out of the answer; nil: nothing. withheld: it was not passed on.
	redaction *policy.Redaction
	withheld  bool
	// whole is how audit keeps the call's values whole.
	whole wholeValues
	// reserved is what the call may use of budgets, used what it does; budget is one that had not enough left.
	reserved *meter.Reservation
	used     meter.Use
	budget   string
	// streamed is how many bytes came before the answer. costless: nothing is counted, where results are.
	streamed uint64
	costless bool
}

// post reads one POST, strictly, and answers each message in it.
func (g *Gateway) post(w http.ResponseWriter, r *http.Request, c *caller) {
	began := g.Now()
	if e := mcp.CheckPost(r.Header); e != nil {
		mcp.WriteError(w, "", nil, e)
		return
	}
	body, err := g.readBody(w, r)
	if err != nil {
		g.tooLarge(w, c, err)
		return
	}
	var p mcp.Post
	if e := p.Read(r.Header, body, g.JSON); e != nil {
		g.refused(c, "read", auditv1.Reason_REASON_ARGUMENTS_INVALID)
		mcp.WriteError(w, p.Revision, p.ID(), e)
		return
	}
	x := exchange{caller: c, revision: p.Revision, began: began, header: r.Header}
	if !p.Revision.Stateless() && (len(p.Messages) != 1 || p.Messages[0].Method != mcp.MethodInitialize) {
		var e *mcp.Error
		if x.session, e = g.session(r, c); e == nil {
			e = p.InSession(x.session.Revision)
		}
		if e != nil {
			mcp.WriteError(w, p.Revision, p.ID(), e)
			return
		}
		x.revision = p.Revision
	}
	if p.Revision.Stateless() && strings.HasPrefix(p.Messages[0].RequestState, roundTripState) {
		q, m, e := g.broughtBack(&p.Messages[0])
		if e != nil {
			mcp.WriteError(w, p.Revision, p.ID(), e)
			return
		}
		x.roundTrip, x.foreignState, p.Messages[0] = q, q == nil, *m
	}
	if g.sentBack(w, r, &p.Messages[0]) || g.elsewhere(w, r, g.onward(&x, &p, body)) {
		return
	}
	if p.Batch {
		g.batch(w, r, x, p.Messages)
		return
	}
	x.message = &p.Messages[0]
	g.answer(w, r, &x)
}

// knownBody is the most that is made room for because a header says so: what was not sent yet shall take no more.
const knownBody = 16 << 10

// readBody reads a body that must not be too large, nor take too long: a stream that is answered with may
// then take as long as it likes.
func (g *Gateway) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	conn := http.NewResponseController(w)
	// Deadlines are the connection's, by the real clock. A connection that has none keeps its body's pace.
	_ = conn.SetReadDeadline(time.Now().Add(g.ReadBody))
	var body []byte
	var err error
	if n := r.ContentLength; n > 0 && n <= knownBody && n <= g.MaxBody {
		body = make([]byte, n)
		_, err = io.ReadFull(r.Body, body)
	} else {
		body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, g.MaxBody))
	}
	if err != nil {
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Time{})
	return body, nil
}

func (g *Gateway) tooLarge(w http.ResponseWriter, c *caller, err error) {
	var most *http.MaxBytesError
	if !errors.As(err, &most) {
		// The agent went away, or was too slow: nothing more is read from this connection.
		w.Header().Set("Connection", "close")
		mcp.WriteError(w, "", nil, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "the body did not arrive whole, in time", Status: http.StatusRequestTimeout})
		return
	}
	g.refused(c, "read", auditv1.Reason_REASON_ARGUMENTS_INVALID)
	mcp.WriteError(w, "", nil, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "the body is larger than this proxy takes", Status: http.StatusRequestEntityTooLarge})
}

// answer leads a message to its method.
func (g *Gateway) answer(w http.ResponseWriter, r *http.Request, x *exchange) {
	m := x.message
	switch m.Kind {
	case mcp.Notification:
		if m.Method == mcp.NotifyCancelled {
			g.flights.cancelled(x.ID, x.session.ID, m.RequestID)
		}
		w.WriteHeader(http.StatusAccepted)
		return
	case mcp.Response:
		g.respond(w, x)
		return
	}
	stateless := x.revision.Stateless()
	switch {
	case m.Method == mcp.MethodInitialize && !stateless:
		g.initialize(w, x)
	case m.Method == mcp.MethodPing && !stateless:
		mcp.WriteJSON(w, http.StatusOK, mcp.AppendPong(nil, m.ID))
	case m.Method == mcp.MethodDiscover && stateless:
		mcp.WriteJSON(w, http.StatusOK, mcp.AppendDiscover(nil, m.ID, g.server, 0))
	case listings[m.Method].kind != 0:
		g.list(w, x, listings[m.Method])
	case g.finding(x):
		g.find(w, r, x)
	case m.Method == mcp.MethodCallTool, m.Method == mcp.MethodGetPrompt, m.Method == mcp.MethodReadResource, m.Method == mcp.MethodComplete,
		m.Method == mcp.MethodGetTask, m.Method == mcp.MethodCancelTask, m.Method == mcp.MethodUpdateTask && stateless,
		(m.Method == mcp.MethodSubscribe || m.Method == mcp.MethodUnsubscribe || m.Method == mcp.MethodTaskResult) && !stateless:
		g.Call(w, r, x)
	case m.Method == mcp.MethodSetLevel && !stateless:
		g.setLevel(w, x)
	case m.Method == mcp.MethodListen && stateless:
		g.subscribe(w, r, x)
	default:
		g.refused(x.caller, m.Method, auditv1.Reason_REASON_METHOD_REFUSED)
		mcp.WriteError(w, x.revision, m.ID, mcp.MethodNotFound())
	}
}

// batch answers each message of a JSON-RPC batch by itself, and all answers together.
func (g *Gateway) batch(w http.ResponseWriter, r *http.Request, x exchange, messages []mcp.Message) {
	all := []byte{'['}
	for i := range messages {
		one := x
		one.message = &messages[i]
		collected := &collector{header: http.Header{}, most: g.MaxResult}
		g.answer(collected, r, &one)
		answer := collected.answer(g.JSON)
		if answer == nil {
			continue
		}
		if len(all) > 1 {
			all = append(all, ',')
		}
		all = append(all, answer...)
		if len(all) > g.MaxResult {
			mcp.WriteError(w, x.revision, nil, &mcp.Error{Code: mcp.CodeInternal, Message: "the batch's answers are larger than this proxy takes: send its messages alone"})
			return
		}
	}
	if len(all) == 1 {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	mcp.WriteJSON(w, http.StatusOK, append(all, ']'))
}

// collector takes the answer to one message of a batch.
type collector struct {
	header http.Header
	body   bytes.Buffer
	most   int
}

// Header is the answer's.
func (c *collector) Header() http.Header { return c.header }

// WriteHeader is not used: a batch has one status.
func (c *collector) WriteHeader(int) {}

// Flush has nothing to send yet.
func (c *collector) Flush() {}

// Write keeps what belongs to the answer.
func (c *collector) Write(b []byte) (int, error) {
	if c.body.Len()+len(b) > c.most {
		return 0, errors.New("the answer is larger than this proxy takes")
	}
	return c.body.Write(b)
}

// answer is the one response in what was written: nil for a notification.
func (c *collector) answer(limits strictjson.Limits) []byte {
	if mcp.IsType(c.header["Content-Type"], "text/event-stream") != nil {
		return bytes.TrimSpace(c.body.Bytes())
	}
	events := mcp.NewEventReader(&c.body, c.most)
	for {
		e, err := events.Next()
		if err != nil {
			return nil
		}
		var m mcp.Message
		if mcp.ReadMessage(e.Data, limits, &m) == nil && m.Kind == mcp.Response {
			return bytes.Clone(e.Data)
		}
	}
}
