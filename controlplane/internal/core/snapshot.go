package core

import (
	"bytes"
	"iter"
	"slices"

	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"github.com/google/uuid"
)

// Entries yields all that the proxies of a region enforce: issuers, blocks, connectors with their
// catalogues, groups, grants, users. The same state yields the same entries in the same order.
func (s *State) Entries(region string) iter.Seq[*fleetv1.Entry] {
	return func(yield func(*fleetv1.Entry) bool) {
		for key := range s.otherKeys() {
			if e := s.entry(key, region); e != nil && !yield(e) {
				return
			}
		}
		for key := range s.authorizationKeys() {
			if !yield(s.authorizationEntry(key)) {
				return
			}
		}
		s.users.Scan(func(_ uint32, u *User) bool {
			return yield(&fleetv1.Entry{Value: &fleetv1.Entry_User{User: s.wireUser(u)}})
		})
	}
}

// otherKeys yields the keys of all entries but the users'.
func (s *State) otherKeys() iter.Seq[entryKey] {
	return func(yield func(entryKey) bool) {
		more := true
		put := func(k entryKey) bool { more = more && yield(k); return more }
		for d := range s.Directories() {
			for _, issuer := range d.GetIssuers() {
				if !put(entryKey{kind: issuerEntry, text: issuer.GetUrl()}) {
					return
				}
			}
		}
		s.blocks.Scan(func(id string, _ *policyv1.Block) bool { return put(entryKey{kind: blockEntry, text: id}) })
		s.connectors.Scan(func(id string, _ *Connector) bool {
			return put(entryKey{kind: connectorEntry, text: id}) && put(entryKey{kind: catalogueEntry, text: id})
		})
		s.groups.Scan(func(no uint32, _ *Group) bool { return put(entryKey{kind: groupEntry, no: no}) })
		s.grants.Scan(func(_ grantKey, g *Grant) bool {
			key, ok := s.grantEntryKey(g.To, g.Connector)
			return !ok || put(key)
		})
	}
}

// EntriesFor yields the entries on which verdicts about one user rest, and no other user's.
func (s *State) EntriesFor(u *User, region string) iter.Seq[*fleetv1.Entry] {
	return s.entriesOf(s.wireUser(u), region)
}

// EntriesIf is EntriesFor as if the user were directly in one group more, or in one less.
func (s *State) EntriesIf(u *User, g *Group, in bool, region string) iter.Seq[*fleetv1.Entry] {
	wire := s.wireUser(u)
	wire.Groups = slices.DeleteFunc(wire.Groups, func(no uint32) bool { return no == g.No })
	if in && u.Active {
		wire.Groups = append(wire.Groups, g.No)
		slices.Sort(wire.Groups)
	}
	return s.entriesOf(wire, region)
}

// CountsIn tells whether a user is directly in a group with effect: the membership is not held.
func (s *State) CountsIn(u *User, g *Group) bool {
	return s.members.has(g.No, u.No) && !s.held.has(u.No, g.No)
}

func (s *State) entriesOf(u *fleetv1.User, region string) iter.Seq[*fleetv1.Entry] {
	groups := map[uint32]bool{}
	var reach func(no uint32)
	reach = func(no uint32) {
		if !groups[no] {
			groups[no] = true
			for parent := range s.parents.of(no) {
				reach(parent)
			}
		}
	}
	for _, no := range u.GetGroups() {
		reach(no)
	}
	return func(yield func(*fleetv1.Entry) bool) {
		for key := range s.otherKeys() {
			if (key.kind == groupEntry || key.kind == grantEntry) && !groups[key.no] {
				continue
			}
			if key.kind == principalEntry && key.id != uuid.Nil && !bytes.Equal(key.id[:], u.GetId()) {
				continue
			}
			if e := s.entry(key, region); e != nil && !yield(e) {
				return
			}
		}
		yield(&fleetv1.Entry{Value: &fleetv1.Entry_User{User: u}})
	}
}

type entryKind uint8

