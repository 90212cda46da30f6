package fleet

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/spiffe"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/fleetca"
)

// Authority is what enrolment needs of the fleet's certificate authority.
type Authority interface {
	Issue(ctx context.Context, request *x509.CertificateRequest, id uuid.UUID, proxy, region string) (*fleetca.Issued, error)
	// Wanted is what proxies are to hold of the fleet's authorities now.
	Wanted() fleetca.Holding
	// Trusts tells whether an authority by which a connection was verified is one still.
	Trusts(root *x509.Certificate) bool
}

// Commander is what enrolment needs of the engine to change the log.
type Commander interface {
	Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (engine.Outcome, error)
}

// Invitation is what a proxy joins with: a bearer token, and the authority that it may trust.
func Invitation(token string, authority [sha256.Size]byte) string {
	return token + "." + base64.RawURLEncoding.EncodeToString(authority[:])
}

// Join exchanges an invitation for a certificate.
func (s *Server) Join(ctx context.Context, req *connect.Request[fleetv1.JoinRequest]) (*connect.Response[fleetv1.JoinResponse], error) {
	request, key, err := fleetca.ReadRequest(req.Msg.GetCertificateRequest())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	token, _, _ := strings.Cut(req.Msg.GetInvitation(), ".")
	state, err := s.config.Engine.Fence(ctx)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the control plane cannot prove that it is current: try again"))
	}
	invited := bearer.Check(state, eventv1.TokenKind_TOKEN_KIND_PROXY, token, s.config.Now())
	if invited == nil {
		return nil, connect.NewError(connect.CodeUnauthenticated, errors.New("the invitation is not valid, or not any more: make one with sallyport proxies invite NAME --region REGION"))
	}
	actor := &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_PROXY, Id: invited.ID.String()}
	if _, err := s.config.Commands.Do(ctx, actor, core.JoinProxy{ID: invited.ID, KeySHA256: key[:]}); err != nil {
		var refused *core.Error
		if errors.As(err, &refused) {
			s.config.Log.WarnContext(ctx, "an invitation was refused", "proxy", invited.Name, "error", err)
			return nil, connect.NewError(connect.CodePermissionDenied, refused)
		}
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("joining could not be written down: try again"))
	}
	issued, err := s.config.Authority.Issue(ctx, request, invited.ID, invited.Name, invited.Region)
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, errors.New("the certificate could not be made"))
	}
	s.config.Log.InfoContext(ctx, "a proxy joined", "proxy", invited.Name, "region", invited.Region)
	return connect.NewResponse(&fleetv1.JoinResponse{
		Proxy: invited.Name, Region: invited.Region, Certificate: issued.Certificate, Authority: issued.Authority, Authorities: issued.Authorities,
	}), nil
}

// Renew certifies whom the connection's certificate names, if the end of the log still knows the proxy.
func (s *Server) Renew(ctx context.Context, req *connect.Request[fleetv1.RenewRequest]) (*connect.Response[fleetv1.RenewResponse], error) {
	request, _, err := fleetca.ReadRequest(req.Msg.GetCertificateRequest())
	if err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	token, err := s.proxy(ctx)
	if err != nil {
		return nil, err
	}
	state, err := s.config.Engine.Fence(ctx)
	if err != nil {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the control plane cannot prove that it is current: try again"))
	}
	if state.Token(token.ID) == nil {
		return nil, errNoProxy()
	}
	if token.SPIFFEID != "" {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("a proxy with a SPIFFE id has its certificates from its trust domain"))
	}
	issued, err := s.config.Authority.Issue(ctx, request, token.ID, token.Name, token.Region)
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, errors.New("the certificate could not be made"))
	}
	return connect.NewResponse(&fleetv1.RenewResponse{Certificate: issued.Certificate, Authority: issued.Authority, Authorities: issued.Authorities}), nil
}

type proxyKey struct{}

// caller is who asks: a proxy's id, and the authority by which its connection was verified; or a workload.
type caller struct {
	id       uuid.UUID
	root     *x509.Certificate
	workload *workload
	over     bool // it was one when the connection began
}

// AsProxy marks what a proxy asks, by the id that its certificate names.
func AsProxy(ctx context.Context, id uuid.UUID) context.Context {
	return context.WithValue(ctx, proxyKey{}, caller{id: id})
}

// ByCertificate knows proxies by the certificates of their connections, which TLS verified. Nil workloads: none has a SPIFFE id.
func ByCertificate(workloads *Workloads, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if from, ok := callerOf(workloads, r.TLS); ok {
			r = r.WithContext(context.WithValue(r.Context(), proxyKey{}, from))
		}
		next.ServeHTTP(w, r)
	})
}

func callerOf(workloads *Workloads, conn *tls.ConnectionState) (caller, bool) {
	switch {
	case conn == nil || len(conn.PeerCertificates) == 0:
		return caller{}, false
	case workloads != nil && conn.ServerName == spiffe.ServerName:
		by, err := workloads.of(conn.PeerCertificates)
		return caller{workload: by, over: err != nil}, true
	case len(conn.VerifiedChains) == 0:
		return caller{}, false
	}
	id, ok := fleetca.ProxyOf(conn.PeerCertificates[0])
	chain := conn.VerifiedChains[0]
	return caller{id: id, root: chain[len(chain)-1]}, ok
}

// proxy returns the proxy that asks.
func (s *Server) proxy(ctx context.Context) (*core.Token, error) {
	from, ok := ctx.Value(proxyKey{}).(caller)
	if !ok {
		return nil, errNoProxy()
	}
	if s.outdated(ctx) {
		return nil, errOutdated()
	}
	if from.workload != nil {
		return s.admitted(ctx, from.workload)
	}
	token := s.config.Engine.State().Token(from.id)
	if !token.IsProxy() {
		return nil, errNoProxy()
	}
	return token, nil
}

// outdated tells whether the caller's connection was verified by what is not trusted any more: an authority that was dropped, an SVID that has
// ended.
func (s *Server) outdated(ctx context.Context) bool {
	from, _ := ctx.Value(proxyKey{}).(caller)
	switch {
	case from.over:
		return true
	case from.workload != nil:
		return !from.workload.still()
	}
	return from.root != nil && !s.config.Authority.Trusts(from.root)
}

// errOutdated ends what came over a connection that is older than a rotation. Unavailable: a proxy that has a new certificate goes on over a new connection.
func errOutdated() error {
	return connect.NewError(connect.CodeUnavailable, errors.New("the certificate or the authority of this connection was replaced since it began: connect again"))
}

func errNoProxy() error {
	return connect.NewError(connect.CodeUnauthenticated,
		errors.New("the certificate of a proxy of this fleet is needed: a proxy that was revoked, or never joined, needs an invitation (sallyport proxies invite NAME --region REGION)"))
}
