package core

import (
	"maps"
	"sync"

	"github.com/google/uuid"
	"github.com/tidwall/btree"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// State is what the log says, folded. A State that readers hold never changes: a change is made on a
// Fork, which shares with its origin all that did not change. Values in it are immutable once stored.
//
// Users and groups are known inside by a small number, given in the order of their creation and never
// again: ten million memberships are then two sets of pairs of four-byte numbers.
type State struct {
	forking sync.Mutex // a tree notes that it was copied

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
	// Credentials in use, by credentialKey, and those that were withdrawn, by id, of which some are still to be destroyed.
	credentials     btree.Map[string, *Credential]
	credentialByID  btree.Map[string, string]
	withdrawn       btree.Map[string, *Withdrawal]
	openWithdrawals int

	grants   btree.Map[grantKey, *Grant]
	ruleSets btree.Map[string, *policyv1.RuleSet]
	// Where audit is sent, by name.
	exporters btree.Map[string, *AuditExporter]
	// Digests of what files said when they were applied, by appliedKey.
	applied btree.Map[string, string]
	// How many rules read an attribute of people.
	reads  btree.Map[string, int]
	blocks btree.Map[string, *policyv1.Block]
	tokens btree.Map[string, *Token]
	// Names of proxies that have a token: one token a proxy.
	proxies btree.Map[string, string]
	// Since when a region's sealing keys are those that they are, by region.
	sealing btree.Map[string, uint64]
	// Tokens of proxies that joined by a SPIFFE id, and who may not any more, by SPIFFE id.
	workloads btree.Map[string, uuid.UUID]
	barred    btree.Map[string, Barred]

	authorization authorization

	// Whose people may be admins, and the roles that groups give them, by group id.
	adminDirectory string
	roles          btree.Map[string, policyv1.Role]
	breakGlass     []BreakGlassUse
	// Keys of service accounts, by the account's id.
	serviceKeys btree.Map[string, []ServiceKey]
	// What approvers are asked, by id, which is in the order of time.
	reviews btree.Map[string, *Review]
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
	emails        btree.Map[string, uint32] // indexKey(folded address, number), of otherEmails
	groupNames    btree.Map[string, uint32] // indexKey(folded name, number): names of groups may repeat
	groupExternal btree.Map[string, uint32] // indexKey(external id, number)
}

// NewState is the state before the first event.
func NewState() *State {
	return &State{populations: map[string]*population{}}
}

// Fork returns a state that may be changed by Apply while readers go on reading s.
// It costs the same whatever the size of s.
func (s *State) Fork() *State {
	s.forking.Lock()
	defer s.forking.Unlock()
	f := &State{
		seq: s.seq, epoch: s.epoch, level: s.level,
		populations: maps.Clone(s.populations),
		users:       *s.users.Copy(), userByID: *s.userByID.Copy(), lastUser: s.lastUser,
		groups: *s.groups.Copy(), groupByID: *s.groupByID.Copy(), lastGroup: s.lastGroup,
		erasing: *s.erasing.Copy(), erased: *s.erased.Copy(), lastErasure: s.lastErasure,
		members: s.members.fork(), memberOf: s.memberOf.fork(), held: s.held.fork(),
		children: s.children.fork(), parents: s.parents.fork(),
		connectors: *s.connectors.Copy(), grants: *s.grants.Copy(), ruleSets: *s.ruleSets.Copy(), exporters: *s.exporters.Copy(), applied: *s.applied.Copy(), reads: *s.reads.Copy(),
		blocks: *s.blocks.Copy(), tokens: *s.tokens.Copy(), proxies: *s.proxies.Copy(), sealing: *s.sealing.Copy(), workloads: *s.workloads.Copy(), barred: *s.barred.Copy(),
		credentials: *s.credentials.Copy(), credentialByID: *s.credentialByID.Copy(), withdrawn: *s.withdrawn.Copy(), openWithdrawals: s.openWithdrawals,
		authorization:  s.authorization.fork(),
		adminDirectory: s.adminDirectory, roles: *s.roles.Copy(), breakGlass: s.breakGlass,
		serviceKeys: *s.serviceKeys.Copy(), reviews: *s.reviews.Copy(),
	}
	for id, p := range f.populations {
		f.populations[id] = &population{
			directory: p.directory,
			users:     *p.users.Copy(), groups: *p.groups.Copy(),
			userNames: *p.userNames.Copy(), subjects: *p.subjects.Copy(), userExternal: *p.userExternal.Copy(), emails: *p.emails.Copy(),
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

// idKey is a UUID as an ordered key.
func idKey(id uuid.UUID) string { return string(id[:]) }

// indexKey orders by text, then by number.
func indexKey(text string, number uint32) string {
	return text + "\x00" + string([]byte{byte(number >> 24), byte(number >> 16), byte(number >> 8), byte(number)})
}
