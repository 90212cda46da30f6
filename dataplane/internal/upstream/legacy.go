package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/internal/strictjson"
)

// legacyWire speaks HTTP+SSE of 2024-11-05 as if it were streamable HTTP: a session is one event stream of the server's, on which all
// answers come, and each answer is handed out as a stream of its own. What is above it knows of no difference.
type legacyWire struct {
	net    *netWire
	target Target

	mu      sync.Mutex
	streams map[string]*legacyStream // by the session id that was made up for it
}

// legacyStream is a server's event stream.
type legacyStream struct {
	id     string
	post   *url.URL // where messages go
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex
	answers map[string]*legacyAnswer // by request id, as text
	tokens  map[string]*legacyAnswer // by progress token, raw
	notices *legacyAnswer            // nil: nobody listens
}

// legacyAnswer is the part of a stream that one request waits for, as a body of server-sent events.
type legacyAnswer struct {
	stream *legacyStream
	id     string
	token  string
	parts  chan []byte
	rest   []byte
	ctx    context.Context //nolint:containedctx // the request's: a Read ends with it
	once   sync.Once
}

// legacyParts is how many messages wait for whoever reads an answer.
const legacyParts = 64

func newLegacyWire(c Config, t Target, to *url.URL) *legacyWire {
	return &legacyWire{net: newNetWire(c, t, to), target: t, streams: map[string]*legacyStream{}}
}

func (w *legacyWire) send(ctx context.Context, r *request) (reply, error) {
	session := ""
	for _, f := range r.fields {
		if f.name == mcp.HeaderSession {
			session = f.value
		}
	}
	w.mu.Lock()
	s := w.streams[session]
	w.mu.Unlock()
	var m mcp.Message
	if r.method == http.MethodPost {
		if e := mcp.ReadMessage(r.body, strictjson.Limits{MaxBytes: len(r.body), MaxDepth: 256, MaxKeys: 1 << 20}, &m); e != nil {
			return reply{}, e
		}
	}
	switch {
	case m.Method == mcp.MethodInitialize:
		opened, err := w.open(ctx, r)
		if err != nil {
			return reply{}, err
		}
		s = opened
	case s == nil:
		return reply{status: http.StatusNotFound, length: 0, body: http.NoBody}, nil
	case r.method == http.MethodDelete:
		w.drop(s)
		return reply{status: http.StatusOK, length: 0, body: http.NoBody}, nil
	case r.method == http.MethodGet:
		a := s.listen(ctx)
		if a == nil {
			return reply{status: http.StatusMethodNotAllowed, length: 0, body: http.NoBody}, nil
		}
		return a.reply(""), nil
	}
	var a *legacyAnswer
	if m.Kind == mcp.Request {
		if a = s.wait(ctx, &m); a == nil {
			return reply{status: http.StatusNotFound, length: 0, body: http.NoBody}, nil
		}
	}
	if err := w.post(ctx, s, r); err != nil {
		if a != nil {
			_ = a.Close() // nothing comes
		}
		return reply{}, err
	}
	if a == nil {
		return reply{status: http.StatusAccepted, length: 0, body: http.NoBody}, nil
	}
	return a.reply(s.id), nil
}

func (a *legacyAnswer) reply(session string) reply {
	return reply{status: http.StatusOK, contentType: []string{"text/event-stream"}, session: session, length: -1, body: a}
}

