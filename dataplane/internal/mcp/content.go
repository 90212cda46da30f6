package mcp

import (
	"mime"
	"net/http"
	"strings"
)

// CheckPost refuses a POST whose body is not said to be JSON (415), or whose client does not take both forms in which it
// may be answered (406).
func CheckPost(h http.Header) *Error {
	if IsType(h["Content-Type"], "application/json") != nil {
		return &Error{Code: CodeInvalidRequest, Message: "Content-Type must be application/json", Status: http.StatusUnsupportedMediaType}
	}
	if !accepts(h["Accept"], "application/json") || !accepts(h["Accept"], "text/event-stream") {
		return &Error{
			Code: CodeInvalidRequest, Message: "Accept must list application/json and text/event-stream", Status: http.StatusNotAcceptable,
		}
	}
	return nil
}

// CheckGet refuses a GET of the session era whose client takes no event stream (406).
func CheckGet(h http.Header) *Error {
	if !accepts(h["Accept"], "text/event-stream") {
		return &Error{Code: CodeInvalidRequest, Message: "Accept must list text/event-stream", Status: http.StatusNotAcceptable}
	}
	return nil
}

// typeError says that a content type is another than was wanted.
type typeError string

func (e typeError) Error() string { return string(e) }

const (
	errOtherType   = typeError("another content type")
	errOtherEncode = typeError("another character encoding than UTF-8")
)

// IsType checks that the values of a Content-Type header are one, of the wanted type, in UTF-8.
func IsType(values []string, want string) error {
	if len(values) != 1 {
		return errOtherType
	}
	if values[0] == want {
		return nil
	}
	got, params, err := mime.ParseMediaType(values[0])
	if err != nil || got != want {
		return errOtherType
	}
	if charset, ok := params["charset"]; ok && !strings.EqualFold(charset, "utf-8") {
		return errOtherEncode
	}
	return nil
}

// accepts tells whether an Accept header lists a type, or a range that it is in. A weight of zero refuses.
func accepts(values []string, want string) bool {
	kind, _, _ := strings.Cut(want, "/")
	for _, value := range values {
		for value != "" {
			var one string
			one, value, _ = strings.Cut(value, ",")
			one, weight, _ := strings.Cut(one, ";")
			one = strings.TrimSpace(one)
			ranged := len(one) == len(kind)+2 && strings.EqualFold(one[:len(kind)], kind) && one[len(kind):] == "/*"
			if !ranged && !strings.EqualFold(one, want) && one != "*/*" {
				continue
			}
			if weight = strings.ReplaceAll(weight, " ", ""); strings.HasPrefix(weight, "q=0") && strings.Trim(weight[3:], ".0") == "" {
				continue
			}
			return true
		}
	}
	return false
}