const (
	issuerEntry entryKind = iota
	blockEntry
	connectorEntry
	catalogueEntry
	groupEntry
	grantEntry
	userEntry
	authorizationServerEntry
	revokedSessionEntry
	revokedClientEntry
	principalEntry
)

// entryKey names an entry: a user by id, a group by number, a grant by group and connector, or by person, or whose people everyone
// is, and connector; the rest by text.
type entryKey struct {
	kind     entryKind
	no       uint32
	text     string
	id       uuid.UUID
	everyone string
}

// grantEntryKey names the entry of a grant. Not ok: the group is gone, and there is none.
func (s *State) grantEntryKey(to Grantee, connector string) (entryKey, bool) {
	if to.Group == uuid.Nil {
		return entryKey{kind: principalEntry, id: to.Person, everyone: to.Everyone, text: connector}, true
	}
	group := s.Group(to.Group)
	if group == nil {
		return entryKey{}, false
	}
	return entryKey{kind: grantEntry, no: group.No, text: connector}, true
}

func (k entryKey) principal() *fleetv1.PrincipalGrantKey {
	if k.everyone != "" {
		return &fleetv1.PrincipalGrantKey{Connector: k.text, To: &fleetv1.PrincipalGrantKey_Everyone{Everyone: k.everyone}}
	}
	return &fleetv1.PrincipalGrantKey{Connector: k.text, To: &fleetv1.PrincipalGrantKey_Person{Person: k.id[:]}}
}

func (k entryKey) wire() *fleetv1.EntryKey {
	switch k.kind {
	case issuerEntry:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Issuer{Issuer: k.text}}
	case blockEntry:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Block{Block: k.text}}
	case connectorEntry:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Connector{Connector: k.text}}
	case catalogueEntry:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Catalogue{Catalogue: k.text}}
	case groupEntry:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Group{Group: k.no}}
	case grantEntry:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_Grant{Grant: &fleetv1.GrantKey{Group: k.no, Connector: k.text}}}
	case authorizationServerEntry:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_AuthorizationServer{AuthorizationServer: k.text}}
	case revokedSessionEntry:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_RevokedSession{RevokedSession: k.id[:]}}
	case revokedClientEntry:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_RevokedClient{RevokedClient: k.text}}
	case principalEntry:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_PrincipalGrant{PrincipalGrant: k.principal()}}
	default:
		return &fleetv1.EntryKey{Key: &fleetv1.EntryKey_User{User: k.id[:]}}
	}
}

// entry returns the value of an entry for a region, or nil where it has none.
func (s *State) entry(k entryKey, region string) *fleetv1.Entry {
	switch k.kind {
	case issuerEntry:
		if d, issuer := s.DirectoryOfIssuer(k.text); issuer != nil {
			return &fleetv1.Entry{Value: &fleetv1.Entry_Issuer{Issuer: &fleetv1.Issuer{Issuer: issuer, Directory: d.GetId()}}}
		}
	case blockEntry:
		if b, ok := s.blocks.Get(k.text); ok {
			return &fleetv1.Entry{Value: &fleetv1.Entry_Block{Block: b}}
		}
	case connectorEntry:
		if c := s.Connector(k.text); c != nil && c.servedIn(region) {
			return &fleetv1.Entry{Value: &fleetv1.Entry_Connector{Connector: c.served}}
		}
	case catalogueEntry:
		if c := s.Connector(k.text); c != nil && c.servedIn(region) && c.catalogue != nil {
			return &fleetv1.Entry{Value: &fleetv1.Entry_Catalogue{Catalogue: c.catalogue}}
		}
	case groupEntry:
		if g, ok := s.groups.Get(k.no); ok {
			return &fleetv1.Entry{Value: &fleetv1.Entry_Group{Group: &fleetv1.Group{
				Number: g.No, Id: g.ID[:], Name: g.Name(), Parents: s.parents.collect(g.No),
			}}}
		}
	case grantEntry:
		if group, ok := s.groups.Get(k.no); ok {
			if rules := s.servedRules(Grantee{Group: group.ID}, k.text, region); rules != nil {
				return &fleetv1.Entry{Value: &fleetv1.Entry_Grant{Grant: &fleetv1.Grant{Group: k.no, Connector: k.text, Rules: rules}}}
			}
		}
	case principalEntry:
		if rules := s.servedRules(Grantee{Person: k.id, Everyone: k.everyone}, k.text, region); rules != nil {
			return &fleetv1.Entry{Value: &fleetv1.Entry_PrincipalGrant{PrincipalGrant: &fleetv1.PrincipalGrant{Key: k.principal(), Rules: rules}}}
		}
	case userEntry:
		if u := s.User(k.id); u != nil {
			return &fleetv1.Entry{Value: &fleetv1.Entry_User{User: s.wireUser(u)}}
		}
	default:
		return s.authorizationEntry(k)
	}
	return nil
}

