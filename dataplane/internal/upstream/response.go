package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"sallyport.dev/dataplane/internal/mcp"
)

// Response is an answer that has begun. It is for one goroutine at a time, and must be closed.
type Response struct {
	// Status is the upstream's HTTP status: 200; 202 for an accepted notification, which has no body; or 400 and above, with a
	// JSON-RPC error as body.
	Status int
	// Stream tells that the answer comes as events, by Next; else it is one JSON message, by Read.
	Stream bool
	// Message is the JSON answer as it came, under the id that the upstream knows, where it was small enough to be read whole
	// (see Whole); it stays valid. Of a stream, see Event.
	Message mcp.Message

	upstream  *Upstream
	exchange  exchange
	sessionID string
	code      int // of a JSON-RPC error
	body      *watched
	cancel    context.CancelCauseFunc
	explain   func(error) error
	// reopen asks for the rest of a stream that ended early.
	reopen func(lastID string, wait time.Duration) (reply, error)
	tries  int
	lastID string

	data     []byte    // a small answer, or what is left of it
	large    *restorer // a large one
	left     int64     // of a large one whose length the upstream declared, what was not read of it when it began
	events   *mcp.EventReader
	listens  bool // the stream answers nothing
	finished bool // the upstream has nothing left to do for the request
	closed   bool
}

// Event is a message of a stream. It is valid until the next one is read.
type Event struct {
	// Data is the message for the agent: as it came, a response under the agent's own id.
	Data []byte
	// Message is what came.
	Message *mcp.Message
	// Last tells that it is the response.
	Last bool
}

// Whole tells whether the JSON answer is in Message already. One that is larger than 64 KiB is not.
func (r *Response) Whole() bool { return !r.Stream && r.large == nil && r.Message.Kind != 0 }

// Special tells that a large JSON answer is not a plain result, as far as it came: it is to be read whole (All), or its reading fails.
func (r *Response) Special() bool { return r.large != nil && r.large.special }

// Read reads a JSON answer for the agent. An error other than io.EOF is an *Error or wraps what ended the call's context.
func (r *Response) Read(p []byte) (int, error) {
	if r.large == nil {
		if len(r.data) == 0 {
			return 0, io.EOF
		}
		n := copy(p, r.data)
		r.data = r.data[n:]
		return n, nil
	}
	n, err := r.large.Read(p)
	if errors.Is(err, io.EOF) {
		r.finished = true
		return n, io.EOF
	}
	if err != nil {
		err = r.explain(err)
	}
	return n, err
}

// WriteTo writes a JSON answer for the agent, a small one in one piece.
func (r *Response) WriteTo(w io.Writer) (int64, error) {
	if r.large == nil {
		n, err := w.Write(r.data)
		r.data = r.data[n:]
		return int64(n), err
	}
	buf := passing.Get().(*[]byte)
	defer passing.Put(buf)
	return io.CopyBuffer(w, struct{ io.Reader }{r}, *buf)
}

// passing are buffers by which large answers are passed on. In larger pieces there are fewer of them to send.
var passing = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// Len returns how many bytes a JSON answer has of which nothing was read yet; -1: that is not known.
func (r *Response) Len() int64 {
	switch {
	case r.Stream || r.large != nil && (r.left == 0 || !r.large.done()):
		return -1
	case r.large != nil:
		return r.left + int64(len(r.large.out)+len(r.large.rest))
	}
	return int64(len(r.data))
}

// Next returns a stream's next message, and io.EOF after the response. Reading on to that io.EOF, rather than closing after the
// response, lets the connection be used again. What a server of the session era asks of its client is an event too, whose Message is a
// Request: Reply answers it, or Refuse.
func (r *Response) Next() (Event, error) {
	if r.finished || !r.Stream {
		r.body.drain()
		return Event{}, io.EOF
	}
	for {
		e, err := r.events.Next()
		if err != nil {
			if r.resume(err) {
				continue
			}
			return Event{}, r.streamError(err)
		}
		r.tries = 0
		if len(e.Data) == 0 || e.Type != "" && e.Type != "message" {
			continue
		}
		if bad := mcp.ReadMessage(e.Data, r.upstream.limits(), &r.Message); bad != nil {
			return Event{}, r.status(BadResponse, "an event holds no valid JSON-RPC message", 0)
		}
		switch r.Message.Kind {
		case mcp.Notification:
			return Event{Data: r.Message.Raw, Message: &r.Message}, nil
		case mcp.Response:
			if r.listens {
				continue
			}
			data, err := r.restored()
			r.finished = err == nil
			return Event{Data: data, Message: &r.Message, Last: true}, err
		}
		switch {
		case r.exchange.session == nil:
			return Event{}, r.status(BadResponse, "it asks something of the client in a way that its protocol version does not have", 0)
		case r.Message.Method == mcp.MethodPing:
			r.upstream.post(r.exchange, mcp.AppendPong(nil, r.Message.ID))
		default:
			return Event{Data: r.Message.Raw, Message: &r.Message}, nil
		}
	}
}

