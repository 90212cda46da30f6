package core

import "fmt"

// Code is the class of a refusal. Adapters translate it to their protocol.
type Code string

// The classes of refusal.
const (
	// InvalidArgument: the command itself is wrong, whatever the state.
	InvalidArgument Code = "invalid_argument"
	// NotFound: what the command names does not exist.
	NotFound Code = "not_found"
	// AlreadyExists: a unique name or id is taken.
	AlreadyExists Code = "already_exists"
	// Conflict: the thing changed since the caller read it. Read again and decide again.
	Conflict Code = "conflict"
	// FailedPrecondition: the state does not permit the command.
	FailedPrecondition Code = "failed_precondition"
	// Forbidden: who asks may not do this, whatever the state.
	Forbidden Code = "forbidden"
	// TooLarge: the command needs more events than one batch holds.
	TooLarge Code = "too_large"
)

// Error is a refusal with a text that a client may read: what happened and what to do next.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	// Field is the attribute at fault, in the words of the command; empty where none is.
	Field string `json:"field,omitempty"`
}

func (e *Error) Error() string { return e.Message }

func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

func refuseField(code Code, field, format string, args ...any) *Error {
	return &Error{Code: code, Field: field, Message: fmt.Sprintf(format, args...)}
}
