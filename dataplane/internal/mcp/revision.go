package mcp

import "slices"

// Revision is a revision of the protocol, by its date. The empty Revision means that none was said.
type Revision string

// The revisions that a gateway speaks.
const (
	Revision20260728 Revision = "2026-07-28"
	Revision20251125 Revision = "2025-11-25"
	Revision20250618 Revision = "2025-06-18"
	Revision20250326 Revision = "2025-03-26"
	// Revision20241105 is spoken to upstreams of its own transport only, and offered to nobody.
	Revision20241105 Revision = "2024-11-05"
)

// The newest revision of each era.
const (
	LatestStateless = Revision20260728
	LatestSession   = Revision20251125
)

var revisions = []Revision{Revision20260728, Revision20251125, Revision20250618, Revision20250326}

// Revisions returns the supported revisions, newest first.
func Revisions() []Revision { return slices.Clone(revisions) }

// ParseRevision returns the supported revision of that name.
func ParseRevision(s string) (Revision, bool) {
	for _, r := range revisions {
		if string(r) == s {
			return r, true
		}
	}
	return "", false
}

// Stateless tells whether the revision has neither initialize nor sessions. Dates compare as text.
func (r Revision) Stateless() bool { return r >= Revision20260728 }

// Batches tells whether the revision knows JSON-RPC batches.
func (r Revision) Batches() bool { return r == Revision20250326 }

// Negotiate returns the revision with which initialize is answered: the requested one if it has sessions and is
// supported, else the newest that has.
func Negotiate(requested string) Revision {
	if r, ok := ParseRevision(requested); ok && !r.Stateless() {
		return r
	}
	return LatestSession
}
