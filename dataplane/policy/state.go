package policy

import (
	"encoding/binary"
	"slices"
	"sort"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// state is a table at one version. Once readers see it nothing in it changes, except what remembers
// verdicts (memberSet.resolved and what hangs from it), which only ever says the same again.
type state struct {
	version uint64
	digest  Digest
	broken  bool // a delta failed: nothing is decided any more

	people     trie[*person]
	subjects   trie[subject]
	groups     trie[*group]
	connectors trie[*connector]
	names      trie[*exposed]
	collisions int // how many share a name with another
	issuers    trie[*issuer]
	// The authorization server, the sessions that were ended, and the clients whose earlier sessions were.
	authorities trie[*authority]
	ended       trie[*endedSession]
	cut         trie[*cutClient]
	blocks      trie[*block]
	blocked     blocked
	clock       clock
	// personal is how many rules may show one person another list than the next one in the same groups.
	personal int

	// connectorsAt changes whenever a connector, its catalogue or its grants do.
	connectorsAt uint64
	// groupsAt changes whenever a group does: what sets of groups come to is then found anew.
	groupsAt uint64
	memory   *memory
}

// person is a user's entry. What a verdict reads comes first: it is one read from memory.
type person struct {
	id         uuid.UUID
	members    *memberSet
	attributes *attributes
	active     bool
	service    bool
	generation uint64
	validAfter int64 // Unix milliseconds
	directory  string
	sub        string
	digest     Digest
}

func (p *person) hash() uint64 { return hashOfID(p.id) }

// hashOfID is the hash of an id, which nobody outside chooses: it needs to spread, not to withstand.
func hashOfID(id uuid.UUID) uint64 {
	h := binary.LittleEndian.Uint64(id[:8])*0x9E3779B97F4A7C15 ^ binary.LittleEndian.Uint64(id[8:])
	h = (h ^ h>>32) * 0xD6E8FEB86659FD93
	return h ^ h>>29
}

// subject is a person, found by directory and matching attribute.
type subject struct{ *person }

type subjectKey struct{ directory, sub string }

func (s subject) hash() uint64 { return hashOf(subjectKey{s.directory, s.sub}) }

type group struct {
	number  uint32
	name    string
	parents []uint32
	// implied: it is none of a directory's, but one person, or everyone, to whom grants are.
	implied bool
	digest  Digest
}

func (g *group) hash() uint64 { return hashOf(g.number) }

// connector is all that is known of a connector's id: its settings, its catalogue and its grants come as
// entries of their own, in any order, and each may be missing.
type connector struct {
	id string
	// number is short for the id; at changes whenever the connector does.
	number uint32
	at     uint64

	settings       *policyv1.Connector // nil: not offered
	settingsDigest Digest
	redactions     []connectorRedaction
	catalogue      *catalogue // nil: no tool is pinned
	grants         trie[*grant]
	read           *read
}

func (c *connector) hash() uint64 { return hashOf(c.id) }

// offered tells whether the connector is there for a region's proxies. An unnamed region is any.
func (c *connector) offered(region string) bool {
	if c == nil || c.settings == nil || c.catalogue == nil {
		return false
	}
	regions := c.settings.GetRegions()
	return len(regions) == 0 || region == "" || slices.Contains(regions, region)
}

type catalogue struct {
	tools  []*pinnedTool // whatever is pinned: ascending by kind, then by label
	byName map[string]*pinnedTool
	// withheld are labels of what is pinned and may not be used now, and whether that is since it changed upstream. Nil: nothing is.
	withheld map[string]bool
	digest   Digest
}

// of returns what is pinned of a kind.
func (c *catalogue) of(kind policyv1.Kind) []*pinnedTool {
	from := sort.Search(len(c.tools), func(i int) bool { return c.tools[i].kind >= kind })
	to := sort.Search(len(c.tools), func(i int) bool { return c.tools[i].kind > kind })
	return c.tools[from:to]
}

// tool returns what is pinned under a label, or nil.
func (c *connector) tool(name string) *pinnedTool {
	if c == nil || c.catalogue == nil {
		return nil
	}
	return c.catalogue.byName[name]
}

// withheld tells whether what is pinned under a label may not be used now.
func (c *connector) withheld(label string) bool {
	if c == nil || c.catalogue == nil || c.catalogue.withheld == nil {
		return false
	}
	_, withheld := c.catalogue.withheld[label]
	return withheld
}

type grant struct {
	group  uint32
	rules  []*rule
	digest Digest
}

func (g *grant) hash() uint64 { return hashOf(g.group) }

// rule is one line of a grant, ready to be decided.
type rule struct {
	wire   *policyv1.Rule
	effect effect
	globs  globs
	when   *condition // nil: always
	until  int64      // Unix nanoseconds; zero: for good
	place  int        // in its grant or its rule set, from 1
	// approval is who must approve, of a rule that asks for a review.
	approval *Approval
	// signIn is how the person must have signed in; nil: in any way.
	signIn *SignIn
	// redaction is what a rule takes out that redacts.
	redaction *Redaction
}

// effect is what a rule does.
type effect uint8

const (
	allows effect = iota
	denies
	requires
	redacts // whatever the verdict is
	meters  // what is allowed
)

func (r *rule) duty() policyv1.Duty { return dutyOf(r.wire) }

func (r *rule) ended(now time.Time) bool { return r.until != 0 && now.UnixNano() >= r.until }

type issuer struct {
	url    string
	wire   *fleetv1.Issuer
	digest Digest
}

func (i *issuer) hash() uint64 { return hashOf(i.url) }

func (s *state) person(id uuid.UUID) *person {
	p, _ := s.people.find(hashOfID(id), func(p *person) bool { return p.id == id })
	return p
}

func (s *state) subject(directory, sub string) *person {
	if sub == "" {
		return nil
	}
	var one *person
	several := false
	s.subjects.find(hashOf(subjectKey{directory, sub}), func(p subject) bool {
		if p.sub == sub && p.directory == directory {
			several = one != nil
			one = p.person
		}
		return several
	})
	if several {
		return nil
	}
	return one
}

func (s *state) group(number uint32) *group {
	g, _ := s.groups.find(hashOf(number), func(g *group) bool { return g.number == number })
	return g
}

func (s *state) connector(id string) *connector {
	c, _ := s.connectors.find(hashOf(id), func(c *connector) bool { return c.id == id })
	return c
}

func (c *connector) grant(group uint32) *grant {
	g, _ := c.grants.find(hashOf(group), func(g *grant) bool { return g.group == group })
	return g
}

func (s *state) issuer(url string) (*issuer, bool) {
	return s.issuers.find(hashOf(url), func(i *issuer) bool { return i.url == url })
}

// connectorIDs lists the connectors, sorted.
func (s *state) connectorIDs() []string {
	ids := make([]string, 0, s.connectors.size)
	s.connectors.each(func(c *connector) bool {
		ids = append(ids, c.id)
		return true
	})
	slices.Sort(ids)
	return ids
}
