package signintest

import "golang.org/x/oauth2"

// Challenge is the S256 challenge of a PKCE verifier.
func Challenge(verifier string) string { return oauth2.S256ChallengeFromVerifier(verifier) }
