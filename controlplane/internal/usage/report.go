package usage

import (
	"context"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
)

// Report says, of the people of one state, who has used the gateway. It is made in some seconds for a million people, and costs them a few bytes each.
type Report struct {
	state *core.State
	now   time.Time
	seen  []int64 // first and last, two by two, by a person's number
	// uses are the connectors that people used, by number of person: where in lasts.
	uses map[uint32]map[string]int64
	// granted are the people to whom something is granted on a connector.
	granted    map[string]bits
	connectors []string
}

// bits is a set of people's numbers.
type bits []uint64

func (b *bits) add(no uint32) {
	if int(no/64) >= len(*b) {
		*b = append(*b, make([]uint64, int(no/64)+1-len(*b)+len(*b)/2)...)
	}
	(*b)[no/64] |= 1 << (no % 64)
}

func (b bits) has(no uint32) bool { return int(no/64) < len(b) && b[no/64]&(1<<(no%64)) != 0 }

// Make makes the report of a state, as of now.
func (r *Recorder) Make(ctx context.Context, s *core.State) (*Report, error) {
	p := &Report{state: s, now: r.Now(), uses: map[uint32]map[string]int64{}, granted: map[string]bits{}}
	err := r.Each(ctx, func(id uuid.UUID, known *Person) {
		u := s.User(id)
		if u == nil {
			return
		}
		if n := int(u.No)*2 + 2; n > len(p.seen) {
			p.seen = append(p.seen, make([]int64, n-len(p.seen)+len(p.seen)/2)...)
		}
		was := Person{First: p.seen[u.No*2], Last: p.seen[u.No*2+1], Connectors: p.uses[u.No]}
		was.merge(known)
		p.seen[u.No*2], p.seen[u.No*2+1] = was.First, was.Last
		if was.Connectors != nil {
			p.uses[u.No] = was.Connectors
		}
	})
	if err != nil {
		return nil, err
	}
	for g := range s.Grants() {
		if !g.Until.IsZero() && !p.now.Before(g.Until) {
			continue
		}
		set := p.granted[g.Connector]
		for u := range grantees(s, g.To) {
			set.add(u.No)
		}
		p.granted[g.Connector] = set
	}
	for id := range p.granted {
		p.connectors = append(p.connectors, id)
	}
	slices.Sort(p.connectors)
	return p, ctx.Err()
}

// grantees are the active people to whom a grant is.
func grantees(s *core.State, to core.Grantee) iter.Seq[*core.User] {
	return func(yield func(*core.User) bool) {
		switch {
		case to.Group != uuid.Nil:
			if g := s.Group(to.Group); g != nil {
				for u := range s.PeopleOf(g) {
					if !u.Service() && !yield(u) {
						return
					}
				}
			}
		case to.Person != uuid.Nil:
			if u := s.User(to.Person); u != nil && u.Active && !u.Service() {
				yield(u)
			}
		default:
			directory := to.Everyone
			if directory == core.Everyone {
				directory = ""
			}
			for u := range s.AllUsersAfter(directory, 0) {
				if u.Active && !u.Service() && !yield(u) {
					return
				}
			}
		}
	}
}

// Row is one person of a report.
type Row struct {
	User *core.User
	// First and Last are zero for who never used the gateway.
	First, Last time.Time
	// Used are the connectors that the person used, with when last; Unused those on which the person has a grant and which they did not use.
	Used   map[string]time.Time
	Unused []string
}

// Which names people of a report: those who fit all that is set.
type Which struct {
	Directory string
	// Group is one of the groups that the person is in.
	Group *core.Group
	// Connector: on it the person has a grant; Never and Idle are then of it alone.
	Connector string
	Never     bool
	// Idle: used, but not for so long.
	Idle time.Duration
}

// Rows yields the active people who fit, in the order of their creation.
func (p *Report) Rows(w Which) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		var in bits
		if w.Group != nil {
			for u := range p.state.PeopleOf(w.Group) {
				in.add(u.No)
			}
		}
		for u := range p.state.AllUsersAfter(w.Directory, 0) {
			if !u.Active || u.Service() || w.Group != nil && !in.has(u.No) || w.Connector != "" && !p.granted[w.Connector].has(u.No) {
				continue
			}
			_, last := p.times(u.No)
			if w.Connector != "" {
				last = p.uses[u.No][w.Connector]
			}
			if w.Never && last != 0 || w.Idle > 0 && (last == 0 || p.now.Sub(time.Unix(last, 0)) < w.Idle) {
				continue
			}
			if !yield(p.row(u)) {
				return
			}
		}
	}
}

func (p *Report) times(no uint32) (first, last int64) {
	if int(no)*2+1 >= len(p.seen) {
		return 0, 0
	}
	return p.seen[no*2], p.seen[no*2+1]
}

func (p *Report) row(u *core.User) Row {
	row := Row{User: u, Used: map[string]time.Time{}}
	if first, last := p.times(u.No); last != 0 {
		row.First, row.Last = time.Unix(first, 0), time.Unix(last, 0)
	}
	for c, at := range p.uses[u.No] {
		row.Used[c] = time.Unix(at, 0)
	}
	for _, c := range p.connectors {
		if _, used := row.Used[c]; !used && p.granted[c].has(u.No) {
			row.Unused = append(row.Unused, c)
		}
	}
	return row
}

// Count is how far some people have moved.
type Count struct {
	// People are all of them, Used those who ever used the gateway, and Lately those who did within Recent.
	People, Used, Lately uint64
}

// Recent is what counts as lately.
const Recent = 30 * 24 * time.Hour

func (c *Count) add(now time.Time, last int64) {
	c.People++
	if last == 0 {
		return
	}
	c.Used++
	if now.Sub(time.Unix(last, 0)) < Recent {
		c.Lately++
	}
}

// Total counts the people of a directory, or of all.
func (p *Report) Total(directory string) Count {
	var c Count
	for u := range p.state.AllUsersAfter(directory, 0) {
		if u.Active && !u.Service() {
			_, last := p.times(u.No)
			c.add(p.now, last)
		}
	}
	return c
}

// Groups counts the people of each group to which something is granted.
func (p *Report) Groups(directory string) iter.Seq2[*core.Group, Count] {
	return func(yield func(*core.Group, Count) bool) {
		done := map[uuid.UUID]bool{}
		for grant := range p.state.Grants() {
			g := p.state.Group(grant.To.Group)
			if g == nil || done[g.ID] || directory != "" && g.Directory != directory {
				continue
			}
			done[g.ID] = true
			var c Count
			for u := range p.state.PeopleOf(g) {
				if !u.Service() {
					_, last := p.times(u.No)
					c.add(p.now, last)
				}
			}
			if !yield(g, c) {
				return
			}
		}
	}
}

// Connectors counts the people to whom something is granted on each connector, by their use of it.
func (p *Report) Connectors(directory string) iter.Seq2[string, Count] {
	return func(yield func(string, Count) bool) {
		for _, id := range p.connectors {
			var c Count
			set := p.granted[id]
			for u := range p.state.AllUsersAfter(directory, 0) {
				if set.has(u.No) {
					c.add(p.now, p.uses[u.No][id])
				}
			}
			if !yield(id, c) {
				return
			}
		}
	}
}