// open opens an event stream, and waits until the server says where messages go.
func (w *legacyWire) open(ctx context.Context, r *request) (*legacyStream, error) {
	// The stream outlives the request that opens it.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	rep, err := w.request(life, http.MethodGet, w.net.url, r.fields, &request{}) //nolint:bodyclose // where it is not read to its end, it is closed
	if err != nil {
		cancel()
		return nil, err
	}
	if rep.StatusCode != http.StatusOK || mcp.IsType(rep.Header["Content-Type"], "text/event-stream") != nil {
		cancel()
		_ = rep.Body.Close() // it is of no use
		return nil, &Error{Kind: BadResponse, Connector: w.target.Connector, Reason: "it has no event stream at its URL", Status: rep.StatusCode}
	}
	s := &legacyStream{id: uuid.NewString(), cancel: cancel, done: make(chan struct{}), answers: map[string]*legacyAnswer{}, tokens: map[string]*legacyAnswer{}}
	events := mcp.NewEventReader(rep.Body, w.target.MaxEvent)
	first, err := events.Next()
	if err == nil {
		s.post, err = w.endpoint(first)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		cancel()
		_ = rep.Body.Close() // as above
		return nil, err
	}
	w.mu.Lock()
	w.streams[s.id] = s
	w.mu.Unlock()
	go func() {
		s.read(events)
		_ = rep.Body.Close() // it is at its end
		w.drop(s)
		close(s.done)
	}()
	return s, nil
}

// endpoint reads where messages go: at the same origin, or else credentials would leave it.
func (w *legacyWire) endpoint(e mcp.Event) (*url.URL, error) {
	bad := &Error{Kind: BadResponse, Connector: w.target.Connector, Reason: "its event stream does not begin with an endpoint of its own"}
	if e.Type != "endpoint" || len(e.Data) > 4096 {
		return nil, bad
	}
	to, err := w.net.url.Parse(string(e.Data))
	if err != nil || to.Scheme != w.net.url.Scheme || !strings.EqualFold(to.Host, w.net.url.Host) || to.User != nil {
		return nil, bad
	}
	to.Fragment, to.RawFragment = "", ""
	return to, nil
}

// request sends one HTTP request.
func (w *legacyWire) request(ctx context.Context, method string, to *url.URL, fields []field, of *request) (*http.Response, error) {
	to, fields = withQuery(to, fields)
	header := make(http.Header, len(fields)+1)
	for _, f := range fields {
		switch f.name {
		case mcp.HeaderSession, mcp.HeaderRevision, "Accept", "Last-Event-Id": // which this transport has none of, or its own
		default:
			header.Set(f.name, f.value)
		}
	}
	header["User-Agent"] = w.net.userAgent
	if method == http.MethodGet {
		header.Set("Accept", "text/event-stream")
		header.Del("Content-Type")
	}
	req := (&http.Request{
		Method: method, URL: to, Host: to.Host, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(of.body)),
	}).WithContext(ctx)
	if len(of.body) > 0 {
		req.Body = newBody(of)
	}
	return w.net.transport.RoundTrip(req)
}

func (w *legacyWire) post(ctx context.Context, s *legacyStream, r *request) error {
	resp, err := w.request(ctx, http.MethodPost, s.post, r.fields, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close() // the answer comes on the stream
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return &Error{Kind: AuthRejected, Connector: w.target.Connector, Status: resp.StatusCode}
	case resp.StatusCode == http.StatusNotFound:
		w.drop(s)
		return &Error{Kind: SessionLost, Connector: w.target.Connector, Status: resp.StatusCode}
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return &Error{Kind: Redirected, Connector: w.target.Connector, Status: resp.StatusCode}
	case resp.StatusCode >= 300:
		return &Error{Kind: BadResponse, Connector: w.target.Connector, Status: resp.StatusCode}
	}
	return nil
}

// drop ends a stream and forgets it.
func (w *legacyWire) drop(s *legacyStream) {
	w.mu.Lock()
	delete(w.streams, s.id)
	w.mu.Unlock()
	s.cancel()
}

func (w *legacyWire) close() {
	w.mu.Lock()
	all := w.streams
	w.streams = map[string]*legacyStream{}
	w.mu.Unlock()
	for _, s := range all {
		s.cancel()
	}
	w.net.close()
}

