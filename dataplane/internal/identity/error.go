package identity

import (
	"errors"
	"net/http"

	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// Kind is why nobody was identified.
type Kind int

// The kinds. Their texts are for clients and hold nothing of the token.
const (
	Missing Kind = iota + 1
	Malformed
	TooLarge
	WrongType
	UnknownIssuer
	WrongAudience
	Expired
	NotYetValid
	BadSignature
	NoSubject
	KeysUnavailable
	PersonUnknown
	PersonInactive
	Revoked
	// ProofMissing: the token is bound to a key, and comes as one that is not, or the other way round.
	ProofMissing
	// ProofInvalid: it comes with a proof that is not good.
	ProofInvalid
)

var kinds = map[Kind]struct {
	text   string
	reason auditv1.Reason
}{
	Missing:         {"no access token was sent", auditv1.Reason_REASON_TOKEN_INVALID},
	Malformed:       {"the access token is malformed", auditv1.Reason_REASON_TOKEN_INVALID},
	TooLarge:        {"the access token is too large", auditv1.Reason_REASON_TOKEN_INVALID},
	WrongType:       {"the token is not an access token", auditv1.Reason_REASON_TOKEN_INVALID},
	UnknownIssuer:   {"the access token's issuer is not trusted here", auditv1.Reason_REASON_TOKEN_INVALID},
	WrongAudience:   {"the access token is for another audience", auditv1.Reason_REASON_TOKEN_INVALID},
	Expired:         {"the access token expired", auditv1.Reason_REASON_TOKEN_INVALID},
	NotYetValid:     {"the access token is not valid yet", auditv1.Reason_REASON_TOKEN_INVALID},
	BadSignature:    {"the access token's signature does not verify", auditv1.Reason_REASON_TOKEN_INVALID},
	NoSubject:       {"the access token lacks the claim that names the person", auditv1.Reason_REASON_TOKEN_INVALID},
	KeysUnavailable: {"the issuer's keys cannot be fetched; try again later", auditv1.Reason_REASON_TOKEN_INVALID},
	PersonUnknown:   {"the person is not provisioned; ask your administrator", auditv1.Reason_REASON_PERSON_UNKNOWN},
	PersonInactive:  {"the person is deactivated", auditv1.Reason_REASON_PERSON_INACTIVE},
	Revoked:         {"the access token was revoked; sign in again", auditv1.Reason_REASON_TOKEN_REVOKED},
	ProofMissing:    {"an access token that is bound to a key, and no other, comes by the scheme DPoP with a proof", auditv1.Reason_REASON_TOKEN_INVALID},
	ProofInvalid:    {"the DPoP proof is not good", auditv1.Reason_REASON_TOKEN_INVALID},
}

// Error says why nobody was identified. Its text is safe to show to clients; the cause, for logs, is unwrapped.
type Error struct {
	Kind Kind
	// Caller is set as far as a verified token tells, for audit: with PersonUnknown, PersonInactive and Revoked.
	Caller Caller
	cause  error
}

func (e *Error) Error() string {
	if e.Kind == ProofInvalid && e.cause != nil { // its texts are for whoever sent it
		return e.cause.Error()
	}
	return kinds[e.Kind].text
}

// Unwrap returns what went wrong underneath, without the token.
func (e *Error) Unwrap() error { return e.cause }

// Reason is the word that audit records.
func (e *Error) Reason() auditv1.Reason { return kinds[e.Kind].reason }

// Code is the error code for WWW-Authenticate (RFC 6750, section 3.1). Empty: the challenge carries none, since no token was sent.
func (e *Error) Code() string {
	switch e.Kind {
	case Missing, KeysUnavailable:
		return ""
	case ProofInvalid:
		return "invalid_dpop_proof"
	default:
		return "invalid_token"
	}
}

// Status is the HTTP status to answer with.
func (e *Error) Status() int {
	if e.Kind == KeysUnavailable {
		return http.StatusServiceUnavailable
	}
	return http.StatusUnauthorized
}

// IsKind says whether err is an Error of that kind.
func IsKind(err error, k Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == k
}

func fail(k Kind, cause error) *Error { return &Error{Kind: k, cause: cause} }
