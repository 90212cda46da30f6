package h1

import (
	"bytes"
	"net/http"
	"strings"
)

// verdict is what became of bytes that may be a head.
type verdict int

const (
	plain verdict = iota
	short         // more must come before it is known
	other         // it is for net/http
)

const (
	// mostHead and mostBody bound what is read here; what has more is for net/http, which has limits of its own.
	mostHead = 16 << 10
	mostBody = 16 << 10
	// mostLines bounds the fields of a head.
	mostLines = 64
)

// head is a request's head. It is read into again for the next one of its connection, and what is the same there is kept: an agent
// says nearly the same each time.
type head struct {
	target string
	host   string
	length int
	header http.Header // never changed: the next head that differs gets a new one

	lines []line
}

// line is a field as it came, and what it means.
type line struct {
	raw, name string
	value     []string
}

// The fixed part of the form, ahead of the endpoint's path and behind it.
const (
	begins = "POST /mcp"
	ends   = " HTTP/1.1\r\n"
)

// read reads the head at the beginning of b, and returns how many bytes it has.
func (h *head) read(b []byte) (size int, v verdict) {
	if n := min(len(b), len(begins)); string(b[:n]) != begins[:n] {
		return 0, other
	}
	at := bytes.IndexByte(b, '\n') + 1
	if at == 0 {
		return 0, tooShort(b)
	}
	target, ok := bytes.CutSuffix(b[len("POST "):at], []byte(ends))
	if !ok || !isEndpoint(target) {
		return 0, other
	}
	if string(target) != h.target {
		h.target = string(target)
	}
	same, count := true, 0
	for ; ; count++ {
		n := bytes.IndexByte(b[at:], '\n') + 1
		if n == 0 {
			return 0, tooShort(b)
		}
		if n == 2 && b[at] == '\r' {
			at += n
			break
		}
		field := b[at : at+n]
		at += n
		if count < len(h.lines) && h.lines[count].raw == string(field) {
			continue
		}
		same, h.header = false, nil // until all is read
		l, ok := readLine(field)
		if !ok || count == mostLines {
			return 0, other
		}
		if count < len(h.lines) {
			h.lines[count] = l
		} else {
			h.lines = append(h.lines, l)
		}
	}
	if at > mostHead {
		return 0, other
	}
	if same && count == len(h.lines) && h.header != nil {
		return at, plain
	}
	clear(h.lines[count:])
	h.lines = h.lines[:count]
	return at, h.understand()
}

// tooShort tells whether a head of which the end is missing may still be one.
func tooShort(b []byte) verdict {
	if len(b) > mostHead {
		return other
	}
	return short
}

// isEndpoint tells whether a target is /mcp or that of a connector.
func isEndpoint(target []byte) bool {
	connector := target[len("/mcp"):]
	if len(connector) == 0 {
		return true
	}
	if connector[0] != '/' || len(connector) == 1 {
		return false
	}
	for _, c := range connector[1:] {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// readLine reads a field in its plainest form: a name of letters, digits and hyphens, a colon, one space, visible ASCII and single
// spaces within, CRLF.
func readLine(b []byte) (line, bool) {
	colon := bytes.IndexByte(b, ':')
	if colon < 1 || len(b) < colon+5 || b[colon+1] != ' ' || b[len(b)-2] != '\r' {
		return line{}, false
	}
	value := b[colon+2 : len(b)-2]
	for _, c := range value {
		if c < ' ' || c > '~' {
			return line{}, false
		}
	}
	if value[0] == ' ' || value[len(value)-1] == ' ' {
		return line{}, false
	}
	raw := string(b)
	name, ok := canonical(raw[:colon])
	return line{raw, name, []string{raw[colon+2 : len(raw)-2]}}, ok
}

// canonical is the form in which net/http keeps a name.
func canonical(name string) (string, bool) {
	upper, is := true, true
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '-', c >= '0' && c <= '9':
		case c >= 'a' && c <= 'z':
			is = is && !upper
		case c >= 'A' && c <= 'Z':
			is = is && upper
		default:
			return "", false
		}
		upper = c == '-'
	}
	if is {
		return name, true
	}
	return http.CanonicalHeaderKey(name), true
}

// understand makes the header, if nothing in it asks for more than the plain form.
func (h *head) understand() verdict {
	h.header, h.host, h.length = nil, "", -1
	header := make(http.Header, len(h.lines))
	for i := range h.lines {
		l := &h.lines[i]
		value := l.value[0]
		switch l.name {
		case "Host":
			if h.host != "" || !isHost(value) {
				return other
			}
			h.host = value
			continue
		case "Content-Length":
			if h.length = length(value); h.length < 0 {
				return other
			}
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return other
			}
		case "Expect", "Http2-Settings", "Pragma", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
			return other
		}
		if _, twice := header[l.name]; twice {
			return other
		}
		header[l.name] = l.value
	}
	if h.host == "" || h.length < 0 {
		return other
	}
	h.header = header
	return plain
}

func isHost(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '-' && c != ':' && c != '[' && c != ']' {
			return false
		}
	}
	return true
}

// length reads a body's length; -1: it is not one to be read here.
func length(s string) int {
	if len(s) > 5 || len(s) > 1 && s[0] == '0' {
		return -1
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return -1
		}
		n = 10*n + int(s[i]-'0')
	}
	if n > mostBody {
		return -1
	}
	return n
}
