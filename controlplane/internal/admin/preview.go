package admin

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// changesShown is how many people a preview names.
const changesShown = 1000

// PreviewMembers compares, for each person who would join or leave, the tools that proxies would show.
func (a *api) PreviewMembers(ctx context.Context, req *connect.Request[adminv1.PreviewMembersRequest]) (*connect.Response[adminv1.PreviewMembersResponse], error) {
	s := a.Engine.State()
	g, err := s.FindGroup(req.Msg.GetGroup())
	if err != nil {
		return nil, err
	}
	named, err := membersNamed(s, g, req.Msg.GetMembers())
	if err != nil {
		return nil, err
	}
	p := &preview{api: a, state: s, group: g, seen: map[string]*adminv1.AccessChange{}}
	res := &adminv1.PreviewMembersResponse{Version: s.Seq()}
	for u, in := range moves(s, g, req.Msg.GetChange(), named) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if in {
			res.Joining++
		} else {
			res.Leaving++
		}
		change, err := p.of(u, in)
		if err != nil {
			return nil, err
		}
		if len(change.GetGains())+len(change.GetLoses()) == 0 {
			continue
		}
		if res.Affected++; res.Affected <= changesShown {
			res.Changes = append(res.Changes, &adminv1.AccessChange{UserId: u.ID.String(), UserName: u.UserName, Gains: change.GetGains(), Loses: change.GetLoses()})
		}
	}
	return connect.NewResponse(res), nil
}

// membersNamed finds people of the group's directory by id or user name.
func membersNamed(s *core.State, g *core.Group, names []string) (map[uint32]*core.User, error) {
	named := make(map[uint32]*core.User, len(names))
	for _, name := range names {
		u := s.UserByName(g.Directory, name)
		if id, err := uuid.Parse(name); u == nil && err == nil {
			u = s.User(id)
		}
		if u == nil || u.Directory != g.Directory {
			return nil, &core.Error{Code: core.NotFound, Field: "members", Message: fmt.Sprintf("there is no user %q in directory %q", name, g.Directory)}
		}
		named[u.No] = u
	}
	return named, nil
}

// moves yields who would join, and who would leave, in the order of their creation. A membership that is held counts
// again when it is asserted again.
func moves(s *core.State, g *core.Group, change adminv1.MemberChange, named map[uint32]*core.User) iter.Seq2[*core.User, bool] {
	return func(yield func(*core.User, bool) bool) {
		people := make([]*core.User, 0, len(named))
		for _, u := range named {
			people = append(people, u)
		}
		slices.SortFunc(people, func(a, b *core.User) int { return int(a.No) - int(b.No) })
		remove := change == adminv1.MemberChange_MEMBER_CHANGE_REMOVE
		for _, u := range people {
			if s.CountsIn(u, g) == remove && !yield(u, !remove) {
				return
			}
		}
		if change != adminv1.MemberChange_MEMBER_CHANGE_REPLACE {
			return
		}
		for u := range s.Members(g, 0) {
			if named[u.No] == nil && s.CountsIn(u, g) && !yield(u, false) {
				return
			}
		}
	}
}

// preview compares tools. People in the same groups have the same, save for what is said of them alone and what conditions read.
type preview struct {
	*api
	state *core.State
	group *core.Group
	seen  map[string]*adminv1.AccessChange
}

func (p *preview) of(u *core.User, in bool) (*adminv1.AccessChange, error) {
	key := p.key(u, in)
	if change, seen := p.seen[key]; seen {
		return change, nil
	}
	before, err := p.tools(u, p.state.EntriesFor(u, ""))
	if err != nil {
		return nil, err
	}
	after, err := p.tools(u, p.state.EntriesIf(u, p.group, in, ""))
	if err != nil {
		return nil, err
	}
	change := &adminv1.AccessChange{Gains: without(after, before), Loses: without(before, after)}
	p.seen[key] = change
	return change, nil
}

func (p *preview) key(u *core.User, in bool) string {
	var b strings.Builder
	fmt.Fprint(&b, in, u.Active)
	for g := range p.state.GroupsOf(u) {
		if p.state.CountsIn(u, g) {
			fmt.Fprint(&b, " ", g.No)
		}
	}
	b.Write(p.state.AttributesOf(u))
	for range p.state.GrantsOf(core.Grantee{Person: u.ID}) {
		fmt.Fprint(&b, " ", u.ID)
	}
	fmt.Fprint(&b, " ", u.Directory)
	for block := range p.state.Blocks() {
		if block.GetPersonId() == u.ID.String() {
			fmt.Fprint(&b, " ", u.ID)
		}
	}
	return b.String()
}

// tools are those of which some call may be allowed, as the list that agents get.
func (p *preview) tools(u *core.User, entries iter.Seq[*fleetv1.Entry]) ([]policy.Tool, error) {
	table, err := policy.Compile(p.state.Seq(), entries)
	if err != nil {
		return nil, fmt.Errorf("compiling one person's table: %w", err)
	}
	return table.List(policy.Request{Person: u.ID, Now: p.Now()}), nil
}

// without are the tools that others lack.
func without(all, others []policy.Tool) []*policyv1.ConnectorTool {
	var rest []*policyv1.ConnectorTool
	for _, t := range all {
		if !slices.ContainsFunc(others, func(o policy.Tool) bool { return o.Connector == t.Connector && o.Name == t.Name }) {
			rest = append(rest, &policyv1.ConnectorTool{Connector: t.Connector, Tool: t.Name})
		}
	}
	return rest
}
