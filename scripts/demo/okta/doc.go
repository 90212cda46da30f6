// Package okta is a stand-in for an Okta org, for the quickstart and for whole-system tests.
//
// It has the faces that an Okta org shows: an OpenID provider (a native app and web applications, authorization code with PKCE, a
// custom authorization server whose access tokens carry `sub` = login and `uid` = the unchanging user id), a provisioning engine
// that sends a SCIM server what Okta sends, when Okta sends it, and a transmitter of security events and universal logouts.
// People reach the SCIM app through assignment groups; groups are pushed apart from that, and nothing is pushed for a person
// who is not active.
//
// Everything lives in memory and on loopback. It is no identity provider for real people: all share one password.
package okta
