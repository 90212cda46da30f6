package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// exchange is what is known of a request beside its bytes.
type exchange struct {
	sent   []byte // the id that was sent, raw; nil for what has no answer
	answer []byte // the id to answer the agent under, raw
	// agent is what the agent speaks, where an answer may have to be changed for it.
	agent      mcp.Revision
	asked      bool // the agent can be asked for input
	method     string
	session    *session // nil in the stateless era
	seat       *seat    // where the session is; nil: the answer does not keep it
	credential Credential
}

// exchange sends a request and judges the head of its answer. Of a request that has none, the Response is at its end.
func (u *Upstream) exchange(outer context.Context, q *request, x exchange) (*Response, error) {
	ctx, cancel := context.WithCancelCause(outer)
	watch := time.AfterFunc(u.target.Timeout, func() { cancel(errSilent) })
	rep, err := u.wire.send(ctx, q)
	if err != nil {
		watch.Stop()
		broken := u.broken(outer, ctx, err, false)
		if q.begun.Load() && isKind(broken, Unreachable) { // whatever the error looks like, there was a connection
			broken = u.fail(BadResponse, "the connection ended before the answer")
		}
		if ctx.Err() != nil {
			u.cancelled(x)
		}
		cancel(nil)
		return nil, broken
	}
	watch.Reset(u.target.Silence)
	r := &Response{
		Status: http.StatusOK, upstream: u, exchange: x, sessionID: rep.session, cancel: cancel,
		explain: func(err error) error { return u.broken(outer, ctx, err, true) },
	}
	if x.session != nil && x.session.id != "" {
		r.reopen = func(lastID string, wait time.Duration) (reply, error) { return u.again(ctx, x, lastID, wait) }
	}
	r.body = &watched{body: rep.body, watch: watch, silence: u.target.Silence, left: u.target.MaxResponse}
	if err := r.begin(rep); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// again asks, after a wait, for what comes after an event of a stream.
func (u *Upstream) again(ctx context.Context, x exchange, lastID string, wait time.Duration) (reply, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(u.target.Timeout, func() { cancel(errSilent) })
	defer watch.Stop()
	q := request{method: http.MethodGet, fields: append(u.sessionFields([]field{{"Accept", "text/event-stream"}}, x.session, x.credential), field{"Last-Event-Id", lastID})}
	rep, err := u.wire.send(ctx, &q)
	if err != nil {
		cancel(nil)
		return reply{}, err
	}
	rep.body = &ended{rep.body, cancel}
	return rep, nil
}

// ended is a body whose end ends its context.
type ended struct {
	io.ReadCloser
	cancel context.CancelCauseFunc
}

func (e *ended) Close() error {
	defer e.cancel(nil)
	return e.ReadCloser.Close()
}

// begin decides by an answer's head what it is.
func (r *Response) begin(rep reply) error {
	switch s := rep.status; {
	case s >= 300 && s < 400:
		r.finished = true
		return r.status(Redirected, "", s)
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		r.finished = true
		e := r.upstream.fail(AuthRejected, "")
		e.Status, e.Scopes = s, neededScopes(rep.challenge)
		return e
	case s >= 400:
		r.finished = true
		return r.refused(rep)
	case s >= 200 && r.exchange.sent == nil:
		r.finished = true
		r.Status = http.StatusAccepted
		r.body.drain()
		return nil
	case s != http.StatusOK:
		return r.status(BadResponse, "", s)
	case rep.encoded:
		return r.status(BadResponse, "it is encoded in a way that was not asked for", 0)
	case mcp.IsType(rep.contentType, "application/json") == nil:
		return r.beginJSON(rep)
	case mcp.IsType(rep.contentType, "text/event-stream") == nil:
		r.Stream = true
		r.body.left = 1<<63 - 1
		r.events = mcp.NewEventReader(r.body, r.upstream.target.MaxEvent)
		return nil
	}
	return r.status(BadResponse, "its content type is neither JSON nor an event stream", 0)
}

func (r *Response) status(kind Kind, reason string, status int) error {
	e := r.upstream.fail(kind, reason)
	e.Status = status
	return e
}

// small bounds an answer that is read whole and strictly before it is passed on; a larger one is passed on as it comes.
const small = 64 << 10

func (r *Response) beginJSON(rep reply) error {
	if rep.length > r.upstream.target.MaxResponse {
		return r.status(BadResponse, tooLarge, 0)
	}
	size := 2048
	if rep.length >= 0 {
		size = int(min(rep.length+1, small)) // one more, so that the end shows
	}
	data, ended, err := readUpTo(r.body, size, small)
	if err != nil {
		return r.explain(err)
	}
	if !ended {
		r.large = &restorer{from: r.body, rest: data, sent: r.exchange.sent, answer: r.exchange.answer, complete: r.exchange.agent.Stateless(), asked: r.exchange.asked, fail: r.upstream.badAnswer}
		if rep.length >= 0 {
			r.left = rep.length - int64(len(data))
		}
		return r.large.look() // mostly all that is to be changed is here, and then it is known how long the answer becomes
	}
	if e := mcp.ReadMessage(data, r.upstream.limits(), &r.Message); e != nil {
		return r.status(BadResponse, notJSONRPC, 0)
	}
	if r.data, err = r.restored(); err != nil {
		return err
	}
	r.finished = true
	return nil
}

// restored checks that the message answers the request, and returns it under the agent's id.
func (r *Response) restored() ([]byte, error) {
	m := &r.Message
	if m.Kind != mcp.Response || m.ID != nil && !sameID(m.ID, r.exchange.sent) {
		return nil, r.status(BadResponse, answersAnother, 0)
	}
	if m.Failure != nil {
		r.code = errorCode(m.Failure)
		if m.ID == nil {
			return mcp.AppendFailure(nil, r.exchange.answer, m.Failure), nil
		}
	}
	edit := mcp.Edit{Revision: r.exchange.agent}
	if string(m.ID) != string(r.exchange.answer) {
		edit.ID = r.exchange.answer
	}
	if !edit.Changes(m) {
		return m.Raw, nil
	}
	return edit.Append(make([]byte, 0, len(m.Raw)+64), m), nil
}

const answersAnother = "it answers another request"

func (u *Upstream) badAnswer(reason string) error { return u.fail(BadResponse, reason) }

// refused reads an HTTP error. One that holds a JSON-RPC error is an answer.
func (r *Response) refused(rep reply) error {
	inSession := r.exchange.session != nil && r.exchange.session.id != ""
	lost := inSession && rep.status == http.StatusNotFound
	isError := false
	if !rep.encoded && mcp.IsType(rep.contentType, "application/json") == nil {
		if data, ended, err := readUpTo(r.body, 1024, small); err == nil && ended {
			isError = mcp.ReadMessage(data, r.upstream.limits(), &r.Message) == nil && r.Message.Failure != nil
		}
	} else {
		r.body.drain()
	}
	if isError {
		r.code = errorCode(r.Message.Failure)
		lost = inSession && (rep.status == http.StatusNotFound && r.code != mcp.CodeMethodNotFound ||
			rep.status == http.StatusBadRequest && r.code == codeNoSession && saysNoSession(r.Message.Failure))
	}
	switch {
	case lost:
		return r.status(SessionLost, "", rep.status)
	case !isError || r.exchange.sent == nil:
		return r.status(BadResponse, "", rep.status)
	case r.Message.ID != nil && !sameID(r.Message.ID, r.exchange.sent):
		return r.status(BadResponse, answersAnother, rep.status)
	}
	r.Status = rep.status
	r.data = mcp.AppendFailure(nil, r.exchange.answer, r.Message.Failure)
	return nil
}

// codeNoSession is what some servers say, under 400, of a session that they do not know.
const codeNoSession = -32000

// saysNoSession tells whether such an error is about the session: others say by the code that a call failed, maybe half-way, and that
// must not be made again.
func saysNoSession(failure []byte) bool {
	var e struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(failure, &e) != nil {
		return false
	}
	said := strings.ToLower(e.Message)
	return strings.Contains(said, "session") || strings.Contains(said, "not initialized")
}

func errorCode(failure []byte) int {
	v, err := strictjson.Decode(failure, strictjson.Limits{MaxBytes: small, MaxDepth: 256})
	object, _ := v.(map[string]any)
	code, ok := object["code"].(float64)
	if err != nil || !ok || code != float64(int(code)) {
		return 0
	}
	return int(code)
}

// sameID tells whether two raw ids are the same, be it in another writing.
func sameID(a, b []byte) bool {
	if string(a) == string(b) {
		return a != nil
	}
	x, ok1 := strictjson.Text(a)
	y, ok2 := strictjson.Text(b)
	return ok1 && ok2 && x == y
}

// readUpTo reads until the end, or until most bytes are there.
func readUpTo(from io.Reader, size, most int) (data []byte, ended bool, err error) {
	data = make([]byte, 0, size)
	for len(data) < most {
		if len(data) == cap(data) {
			grown := make([]byte, len(data), min(2*cap(data), most))
			copy(grown, data)
			data = grown
		}
		n, err := from.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if errors.Is(err, io.EOF) {
			return data, true, nil
		}
		if err != nil {
			return nil, false, err
		}
	}
	return data, false, nil
}

// cancelled tells an upstream of the session era, by word, that a request is not waited for any more. In the stateless
// era the closed connection says it.
func (u *Upstream) cancelled(x exchange) {
	if x.session == nil || x.sent == nil || x.method == mcp.MethodInitialize {
		return
	}
	u.post(x, mcp.AppendCancelled(nil, x.sent, "the caller is gone"))
}

// post sends a message of the session for which nobody waits.
func (u *Upstream) post(x exchange, message []byte) {
	u.pool.later(func(ctx context.Context) {
		r := request{method: http.MethodPost, fields: u.sessionFields(baseFields(), x.session, x.credential), body: message}
		if rep, err := u.wire.send(ctx, &r); err == nil {
			_ = rep.body.Close() // a courtesy: there is nothing to do about a refusal
		}
	})
}

// tell sends a message of the session that has no answer, and waits until the upstream took it.
func (u *Upstream) tell(ctx context.Context, x exchange, message []byte) error {
	r := request{method: http.MethodPost, fields: u.sessionFields(baseFields(), x.session, x.credential), body: message}
	response, err := u.exchange(ctx, &r, exchange{session: x.session, credential: x.credential})
	if err != nil {
		return err
	}
	return response.Close()
}
