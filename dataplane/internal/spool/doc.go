// Package spool keeps audit records on the proxy's disk from before a call is forwarded until the control plane
// has acknowledged them.
//
// Records lie in append-only segments, each framed with a checksum and a number; the numbers of a generation are
// consecutive from 1, and a generation is one life of the folder. Append returns when the kernel (or, where asked,
// the disk) has the bytes. What was lost is told by a gap record at the head of a new generation: the spool never
// reuses a number, never skips a record in silence, and never reports success for a record that it did not keep.
package spool
