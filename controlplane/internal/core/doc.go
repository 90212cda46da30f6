// Package core holds every rule of the control plane and nothing else: commands come in, events go
// out, events fold into state, and state compiles into what proxies enforce.
//
// Decide holds the rules; Apply records facts and cannot fail on a valid log. Both are deterministic:
// time and ids come in through Env. The package never touches a clock, randomness, logging, a context
// or I/O, so that the same log always folds into the same state, on every machine and after any restart.
package core
