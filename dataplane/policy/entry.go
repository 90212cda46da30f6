package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Person is what a table knows of a person.
type Person struct {
	ID         uuid.UUID
	Directory  string
	Active     bool
	Generation uint64
	// ValidAfter voids foreign tokens that were issued at or before it.
	ValidAfter time.Time
}

// person is a user's entry.
type person struct {
	id         uuid.UUID
	directory  string
	subject    string
	active     bool
	generation uint64
	validAfter int64 // Unix milliseconds
	groups     []uint32
	hash       Digest
	// set is what the groups come to, resolved when it is first needed.
	set setPointer
}

type group struct {
	name    string
	parents []uint32
	hash    Digest
}

type grantKey struct {
	group     uint32
	connector string
}

type grant struct {
	rules []*rule
	hash  Digest
}

// rule is one line of a grant, ready to be decided.
type rule struct {
	wire  *policyv1.Rule
	deny  bool
	globs []string
	when  *condition // nil: always
}

type connector struct {
	settings *policyv1.Connector
	hash     Digest
}

type catalogue struct {
	tools []*pinnedTool // ascending by name
	// place is a tool's in tools.
	place map[string]int
	hash  Digest
}

// offer is a connector with its catalogue; either may be missing.
type offer struct {
	// no is small, and the same as long as the table lives: what a set of groups may do is found by it.
	no        int
	connector *connector
	catalogue *catalogue
}

// offer returns the offer of a connector's id, made where there is none.
func (t *Table) offer(id string) *offer {
	o := t.offers[id]
	if o == nil {
		o = &offer{no: len(t.offers)}
		t.offers[id] = o
		t.rulesChanged() // sets have a place for each offer
	}
	return o
}

type block struct {
	wire *policyv1.Block
	hash Digest
}

type issuer struct {
	wire *fleetv1.Issuer
	hash Digest
}

// put makes an entry the table's, in place of the one of the same key.
func (t *Table) put(e *fleetv1.Entry) error {
	h := hashEntry(e)
	switch v := e.GetValue().(type) {
	case *fleetv1.Entry_User:
		return t.putUser(v.User, h)
	case *fleetv1.Entry_Group:
		if old := t.groups[v.Group.GetNumber()]; old != nil {
			t.digest.remove(old.hash)
		}
		t.groups[v.Group.GetNumber()] = &group{name: v.Group.GetName(), parents: v.Group.GetParents(), hash: h}
		t.rulesChanged()
	case *fleetv1.Entry_Grant:
		return t.putGrant(v.Grant, h)
	case *fleetv1.Entry_Connector:
		o := t.offer(v.Connector.GetId())
		if o.connector != nil {
			t.digest.remove(o.connector.hash)
		}
		o.connector = &connector{settings: v.Connector, hash: h}
		t.rulesChanged()
	case *fleetv1.Entry_Catalogue:
		return t.putCatalogue(v.Catalogue, h)
	case *fleetv1.Entry_Block:
		if old := t.blocks[v.Block.GetId()]; old != nil {
			t.digest.remove(old.hash)
		}
		t.blocks[v.Block.GetId()] = &block{wire: v.Block, hash: h}
		t.blocksChanged()
	case *fleetv1.Entry_Issuer:
		if old := t.issuers[v.Issuer.GetIssuer().GetUrl()]; old != nil {
			t.digest.remove(old.hash)
		}
		t.issuers[v.Issuer.GetIssuer().GetUrl()] = &issuer{wire: v.Issuer, hash: h}
		t.effect.Everybody = true
	default:
		return errors.New("an entry is of a kind that this build does not know: upgrade it")
	}
	t.digest.add(h)
	return nil
}

func (t *Table) putUser(u *fleetv1.User, h Digest) error {
	id, err := uuid.FromBytes(u.GetId())
	if err != nil {
		return fmt.Errorf("a user's id: %w", err)
	}
	if !slices.IsSorted(u.GetGroups()) {
		return errors.New("a user's groups are not in order")
	}
	if old := t.users[id]; old != nil {
		t.forgetUser(old)
	}
	p := &person{
		id: id, directory: t.intern(u.GetDirectory()), subject: u.GetSubject(), active: u.GetActive(), generation: u.GetGeneration(),
		validAfter: u.GetValidAfterMs(), groups: u.GetGroups(), hash: h,
	}
	t.users[id] = p
	if p.subject != "" {
		t.subjects[subjectKey{p.directory, p.subject}] = p
	}
	t.effect.People = append(t.effect.People, id)
	t.digest.add(h)
	return nil
}