// Refuse answers a request of the server's, by its raw id, with an error.
func (r *Response) Refuse(id []byte, e *mcp.Error) {
	r.upstream.post(r.exchange, mcp.AppendError(nil, id, e))
}

// Reply sends the server the answer to what it asked, a whole JSON-RPC response under the id that it asked by.
func (r *Response) Reply(ctx context.Context, message []byte) error {
	return r.upstream.tell(ctx, r.exchange, message)
}

// Pause lets the answer wait for as long as nobody reads on, as while a person is asked something.
func (r *Response) Pause() { r.body.watch.Stop() }

// AnswerTo changes the agent's id, raw, under which the answer is given.
func (r *Response) AnswerTo(id []byte) { r.exchange.answer = id }

// Session tells whether the upstream is of the session era.
func (r *Response) Session() bool { return r.exchange.session != nil }

// A stream is continued so often without an event in between, and waits so long where the server does not say, and at most.
const (
	maxResumes  = 5
	resumeAfter = 500 * time.Millisecond
	resumeMost  = 30 * time.Second
)

// resume continues a stream of the session era that ended before the answer, where the server gave its events ids (2025-11-25,
// transports, resumability). What the server did for the call it keeps.
func (r *Response) resume(err error) bool {
	id, wait := r.events.Last()
	if id == "" {
		id = r.lastID
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, mcp.ErrEventCut) || id == "" || !printable(id) || r.reopen == nil || r.tries == maxResumes {
		return false
	}
	if wait == 0 {
		wait = resumeAfter << r.tries
	}
	r.tries++
	r.lastID = id
	_ = r.body.body.Close() // it is at its end
	r.body.watch.Stop()
	rep, err := r.reopen(id, min(wait, resumeMost))
	if err != nil {
		return false
	}
	if rep.status != http.StatusOK || rep.encoded || mcp.IsType(rep.contentType, "text/event-stream") != nil {
		_ = rep.body.Close()
		return false
	}
	*r.body = watched{body: rep.body, watch: r.body.watch, silence: r.body.silence, left: 1<<63 - 1}
	r.events = mcp.NewEventReader(r.body, r.upstream.target.MaxEvent)
	return true
}

func (r *Response) streamError(err error) error {
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, mcp.ErrEventCut):
		return r.status(BadResponse, "its stream ended before the answer", 0)
	case errors.Is(err, mcp.ErrEventTooLarge):
		return r.status(BadResponse, "an event is too large", 0)
	}
	return r.explain(err)
}

// Close ends the answer. Before its end, it cancels the call at the upstream.
func (r *Response) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.body.watch.Stop()
	if !r.finished && !r.listens {
		r.upstream.cancelled(r.exchange)
	}
	r.cancel(nil)
	_ = r.body.body.Close() // nothing depends on what was not read
	if r.exchange.seat != nil {
		r.upstream.release(r.exchange.seat)
	}
	return nil
}

// whole reads an answer to the gateway's own question to its end.
func (r *Response) whole() (*mcp.Message, error) {
	for r.Stream {
		e, err := r.Next()
		if err != nil {
			return nil, err
		}
		if e.Last {
			r.body.drain()
			return e.Message, nil
		}
		if e.Message.Kind == mcp.Request {
			r.Refuse(e.Message.ID, mcp.MethodNotFound())
		}
	}
	if r.large != nil || r.Message.Kind != mcp.Response {
		return nil, r.status(BadResponse, tooLarge, 0)
	}
	return &r.Message, nil
}

// All reads an answer to its end, for who wants it whole, if it has no more than most bytes. It is Whole after that.
func (r *Response) All(most int) (*mcp.Message, error) {
	if r.large == nil {
		return r.whole()
	}
	r.large.whole = true
	data, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
	switch {
	case err != nil:
		return nil, err // of Read
	case len(data) > most:
		return nil, r.status(BadResponse, tooLarge, 0)
	}
	if e := mcp.ReadMessage(data, r.upstream.limits(), &r.Message); e != nil || r.Message.Kind != mcp.Response {
		return nil, r.status(BadResponse, notJSONRPC, 0)
	}
	r.data, r.large = data, nil
	return &r.Message, nil
}

// watched is an answer's body under a watch for silence, and a limit.
type watched struct {
	body    io.ReadCloser
	watch   *time.Timer
	silence time.Duration
	left    int64
	ended   bool
}

var errTooLarge = errors.New("the answer is too large")

func (w *watched) Read(p []byte) (int, error) {
	if w.ended {
		return 0, io.EOF
	}
	w.watch.Reset(w.silence)
	n, err := w.body.Read(p)
	if w.left -= int64(n); w.left < 0 {
		return 0, errTooLarge
	}
	w.ended = errors.Is(err, io.EOF)
	return n, err
}

// drain reads a little that is left, so that the connection can be used again.
func (w *watched) drain() {
	if w.ended {
		return
	}
	w.watch.Reset(100 * time.Millisecond)
	n, err := io.CopyN(io.Discard, w.body, 16<<10)
	w.ended = errors.Is(err, io.EOF) && n < 16<<10
}
