package audit

import (
	"slices"
	"sync"

	"sallyport.dev/controlplane/internal/audit/proof"
)

// recent are the leaves of records that were stored here and are in no checkpoint yet, so that a checkpoint need not read them again.
// What is not among them is read: after a start, where other control planes store too, and where there are more than are kept.
type recent struct {
	mu sync.Mutex
	// leaves are those of the records after a sequence. A record that was not stored here has none, which is zero.
	after  uint64
	leaves []proof.Digest
}

// recentMost bounds what is kept, to 32 MiB. With a checkpoint every ten seconds that is 100,000 records a second.
const recentMost = 1 << 20

// stored keeps the leaves of a batch, of which last is the sequence that its last record has: a batch lies in one piece.
func (r *recent) stored(last uint64, leaves []proof.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := last - uint64(len(leaves))
	if len(r.leaves) == 0 && before > r.after {
		r.after = before
	}
	if before < r.after || last-r.after > recentMost { // signed already, or too many
		return
	}
	if missing := int(last-r.after) - len(r.leaves); missing > 0 {
		r.leaves = append(r.leaves, make([]proof.Digest, missing)...)
	}
	copy(r.leaves[before-r.after:], leaves)
}

// next returns leaves of the records that follow a sequence without a gap, at most so many. Those before it are not asked for again.
func (r *recent) next(after uint64, most int) []proof.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	if after < r.after {
		return nil
	}
	gone := min(after-r.after, uint64(len(r.leaves)))
	r.leaves, r.after = slices.Clone(r.leaves[gone:]), after
	known := r.leaves[:min(most, len(r.leaves))]
	if gap := slices.Index(known, proof.Digest{}); gap >= 0 {
		known = known[:gap]
	}
	return slices.Clone(known)
}
