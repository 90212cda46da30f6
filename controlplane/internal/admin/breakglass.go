package admin

import (
	"context"
	"fmt"
	"net"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
)

func (a *api) CreateBreakGlass(ctx context.Context, req *connect.Request[adminv1.CreateBreakGlassRequest]) (*connect.Response[adminv1.CreateBreakGlassResponse], error) {
	id, token, sum, err := bearer.New(eventv1.TokenKind_TOKEN_KIND_BREAK_GLASS)
	if err != nil {
		return nil, fmt.Errorf("making a token: %w", err)
	}
	out, err := a.do(ctx, core.IssueBreakGlass{ID: id, SHA256: sum[:], Name: req.Msg.GetName()})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&adminv1.CreateBreakGlassResponse{Id: id.String(), Token: token, Version: out.Seq}), nil
}

// OpenBreakGlass makes whoever has the credential an owner for an hour, which the log of events, the control plane's own and audit
// all tell.
func (a *api) OpenBreakGlass(ctx context.Context, req *connect.Request[adminv1.OpenBreakGlassRequest]) (*connect.Response[adminv1.OpenBreakGlassResponse], error) {
	id, token, sum, err := bearer.New(eventv1.TokenKind_TOKEN_KIND_ADMIN)
	if err != nil {
		return nil, fmt.Errorf("making a token: %w", err)
	}
	credential, expires := callerOf(ctx).token.ID, a.Now().Add(core.MaxBreakGlass)
	out, err := a.do(ctx, core.OpenBreakGlass{Credential: credential, ID: id, SHA256: sum[:], Reason: req.Msg.GetReason(), ExpiresAt: expires})
	if err != nil {
		return nil, err
	}
	a.Log.WarnContext(ctx, "ALARM: the break-glass credential was used; whoever did is an owner now",
		"credential", credential, "token", id, "until", expires, "reason", req.Msg.GetReason(), "address", req.Peer().Addr)
	a.noteBreakGlass(&auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_SIGN_IN, Action: "break_glass_opened", Target: "token/" + id.String(), Version: out.Seq,
		Actor:    &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_ADMIN, Id: credential.String()},
		Details:  []*auditv1.Detail{{Key: "reason", Value: req.Msg.GetReason()}, {Key: "role", Value: roleName(policyv1.Role_ROLE_OWNER)}},
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
	}, req.Peer().Addr)
	return connect.NewResponse(&adminv1.OpenBreakGlassResponse{Id: id.String(), Token: token, Version: out.Seq, ExpiresAt: moment(expires)}), nil
}

// triesPerSecond bounds how many tries with no valid credential are told: anybody who reaches the API can cause them.
const triesPerSecond, triesAtOnce = 1, 20

func newTries() *rate.Limiter { return rate.NewLimiter(triesPerSecond, triesAtOnce) }

// triedBreakGlass tells of a try with a credential that is not valid.
func (a *api) triedBreakGlass(ctx context.Context, address string) {
	if !a.tries.AllowN(a.Now(), 1) {
		return
	}
	a.Log.WarnContext(ctx, "ALARM: somebody tried to open the break-glass credential with a token that is not valid", "address", address)
	a.noteBreakGlass(&auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_SIGN_IN_FAILED, Action: "break_glass_refused",
		Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_DENIED, Reason: auditv1.Reason_REASON_TOKEN_INVALID, Text: "the break-glass credential is not valid"},
	}, address)
}

func (a *api) noteBreakGlass(r *auditv1.AuditRecord, address string) {
	if a.Trail == nil {
		return
	}
	if host, _, err := net.SplitHostPort(address); err == nil {
		address = host
	}
	r.Method, r.Client = "break-glass", &auditv1.Client{Address: address}
	a.Trail.Note(r)
}
