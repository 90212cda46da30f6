// Package policy makes verdicts: may this person's agent call this tool with these arguments, now. It is
// the one place where a verdict is made, for proxies, for explanations and for simulations alike.
//
// A Table is compiled from the entries of a snapshot and changed by deltas; Decide reads it. The package
// is pure: no clock, no logging, no context, no I/O, and no randomness on which a verdict could depend.
// Its zero values deny.
package policy
