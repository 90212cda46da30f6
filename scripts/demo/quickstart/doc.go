// Package quickstart runs the whole of Sallyport on one machine and walks through what it is for.
//
// It builds the two programs, starts one control plane, the stand-in Okta, the demo's MCP servers and two proxies, sets
// all of it up as an admin would, and then lets people's agents try what they may and may not do. Each attempt is judged
// by its effect at the upstream server as well as by its answer. Everything listens on loopback.
package quickstart
