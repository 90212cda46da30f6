package identity

import (
	"net/http"
	"strings"
)

// Bearer returns the token of a request's Authorization header (RFC 6750, section 2.1). Tokens in a query or a form
// are not looked at. The error is an *Error.
func Bearer(h http.Header) (string, error) {
	values := h["Authorization"]
	switch {
	case len(values) == 0:
		return "", fail(Missing, nil)
	case len(values) > 1:
		return "", fail(Malformed, nil)
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", fail(Missing, nil)
	}
	token = strings.Trim(token, " ")
	if !ok || token == "" {
		return "", fail(Malformed, nil)
	}
	if len(token) > maxToken {
		return "", fail(TooLarge, nil)
	}
	return token, nil
}
