package mcp

import (
	"encoding/base64"
	"net/http"
	"strings"
	"unicode/utf8"
)

// Header names, in the form that net/http keeps them under.
const (
	headerRevision = "Mcp-Protocol-Version"
	headerMethod   = "Mcp-Method"
	headerName     = "Mcp-Name"

	// HeaderRevision, HeaderMethod and HeaderName mirror the body in the stateless era.
	HeaderRevision = headerRevision
	HeaderMethod   = headerMethod
	HeaderName     = headerName
	// HeaderSession carries the session id of the session era.
	HeaderSession = "Mcp-Session-Id"
	// HeaderLastEvent says from where to resume a stream of the session era.
	HeaderLastEvent = "Last-Event-Id"
	// ParamPrefix begins the names of headers that mirror arguments.
	ParamPrefix = "Mcp-Param-"
)

// header returns the header's only value, empty if absent. It is not ok if there is more than one.
func header(h http.Header, name string) (value string, ok bool) {
	values := h[name]
	switch len(values) {
	case 0:
		return "", true
	case 1:
		return values[0], true
	}
	return "", false
}

var (
	errMethodHeader = HeaderMismatch("the Mcp-Method header is missing or differs from the body")
	errNameHeader   = HeaderMismatch("the Mcp-Name header is missing or differs from the body")
)

// checkMirrors holds Mcp-Method and Mcp-Name to the body (2026-07-28, Streamable HTTP, request metadata).
func checkMirrors(h http.Header, m *Message) *Error {
	if v, ok := header(h, headerMethod); !ok || v != m.Method {
		return errMethodHeader
	}
	if !Mirrored(m.Method) || m.Kind != Request {
		return nil
	}
	v, ok := header(h, headerName)
	if !ok || v == "" {
		return errNameHeader
	}
	if decoded, ok := DecodeHeader(v); !ok || decoded != m.Name {
		return errNameHeader
	}
	return nil
}

const (
	encodedPrefix = "=?base64?"
	encodedSuffix = "?="
)

// EncodeHeader returns the form in which a value of a body is mirrored in a header: itself, or encoded where it could not
// travel unchanged or would be taken for an encoded value.
func EncodeHeader(value string) string {
	if travels(value) {
		return value
	}
	return encodedPrefix + base64.StdEncoding.EncodeToString([]byte(value)) + encodedSuffix
}

func travels(value string) bool {
	if strings.HasPrefix(value, encodedPrefix) && strings.HasSuffix(value, encodedSuffix) {
		return false
	}
	for i := 0; i < len(value); i++ {
		if value[i] < 0x20 || value[i] > 0x7e {
			return false
		}
	}
	return value == "" || value[0] != ' ' && value[len(value)-1] != ' '
}

// DecodeHeader returns what a mirrored header value stands for. It is not ok if the value could not have been made by
// EncodeHeader's rules: invalid base64 or UTF-8, or characters that must not stand there as they are.
func DecodeHeader(value string) (string, bool) {
	for i := 0; i < len(value); i++ {
		if c := value[i]; c != '\t' && (c < 0x20 || c > 0x7e) {
			return "", false
		}
	}
	inner, prefixed := strings.CutPrefix(value, encodedPrefix)
	inner, suffixed := strings.CutSuffix(inner, encodedSuffix)
	if prefixed && suffixed {
		decoded, err := base64.StdEncoding.Strict().DecodeString(inner)
		return string(decoded), err == nil && utf8.Valid(decoded)
	}
	return value, true
}