// read leads what the server says to whom it is for, until the stream ends; whoever waits then hears no more.
func (s *legacyStream) read(events *mcp.EventReader) {
	for {
		e, err := events.Next()
		if err != nil {
			break
		}
		if e.Type != "" && e.Type != "message" {
			continue
		}
		var m mcp.Message
		data := bytes.Clone(e.Data)
		if mcp.ReadMessage(data, strictjson.Limits{MaxBytes: len(data), MaxDepth: 256, MaxKeys: 1 << 20}, &m) != nil {
			continue // it is for nobody that could be told
		}
		if a := s.whose(&m); a != nil {
			a.take(data, m.Kind == mcp.Response)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.answers {
		close(a.parts)
	}
	if s.notices != nil {
		close(s.notices.parts)
	}
	s.answers, s.tokens, s.notices = nil, nil, nil
}

// whose finds whom a message is for. One that names no request is for whoever listens, or else for a request that waits: all of a
// stream are one party's.
func (s *legacyStream) whose(m *mcp.Message) *legacyAnswer {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case m.Kind == mcp.Response:
		a := s.answers[idText(m.ID)]
		if a != nil {
			delete(s.answers, a.id)
			delete(s.tokens, a.token)
		}
		return a
	case m.Method == mcp.NotifyProgress:
		return s.tokens[string(m.ProgressToken)]
	case m.Kind == mcp.Notification && s.notices != nil:
		return s.notices
	}
	for _, a := range s.answers {
		return a
	}
	return nil
}

func idText(raw []byte) string {
	if text, ok := strictjson.Text(raw); ok {
		return "s" + text
	}
	return "n" + string(raw)
}

// wait registers a request whose answer is waited for; nil: the stream has ended, so that none would come.
func (s *legacyStream) wait(ctx context.Context, m *mcp.Message) *legacyAnswer {
	a := &legacyAnswer{stream: s, id: idText(m.ID), token: string(m.Meta.ProgressToken), parts: make(chan []byte, legacyParts), ctx: ctx}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == nil {
		return nil
	}
	s.answers[a.id] = a
	if a.token != "" {
		s.tokens[a.token] = a
	}
	return a
}

// listen registers who hears what belongs to no request; nil: somebody does.
func (s *legacyStream) listen(ctx context.Context) *legacyAnswer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answers == nil || s.notices != nil {
		return nil
	}
	s.notices = &legacyAnswer{stream: s, parts: make(chan []byte, legacyParts), ctx: ctx}
	return s.notices
}

// take hands a message over. A reader that is slow holds up its own stream for a while, and loses what comes then.
func (a *legacyAnswer) take(data []byte, last bool) {
	event := make([]byte, 0, len(data)+8)
	event = append(event, "data: "...)
	for _, c := range data {
		if c != '\n' && c != '\r' { // white space between JSON's tokens
			event = append(event, c)
		}
	}
	event = append(event, "\n\n"...)
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case a.parts <- event:
	case <-a.ctx.Done():
	case <-timer.C:
	}
	if last {
		a.stream.mu.Lock()
		defer a.stream.mu.Unlock()
		close(a.parts)
	}
}

// Read reads what came for the request, as server-sent events.
func (a *legacyAnswer) Read(p []byte) (int, error) {
	if len(a.rest) == 0 {
		select {
		case part, more := <-a.parts:
			if !more {
				return 0, io.EOF
			}
			a.rest = part
		case <-a.ctx.Done():
			return 0, fmt.Errorf("waiting for an answer: %w", context.Cause(a.ctx))
		}
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close waits for nothing more.
func (a *legacyAnswer) Close() error {
	a.once.Do(func() {
		a.stream.mu.Lock()
		defer a.stream.mu.Unlock()
		if a.stream.answers[a.id] == a {
			delete(a.stream.answers, a.id)
			delete(a.stream.tokens, a.token)
		}
		if a.stream.notices == a {
			a.stream.notices = nil
		}
	})
	return nil
}
