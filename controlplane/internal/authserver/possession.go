package authserver

import (
	"errors"
	"net/http"

	"sallyport.dev/dataplane/dpop"

	"sallyport.dev/controlplane/internal/kv"
)

func proofRefused(action, text string) *refusal { return refuse("invalid_dpop_proof", action, text) }

// possession returns the thumbprint of the key that a request to the token endpoint proves to have (RFC 9449, section 5): what is
// issued is bound to it. Empty: the client proves none, and need not.
func (s *Server) possession(r *http.Request, c *client) (string, error) {
	if len(r.Header[dpop.Header]) == 0 {
		if c.bound {
			return "", proofRefused("proof_missing", "this client's tokens are bound to a key: send a DPoP proof")
		}
		return "", nil
	}
	proof, err := dpop.Check(r.Header, dpop.Request{Method: r.Method, URLs: []string{s.Issuer + "/oauth/token"}, Now: s.Now()})
	if err != nil {
		return "", proofRefused("proof_refused", err.Error())
	}
	// Each is good once, at whichever control plane.
	_, err = s.Store.Create(r.Context(), "proof."+digest(string(proof.Once[:])), []byte{1}, 2*dpop.Window+clockSkew)
	if errors.Is(err, kv.ErrExists) {
		return "", proofRefused("proof_replayed", dpop.ErrReplayed.Error())
	}
	return proof.Thumbprint, err
}

// boundTo refuses who does not have the key to which a code or a session is bound.
func (x *Session) boundTo(key string) error {
	if x.Key == "" || x.Key == key {
		return nil
	}
	e := proofRefused("proof_refused", dpop.ErrKey.Error())
	e.session, e.person = x.ID.String(), x.Person.String()
	return e
}

// confirmation is the key that a token is bound to (RFC 7800).
type confirmation struct {
	Thumbprint string `json:"jkt"`
}

func confirm(key string) *confirmation {
	if key == "" {
		return nil
	}
	return &confirmation{key}
}
