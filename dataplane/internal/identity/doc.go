// Package identity says who calls, from the access token of a trusted issuer.
//
// A token is verified once: signature by the issuer's current keys, issuer, times and type. What it says is then
// remembered under the token's SHA-256 until it expires. Which audience counts, whether the issuer is still trusted, and
// who the person is and may still be, is asked of the current snapshot on every call, so that revocation waits for
// no cache. A person is matched by the issuer's one pair of claim and attribute, inside its directory, and by nothing
// else. No error, log or result holds a token.
package identity
