package policy

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// edit is a state on its way to the next version. Nobody reads it yet.
type edit struct {
	state  state
	owner  *owner
	table  *Table
	effect Effect
	// endsChanged: the ends of rules are not those of the state before.
	endsChanged bool
}

func (t *Table) edit(from *state) *edit {
	e := &edit{state: *from, owner: &owner{}, table: t}
	e.state.memory = &t.memory
	return e
}

func (e *edit) stamp() uint64 {
	e.table.stamp++
	return e.table.stamp
}

func (e *edit) groupsChanged() {
	e.state.groupsAt = e.stamp()
	e.effect.Everybody = true
}

// put makes an entry the state's, in place of the one of the same key.
func (e *edit) put(entry *fleetv1.Entry) error {
	h := hashEntry(entry)
	switch v := entry.GetValue().(type) {
	case *fleetv1.Entry_User:
		return e.putUser(v.User, h)
	case *fleetv1.Entry_Group:
		e.putGroup(v.Group, h)
		return nil
	case *fleetv1.Entry_Grant:
		e.putGrant(v.Grant, h)
		return nil
	case *fleetv1.Entry_Connector:
		e.putConnector(v.Connector, h)
		return nil
	case *fleetv1.Entry_Catalogue:
		e.putCatalogue(v.Catalogue, h)
		return nil
	case *fleetv1.Entry_Block:
		return e.putBlock(v.Block, h)
	case *fleetv1.Entry_Issuer:
		e.putIssuer(v.Issuer, h)
		return nil
	case *fleetv1.Entry_AuthorizationServer:
		e.putAuthority(v.AuthorizationServer, h)
		return nil
	case *fleetv1.Entry_RevokedSession:
		return e.putEndedSession(v.RevokedSession.GetId(), h)
	case *fleetv1.Entry_RevokedClient:
		e.putCutClient(v.RevokedClient, h)
		return nil
	case *fleetv1.Entry_PrincipalGrant:
		return e.putPrincipalGrant(v.PrincipalGrant, h)
	}
	return errors.New("an entry is of a kind that this build does not know: upgrade it")
}

// remove takes an entry out. One that is not there is a table that drifted.
func (e *edit) remove(k *fleetv1.EntryKey) error {
	found := false
	switch key := k.GetKey().(type) {
	case *fleetv1.EntryKey_User:
		id, err := uuid.FromBytes(key.User)
		if err != nil {
			return fmt.Errorf("a user's id: %w", err)
		}
		found = e.removeUser(id)
	case *fleetv1.EntryKey_Group:
		found = e.removeGroup(key.Group)
	case *fleetv1.EntryKey_Grant:
		found = e.removeGrant(key.Grant.GetGroup(), key.Grant.GetConnector())
	case *fleetv1.EntryKey_Connector:
		found = e.removeConnector(key.Connector)
	case *fleetv1.EntryKey_Catalogue:
		found = e.removeCatalogue(key.Catalogue)
	case *fleetv1.EntryKey_Block:
		found = e.removeBlock(key.Block)
	case *fleetv1.EntryKey_Issuer:
		found = e.removeIssuer(key.Issuer)
	case *fleetv1.EntryKey_AuthorizationServer:
		found = e.removeAuthority(key.AuthorizationServer)
	case *fleetv1.EntryKey_RevokedSession:
		id, err := uuid.FromBytes(key.RevokedSession)
		if err != nil {
			return fmt.Errorf("a session's id: %w", err)
		}
		found = e.removeEndedSession(id)
	case *fleetv1.EntryKey_RevokedClient:
		found = e.removeCutClient(key.RevokedClient)
	case *fleetv1.EntryKey_PrincipalGrant:
		found = e.removePrincipalGrant(key.PrincipalGrant)
	}
	if !found {
		return errors.New("an entry that is to be removed is not there")
	}
	return nil
}

func (e *edit) putUser(u *fleetv1.User, h Digest) error {
	id, err := uuid.FromBytes(u.GetId())
	if err != nil {
		return fmt.Errorf("a user's id: %w", err)
	}
	attributes, err := e.table.shared.attributesOf(u.GetAttributes())
	if err != nil {
		return err
	}
	e.removeUser(id)
	directory := e.table.shared.text(u.GetDirectory())
	groups := e.implied(id, directory, u.GetService(), u.GetGroups())
	p := &person{
		id: id, directory: directory, sub: u.GetSubject(), active: u.GetActive(), service: u.GetService(), attributes: attributes,
		generation: u.GetGeneration(), validAfter: u.GetValidAfterMs(), members: e.table.shared.memberSet(groups), digest: h,
	}
	e.putPerson(p)
	e.state.digest.add(h)
	return nil
}

