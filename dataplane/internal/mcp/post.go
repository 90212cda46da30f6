package mcp

import (
	"bytes"
	"net/http"

	"sallyport.dev/dataplane/internal/strictjson"
)

// Post is what one HTTP POST to an MCP endpoint carried. A Post may be read into again; it must not be copied.
type Post struct {
	// Revision is the one that the request names. Empty in the session era where nothing names it: see InSession.
	Revision Revision
	// Batch tells that the messages came as a JSON-RPC batch, and are to be answered by one. There is at least one.
	Batch    bool
	Messages []Message

	one    [1]Message
	reader strictjson.Reader
}

// maxBatch bounds the messages of a batch.
const maxBatch = 100

// ID returns the id to answer an error of Read with: nil if it was not read.
func (p *Post) ID() []byte {
	if p.Batch || len(p.Messages) != 1 {
		return nil
	}
	return p.Messages[0].ID
}

// Read reads a POST's body and holds the headers to it. The Post keeps spans of body. Content types and the size
// that was read are the caller's to check first (CheckPost).
func (p *Post) Read(h http.Header, body []byte, limits strictjson.Limits) *Error {
	p.Revision, p.Batch, p.Messages = "", false, nil
	body = bytes.TrimSpace(body)
	if len(body) > 0 && body[0] == '[' {
		return p.readBatch(h, body, limits)
	}
	p.Messages = p.one[:]
	if e := p.one[0].read(&p.reader, body, limits); e != nil {
		p.Revision = claimed(h) // so that the error takes the status of the era that the client speaks
		if e.Code == CodeInvalidParams && p.Revision.Stateless() && gone(p.one[0].Method) {
			return MethodNotFound()
		}
		return e
	}
	return p.checkRevision(h)
}

func (p *Post) readBatch(h http.Header, body []byte, limits strictjson.Limits) *Error {
	p.Batch = true
	p.Revision = claimed(h)
	if p.Revision != "" && !p.Revision.Batches() {
		return errBatch
	}
	elements, err := strictjson.Elements(body, limits, maxBatch)
	if err != nil {
		return parseError(err)
	}
	if len(elements) == 0 {
		return invalidRequest("the batch is empty")
	}
	p.Messages = make([]Message, len(elements))
	for i, element := range elements {
		m := &p.Messages[i]
		if e := m.read(&p.reader, element, limits); e != nil {
			return e
		}
		if m.Method == MethodInitialize || m.Meta.Revision != "" && Revision(m.Meta.Revision).Stateless() {
			return invalidRequest("a batch holds a message that cannot be part of one")
		}
		for j := range p.Messages[:i] {
			if m.Kind == Request && bytes.Equal(m.ID, p.Messages[j].ID) && p.Messages[j].Kind == Request {
				return invalidRequest("two requests of the batch have the same id")
			}
		}
	}
	if v, ok := header(h, headerRevision); !ok || v != "" && p.Revision == "" {
		return UnsupportedRevision(v)
	}
	return nil
}

var errBatch = invalidRequest("this protocol version has no batches: send each message alone")

// claimed returns the supported revision that the headers name, or none.
func claimed(h http.Header) Revision {
	v, _ := header(h, headerRevision)
	r, _ := ParseRevision(v)
	return r
}

// InSession makes Revision the one that the session of a POST was opened with, which counts whatever the header says: a client
// of 2025-03-26 sends none, later ones should and some do not, or name another of the session era.
func (p *Post) InSession(opened Revision) *Error {
	p.Revision = opened
	if p.Batch && !p.Revision.Batches() {
		return errBatch
	}
	return nil
}

// checkRevision finds the revision of a single message, and holds message and headers to it.
func (p *Post) checkRevision(h http.Header) *Error {
	m := &p.Messages[0]
	named, ok := header(h, headerRevision)
	if !ok {
		return HeaderMismatch("the MCP-Protocol-Version header is given more than once")
	}
	inBody := ""
	if m.Kind == Request {
		inBody = m.Meta.Revision
	}
	revision, known := ParseRevision(named)
	p.Revision = revision
	switch {
	case inBody != "" && named == "":
		p.Revision = stateless(inBody)
		return HeaderMismatch("the MCP-Protocol-Version header is missing")
	case inBody != "" && named != inBody:
		p.Revision = stateless(inBody)
		return HeaderMismatch("the MCP-Protocol-Version header differs from the body")
	case named != "" && !known:
		if m.Method == MethodInitialize && !Revision(named).Stateless() {
			return nil // initialize agrees on another
		}
		p.Revision = stateless(named)
		return UnsupportedRevision(named)
	case !revision.Stateless():
		return nil
	}
	return p.checkStateless(h, m)
}

// stateless returns the newest revision of the stateless era if a name is of that era, known or not.
func stateless(named string) Revision {
	if Revision(named).Stateless() {
		return LatestStateless
	}
	return ""
}

func (p *Post) checkStateless(h http.Header, m *Message) *Error {
	if m.Kind == Response {
		return invalidRequest("this protocol version has no responses from clients")
	}
	if m.Kind == Request {
		if m.Meta.Revision == "" {
			return InvalidParams(`"_meta" lacks ` + MetaRevision)
		}
		if m.Meta.Capabilities == nil {
			return InvalidParams(`"_meta" lacks ` + MetaCapabilities)
		}
	}
	return checkMirrors(h, m)
}
