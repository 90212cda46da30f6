package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	"sallyport.dev/dataplane/egress"
)

// Kind says in which way an upstream failed.
type Kind uint8

// The kinds of failure.
const (
	// Unreachable: no connection came about, so the call never reached the upstream.
	Unreachable Kind = iota + 1
	// Timeout: the upstream was silent for longer than its target allows. Whether it did the work is unknown.
	Timeout
	// BadResponse: what came back is no answer. Whether the upstream did the work is unknown.
	BadResponse
	// Redirected: the upstream pointed elsewhere, where no call follows.
	Redirected
	// SessionLost: the upstream loses its sessions as fast as they are opened.
	SessionLost
	// AuthRejected: the upstream refused the credential (401 or 403).
	AuthRejected
	// LeftAlone: the upstream failed several times in a row and is not called for a while.
	LeftAlone
)

var kindTexts = map[Kind]string{
	Unreachable: "is unreachable", Timeout: "did not answer in time", BadResponse: "gave a bad answer", Redirected: "answered with a redirect",
	SessionLost: "lost its session", AuthRejected: "refused the gateway's credential", LeftAlone: "is left alone",
}

func (k Kind) String() string { return kindTexts[k] }

// Error is an upstream's failure, in words that may be shown to the agent's person.
type Error struct {
	Kind      Kind
	Connector string
	// Reason is one of a fixed set of texts, or empty.
	Reason string
	// Status is the HTTP status that told of it; zero if none did.
	Status int
	// Scopes are those that the upstream wants of a token, where it refused one for the lack of them (RFC 6750, insufficient_scope).
	Scopes []string
	// refused: the upstream answered, that it opens no session.
	refused bool
}

// personal tells whether a failure may be one party's alone: of its credential, or of what the upstream has for it, such as its own
// program beside the proxy.
func (e *Error) personal() bool { return e.Kind == AuthRejected || e.refused }

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("connector " + e.Connector + " " + e.Kind.String())
	if e.Reason != "" {
		b.WriteString(": " + e.Reason)
	}
	if e.Status != 0 {
		b.WriteString(" (HTTP status " + strconv.Itoa(e.Status) + ")")
	}
	return b.String()
}

// neededScopes reads the scopes that a challenge names where a token lacks some. Others than its form allows are none.
func neededScopes(challenges []string) []string {
	for _, c := range challenges {
		if len(c) > 4096 || len(c) < len("bearer ") || !strings.EqualFold(c[:len("bearer ")], "bearer ") || parameter(c, "error") != "insufficient_scope" {
			continue
		}
		scopes := strings.Fields(parameter(c, "scope"))
		for _, s := range scopes {
			if len(s) > 200 || strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == '"' || r == '\\' }) >= 0 {
				return nil
			}
		}
		return scopes[:min(len(scopes), 50)]
	}
	return nil
}

// parameter returns the value of a parameter of a challenge, where it is quoted or a token.
func parameter(challenge, name string) string {
	for rest := challenge; ; {
		i := strings.Index(rest, name+"=")
		if i < 0 {
			return ""
		}
		before := byte(' ')
		if i > 0 {
			before = rest[i-1]
		}
		rest = rest[i+len(name)+1:]
		if before != ' ' && before != ',' {
			continue
		}
		if quoted, ok := strings.CutPrefix(rest, `"`); ok {
			value, _, _ := strings.Cut(quoted, `"`)
			return value
		}
		value, _, _ := strings.Cut(rest, ",")
		return strings.TrimSpace(value)
	}
}

// tooLarge is the reason of an answer that is: whoever asked for it is told, and the upstream is well.
const tooLarge = "it is too large"

func (u *Upstream) fail(kind Kind, reason string) *Error {
	return &Error{Kind: kind, Connector: u.target.Connector, Reason: reason}
}

// isKind tells whether err is a failure of that kind.
func isKind(err error, kind Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == kind
}

// errSilent ends a call whose upstream has been silent for too long.
var errSilent = errors.New("the upstream is silent")

// broken says what an error of the wire means for a call under ctx, of which the caller's own context is outer. begun
// tells that the answer had begun.
func (u *Upstream) broken(outer, ctx context.Context, err error, begun bool) error {
	if outer.Err() != nil {
		return u.ended(outer)
	}
	if errors.Is(context.Cause(ctx), errSilent) {
		return u.fail(Timeout, "")
	}
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	if errors.Is(err, errTooLarge) {
		return u.fail(BadResponse, tooLarge)
	}
	if begun {
		return u.fail(BadResponse, "the connection ended within the answer")
	}
	kind, reason := classify(err)
	return u.fail(kind, reason)
}

// ended says that the caller's context ended, and why.
func (u *Upstream) ended(ctx context.Context) error {
	return fmt.Errorf("calling connector %s: %w", u.target.Connector, context.Cause(ctx))
}

// classify finds the words for an error of which the own text may hold addresses.
func classify(err error) (Kind, string) {
	var (
		dns         *net.DNSError
		op          *net.OpError
		certificate *tls.CertificateVerificationError
		authority   x509.UnknownAuthorityError
		hostname    x509.HostnameError
		record      tls.RecordHeaderError
		alert       tls.AlertError
		timeout     net.Error
	)
	switch {
	case errors.Is(err, egress.ErrRefused):
		return Unreachable, egress.ErrRefused.Error() + ": an administrator must allow its range for the connector (allowedRanges)"
	case errors.As(err, &dns):
		return Unreachable, "its host name cannot be resolved"
	case errors.As(err, &certificate), errors.As(err, &authority), errors.As(err, &hostname):
		return Unreachable, "its TLS certificate is not valid"
	case errors.As(err, &record), errors.As(err, &alert):
		return Unreachable, "TLS could not be agreed on"
	case errors.Is(err, syscall.ECONNREFUSED):
		return Unreachable, "the connection was refused"
	case errors.As(err, &op) && op.Op == "dial":
		return Unreachable, "no connection could be made"
	case errors.As(err, &timeout) && timeout.Timeout():
		return Unreachable, "no connection could be made in time"
	case strings.Contains(err.Error(), "response headers exceeded"):
		return BadResponse, "its header is too large"
	case strings.Contains(err.Error(), "malformed"):
		return BadResponse, "it is not valid HTTP"
	}
	return BadResponse, "the connection ended before the answer"
}