// putPerson stores a person in place of the one of the same id.
func (e *edit) putPerson(p *person) {
	e.state.people.put(e.owner, p, func(q *person) bool { return q.id == p.id })
	if p.sub != "" {
		e.state.subjects.put(e.owner, subject{p}, func(q subject) bool { return q.id == p.id })
	}
	e.effect.People = append(e.effect.People, p.id)
}

func (e *edit) removeUser(id uuid.UUID) bool {
	p := e.state.person(id)
	if p == nil {
		return false
	}
	e.state.people.remove(e.owner, p.hash(), func(q *person) bool { return q == p })
	if p.sub != "" {
		e.state.subjects.remove(e.owner, subject{p}.hash(), func(q subject) bool { return q.person == p })
	}
	e.table.shared.release(p.members)
	e.table.shared.releaseAttributes(p.attributes)
	e.state.digest.remove(p.digest)
	e.effect.People = append(e.effect.People, id)
	return true
}

func (e *edit) putGroup(g *fleetv1.Group, h Digest) {
	e.removeGroup(g.GetNumber())
	out := &group{number: g.GetNumber(), name: g.GetName(), parents: g.GetParents(), digest: h}
	e.state.groups.put(e.owner, out, func(q *group) bool { return q.number == out.number })
	e.state.digest.add(h)
	e.groupsChanged()
}

func (e *edit) removeGroup(number uint32) bool {
	g := e.state.group(number)
	if g == nil {
		return false
	}
	e.state.groups.remove(e.owner, g.hash(), func(q *group) bool { return q == g })
	e.state.digest.remove(g.digest)
	e.groupsChanged()
	return true
}

// change returns a connector to change, which is stored. Its grants, catalogue and settings may be none.
func (e *edit) change(id string) *connector {
	c := &connector{id: id}
	if old := e.state.connector(id); old != nil {
		*c = *old
	} else {
		e.table.shared.connectors++
		c.number = e.table.shared.connectors
	}
	c.at, c.read = e.stamp(), &read{}
	e.state.connectorsAt = c.at
	e.state.connectors.put(e.owner, c, func(q *connector) bool { return q.id == id })
	e.effect.Everybody = true
	return c
}

// changed drops a connector of which nothing is left.
func (e *edit) changed(c *connector) {
	if c.settings == nil && c.catalogue == nil && c.grants.size == 0 {
		e.state.connectors.remove(e.owner, c.hash(), func(q *connector) bool { return q == c })
	}
}

func (e *edit) putConnector(settings *policyv1.Connector, h Digest) {
	e.removeConnector(settings.GetId())
	c := e.change(settings.GetId())
	c.settings, c.settingsDigest, c.redactions = settings, h, newConnectorRedactions(settings)
	e.state.digest.add(h)
}

func (e *edit) removeConnector(id string) bool {
	if c := e.state.connector(id); c == nil || c.settings == nil {
		return false
	}
	c := e.change(id)
	e.state.digest.remove(c.settingsDigest)
	c.settings, c.settingsDigest, c.redactions = nil, Digest{}, nil
	e.changed(c)
	return true
}

func (e *edit) putCatalogue(wire *fleetv1.Catalogue, h Digest) {
	e.removeCatalogue(wire.GetConnector())
	out := &catalogue{byName: make(map[string]*pinnedTool, len(wire.GetTools())), digest: h}
	for _, t := range wire.GetTools() {
		out.tools = append(out.tools, newTool(wire.GetConnector(), t))
	}
	// Tools first: most is asked of them.
	slices.SortFunc(out.tools, func(a, b *pinnedTool) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), strings.Compare(a.name, b.name))
	})
	for i, t := range out.tools {
		e.table.shared.tools++
		t.number, t.place = e.table.shared.tools, i
		out.byName[t.name] = t
		e.expose(t)
	}
	for _, w := range wire.GetWithheld() {
		if out.withheld == nil {
			out.withheld = map[string]bool{}
		}
		out.withheld[w.GetLabel()] = w.GetChanged()
	}
	c := e.change(wire.GetConnector())
	c.catalogue = out
	e.state.digest.add(h)
}

func (e *edit) removeCatalogue(id string) bool {
	if c := e.state.connector(id); c == nil || c.catalogue == nil {
		return false
	}
	c := e.change(id)
	for _, t := range c.catalogue.tools {
		e.conceal(t)
	}
	e.state.digest.remove(c.catalogue.digest)
	c.catalogue = nil
	e.changed(c)
	return true
}

