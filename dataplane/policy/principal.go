package policy

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

// A grant to one person, or to everyone, is one to a group that is none of a directory's: everyone is in that of all, and in that of
// their directory, and a person in one of their own, from when there is a grant to that person alone.

// principal is to whom such a grant is: exactly one is set.
type principal struct {
	person   uuid.UUID
	everyone string // a directory, or all
}

// all stands for every directory.
const all = "*"

// firstImplied is the first number of such a group: directories' groups are counted from 1, in the order of their creation.
const firstImplied = 1 << 31

func (p principal) name() string {
	switch p.everyone {
	case "":
		return "the person's own grant"
	case all:
		return "everyone"
	}
	return "everyone of " + p.everyone
}

func principalOf(k *fleetv1.PrincipalGrantKey) (principal, error) {
	switch to := k.GetTo().(type) {
	case *fleetv1.PrincipalGrantKey_Person:
		id, err := uuid.FromBytes(to.Person)
		if err != nil {
			return principal{}, fmt.Errorf("the person of a grant: %w", err)
		}
		return principal{person: id}, nil
	case *fleetv1.PrincipalGrantKey_Everyone:
		if to.Everyone != "" {
			return principal{everyone: to.Everyone}, nil
		}
	}
	return principal{}, errors.New("a grant is to somebody that this build does not know: upgrade it")
}

// group returns the group that stands for somebody. One that is made now is in no set of groups yet, so that none is found anew.
func (e *edit) group(p principal) *group {
	g := e.table.shared.implied[p]
	if g == nil {
		g = &group{number: firstImplied + uint32(len(e.table.shared.implied)), name: p.name(), implied: true}
		e.table.shared.implied[p] = g
		e.state.groups.put(e.owner, g, func(q *group) bool { return q.number == g.number })
	}
	return g
}

// implied adds to a person's groups those that stand for everyone, and the person's own. A service account is nobody: it is in
// none that stands for all directories.
func (e *edit) implied(id uuid.UUID, directory string, service bool, groups []uint32) []uint32 {
	out := append(make([]uint32, 0, len(groups)+3), groups...)
	if !service {
		out = append(out, e.group(principal{everyone: all}).number)
	}
	if directory != "" {
		out = append(out, e.group(principal{everyone: directory}).number)
	}
	if e.table.shared.people[id] > 0 {
		out = append(out, e.group(principal{person: id}).number)
	}
	return out
}

func (e *edit) putPrincipalGrant(g *fleetv1.PrincipalGrant, h Digest) error {
	to, err := principalOf(g.GetKey())
	if err != nil {
		return err
	}
	e.removePrincipalGrant(g.GetKey())
	e.grant(e.group(to).number, g.GetKey().GetConnector(), g.GetRules(), h)
	if to.person != uuid.Nil {
		if e.table.shared.people[to.person]++; e.table.shared.people[to.person] == 1 {
			e.regroup(to.person)
		}
	}
	return nil
}

func (e *edit) removePrincipalGrant(k *fleetv1.PrincipalGrantKey) bool {
	to, err := principalOf(k)
	if err != nil {
		return false
	}
	if !e.removeGrant(e.group(to).number, k.GetConnector()) {
		return false
	}
	if to.person != uuid.Nil {
		if e.table.shared.people[to.person]--; e.table.shared.people[to.person] == 0 {
			delete(e.table.shared.people, to.person)
			e.regroup(to.person)
		}
	}
	return true
}

// regroup puts a person into the groups that stand for them now.
func (e *edit) regroup(id uuid.UUID) {
	old := e.state.person(id)
	if old == nil {
		return
	}
	var direct []uint32
	for i := 0; i < len(old.members.groups); i += 4 {
		if number := binary.BigEndian.Uint32([]byte(old.members.groups[i : i+4])); number < firstImplied {
			direct = append(direct, number)
		}
	}
	p := *old
	p.members = e.table.shared.memberSet(e.implied(id, p.directory, p.service, direct))
	e.table.shared.release(old.members)
	if p.sub != "" {
		e.state.subjects.remove(e.owner, subject{old}.hash(), func(q subject) bool { return q.person == old })
	}
	e.putPerson(&p)
}
