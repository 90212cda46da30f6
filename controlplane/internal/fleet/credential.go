package fleet

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/sealing"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
)

// IssueCredential returns the header with which a proxy may call a connector for the agent whose token it
// shows. A proxy that was stolen has nothing without agents' live tokens: who calls is verified here, and
// compared with the fenced state, in which the person must have some tool of the connector.
func (s *Server) IssueCredential(ctx context.Context, req *connect.Request[fleetv1.IssueCredentialRequest]) (*connect.Response[fleetv1.IssueCredentialResponse], error) {
	token, err := s.proxy(ctx)
	if err != nil {
		return nil, err
	}
	res, user, err := s.issue(ctx, token, req)
	s.noteCredential(token, user, req.Msg.GetConnector(), res, err)
	return res, err
}

// noteCredential records that a proxy was given a credential for a person, or why not.
func (s *Server) noteCredential(proxy *core.Token, user *core.User, connector string, res *connect.Response[fleetv1.IssueCredentialResponse], refused error) {
	if s.config.Trail == nil {
		return
	}
	r := &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_CREDENTIAL, Action: "credential_issued", Target: "connector/" + connector, Connector: connector, Region: proxy.Region,
		Actor: &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_PROXY, Id: proxy.Name}, Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
	}
	if user != nil {
		r.PersonId = user.ID.String()
	}
	if refused != nil {
		var said *connect.Error
		if errors.As(refused, &said) {
			r.Error = said.Message()
		}
		r.Action, r.Decision.Verdict, r.Decision.Reason = "credential_refused", auditv1.Verdict_VERDICT_DENIED, auditv1.Reason_REASON_CREDENTIAL_UNAVAILABLE
	}
	if res != nil && res.Msg.GetConnect() != nil {
		r.Action, r.Decision.Verdict, r.Decision.Reason = "credential_refused", auditv1.Verdict_VERDICT_DENIED, auditv1.Reason_REASON_CREDENTIAL_UNAVAILABLE
		r.Error = res.Msg.GetConnect().GetReason()
	}
	s.config.Trail.Note(r)
}

func (s *Server) issue(ctx context.Context, token *core.Token, req *connect.Request[fleetv1.IssueCredentialRequest]) (*connect.Response[fleetv1.IssueCredentialResponse], *core.User, error) {
	state, err := s.config.Engine.Fence(ctx)
	if err != nil {
		return nil, nil, connect.NewError(connect.CodeUnavailable, errors.New("the control plane cannot prove that it is current: try again"))
	}
	if state.Token(token.ID) == nil { // revoked, which the state that let it in did not hold yet
		return nil, nil, errNoProxy()
	}
	user, expires, err := s.verify(ctx, state, req.Msg.GetAccessToken(), req.Msg.GetConnector(), req.Msg.GetResource())
	if err != nil {
		return nil, nil, connect.NewError(connect.CodePermissionDenied, err)
	}
	if !s.limits.take(token.ID, user.ID, s.config.Now()) {
		s.config.Log.WarnContext(ctx, "a proxy asks for credentials too often", "proxy", token.Name, "person", user.ID)
		return nil, user, connect.NewError(connect.CodeResourceExhausted, errors.New("too many credentials are asked for: try again shortly"))
	}
	connector := state.Connector(req.Msg.GetConnector())
	if connector == nil || !state.MayUse(user, token.Region, req.Msg.GetConnector(), s.config.Now()) {
		return nil, user, connect.NewError(connect.CodePermissionDenied, errors.New("the person has no tool of this connector in this region"))
	}
	issued, err := s.config.Credentials.Issue(ctx, state, user, connector, credentials.Ask{Rejected: req.Msg.GetRejectedSha256(), Scopes: req.Msg.GetNeededScopes()})
	var refused *core.Error
	if errors.As(err, &refused) {
		return nil, user, connect.NewError(connect.CodeFailedPrecondition, errors.New(refused.Message))
	}
	if err != nil {
		s.config.Log.ErrorContext(ctx, "an upstream credential cannot be had", "connector", req.Msg.GetConnector(), "error", err)
		return nil, user, connect.NewError(connect.CodeUnavailable, errors.New("the credential cannot be had now: try again"))
	}
	if err := s.still(ctx, token, user); err != nil {
		return nil, user, err
	}
	if c := issued.Connect; c != nil {
		return connect.NewResponse(&fleetv1.IssueCredentialResponse{Connect: &fleetv1.ConnectRequired{Url: c.URL, Reason: c.Reason, ElicitationId: c.ID}}), user, nil
	}
	if s.config.Issued != nil {
		s.config.Issued(connector, user.ID, issued)
	}
	until := s.config.Now().Add(s.config.Lease)
	if expires.Before(until) {
		until = expires
	}
	if !issued.Expires.IsZero() && issued.Expires.Before(until) {
		until = issued.Expires
	}
	secret, err := proto.Marshal(&fleetv1.UpstreamSecret{HeaderValue: issued.Value, Query: issued.Query})
	if err != nil {
		return nil, user, connect.NewError(connect.CodeInternal, errors.New("the credential cannot be encoded"))
	}
	sealed, err := sealing.Seal(req.Msg.GetSealingKey(), secret, req.Msg.GetConnector(), issued.Header, issued.Identity, req.Msg.GetAccessToken())
	if err != nil {
		return nil, user, connect.NewError(connect.CodeInvalidArgument, errors.New("there is no sealing key to which the credential could be sealed: the proxy is older than its control plane"))
	}
	return connect.NewResponse(&fleetv1.IssueCredentialResponse{
		HeaderName: issued.Header, Sealed: sealed, Identity: issued.Identity, ExpiresAt: timestamppb.New(until), Lifetime: durationpb.New(max(0, until.Sub(s.config.Now()))),
	}), user, nil
}

// still refuses what is in hand where the person's access ended while it was fetched.
func (s *Server) still(ctx context.Context, token *core.Token, user *core.User) error {
	state, err := s.config.Engine.Fence(ctx)
	if err != nil {
		return connect.NewError(connect.CodeUnavailable, errors.New("the control plane cannot prove that it is current: try again"))
	}
	if now := state.User(user.ID); now == nil || !now.Active || now.Generation != user.Generation || state.Token(token.ID) == nil {
		return connect.NewError(connect.CodePermissionDenied, errors.New("access was taken away meanwhile"))
	}
	return nil
}

// verify says who presents a token: of Sallyport's own authorization server, or of an issuer that an admin trusts.
func (s *Server) verify(ctx context.Context, state *core.State, token, connector, resource string) (*core.User, time.Time, error) {
	if s.config.Own != nil {
		if user, expires, own, err := s.config.Own.Verify(state, token, connector); own {
			return user, expires, err
		}
	}
	return s.config.Verifier.Verify(ctx, state, token, resource)
}
