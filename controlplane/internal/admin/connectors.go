package admin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/egress"
	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

func (a *api) ListConnectors(_ context.Context, _ *connect.Request[adminv1.ListConnectorsRequest]) (*connect.Response[adminv1.ListConnectorsResponse], error) {
	res := &adminv1.ListConnectorsResponse{}
	for c := range a.Engine.State().Connectors() {
		res.Connectors = append(res.Connectors, connectorStatus(c))
	}
	return connect.NewResponse(res), nil
}

func connectorStatus(c *core.Connector) *adminv1.ConnectorStatus {
	return &adminv1.ConnectorStatus{
		Connector: c.Settings, PinnedTools: uint32(len(c.Tools)), CatalogueDigest: c.Digest, SecretSet: c.SecretID != "",
	}
}

func (a *api) connector(id string) (*core.Connector, error) {
	if c := a.Engine.State().Connector(id); c != nil {
		return c, nil
	}
	return nil, &core.Error{Code: core.NotFound, Message: fmt.Sprintf("there is no connector %q: see sallyport connectors list", id)}
}

func (a *api) GetConnector(_ context.Context, req *connect.Request[adminv1.GetConnectorRequest]) (*connect.Response[adminv1.GetConnectorResponse], error) {
	c, err := a.connector(req.Msg.GetId())
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.GetConnectorResponse{Status: connectorStatus(c), Tools: c.Tools}), nil
}

func (a *api) RetireConnector(ctx context.Context, req *connect.Request[adminv1.RetireConnectorRequest]) (*connect.Response[adminv1.RetireConnectorResponse], error) {
	out, err := a.do(ctx, core.RetireConnector{ID: req.Msg.GetId()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.RetireConnectorResponse{Version: out.Seq}), nil
}

// SetConnectorSecret keeps the value first and says so in the log second: a crash between the two leaves
// a secret that nothing names, never a name without a secret.
func (a *api) SetConnectorSecret(ctx context.Context, req *connect.Request[adminv1.SetConnectorSecretRequest]) (*connect.Response[adminv1.SetConnectorSecretResponse], error) {
	if _, err := a.connector(req.Msg.GetConnectorId()); err != nil {
		return nil, err
	}
	secretID, err := a.Secrets.PutConnectorSecret(ctx, req.Msg.GetConnectorId(), req.Msg.GetValue())
	if err != nil {
		return nil, fmt.Errorf("keeping a connector's secret: %w", err)
	}
	out, err := a.do(ctx, core.SetConnectorSecret{Connector: req.Msg.GetConnectorId(), SecretID: secretID, KeepOthers: req.Msg.GetKeepOthers()})
	if err != nil {
		a.forget(ctx, secretID)
		return nil, err
	}
	return connect.NewResponse(&adminv1.SetConnectorSecretResponse{Version: out.Seq}), nil
}

// forget destroys a secret that nothing names any more.
func (a *api) forget(ctx context.Context, secretID string) {
	if secretID == "" {
		return
	}
	if err := a.Secrets.DestroyConnectorSecret(context.WithoutCancel(ctx), secretID); err != nil {
		a.Log.ErrorContext(ctx, "a secret that is no longer used could not be destroyed", "secret_id", secretID, "error", err)
	}
}

// discover asks the upstream for its tools now.
func (a *api) discover(ctx context.Context, id string) (*core.Connector, []*policyv1.Tool, error) {
	c, err := a.connector(id)
	if err != nil {
		return nil, nil, err
	}
	if strings.HasPrefix(c.Settings.GetUrl(), "stdio:") {
		return nil, nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf(
			"connector %q is a program beside the proxies, which a control plane does not reach: have `sallyport-proxy runner list` write down what it offers, and look at that with `sallyport catalogue diff %s --file FILE`", id, id))
	}
	with, err := a.forDiscovery(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	tools, err := a.Discoverer.Discover(ctx, c.Settings, with.Header, with.Value, with.Query)
	if errors.Is(err, egress.ErrRefused) {
		return nil, nil, connect.NewError(connect.CodeFailedPrecondition,
			fmt.Errorf("connector %q was not asked: %w; if it is meant to be there, allow the range with allowedRanges in its YAML", id, egress.ErrRefused))
	}
	if err != nil {
		a.Log.WarnContext(ctx, "an upstream could not be asked for its tools", "connector", id, "error", err)
		return nil, nil, connect.NewError(connect.CodeUnavailable,
			fmt.Errorf("connector %q did not list its tools: check its URL and its secret; the control plane's log says more", id))
	}
	return c, tools, nil
}

func (a *api) DiscoverCatalogue(ctx context.Context, req *connect.Request[adminv1.DiscoverCatalogueRequest]) (*connect.Response[adminv1.DiscoverCatalogueResponse], error) {
	c, tools, err := a.discover(ctx, req.Msg.GetConnectorId())
	if err != nil {
		return nil, err
	}
	usable, _ := core.Usable(c.Tools, tools)
	changes, unchanged := compare(c.Tools, usable)
	return connect.NewResponse(&adminv1.DiscoverCatalogueResponse{Changes: changes, Unchanged: unchanged, Digest: core.DigestTools(usable)}), nil
}

// label names a definition as rules and audit do.
func label(t *policyv1.Tool) string { return policy.Label(t.GetKind(), t.GetName()) }

// compare says how offered tools differ from pinned ones: removed and changed ones in the order in which
// they are pinned, then new ones in the order in which they are offered.
func compare(pinned, offered []*policyv1.Tool) (changes []*adminv1.ToolChange, unchanged uint32) {
	byName := map[string]*policyv1.Tool{}
	for _, t := range offered {
		byName[label(t)] = t
	}
	known := map[string]bool{}
	for _, t := range pinned {
		known[label(t)] = true
		change := &adminv1.ToolChange{Name: label(t), Pinned: t.GetDefinition()}
		switch now := byName[label(t)]; {
		case now == nil:
			change.Kind = adminv1.ToolChangeKind_TOOL_CHANGE_KIND_REMOVED
		case bytes.Equal(now.GetDefinition(), t.GetDefinition()):
			unchanged++
			continue
		default:
			change.Kind, change.Offered = adminv1.ToolChangeKind_TOOL_CHANGE_KIND_CHANGED, now.GetDefinition()
		}
		changes = append(changes, change)
	}
	for _, t := range offered {
		if !known[label(t)] {
			changes = append(changes, &adminv1.ToolChange{Kind: adminv1.ToolChangeKind_TOOL_CHANGE_KIND_ADDED, Name: label(t), Offered: t.GetDefinition()})
		}
	}
	return changes, unchanged
}
