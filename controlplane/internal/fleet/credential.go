package fleet

import (
	"context"
	"errors"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

// IssueCredential returns the header with which a proxy may call a connector for the agent whose token it
// shows. A proxy that was stolen has nothing without agents' live tokens: who calls is verified here, and
// compared with the fenced state, in which the person must have some tool of the connector.
func (s *Server) IssueCredential(ctx context.Context, req *connect.Request[fleetv1.IssueCredentialRequest]) (*connect.Response[fleetv1.IssueCredentialResponse], error) {
	token, err := s.proxy(req.Header())
	if err != nil {
		return nil, err
	}
	state, err := s.config.Engine.Fence(ctx)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the control plane cannot prove that it is current: try again"))
	}
	if state.Token(token.ID) == nil { // revoked, which the state that let it in did not hold yet
		return nil, errProxyToken()
	}
	user, expires, err := s.config.Verifier.Verify(ctx, state, req.Msg.GetAccessToken(), req.Msg.GetResource())
	if err != nil {
		return nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	connector := state.Connector(req.Msg.GetConnector())
	if connector == nil || !s.mayUse(state, user, token.Region, req.Msg.GetConnector()) {
		return nil, connect.NewError(connect.CodePermissionDenied, errors.New("the person has no tool of this connector in this region"))
	}
	header := connector.Settings.GetAuth().GetHeader()
	if header == nil || connector.SecretID == "" {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the connector has no secret: set one with sallyport secrets set"))
	}
	value, err := s.config.Secrets.ConnectorSecret(ctx, connector.SecretID, req.Msg.GetConnector())
	if err != nil {
		s.config.Log.ErrorContext(ctx, "a connector's secret could not be read", "connector", req.Msg.GetConnector(), "error", err)
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the secret cannot be read now: try again"))
	}
	until := s.config.Now().Add(s.config.Lease)
	if expires.Before(until) {
		until = expires
	}
	return connect.NewResponse(&fleetv1.IssueCredentialResponse{
		HeaderName: header.GetName(), HeaderValue: value, ExpiresAt: timestamppb.New(until),
	}), nil
}

// mayUse decides by the code that proxies run, over what they would be sent of this person.
func (s *Server) mayUse(state *core.State, user *core.User, region, connector string) bool {
	table, err := policy.Compile(state.Seq(), state.EntriesFor(user, region))
	return err == nil && len(table.List(user.ID, "", connector, region, s.config.Now())) > 0
}