// servedRules are the rules of a grant that a region's proxies enforce, or nil.
func (s *State) servedRules(to Grantee, id, region string) []*policyv1.Rule {
	grant, connector := s.Grant(to, id), s.Connector(id)
	if grant == nil || s.Dangling(to) || connector == nil || !connector.servedIn(region) {
		return nil
	}
	return s.wireRules(grant)
}

func (s *State) wireUser(u *User) *fleetv1.User {
	wire := &fleetv1.User{
		Id: u.ID[:], Active: u.Active, Generation: u.Generation, Directory: u.Directory, Subject: s.Subject(u), Service: u.Service(), Attributes: s.AttributesOf(u), Credentials: u.Credentials,
	}
	if u.ValidAfter != 0 {
		wire.ValidAfterMs = u.ValidAfter.Time().UnixMilli()
	}
	if u.Active {
		for group := range s.memberOf.of(u.No) {
			if !s.held.has(u.No, group) {
				wire.Groups = append(wire.Groups, group)
			}
		}
	}
	return wire
}

// servedIn tells whether a region's proxies offer the connector. The empty region stands for any.
func (c *Connector) servedIn(region string) bool {
	regions := c.Settings.GetRegions()
	return region == "" || len(regions) == 0 || slices.Contains(regions, region)
}

// Change is what became of one entry: Old is nil for a new one, New for one that is gone.
type Change struct {
	Key      *fleetv1.EntryKey
	Old, New *fleetv1.Entry
}

// Changes returns what a round of records changed for a region, in a stable order. The work is in
// proportion to what the records touch, not to the state.
func Changes(prev, next *State, records []Record, region string) []Change {
	var changes []Change
	for _, key := range touched(prev, next, records) {
		before, after := prev.entry(key, region), next.entry(key, region)
		if before == nil && after == nil || before != nil && after != nil && proto.Equal(before, after) {
			continue
		}
		changes = append(changes, Change{Key: key.wire(), Old: before, New: after})
	}
	return changes
}

// touched names each entry that records may have changed, once, in the order of first mention.
func touched(prev, next *State, records []Record) []entryKey {
	t := touch{prev: prev, next: next, seen: map[entryKey]bool{}}
	for _, rec := range records {
		t.event(rec.Event)
	}
	if !sameReads(prev, next) { // everyone's entry holds more attributes now, or fewer
		next.users.Scan(func(_ uint32, u *User) bool {
			t.key(entryKey{kind: userEntry, id: u.ID})
			return true
		})
	}
	return t.keys
}

type touch struct {
	prev, next *State
	keys       []entryKey
	seen       map[entryKey]bool
}

func (t *touch) key(k entryKey) {
	if !t.seen[k] {
		t.seen[k] = true
		t.keys = append(t.keys, k)
	}
}

func (t *touch) user(id string) {
	if parsed, err := uuid.Parse(id); err == nil {
		t.key(entryKey{kind: userEntry, id: parsed})
	}
}

