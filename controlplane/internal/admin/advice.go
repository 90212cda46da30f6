package admin

import (
	"net/http"

	"sallyport.dev/controlplane/internal/activity"
)

// advice is what an admin can do about a refusal.
func advice(r activity.Refusal) string {
	byType := map[string]string{
		"uniqueness":    "Somebody else of the directory has that userName or externalId: match the directory's person to it, or change one of the two.",
		"mutability":    "The directory maps an attribute that is the server's or must not be removed: take it out of the mapping.",
		"invalidValue":  "A value is missing or not of its attribute's type, or a member is not provisioned: look at the attribute mappings, and provision people before groups.",
		"invalidFilter": "The directory asks by a filter that cannot be read: look at its matching attribute.",
		"invalidPath":   "The directory changes an attribute that is not here: look at its attribute mappings.",
		"noTarget":      "The directory changes part of something that is not there: push the person or group again as a whole.",
		"invalidSyntax": "The request is no SCIM 2.0: see that the directory's app is one for SCIM 2.0.",
		"tooMany":       "The request asks for too much at once: make the directory's batches smaller.",
		"invalidVers":   "The directory speaks an older SCIM: set its base URL to one that ends in /scim/v2.",
	}
	if text, known := byType[r.Type]; known {
		return text
	}
	if r.Resource == "/events" || r.Resource == "/logout" {
		return signalAdvice(r)
	}
	switch r.Status {
	case http.StatusUnauthorized:
		return "The token is unknown, revoked or has expired: make one with sallyport tokens create scim, and enter it at the directory."
	case http.StatusNotFound:
		return "It is not here, or is another directory's: let the directory forget its link and match again."
	case http.StatusPreconditionFailed:
		return "It was changed by somebody else in between: the directory reads it again by itself."
	case http.StatusRequestEntityTooLarge:
		return "The request is too large: make the directory's batches smaller."
	case http.StatusTooManyRequests:
		return "The directory sent more than --scim-rate allows and comes again by itself: raise it if this goes on."
	case http.StatusServiceUnavailable:
		return "Changes could not be made durable: look at the control plane's /readyz and its log."
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return "The directory uses what this server does not have: see docs/scim.md."
	}
	return "See docs/scim.md for what the status means."
}

// signalAdvice is what an admin can do about a security event or a logout that was refused (docs/signals.md).
func signalAdvice(r activity.Refusal) string {
	switch {
	case r.Status == http.StatusNotFound && r.Type == "access_denied":
		return "No transmitter is set up for the directory that the URL names: sallyport directories signals, or correct the URL at the provider."
	case r.Status == http.StatusNotFound:
		return "Nobody of the directory is meant: the person was never provisioned, or the provider names people by something else than iss_sub, email or the matching attribute."
	case r.Status == http.StatusTooManyRequests:
		return "Too many tokens with a bad signature came: see that --jwks-url is the transmitter's, and who else calls the endpoint."
	case r.Status == http.StatusServiceUnavailable:
		return "It could not be carried out, and its sender was asked to send it again: look at the control plane's log, and whether it reaches --jwks-url."
	}
	switch r.Type {
	case "invalid_issuer":
		return "The token is of another issuer: --issuer of sallyport directories signals must equal its iss byte for byte."
	case "invalid_audience":
		return "The token is meant for others: name its aud by --audience of sallyport directories signals (for a logout the endpoint's public URL, for events the stream's)."
	case "authentication_failed":
		return "The token is missing, not by a key at --jwks-url, too old, or was used before: compare --jwks-url with the transmitter's metadata, and the clocks."
	}
	return "It is no security event or logout of the form that is taken: compare the provider's settings with docs/signals.md."
}
