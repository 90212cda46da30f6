// Package mcp is the Model Context Protocol's wire as a gateway needs it: two eras on one endpoint.
//
// In the stateless era (2026-07-28) every request carries its revision and its client's capabilities in _meta, mirrored in
// headers; in the session era (2025-03-26 to 2025-11-25) initialize agrees on them once and a session id stands for them.
// Post reads what came in one HTTP POST, strictly and by one parser, and refuses what another could read otherwise; a
// Message is spans of the bytes that came, so that they can be forwarded as they are, or with a few spans
// replaced (Edit). The Append functions build what the gateway answers itself, EventReader and EventWriter carry
// server-sent events, and Sealer makes session ids that no proxy has to remember.
//
// The package decides nothing about who may do what, never calls an upstream, and puts no bytes of a message into an error.
package mcp