func (e *edit) putGrant(g *fleetv1.Grant, h Digest) {
	e.removeGrant(g.GetGroup(), g.GetConnector())
	e.grant(g.GetGroup(), g.GetConnector(), g.GetRules(), h)
}

// grant gives the group of a number rules on a connector, where it has none.
func (e *edit) grant(group uint32, id string, rules []*policyv1.Rule, h Digest) {
	out := &grant{group: group, digest: h}
	places := map[string]int{} // rules of a rule set are counted by themselves
	for _, wire := range rules {
		places[wire.GetRuleSet()]++
		r := e.table.shared.rule(wire, places[wire.GetRuleSet()])
		out.rules = append(out.rules, r)
		e.timed(r, 1)
	}
	c := e.change(id)
	c.grants.put(e.owner, out, func(q *grant) bool { return q.group == out.group })
	e.state.digest.add(h)
}

func (e *edit) removeGrant(group uint32, id string) bool {
	have := e.state.connector(id)
	if have == nil {
		return false
	}
	g := have.grant(group)
	if g == nil {
		return false
	}
	c := e.change(id)
	c.grants.remove(e.owner, g.hash(), func(q *grant) bool { return q == g })
	for _, r := range g.rules {
		e.timed(r, -1)
		e.table.shared.releaseCondition(r.when)
	}
	e.state.digest.remove(g.digest)
	e.changed(c)
	return true
}

func (e *edit) putBlock(wire *policyv1.Block, h Digest) error {
	b, err := newBlock(wire, h)
	if err != nil {
		return err
	}
	e.removeBlock(b.id)
	e.state.blocks.put(e.owner, b, func(q *block) bool { return q.id == b.id })
	var others []*block
	if l := e.state.blocked.list(b.target); l != nil {
		others = l.blocks
	}
	e.state.blocked.set(e.owner, b.target, append(slices.Clone(others), b))
	e.state.digest.add(h)
	e.blockChanged(b)
	return nil
}

func (e *edit) removeBlock(id string) bool {
	b, ok := e.state.blocks.find(hashOf(id), func(b *block) bool { return b.id == id })
	if !ok {
		return false
	}
	e.state.blocks.remove(e.owner, b.hash(), func(q *block) bool { return q == b })
	rest := slices.DeleteFunc(slices.Clone(e.state.blocked.list(b.target).blocks), func(q *block) bool { return q == b })
	e.state.blocked.set(e.owner, b.target, rest)
	e.state.digest.remove(b.digest)
	e.blockChanged(b)
	return true
}

func (e *edit) blockChanged(b *block) {
	if b.target.person != (uuid.UUID{}) {
		e.effect.People = append(e.effect.People, b.target.person)
		return
	}
	e.effect.Everybody = true
}

func (e *edit) putIssuer(i *fleetv1.Issuer, h Digest) {
	e.removeIssuer(i.GetIssuer().GetUrl())
	out := &issuer{url: i.GetIssuer().GetUrl(), wire: i, digest: h}
	e.state.issuers.put(e.owner, out, func(q *issuer) bool { return q.url == out.url })
	e.state.digest.add(h)
	e.effect.Everybody = true
}

func (e *edit) removeIssuer(url string) bool {
	i, ok := e.state.issuer(url)
	if !ok {
		return false
	}
	e.state.issuers.remove(e.owner, i.hash(), func(q *issuer) bool { return q == i })
	e.state.digest.remove(i.digest)
	e.effect.Everybody = true
	return true
}

// shared holds one copy of what many entries have in common. Apply alone touches it.
type shared struct {
	texts      map[string]string
	members    map[string]*memberSet
	attributes map[string]*attributes
	conditions map[string]*condition
	// ends are when rules end, Unix nanoseconds, with how many do.
	ends map[int64]int
	// implied are the groups that are none of a directory's, and people how many grants are to one person alone.
	implied map[principal]*group
	people  map[uuid.UUID]int
	// How many connectors and tools were given a number.
	connectors, tools uint32
}

func newShared() shared {
	return shared{
		texts: map[string]string{}, members: map[string]*memberSet{}, conditions: map[string]*condition{}, attributes: map[string]*attributes{},
		ends: map[int64]int{}, implied: map[principal]*group{}, people: map[uuid.UUID]int{},
	}
}

