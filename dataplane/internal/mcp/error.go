package mcp

import (
	"net/http"
	"strconv"

	"sallyport.dev/dataplane/internal/strictjson"
)

// JSON-RPC error codes: those of JSON-RPC 2.0 and those of MCP.
const (
	CodeParse               = -32700
	CodeInvalidRequest      = -32600
	CodeMethodNotFound      = -32601
	CodeInvalidParams       = -32602
	CodeInternal            = -32603
	CodeResourceNotFound    = -32002
	CodeURLElicitation      = -32042 // of the session era
	CodeHeaderMismatch      = -32020
	CodeMissingCapability   = -32021
	CodeUnsupportedRevision = -32022
)

// Error is a JSON-RPC error as an agent gets it. Message and Data hold no secrets, addresses or bytes of the request.
type Error struct {
	Code    int
	Message string
	// Data is raw JSON; nil for none.
	Data []byte
	// Status is the HTTP status to answer with. Zero leaves it to the code and the revision.
	Status int
}

func (e *Error) Error() string { return e.Message }

// HTTPStatus returns the status that the error is answered with, if the answer has not begun.
func (e *Error) HTTPStatus(revision Revision) int {
	if e.Status != 0 {
		return e.Status
	}
	if !revision.Stateless() {
		return http.StatusOK
	}
	switch e.Code {
	case CodeMethodNotFound:
		return http.StatusNotFound
	case CodeInvalidParams, CodeHeaderMismatch, CodeMissingCapability, CodeUnsupportedRevision, CodeParse, CodeInvalidRequest:
		return http.StatusBadRequest
	}
	return http.StatusOK
}

func parseError(err error) *Error {
	return &Error{Code: CodeParse, Message: "the body is refused: " + err.Error(), Status: http.StatusBadRequest}
}

func invalidRequest(what string) *Error {
	return &Error{Code: CodeInvalidRequest, Message: what, Status: http.StatusBadRequest}
}

// InvalidParams says what is wrong with a request's params.
func InvalidParams(what string) *Error { return &Error{Code: CodeInvalidParams, Message: what} }

// MethodNotFound answers a method that the gateway does not know, or does not offer in the revision spoken.
func MethodNotFound() *Error {
	return &Error{Code: CodeMethodNotFound, Message: "this method is not offered here"}
}

// HeaderMismatch says which header differs from the body.
func HeaderMismatch(what string) *Error {
	return &Error{Code: CodeHeaderMismatch, Message: what, Status: http.StatusBadRequest}
}

// UnsupportedRevision answers a revision that the gateway does not speak with those that it does. A requested text that
// is longer than any revision's is not repeated.
func UnsupportedRevision(requested string) *Error {
	data := append([]byte(nil), `{"supported":[`...)
	for i, r := range revisions {
		if i > 0 {
			data = append(data, ',')
		}
		data = strictjson.Quote(data, string(r))
	}
	if len(requested) > 32 {
		requested = ""
	}
	data = strictjson.Quote(append(data, `],"requested":`...), requested)
	return &Error{
		Code: CodeUnsupportedRevision, Message: "this protocol version is not supported", Data: append(data, '}'), Status: http.StatusBadRequest,
	}
}

// MissingCapability says which client capabilities (a raw JSON object) a request would have needed.
func MissingCapability(required []byte) *Error {
	data := append(append([]byte(`{"requiredCapabilities":`), required...), '}')
	return &Error{
		Code: CodeMissingCapability, Message: "the client lacks a capability that this request needs", Data: data, Status: http.StatusBadRequest,
	}
}

// AppendError appends a JSON-RPC error response. A nil id, of a request that could not be read, is left out.
func AppendError(dst, id []byte, e *Error) []byte {
	dst = append(dst, `{"jsonrpc":"2.0",`...)
	if len(id) > 0 {
		dst = append(append(append(dst, `"id":`...), id...), ',')
	}
	dst = strconv.AppendInt(append(dst, `"error":{"code":`...), int64(e.Code), 10)
	dst = strictjson.Quote(append(dst, `,"message":`...), e.Message)
	if len(e.Data) > 0 {
		dst = append(append(dst, `,"data":`...), e.Data...)
	}
	return append(dst, '}', '}')
}

// WriteError answers an HTTP request with a JSON-RPC error under the status that belongs to it.
func WriteError(w http.ResponseWriter, revision Revision, id []byte, e *Error) {
	WriteJSON(w, e.HTTPStatus(revision), AppendError(nil, id, e))
}

// WriteJSON answers an HTTP request with one JSON message.
func WriteJSON(w http.ResponseWriter, status int, message []byte) {
	writeJSON(w, status, message)
}

// WriteList answers with a list, of which the parts are what AroundList gives and the array between. Where it is gzip, the parts are
// those of one gzip member.
func WriteList(w http.ResponseWriter, gzip bool, parts ...[]byte) {
	h := w.Header()
	h["Vary"] = varyEncoding
	if gzip {
		h["Content-Encoding"] = gzipEncoding
	}
	writeJSON(w, http.StatusOK, parts...)
}

func writeJSON(w http.ResponseWriter, status int, parts ...[]byte) {
	length := 0
	for _, p := range parts {
		length += len(p)
	}
	h := w.Header()
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(length)}
	h["Cache-Control"] = noStore
	w.WriteHeader(status)
	for _, p := range parts {
		_, _ = w.Write(p) // the agent is gone: nothing is left to tell it
	}
}

// Shared header values, never changed.
var (
	jsonType = []string{"application/json"}
	noStore  = []string{"no-store"}

	varyEncoding = []string{"Accept-Encoding"}
	gzipEncoding = []string{"gzip"}
)
