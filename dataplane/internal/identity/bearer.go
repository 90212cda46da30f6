package identity

import (
	"net/http"
	"strings"
)

// Credential returns the token of a request's Authorization header, and whether it comes as one that is bound to a key of the
// sender's: by the scheme DPoP (RFC 9449, section 7.1) in place of Bearer (RFC 6750, section 2.1). Tokens in a query or a form are
// not looked at. The error is an *Error.
func Credential(h http.Header) (token string, bound bool, err error) {
	values := h["Authorization"]
	switch {
	case len(values) == 0:
		return "", false, fail(Missing, nil)
	case len(values) > 1:
		return "", false, fail(Malformed, nil)
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		if bound = strings.EqualFold(scheme, "DPoP"); !bound {
			return "", false, fail(Missing, nil)
		}
	}
	token = strings.Trim(token, " ")
	if !ok || token == "" {
		return "", bound, fail(Malformed, nil)
	}
	if len(token) > maxToken {
		return "", bound, fail(TooLarge, nil)
	}
	return token, bound, nil
}
