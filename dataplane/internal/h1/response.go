package h1

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// response is an answer on its way. What fits is sent in one piece, head and body.
type response struct {
	conn     *conn
	header   http.Header
	status   int   // 0: none yet
	declared int64 // the body's length; -1: not known
	written  int64
	begun    bool // the head is in out, or sent
	chunked  bool
	last     bool // nothing comes after it on the connection
	failed   error
	held     []byte  // a body of unknown length, while it may still end soon
	out      *[]byte // nil: nothing waits to be sent
}

const (
	// holds is how much of a body of unknown length waits for its end.
	holds = 2 << 10
	// piece is how much waits to be sent with what comes next.
	piece = 32 << 10
)

var outs = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func (w *response) reset() {
	clear(w.header)
	*w = response{conn: w.conn, header: w.header, declared: -1, held: w.held[:0]}
}

// Header is the answer's.
func (w *response) Header() http.Header { return w.header }

// SetReadDeadline does nothing: a request is answered once it is here whole.
func (w *response) SetReadDeadline(time.Time) error { return nil }

// EnableFullDuplex has nothing to enable, for the same reason.
func (w *response) EnableFullDuplex() error { return nil }

// WriteHeader begins the answer. One ahead of the answer that counts (1xx) is not sent: the agent did not ask to wait for any.
func (w *response) WriteHeader(status int) {
	if w.status != 0 || status < 200 {
		return
	}
	w.status = status
	if values := w.header["Content-Length"]; len(values) == 1 {
		if n, err := strconv.ParseInt(values[0], 10, 64); err == nil && n >= 0 {
			w.declared = n
		}
	}
	if !w.hasBody() {
		w.declared = 0
	}
}

// hasBody tells whether an answer of its status may have one (RFC 9110, section 6.4.1).
func (w *response) hasBody() bool {
	return w.status != http.StatusNoContent && w.status != http.StatusNotModified
}

// Write writes a piece of the body.
func (w *response) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	switch {
	case w.failed != nil:
		return 0, w.failed
	case !w.hasBody():
		return 0, http.ErrBodyNotAllowed
	}
	if w.written += int64(len(p)); w.declared >= 0 && w.written > w.declared {
		return 0, http.ErrContentLength
	}
	if !w.begun && w.declared < 0 && len(w.held)+len(p) <= holds {
		w.held = append(w.held, p...)
		return len(p), nil
	}
	w.begin(p)
	if len(p) == 0 {
		return 0, w.failed
	}
	if w.chunked {
		*w.out = append(strconv.AppendInt(*w.out, int64(len(p)), 16), "\r\n"...)
	}
	if len(*w.out)+len(p) <= piece {
		*w.out = append(*w.out, p...)
	} else {
		w.send()
		w.put(p)
		w.wait()
	}
	if w.chunked {
		*w.out = append(*w.out, "\r\n"...)
	}
	if w.failed != nil {
		return 0, w.failed
	}
	return len(p), nil
}

// Flush sends what was written.
func (w *response) Flush() { _ = w.FlushError() }

// FlushError sends what was written, or says why it cannot be.
func (w *response) FlushError() error {
	w.WriteHeader(http.StatusOK)
	w.begin(nil)
	w.send()
	return w.failed
}

// finish ends the answer. False: the connection ends with it.
func (w *response) finish() bool {
	w.WriteHeader(http.StatusOK)
	if !w.begun && w.declared < 0 {
		w.declared = int64(len(w.held))
	}
	w.begin(nil)
	if w.chunked {
		*w.out = append(*w.out, "0\r\n\r\n"...)
	}
	w.send()
	return w.failed == nil && !w.last && (w.chunked || w.written == w.declared)
}

// wait makes room for what is to be sent.
func (w *response) wait() {
	if w.out == nil {
		w.out = outs.Get().(*[]byte)
	}
}

// begin writes the head, and what was held back. next is what of the body comes then.
func (w *response) begin(next []byte) {
	w.wait()
	if w.begun {
		return
	}
	w.begun = true
	w.chunked = w.declared < 0
	first := w.held
	if len(first) == 0 {
		first = next
	}
	w.head(first)
	if len(w.held) == 0 {
		return
	}
	if w.chunked {
		*w.out = append(strconv.AppendInt(*w.out, int64(len(w.held)), 16), "\r\n"...)
	}
	*w.out = append(*w.out, w.held...)
	if w.chunked {
		*w.out = append(*w.out, "\r\n"...)
	}
	w.held = w.held[:0]
}

// head writes status and fields. How long the body is, and whether the connection goes on, is said here and nowhere else.
func (w *response) head(first []byte) {
	b := append((*w.out)[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(w.status), 10)
	b = append(append(append(b, ' '), http.StatusText(w.status)...), "\r\n"...)
	typed, dated := false, false
	for name, values := range w.header {
		switch name {
		case "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		case "Connection":
			w.last = w.last || closes(values)
			continue
		case "Content-Type":
			typed = true
		case "Date":
			dated = true
		}
		if !httpguts.ValidHeaderFieldName(name) {
			continue
		}
		for _, value := range values {
			b = append(append(b, name...), ": "...)
			b = append(appendValue(b, value), "\r\n"...)
		}
	}
	if !typed && len(first) > 0 {
		b = append(append(append(b, "Content-Type: "...), http.DetectContentType(first)...), "\r\n"...)
	}
	if !dated {
		b = append(append(append(b, "Date: "...), w.conn.server.now()...), "\r\n"...)
	}
	switch {
	case w.chunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	case w.hasBody():
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), w.declared, 10), "\r\n"...)
	}
	if w.last = w.last || w.conn.server.closing.Load(); w.last {
		b = append(b, "Connection: close\r\n"...)
	}
	*w.out = append(b, "\r\n"...)
}

func closes(values []string) bool {
	for _, v := range values {
		if strings.EqualFold(v, "close") {
			return true
		}
	}
	return false
}

// appendValue appends a value of a field, which cannot end its line.
func appendValue(b []byte, value string) []byte {
	at := len(b)
	b = append(b, value...)
	for i := at; i < len(b); i++ {
		if b[i] == '\r' || b[i] == '\n' {
			b[i] = ' '
		}
	}
	return append(b[:at], bytes.TrimSpace(b[at:])...)
}

// send sends what waits.
func (w *response) send() {
	if w.out == nil {
		return
	}
	w.put(*w.out)
	if cap(*w.out) <= 2*piece {
		*w.out = (*w.out)[:0]
		outs.Put(w.out)
	}
	w.out = nil
}

func (w *response) put(p []byte) {
	if w.failed != nil || len(p) == 0 {
		return
	}
	if n, err := w.conn.net.Write(p); err != nil {
		w.failed = err
		w.conn.cancel()
	} else if n < len(p) {
		w.failed = io.ErrShortWrite
	}
}
