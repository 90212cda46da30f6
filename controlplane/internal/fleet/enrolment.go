package fleet

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/fleetca"
)

// Authority is what enrolment needs of the fleet's certificate authority.
type Authority interface {
	Issue(request *x509.CertificateRequest, id uuid.UUID, proxy, region string) ([]byte, error)
	// Certificate is the authority's own, in DER.
	Certificate() []byte
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
	cert, err := s.config.Authority.Issue(request, invited.ID, invited.Name, invited.Region)
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, errors.New("the certificate could not be made"))
	}
	s.config.Log.InfoContext(ctx, "a proxy joined", "proxy", invited.Name, "region", invited.Region)
	return connect.NewResponse(&fleetv1.JoinResponse{
		Proxy: invited.Name, Region: invited.Region, Certificate: cert, Authority: s.config.Authority.Certificate(),
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
	cert, err := s.config.Authority.Issue(request, token.ID, token.Name, token.Region)
	if err != nil {
		return nil, connect.NewError(connect.CodeInternal, errors.New("the certificate could not be made"))
	}
	return connect.NewResponse(&fleetv1.RenewResponse{Certificate: cert, Authority: s.config.Authority.Certificate()}), nil
}

type proxyKey struct{}

// AsProxy marks what a proxy asks, by the id that its certificate names.
func AsProxy(ctx context.Context, id uuid.UUID) context.Context {
	return context.WithValue(ctx, proxyKey{}, id)
}

// ByCertificate knows proxies by the certificates of their connections, which TLS verified.
func ByCertificate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
			if id, ok := fleetca.ProxyOf(r.TLS.PeerCertificates[0]); ok {
				r = r.WithContext(AsProxy(r.Context(), id))
			}
		}
		next.ServeHTTP(w, r)
	})
}

// proxy returns the proxy that asks.
func (s *Server) proxy(ctx context.Context) (*core.Token, error) {
	id, ok := ctx.Value(proxyKey{}).(uuid.UUID)
	if !ok {
		return nil, errNoProxy()
	}
	token := s.config.Engine.State().Token(id)
	if !token.IsProxy() {
		return nil, errNoProxy()
	}
	return token, nil
}

func errNoProxy() error {
	return connect.NewError(connect.CodeUnauthenticated,
		errors.New("the certificate of a proxy of this fleet is needed: a proxy that was revoked, or never joined, needs an invitation (sallyport proxies invite NAME --region REGION)"))
}