func (t *touch) users(packed []byte) {
	for id, err := range ids(packed) {
		if err != nil { // the fold refused such an event
			return
		}
		t.key(entryKey{kind: userEntry, id: id})
	}
}

func (t *touch) groups(packed []byte) {
	for id, err := range ids(packed) {
		if err != nil {
			return
		}
		t.group(id)
	}
}

// group names a group in whichever of the two states it exists.
func (t *touch) group(id uuid.UUID) *Group {
	g := t.next.Group(id)
	if g == nil {
		g = t.prev.Group(id)
	}
	if g != nil {
		t.key(entryKey{kind: groupEntry, no: g.No})
	}
	return g
}

func (t *touch) event(ev *eventv1.Event) {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_DirectorySet:
		t.ownIssuers()
		for _, s := range []*State{t.prev, t.next} {
			for _, issuer := range s.Directory(b.DirectorySet.GetDirectory().GetId()).GetIssuers() {
				t.key(entryKey{kind: issuerEntry, text: issuer.GetUrl()})
			}
		}
	case *eventv1.Event_UserCreated:
		t.user(b.UserCreated.GetUserId())
	case *eventv1.Event_UserUpdated:
		t.user(b.UserUpdated.GetUserId())
	case *eventv1.Event_UserDeactivated:
		t.user(b.UserDeactivated.GetUserId())
	case *eventv1.Event_UserReactivated:
		t.user(b.UserReactivated.GetUserId())
	case *eventv1.Event_UserSessionsRevoked:
		t.user(b.UserSessionsRevoked.GetUserId())
	case *eventv1.Event_UserDeleted:
		t.user(b.UserDeleted.GetUserId())
		t.grantsOf(b.UserDeleted.GetUserId())
	case *eventv1.Event_UserSubjectRebound:
		t.user(b.UserSubjectRebound.GetUserId())
	case *eventv1.Event_UserMembershipsConfirmed:
		t.user(b.UserMembershipsConfirmed.GetUserId())
	case *eventv1.Event_GroupCreated:
		t.groupText(b.GroupCreated.GetGroupId())
	case *eventv1.Event_GroupUpdated:
		t.groupText(b.GroupUpdated.GetGroupId())
	case *eventv1.Event_GroupDeleted:
		t.groupDeleted(b.GroupDeleted.GetGroupId())
	case *eventv1.Event_GroupMembersAdded:
		t.users(b.GroupMembersAdded.GetUserIds())
		t.groups(b.GroupMembersAdded.GetGroupIds())
	case *eventv1.Event_GroupMembersRemoved:
		t.users(b.GroupMembersRemoved.GetUserIds())
		t.groups(b.GroupMembersRemoved.GetGroupIds())
	default:
		t.policy(ev)
	}
}

func (t *touch) groupText(id string) {
	if parsed, err := uuid.Parse(id); err == nil {
		t.group(parsed)
	}
}

// groupDeleted touches all that hung on the group. It was there before the round, or came and went within it.
func (t *touch) groupDeleted(id string) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return
	}
	g := t.prev.Group(parsed)
	if g == nil {
		return
	}
	t.key(entryKey{kind: groupEntry, no: g.No})
	for user := range t.prev.Members(g, 0) {
		t.key(entryKey{kind: userEntry, id: user.ID})
	}
	for child := range t.prev.MemberGroups(g) {
		t.key(entryKey{kind: groupEntry, no: child.No})
	}
	for _, s := range []*State{t.prev, t.next} {
		for w := range s.ownedBy(Grantee{Group: parsed}) {
			t.key(entryKey{kind: connectorEntry, text: w.Connector})
		}
	}
	for grant := range t.prev.GrantsOf(Grantee{Group: parsed}) {
		t.key(entryKey{kind: grantEntry, no: g.No, text: grant.Connector})
	}
}

// grantsOf touches the grants to a person alone.
func (t *touch) grantsOf(person string) {
	if id, err := uuid.Parse(person); err == nil {
		for grant := range t.prev.GrantsOf(Grantee{Person: id}) {
			t.grant(grant.To, grant.Connector)
		}
	}
}

