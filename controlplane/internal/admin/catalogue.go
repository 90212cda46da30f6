package admin

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

// Catalogues follows what upstreams offer.
type Catalogues interface {
	// Problem says why an upstream could not be asked; empty: it could, or was not tried.
	Problem(connector string) string
}

func (a *api) ListCatalogues(_ context.Context, _ *connect.Request[adminv1.ListCataloguesRequest]) (*connect.Response[adminv1.ListCataloguesResponse], error) {
	s := a.Engine.State()
	res := &adminv1.ListCataloguesResponse{}
	for c := range s.Connectors() {
		status := &adminv1.CatalogueStatus{
			ConnectorId: c.Settings.GetId(), Pinned: c.Tools != nil, PinnedTools: uint32(len(c.Tools)), Problem: a.Catalogues.Problem(c.Settings.GetId()),
		}
		for _, w := range c.Withheld {
			status.Withheld = append(status.Withheld, w.GetLabel())
		}
		if c.Offer != nil && c.Offer.Unsettled {
			status.Problem = core.Unsettled(c)
		}
		if c.Offer != nil {
			status.SeenAt, status.ListOf = timestamppb.New(c.Offer.At), whoseList(s, c.Offer.Person)
			for _, d := range core.Differences(c.Tools, c.Offer.Tools) {
				switch kindOf(d) {
				case adminv1.ToolChangeKind_TOOL_CHANGE_KIND_ADDED:
					status.Added++
				case adminv1.ToolChangeKind_TOOL_CHANGE_KIND_CHANGED:
					status.Changed++
				default:
					status.Removed++
					continue
				}
				status.Findings += uint32(len(core.NewFindings(d.Pinned, d.Offered)))
			}
		}
		res.Catalogues = append(res.Catalogues, status)
	}
	return connect.NewResponse(res), nil
}

func kindOf(d core.Difference) adminv1.ToolChangeKind {
	switch {
	case d.Offered == nil:
		return adminv1.ToolChangeKind_TOOL_CHANGE_KIND_REMOVED
	case d.Pinned == nil:
		return adminv1.ToolChangeKind_TOOL_CHANGE_KIND_ADDED
	}
	return adminv1.ToolChangeKind_TOOL_CHANGE_KIND_CHANGED
}

// whoseList is the user name of whose list something is; the id, where they are gone.
func whoseList(s *core.State, person string) string {
	if id, err := uuid.Parse(person); err == nil {
		if u := s.User(id); u != nil {
			return u.UserName
		}
	}
	return person
}

func (a *api) DiffCatalogue(ctx context.Context, req *connect.Request[adminv1.DiffCatalogueRequest]) (*connect.Response[adminv1.DiffCatalogueResponse], error) {
	c, err := a.connector(req.Msg.GetConnectorId())
	if err != nil {
		return nil, err
	}
	res := &adminv1.DiffCatalogueResponse{}
	tools := req.Msg.GetTools()
	if len(tools) == 0 {
		_, tools, err = a.discover(ctx, req.Msg.GetConnectorId())
	}
	switch {
	case err != nil && c.Offer == nil:
		return nil, err
	case err != nil:
		tools = c.Offer.Tools
		res.SeenAt, res.ListOf, res.Problem = timestamppb.New(c.Offer.At), whoseList(a.Engine.State(), c.Offer.Person), words(err)
	}
	usable, not := core.Usable(c.Tools, tools)
	res.Digest, res.Unchanged = core.DigestTools(usable), uint32(len(c.Tools))
	for _, d := range core.Differences(c.Tools, usable) {
		change := &adminv1.DefinitionChange{Kind: kindOf(d), Name: core.Visible(d.Label())}
		if d.Pinned != nil {
			res.Unchanged--
		}
		if d.Offered != nil { // of what is gone there is nothing to look at
			change.Fields = fields(d.Pinned.GetDefinition(), d.Offered.GetDefinition())
			change.Findings = findings(core.NewFindings(d.Pinned, d.Offered))
		}
		res.Changes = append(res.Changes, change)
	}
	for _, u := range not {
		res.Changes = append(res.Changes, &adminv1.DefinitionChange{
			Kind: adminv1.ToolChangeKind_TOOL_CHANGE_KIND_ADDED, Name: core.Visible(label(u.Tool)), Unusable: core.Visible(u.Why), Findings: findings(core.Findings(u.Tool)),
		})
	}
	return connect.NewResponse(res), nil
}

// words are what an error says to an admin.
func words(err error) string {
	var coded *connect.Error
	if errors.As(err, &coded) {
		return coded.Message()
	}
	return err.Error()
}

func fields(pinned, offered []byte) []*adminv1.FieldChange {
	var all []*adminv1.FieldChange
	for _, d := range core.DefinitionDifferences(pinned, offered) {
		all = append(all, &adminv1.FieldChange{Path: d.Path, Pinned: d.Pinned, Offered: d.Offered})
	}
	return all
}

func findings(found []core.Finding) []*adminv1.DefinitionFinding {
	var all []*adminv1.DefinitionFinding
	for _, f := range found {
		all = append(all, &adminv1.DefinitionFinding{Kind: f.Kind, Path: f.Path, Text: f.Text, Excerpt: f.Excerpt})
	}
	return all
}

// ApproveCatalogue pins what the admin saw: what was seen before, or what the upstream offers now.
func (a *api) ApproveCatalogue(ctx context.Context, req *connect.Request[adminv1.ApproveCatalogueRequest]) (*connect.Response[adminv1.ApproveCatalogueResponse], error) {
	tools, not := req.Msg.GetTools(), []core.Unusable(nil)
	if digest := req.Msg.GetDigest(); digest != "" {
		c, err := a.connector(req.Msg.GetConnectorId())
		if err != nil {
			return nil, err
		}
		if c.Offer != nil && core.DigestTools(c.Offer.Tools) == digest {
			tools = c.Offer.Tools
		} else {
			if _, tools, err = a.discover(ctx, req.Msg.GetConnectorId()); err != nil {
				return nil, err
			}
			if tools, not = core.Usable(c.Tools, tools); core.DigestTools(tools) != digest {
				return nil, connect.NewError(connect.CodeAborted, fmt.Errorf("the upstream offers other tools than those that were approved: look again with sallyport catalogue diff %s", req.Msg.GetConnectorId()))
			}
		}
	}
	out, err := a.do(ctx, core.NewPinCatalogue(req.Msg.GetConnectorId(), tools, req.Msg.GetNames()...))
	if err != nil {
		return nil, err
	}
	res := &adminv1.ApproveCatalogueResponse{Version: out.Seq, PinnedTools: uint32(len(out.State.Connector(req.Msg.GetConnectorId()).Tools))}
	for _, u := range not {
		res.LeftOut = append(res.LeftOut, core.Visible(label(u.Tool)))
	}
	return connect.NewResponse(res), nil
}

// askedAs binds the people as whom upstreams are asked to their ids.
func askedAs(s *core.State, connectors []*policyv1.Connector) ([]*policyv1.Connector, error) {
	out := make([]*policyv1.Connector, len(connectors))
	for i, c := range connectors {
		if out[i] = c; c.GetCatalogue().GetAs() == "" {
			continue
		}
		u, err := s.FindUser(c.GetCatalogue().GetAs())
		if err != nil {
			return nil, err
		}
		out[i] = proto.CloneOf(c)
		out[i].Catalogue.As = u.ID.String()
	}
	return out, nil
}
