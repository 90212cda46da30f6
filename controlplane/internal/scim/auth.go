package scim

import (
	"net/http"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
)

// authenticate returns the token that a request carries: as a bearer token, or as the password of
// basic authentication with any user name, which is what directories offer their admins.
func (s *Server) authenticate(r *http.Request) *core.Token {
	token := bearer.FromHeader(r.Header)
	if _, password, ok := r.BasicAuth(); ok {
		token = password
	}
	return bearer.Check(s.config.Engine.State(), eventv1.TokenKind_TOKEN_KIND_SCIM, token, s.config.Now())
}