func (t *Table) forgetUser(p *person) {
	delete(t.users, p.id)
	if key := (subjectKey{p.directory, p.subject}); t.subjects[key] == p {
		delete(t.subjects, key)
	}
	t.digest.remove(p.hash)
}

// intern returns the one copy of a text that stands in many entries.
func (t *Table) intern(s string) string {
	if have, ok := t.texts[s]; ok {
		return have
	}
	t.texts[s] = s
	return s
}

func (t *Table) putGrant(g *fleetv1.Grant, h Digest) error {
	out := &grant{hash: h}
	for i, r := range g.GetRules() {
		compiled, err := compileRule(r)
		if err != nil {
			return fmt.Errorf("rule %d of a grant on %s: %w", i+1, g.GetConnector(), err)
		}
		out.rules = append(out.rules, compiled)
	}
	key := grantKey{g.GetGroup(), g.GetConnector()}
	if old := t.grants[key]; old != nil {
		t.digest.remove(old.hash)
	}
	t.grants[key] = out
	t.digest.add(h)
	t.rulesChanged()
	return nil
}

// compileRule refuses what Check would have refused: a table must not hold a rule that it cannot decide.
func compileRule(r *policyv1.Rule) (*rule, error) {
	if err := Check(r, nil); err != nil {
		return nil, err
	}
	out := &rule{wire: r, deny: len(r.GetDeny()) > 0, globs: r.GetAllow()}
	if out.deny {
		out.globs = r.GetDeny()
	}
	if r.GetWhen() != "" {
		var err error
		if out.when, err = compileCondition(r.GetWhen()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (t *Table) putCatalogue(c *fleetv1.Catalogue, h Digest) error {
	out := &catalogue{place: map[string]int{}, hash: h}
	for _, wire := range c.GetTools() {
		tool, err := readTool(wire)
		if err != nil {
			return fmt.Errorf("tool %q of %s: %w", wire.GetName(), c.GetConnector(), err)
		}
		out.tools = append(out.tools, tool)
	}
	slices.SortFunc(out.tools, func(a, b *pinnedTool) int { return strings.Compare(a.name, b.name) })
	for i, tool := range out.tools {
		out.place[tool.name] = i
	}
	o := t.offer(c.GetConnector())
	if o.catalogue != nil {
		t.digest.remove(o.catalogue.hash)
	}
	o.catalogue = out
	t.digest.add(h)
	t.rulesChanged()
	return nil
}

// remove takes an entry out. One that is not there is a table that drifted.
func (t *Table) remove(k *fleetv1.EntryKey) error {
	var h Digest
	found := false
	take := func(have Digest, ok bool) { h, found = have, ok }
	switch key := k.GetKey().(type) {
	case *fleetv1.EntryKey_User:
		id, err := uuid.FromBytes(key.User)
		if err != nil {
			return fmt.Errorf("a user's id: %w", err)
		}
		if p := t.users[id]; p != nil {
			t.forgetUser(p)
			t.effect.People = append(t.effect.People, id)
			return nil
		}
	case *fleetv1.EntryKey_Group:
		if g := t.groups[key.Group]; g != nil {
			take(g.hash, true)
			delete(t.groups, key.Group)
			t.rulesChanged()
		}
	case *fleetv1.EntryKey_Grant:
		gk := grantKey{key.Grant.GetGroup(), key.Grant.GetConnector()}
		if g := t.grants[gk]; g != nil {
			take(g.hash, true)
			delete(t.grants, gk)
			t.rulesChanged()
		}
	case *fleetv1.EntryKey_Connector:
		if o := t.offers[key.Connector]; o != nil && o.connector != nil {
			take(o.connector.hash, true)
			o.connector = nil
			t.rulesChanged()
		}
	case *fleetv1.EntryKey_Catalogue:
		if o := t.offers[key.Catalogue]; o != nil && o.catalogue != nil {
			take(o.catalogue.hash, true)
			o.catalogue = nil
			t.rulesChanged()
		}
	case *fleetv1.EntryKey_Block:
		if b := t.blocks[key.Block]; b != nil {
			take(b.hash, true)
			delete(t.blocks, key.Block)
			t.blocksChanged()
		}
	case *fleetv1.EntryKey_Issuer:
		if i := t.issuers[key.Issuer]; i != nil {
			take(i.hash, true)
			delete(t.issuers, key.Issuer)
			t.effect.Everybody = true
		}
	}
	if !found {
		return errors.New("an entry that is to be removed is not there")
	}
	t.digest.remove(h)
	return nil
}
