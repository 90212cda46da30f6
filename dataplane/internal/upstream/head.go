package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
)

// An answer's head in its plainest form is read here, where net/http's reader makes a map and a string of each line. What is not of
// that form, net/http reads from its first byte, so that an answer has one meaning.

// plainHead is such a head.
type plainHead struct {
	status      int
	length      int64
	contentType []string
	session     string
}

// The fixed parts of a status line.
const (
	statusBegins = "HTTP/1.1 "
	statusRoom   = len(statusBegins) + len("200 ")
)

// read reads the head at the beginning of b. Size zero: it is not whole, or not of the form.
func (h *plainHead) read(b []byte) (size int) {
	at := bytes.IndexByte(b, '\n') + 1
	if at < statusRoom+2 || string(b[:len(statusBegins)]) != statusBegins || b[statusRoom-1] != ' ' || !visibleLine(b[statusRoom:at]) {
		return 0
	}
	*h = plainHead{length: -1}
	for _, c := range b[len(statusBegins) : statusRoom-1] {
		if c < '0' || c > '9' {
			return 0
		}
		h.status = 10*h.status + int(c-'0')
	}
	if h.status < 200 || h.status == http.StatusNoContent || h.status == http.StatusNotModified {
		return 0 // with no body, or not the last
	}
	for {
		n := bytes.IndexByte(b[at:], '\n') + 1
		if n == 2 && b[at] == '\r' {
			break
		}
		if n == 0 || !h.field(b[at:at+n]) {
			return 0
		}
		at += n
	}
	if h.length < 0 {
		return 0
	}
	return at + 2
}

// visibleLine tells whether a line, or what is left of one, is of visible ASCII and spaces, and ends in CRLF.
func visibleLine(b []byte) bool {
	n := len(b) - 2
	if n < 0 || b[n] != '\r' {
		return false
	}
	for _, c := range b[:n] {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}

// field takes a line in. False: it is not of the form.
func (h *plainHead) field(b []byte) bool {
	colon := bytes.IndexByte(b, ':')
	if colon < 1 || len(b) < colon+5 || b[colon+1] != ' ' || !visibleLine(b[colon:]) {
		return false
	}
	name, value := b[:colon], b[colon+2:len(b)-2]
	for _, c := range name {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	if value[0] == ' ' || value[len(value)-1] == ' ' {
		return false
	}
	switch {
	case is(name, "Content-Length"):
		if h.length >= 0 || len(value) > 12 || len(value) > 1 && value[0] == '0' {
			return false
		}
		h.length = 0
		for _, c := range value {
			if c < '0' || c > '9' {
				return false
			}
			h.length = 10*h.length + int64(c-'0')
		}
	case is(name, "Content-Type"):
		if h.contentType != nil {
			return false
		}
		if h.contentType = typeJSON; string(value) != typeJSON[0] {
			h.contentType = []string{string(value)}
		}
	case is(name, "Mcp-Session-Id"):
		if h.session != "" {
			return false
		}
		h.session = string(value)
	case is(name, "Connection"):
		return is(value, "keep-alive")
	case is(name, "Transfer-Encoding"), is(name, "Content-Encoding"), is(name, "Trailer"), is(name, "Upgrade"), is(name, "Pragma"), is(name, "WWW-Authenticate"):
		return false
	}
	return true
}

// typeJSON is never changed.
var typeJSON = []string{"application/json"}

// is tells whether b is a word, in whatever case.
func is(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i := range len(word) {
		x, y := b[i], word[i]
		if x != y && (x|0x20 != y|0x20 || x|0x20 < 'a' || x|0x20 > 'z') {
			return false
		}
	}
	return true
}

// sized is a body of known length.
type sized struct {
	from *bufio.Reader
	left int64
}

// Read reads on.
func (s *sized) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.from.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && s.left == 0 {
		err = io.EOF
	}
	return n, err
}

// Close has nothing to close.
func (*sized) Close() error { return nil }