// ruleSet touches the grants that refer to a rule set.
func (t *touch) ruleSet(name string) {
	for _, s := range []*State{t.prev, t.next} {
		for g := range s.GrantsReferring(name) {
			t.grant(g.To, g.Connector)
		}
	}
}

func (t *touch) policy(ev *eventv1.Event) {
	switch b := ev.GetBody().(type) {
	case *eventv1.Event_ConnectorSet:
		t.connector(b.ConnectorSet.GetConnector().GetId())
	case *eventv1.Event_ConnectorRetired:
		t.connector(b.ConnectorRetired.GetConnectorId())
	case *eventv1.Event_CataloguePinned:
		t.key(entryKey{kind: catalogueEntry, text: b.CataloguePinned.GetConnectorId()})
	case *eventv1.Event_CatalogueOffered:
		t.key(entryKey{kind: catalogueEntry, text: b.CatalogueOffered.GetConnectorId()})
	case *eventv1.Event_ConnectorSecretSet:
		t.key(entryKey{kind: connectorEntry, text: b.ConnectorSecretSet.GetConnectorId()})
	case *eventv1.Event_CredentialSet:
		t.user(b.CredentialSet.GetCredential().GetPersonId())
		t.key(entryKey{kind: connectorEntry, text: b.CredentialSet.GetCredential().GetConnectorId()})
	case *eventv1.Event_CredentialWithdrawn:
		t.credential(b.CredentialWithdrawn.GetCredentialId())
	case *eventv1.Event_CredentialRenewed:
		t.credential(b.CredentialRenewed.GetCredentialId())
	case *eventv1.Event_GrantApplied:
		if to, err := granteeOf(b.GrantApplied.GetGroupId(), b.GrantApplied.GetPersonId(), b.GrantApplied.GetEveryone()); err == nil {
			t.grant(to, b.GrantApplied.GetConnectorId())
		}
	case *eventv1.Event_GrantRemoved:
		if to, err := granteeOf(b.GrantRemoved.GetGroupId(), b.GrantRemoved.GetPersonId(), b.GrantRemoved.GetEveryone()); err == nil {
			t.grant(to, b.GrantRemoved.GetConnectorId())
		}
	case *eventv1.Event_RuleSetSet:
		t.ruleSet(b.RuleSetSet.GetRuleSet().GetName())
	case *eventv1.Event_RuleSetRemoved:
		t.ruleSet(b.RuleSetRemoved.GetName())
	case *eventv1.Event_BlockPlaced:
		t.key(entryKey{kind: blockEntry, text: b.BlockPlaced.GetBlock().GetId()})
	case *eventv1.Event_BlockLifted:
		t.key(entryKey{kind: blockEntry, text: b.BlockLifted.GetBlockId()})
	default:
		t.authorization(ev)
	}
}

// credential touches whom a credential is of, which is in use before the round or came within it.
func (t *touch) credential(id string) {
	parsed, err := uuid.Parse(id)
	if err != nil {
		return
	}
	c := t.next.Credential(parsed)
	if w := t.next.Withdrawal(parsed); w != nil {
		c = &w.Credential
	}
	if c != nil {
		t.key(entryKey{kind: userEntry, id: c.Owner.Person})
		t.key(entryKey{kind: connectorEntry, text: c.Connector})
	}
}

// connector touches a connector, its people's credentials and, since it may be offered in other regions now, all that names it.
func (t *touch) connector(id string) {
	t.key(entryKey{kind: connectorEntry, text: id})
	t.key(entryKey{kind: catalogueEntry, text: id})
	for _, s := range []*State{t.prev, t.next} {
		for g := range s.GrantsOn(id) {
			t.grant(g.To, id)
		}
	}
}

func (t *touch) grant(to Grantee, connector string) {
	for _, s := range []*State{t.prev, t.next} {
		if key, ok := s.grantEntryKey(to, connector); ok {
			t.key(key)
		}
	}
}
