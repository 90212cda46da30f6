package core

import (
	"maps"

	"github.com/google/uuid"
	"github.com/tidwall/btree"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// State is what the log says, folded. A State that readers hold never changes: a change is made on a
// Fork, which shares with its origin all that did not change. Values in it are immutable once stored.
//
// Users and groups are known inside by a small number, given in the order of their creation and never
// again: the memberships of ten million pairs are then two ordered sets of eight-byte keys, in which one
// change costs the same in a group of five and in a group of fifty thousand.
type State struct {
	seq   uint64
	epoch string
	level uint32

	populations map[string]*population

	users     btree.Map[uint32, *User]
	userByID  btree.Map[string, uint32]
	groups    btree.Map[uint32, *Group]
	groupByID btree.Map[string, uint32]
	lastUser  uint32
	lastGroup uint32

	// People who were removed and whose attributes may still lie somewhere, and where the last tombstone lies.
	erasing     btree.Map[string, Erasure]
	erased      btree.Map[string, struct{}]
	lastErasure uint64

	// Direct memberships, in both directions: pair(group, user) and pair(user, group).
	members  pairs
	memberOf pairs
	// Memberships that do not count: pair(user, group).
	held pairs
	// Nesting, in both directions: pair(parent, child) and pair(child, parent).
	children pairs
	parents  pairs

	connectors btree.Map[string, *Connector]
	grants     btree.Map[grantKey, *Grant]
	blocks     btree.Map[string, *policyv1.Block]
	tokens     btree.Map[string, *Token]
	// Names of proxies that have a token: one token a proxy.
	proxies btree.Map[string, string]
}

// population is a directory with the indexes over its users and groups.
type population struct {
	directory *policyv1.Directory
	// Numbers in order of creation, for paging.
	users  btree.Map[uint32, struct{}]
	groups btree.Map[uint32, struct{}]
	// By folded name, and by external id.
	userNames     btree.Map[string, uint32]
	userExternal  btree.Map[string, uint32]
	subjects      btree.Map[string, uint32] // indexKey(User.Subject, number): a former name may be another's now
	groupNames    btree.Map[string, uint32] // indexKey(folded name, number): names of groups may repeat
	groupExternal btree.Map[string, uint32] // indexKey(external id, number)
}

// NewState is the state before the first event.
func NewState() *State {
	return &State{populations: map[string]*population{}}
}

// Fork returns a state that may be changed by Apply while readers go on reading s.
// It costs the same whatever the size of s. One goroutine at a time may fork a state.
func (s *State) Fork() *State {
	f := &State{
		seq: s.seq, epoch: s.epoch, level: s.level,
		populations: maps.Clone(s.populations),
		users:       *s.users.Copy(), userByID: *s.userByID.Copy(), lastUser: s.lastUser,
		groups: *s.groups.Copy(), groupByID: *s.groupByID.Copy(), lastGroup: s.lastGroup,
		erasing: *s.erasing.Copy(), erased: *s.erased.Copy(), lastErasure: s.lastErasure,
		members: s.members.fork(), memberOf: s.memberOf.fork(), held: s.held.fork(),
		children: s.children.fork(), parents: s.parents.fork(),
		connectors: *s.connectors.Copy(), grants: *s.grants.Copy(),
		blocks: *s.blocks.Copy(), tokens: *s.tokens.Copy(), proxies: *s.proxies.Copy(),
	}
	for id, p := range f.populations {
		f.populations[id] = &population{
			directory: p.directory,
			users:     *p.users.Copy(), groups: *p.groups.Copy(),
			userNames: *p.userNames.Copy(), subjects: *p.subjects.Copy(), userExternal: *p.userExternal.Copy(),
			groupNames: *p.groupNames.Copy(), groupExternal: *p.groupExternal.Copy(),
		}
	}
	return f
}

// Seq is the sequence of the last event that was applied: the version of the state.
func (s *State) Seq() uint64 { return s.seq }

// Epoch names the log. It is empty before the first event.
func (s *State) Epoch() string { return s.epoch }

// FeatureLevel is the level of event types that may be written.
func (s *State) FeatureLevel() uint32 { return s.level }

// Record is an event at its place in the log.
type Record struct {
	Seq   uint64
	Event *eventv1.Event
}

// pairs is an ordered set of pairs of numbers.
type pairs struct{ set btree.Map[uint64, struct{}] }

func pair(a, b uint32) uint64 { return uint64(a)<<32 | uint64(b) }

func (p *pairs) fork() pairs           { return pairs{*p.set.Copy()} }
func (p *pairs) has(a, b uint32) bool  { _, ok := p.set.Get(pair(a, b)); return ok }
func (p *pairs) add(a, b uint32) bool  { _, had := p.set.Set(pair(a, b), struct{}{}); return !had }
func (p *pairs) drop(a, b uint32) bool { _, had := p.set.Delete(pair(a, b)); return had }

// of yields every b of the pairs (a, b), ascending.
func (p *pairs) of(a uint32) func(yield func(uint32) bool) { return p.after(a, 0) }

// after yields every b > after of the pairs (a, b), ascending. Numbers start at 1.
func (p *pairs) after(a, after uint32) func(yield func(uint32) bool) {
	return func(yield func(uint32) bool) {
		p.set.Ascend(pair(a, after)+1, func(k uint64, _ struct{}) bool {
			return k>>32 == uint64(a) && yield(uint32(k))
		})
	}
}

// collect returns what of yields. A set must not change while it is walked.
func (p *pairs) collect(a uint32) []uint32 {
	var all []uint32
	for b := range p.of(a) {
		all = append(all, b)
	}
	return all
}

// idKey is a UUID as an ordered key.
func idKey(id uuid.UUID) string { return string(id[:]) }

// indexKey orders by text, then by number.
func indexKey(text string, number uint32) string {
	return text + "\x00" + string([]byte{byte(number >> 24), byte(number >> 16), byte(number >> 8), byte(number)})
}
