package scim

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"sallyport.dev/controlplane/internal/core"
)

const errorSchema = "urn:ietf:params:scim:api:messages:2.0:Error"

// scimError is a refusal as RFC 7644, section 3.12 shapes it.
type scimError struct {
	status   int
	scimType string
	detail   string
}

func (e *scimError) Error() string { return e.detail }

// The values of scimType (RFC 7644, table 9) that this server answers with.
const (
	invalidFilter = "invalidFilter"
	uniqueness    = "uniqueness"
	mutability    = "mutability"
	invalidSyntax = "invalidSyntax"
	invalidPath   = "invalidPath"
	noTarget      = "noTarget"
	invalidValue  = "invalidValue"
	tooMany       = "tooMany"
	invalidVers   = "invalidVers"
	sensitive     = "sensitive"
	// Of RFC 9865, section 2.1.
	invalidCursor = "invalidCursor"
	expiredCursor = "expiredCursor"
	invalidCount  = "invalidCount"
)

func badRequest(scimType, format string, args ...any) *scimError {
	return &scimError{status: http.StatusBadRequest, scimType: scimType, detail: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *scimError {
	return &scimError{status: http.StatusNotFound, detail: fmt.Sprintf(format, args...)}
}

// refuse answers with an error. What the core refuses has a text for clients; anything else is internal,
// is logged, and its text is not shown.
func (s *Server) refuse(r *request, err error) {
	var wire *scimError
	var refusal *core.Error
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &wire):
	case errors.As(err, &refusal):
		wire = fromCore(r, refusal)
	case errors.As(err, &tooLarge):
		wire = &scimError{status: http.StatusRequestEntityTooLarge, detail: fmt.Sprintf("a request has at most %d bytes", tooLarge.Limit)}
	case errors.Is(err, context.Canceled):
		return // nobody waits for an answer
	default:
		s.config.Log.ErrorContext(r.Context(), "scim request failed", "method", r.Method, "error", err)
		wire = &scimError{status: http.StatusServiceUnavailable,
			detail: "the change could not be made durable, or it is not known whether it was; send it again later"}
		r.w.Header().Set("Retry-After", "5")
	}
	writeError(r.w, wire)
}

func fromCore(r *request, e *core.Error) *scimError {
	switch e.Code {
	case core.NotFound:
		return notFound("%s", e.Message)
	case core.AlreadyExists:
		return &scimError{status: http.StatusConflict, scimType: uniqueness, detail: e.Message}
	case core.Conflict:
		return &scimError{status: http.StatusPreconditionFailed, detail: e.Message}
	case core.TooLarge:
		return &scimError{status: http.StatusRequestEntityTooLarge, detail: e.Message}
	default:
		return badRequest(invalidValue, "%s", e.Message)
	}
}

func writeError(w http.ResponseWriter, e *scimError) {
	if seen, ok := w.(*statusWriter); ok {
		seen.scimType = e.scimType
	}
	body := map[string]any{"schemas": []string{errorSchema}, "status": strconv.Itoa(e.status), "detail": e.detail}
	if e.scimType != "" {
		body["scimType"] = e.scimType
	}
	writeJSON(w, e.status, body)
}
