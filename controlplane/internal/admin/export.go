package admin

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// ExportPolicy names everybody so that Apply finds them again: by id where a name does not tell them from others.
func (a *api) ExportPolicy(ctx context.Context, req *connect.Request[adminv1.ExportPolicyRequest]) (*connect.Response[adminv1.ExportPolicyResponse], error) {
	of, err := a.asOf(ctx, req.Msg.GetAsOf())
	if err != nil {
		return nil, err
	}
	defer of.release()
	s := of.state
	res := &adminv1.ExportPolicyResponse{Version: s.Seq(), Standing: of.standing}
	for c := range s.Connectors() {
		res.Connectors = append(res.Connectors, c.Settings)
	}
	for set := range s.RuleSets() {
		res.RuleSets = append(res.RuleSets, &policyv1.RuleSet{Name: set.GetName(), Rules: shownRules(s, set.GetRules())})
	}
	for e := range s.AuditExporters() {
		res.AuditExporters = append(res.AuditExporters, e.Settings)
	}
	for g := range s.Grants() {
		out := shownGrant(s, g)
		if out.GetDangling() {
			res.Dangling = append(res.Dangling, out)
			continue
		}
		if g.To.Group != uuid.Nil {
			out.Group = groupNamed(s, g.To.Group)
		}
		if u, err := s.FindUser(out.GetPerson()); g.To.Person != uuid.Nil && (err != nil || u.ID != g.To.Person) {
			out.Person = g.To.Person.String()
		}
		out.GroupId, out.PersonId = "", ""
		res.Grants = append(res.Grants, out)
	}
	byName := func(a, b *adminv1.Grant) int {
		return cmp.Or(strings.Compare(a.GetGroup(), b.GetGroup()), strings.Compare(a.GetPerson(), b.GetPerson()), strings.Compare(a.GetEveryone(), b.GetEveryone()), strings.Compare(a.GetConnector(), b.GetConnector()))
	}
	slices.SortFunc(res.GetGrants(), byName)
	slices.SortFunc(res.GetDangling(), byName)
	return connect.NewResponse(res), nil
}

// groupNamed is by what FindGroup finds a group: its name, or its id where others have that name too, or where it is gone.
func groupNamed(s *core.State, id uuid.UUID) string {
	if g := s.Group(id); g != nil {
		if found, err := s.FindGroup(g.Name()); err == nil && found.ID == id {
			return g.Name()
		}
	}
	return id.String()
}
