package identity

import (
	"net/http"

	"sallyport.dev/dataplane/dpop"
)

// Bound tells whether the caller's token is bound to a key.
func (c *Caller) Bound() bool { return c.bound != "" }

// Possession refuses a token that is bound to a key where nothing proves that the sender has the key, as it refuses a proof with a
// token that is not bound: it would prove nothing. asProof: it came by the scheme DPoP. urls are the addresses at which the request
// may have been sent. The error is an *Error.
func (v *Verifier) Possession(c *Caller, r *http.Request, token string, asProof bool, urls []string) error {
	if asProof != c.Bound() {
		return &Error{Kind: ProofMissing, Caller: *c}
	}
	if !asProof {
		return nil
	}
	now := v.cfg.Now()
	proof, err := dpop.Check(r.Header, dpop.Request{Method: r.Method, URLs: urls, Token: token, Now: now})
	switch {
	case err != nil:
	case proof.Thumbprint != c.bound:
		err = dpop.ErrKey
	case !v.seen.First(proof, now):
		err = dpop.ErrReplayed
	default:
		return nil
	}
	return &Error{Kind: ProofInvalid, Caller: *c, cause: err}
}