// attributesOf returns the one copy of what is held of a person.
func (s *shared) attributesOf(wire []byte) (*attributes, error) {
	if len(wire) == 0 {
		return noAttributes, nil
	}
	a := s.attributes[string(wire)]
	if a == nil {
		var err error
		if a, err = newAttributes(wire); err != nil {
			return nil, err
		}
		s.attributes[a.text] = a
	}
	a.users++
	return a, nil
}

func (s *shared) releaseAttributes(a *attributes) {
	if a == noAttributes {
		return
	}
	if a.users--; a.users == 0 {
		delete(s.attributes, a.text)
	}
}

// text returns the one copy of a text that stands in many entries and never goes: a directory's name.
func (s *shared) text(text string) string {
	if have, ok := s.texts[text]; ok {
		return have
	}
	s.texts[text] = text
	return text
}

// memberSet returns the one copy of a set of groups.
func (s *shared) memberSet(groups []uint32) *memberSet {
	if !slices.IsSorted(groups) {
		groups = slices.Sorted(slices.Values(groups))
	}
	var room [256]byte
	key := room[:0]
	for _, g := range groups {
		key = binary.BigEndian.AppendUint32(key, g)
	}
	m := s.members[string(key)]
	if m == nil {
		m = &memberSet{groups: string(key)}
		s.members[m.groups] = m
	}
	m.users++
	return m
}

func (s *shared) release(m *memberSet) {
	if m.users--; m.users == 0 {
		delete(s.members, m.groups)
	}
}

// rule makes a rule ready to be decided. One that this build does not wholly understand is one that cannot
// be evaluated: as an allow it gives nothing, as anything else it denies.
func (s *shared) rule(wire *policyv1.Rule, place int) *rule {
	r := &rule{wire: wire, place: place, globs: newGlobs(globsOf(wire))}
	switch allow, deny, require := len(wire.GetAllow()) > 0, len(wire.GetDeny()) > 0, wire.GetRequire() != 0 && len(wire.GetTools()) > 0; {
	case allow && !deny && !require:
	case deny && !allow && !require:
		r.effect = denies
	case require && !allow && !deny:
		r.effect = requires
	default:
		r.effect, r.globs, r.when = denies, everything, notUnderstood
		return r
	}
	if !understood(wire) {
		if r.when = notUnderstood; r.effect == requires { // whatever it is that must be done is not done
			r.effect = denies
		}
		return r
	}
	if r.duty() == policyv1.Duty_DUTY_REDACT {
		r.effect = redacts
		if r.redaction, _ = newRedaction(wire.GetRedact()); r.redaction == nil { // it is of a newer build
			r.effect, r.when = denies, notUnderstood
			return r
		}
	}
	if r.duty() == policyv1.Duty_DUTY_LIMIT {
		r.effect = meters
		if checkLimit(wire) != nil { // it is of a newer build
			r.effect, r.when = denies, notUnderstood
			return r
		}
	}
	if wire.GetUntil() != nil {
		r.until = wire.GetUntil().AsTime().UnixNano()
	}
	if r.duty() == policyv1.Duty_DUTY_REVIEW {
		r.approval = newApproval(wire.GetReview())
	}
	r.signIn = SignInOf(wire.GetSignIn())
	if wire.GetWhen() != "" {
		r.when = s.condition(wire.GetWhen())
	}
	return r
}

// understood tells whether this build knows all that a rule says.
func understood(r *policyv1.Rule) bool {
	for _, m := range []proto.Message{r, r.GetHints(), r.GetReview(), r.GetSignIn(), r.GetRedact(), r.GetLimit()} {
		if m.ProtoReflect().IsValid() && len(m.ProtoReflect().GetUnknown()) > 0 {
			return false
		}
	}
	if (r.GetRequire() == policyv1.Duty_DUTY_SIGN_IN) != (r.GetRequire() != 0 && r.GetSignIn() != nil) {
		return false
	}
	return knownDuties(r) && r.GetAssurance() <= policyv1.ConfirmationAssurance_CONFIRMATION_ASSURANCE_BROWSER
}

// condition returns the one copy of a condition. It is compiled when it is first needed.
func (s *shared) condition(text string) *condition {
	c := s.conditions[text]
	if c == nil {
		c = newCondition(text)
		s.conditions[text] = c
	}
	c.rules++
	return c
}

func (s *shared) releaseCondition(c *condition) {
	if c == nil || c == notUnderstood {
		return
	}
	if c.rules--; c.rules == 0 {
		delete(s.conditions, c.text)
	}
}
