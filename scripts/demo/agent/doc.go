// Package agent is a real MCP client that acts for a person, for the quickstart and for whole-system tests.
//
// It signs the person in by the identity provider's real flow (a scripted browser in place of a real one), connects to a
// gateway with the access token, lists and calls tools, and notices what happens to its streams and when. It knows
// nothing of Sallyport: what it sees is what any agent would see.
package agent
