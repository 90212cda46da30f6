// Package replica keeps the proxy's copy of the policy: it follows the control plane's stream, puts each version in
// place as a whole, tells who must decide again, and then acknowledges.
//
// What it hands out is usable only while the lease runs, which a heartbeat with a proved log position renews and either
// clock ends. It never goes back to a lower version of the same log, never enforces a table whose digest differs from
// what the control plane says, and never lets a table be used for longer because nobody can be reached.
package replica
