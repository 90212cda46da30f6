package core

import (
	"iter"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// EntriesOn yields what verdicts on some connectors rest on, save the people: blocks, the connectors with their catalogues, the
// groups that are asked for by number, and the grants to those groups, to people and to everyone.
func (s *State) EntriesOn(connector func(id string) bool, group func(no uint32) bool) iter.Seq[*fleetv1.Entry] {
	return func(yield func(*fleetv1.Entry) bool) {
		for key := range s.otherKeys() {
			switch key.kind {
			case connectorEntry, catalogueEntry, principalEntry:
				if !connector(key.text) {
					continue
				}
			case groupEntry:
				if !group(key.no) {
					continue
				}
			case grantEntry:
				if !connector(key.text) || !group(key.no) {
					continue
				}
			case issuerEntry:
				continue
			}
			if e := s.entry(key, ""); e != nil && !yield(e) {
				return
			}
		}
	}
}

// UserEntry is a person's entry.
func (s *State) UserEntry(u *User) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_User{User: s.wireUser(u)}}
}

// EntriesOfNobody yields the entries on which verdicts would rest about somebody who is in some groups of a directory and has some
// attributes, and who is nobody yet.
func (s *State) EntriesOfNobody(id uuid.UUID, directory string, groups []*Group, attributes []byte) iter.Seq[*fleetv1.Entry] {
	wire := &fleetv1.User{Id: id[:], Active: true, Directory: directory, Attributes: attributes}
	for _, g := range groups {
		wire.Groups = append(wire.Groups, g.No)
	}
	return s.entriesOf(wire, "")
}

// CountedGroups yields the numbers of the groups of which a user is directly a member with effect, ascending.
func (s *State) CountedGroups(u *User) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for no := range s.memberOf.of(u.No) {
			if !s.held.has(u.No, no) && !yield(no) {
				return
			}
		}
	}
}

// MemberNumbers yields the numbers of the users who are directly members of a group, held memberships included, ascending.
func (s *State) MemberNumbers(g *Group) iter.Seq[uint32] { return s.members.of(g.No) }

// CountedNumbers yields the numbers of the users who are directly members of a group with effect, ascending.
func (s *State) CountedNumbers(g *Group) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		for no := range s.members.of(g.No) {
			if !s.held.has(no, g.No) && !yield(no) {
				return
			}
		}
	}
}

// LastNumber is above no user's number.
func (s *State) LastNumber() uint32 { return s.lastUser }

// RulesOf yields all rules that count in a grant: its own, and those of its rule sets.
func (s *State) RulesOf(g *Grant) iter.Seq[*policyv1.Rule] {
	return func(yield func(*policyv1.Rule) bool) {
		for _, r := range g.Rules {
			if !yield(r) {
				return
			}
		}
		for _, name := range g.RuleSets {
			for _, r := range s.RuleSet(name).GetRules() {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// GroupPath is how a user is in a group: the groups from one that the user is directly in with effect, up to it. Nil: not at all. The
// shortest is told.
func (s *State) GroupPath(u *User, to *Group) []*Group {
	from := map[uint32]uint32{} // to the group below
	var todo []uint32
	for no := range s.CountedGroups(u) {
		if _, known := from[no]; !known {
			from[no] = 0
			todo = append(todo, no)
		}
	}
	for len(todo) > 0 {
		no := todo[0]
		todo = todo[1:]
		if no == to.No {
			break
		}
		for parent := range s.parents.of(no) {
			if _, known := from[parent]; !known {
				from[parent] = no
				todo = append(todo, parent)
			}
		}
	}
	if _, reached := from[to.No]; !reached {
		return nil
	}
	var path []*Group
	for no := to.No; no != 0; no = from[no] {
		path = append([]*Group{s.GroupByNumber(no)}, path...)
	}
	return path
}
