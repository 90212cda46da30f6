package okta

import (
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
)

// authRequest is one sign-in, from the authorize request to its tokens, and what a refresh token stands for. Once it
// has left storage it is not changed any more.
type authRequest struct {
	id      string
	from    oidc.AuthRequest
	expires time.Time

	userID   string
	authTime time.Time
	done     bool
}

// snapshot needs storage.mu; the copy does not.
func (r *authRequest) snapshot() *authRequest {
	c := *r
	return &c
}

func (r *authRequest) GetID() string             { return r.id }
func (r *authRequest) GetACR() string            { return "" }
func (r *authRequest) GetAudience() []string     { return []string{r.from.ClientID} }
func (r *authRequest) GetAuthTime() time.Time    { return r.authTime }
func (r *authRequest) GetClientID() string       { return r.from.ClientID }
func (r *authRequest) GetNonce() string          { return r.from.Nonce }
func (r *authRequest) GetRedirectURI() string    { return r.from.RedirectURI }
func (r *authRequest) GetScopes() []string       { return r.from.Scopes }
func (r *authRequest) GetState() string          { return r.from.State }
func (r *authRequest) GetSubject() string        { return r.userID }
func (r *authRequest) Done() bool                { return r.done }
func (r *authRequest) SetCurrentScopes([]string) {}

func (r *authRequest) GetResponseType() oidc.ResponseType { return r.from.ResponseType }
func (r *authRequest) GetResponseMode() oidc.ResponseMode { return r.from.ResponseMode }

func (r *authRequest) GetAMR() []string {
	if !r.done {
		return nil
	}
	return []string{"pwd"}
}

func (r *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	return &oidc.CodeChallenge{Challenge: r.from.CodeChallenge, Method: r.from.CodeChallengeMethod}
}
