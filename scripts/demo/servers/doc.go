// Package servers holds the demo's MCP servers: GitHub, Jira, Confluence, Salesforce and an analytics store, each with the
// tools that its real counterpart offers, over small data in memory.
//
// A call has its real effect, so that a story can look at the data and see that something did not happen: a push moves a
// branch, a delete deletes. Nothing here restricts anybody; that is the gateway's task, and the servers are what it is
// tried on. Every call is kept in a log with the credential that it came with.
package servers
