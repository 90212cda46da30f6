package fleet_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"

	"sallyport.dev/dataplane/sealing"

	"sallyport.dev/controlplane/internal/bearer"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/fleet"
	"sallyport.dev/controlplane/internal/fleetca"
)

// listen serves the site as the real listener does: over the authority's TLS, proxies known by their certificates alone.
func (s *site) listen(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(fleetv1connect.NewFleetServiceHandler(s.fleet))
	mux.Handle(fleetv1connect.NewEnrolmentServiceHandler(s.fleet))
	server := httptest.NewUnstartedServer(fleet.ByCertificate(s.workloads, mux))
	server.EnableHTTP2 = true
	server.TLS = fleet.TLS(s.authority, s.workloads)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

// as is a client with a certificate, or with none.
func (s *site) as(t *testing.T, cert *tls.Certificate) *http.Client {
	t.Helper()
	authority, err := x509.ParseCertificate(s.authority.Certificate())
	enginetest.Must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	config := &tls.Config{RootCAs: pool, ServerName: fleetca.ControlPlaneName, MinVersion: tls.VersionTLS13}
	if cert != nil {
		// Shown whether or not the server's list of authorities asks for it.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func newRequest(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enginetest.Must(t, err)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	enginetest.Must(t, err)
	return key, der
}

// invite makes an invitation as the admin API does.
func (s *site) invite(t *testing.T, name string) (uuid.UUID, string) {
	t.Helper()
	id, token, sum, err := bearer.New(eventv1.TokenKind_TOKEN_KIND_PROXY)
	enginetest.Must(t, err)
	s.Do(core.IssueToken{ID: id, Kind: eventv1.TokenKind_TOKEN_KIND_PROXY, SHA256: sum[:], Name: name, Region: "us-east", ExpiresAt: time.Now().Add(time.Hour)})
	return id, fleet.Invitation(token, s.authority.Fingerprint())
}

func TestAProxyJoinsOnceAndIsKnownByItsCertificateUntilItIsRevoked(t *testing.T) {
	s := newSite(t, config{})
	server := s.listen(t)
	id, invitation := s.invite(t, "us-east-7")
	enrol := fleetv1connect.NewEnrolmentServiceClient(s.as(t, nil), server.URL)
	key, request := newRequest(t)
	join := func(invitation string, request []byte) (*fleetv1.JoinResponse, error) {
		res, err := enrol.Join(t.Context(), connect.NewRequest(&fleetv1.JoinRequest{Invitation: invitation, CertificateRequest: request}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	}
	deliver := func(cert *tls.Certificate) error {
		_, err := fleetv1connect.NewFleetServiceClient(s.as(t, cert), server.URL).DeliverAudit(t.Context(), connect.NewRequest(&fleetv1.DeliverAuditRequest{SpoolGeneration: "g1"}))
		return err
	}
	joined, err := join(invitation, request)
	enginetest.Must(t, err)
	if joined.GetProxy() != "us-east-7" || joined.GetRegion() != "us-east" {
		t.Errorf("it joined as %s in %s", joined.GetProxy(), joined.GetRegion())
	}
	if _, err := join(invitation, request); err != nil { // as after an answer that was lost
		t.Errorf("again with the same key: %v", err)
	}
	_, other := newRequest(t)
	if _, err := join(invitation, other); connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("again with another key: %v", err)
	}
	if _, err := join("sallyport_proxy_forged."+invitation, other); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("with a forged invitation: %v", err)
	}
	tampered := append([]byte{}, request...)
	tampered[len(tampered)-1] ^= 1
	if _, err := join(invitation, tampered); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("with a request that its key did not sign: %v", err)
	}

	cert := &tls.Certificate{Certificate: [][]byte{joined.GetCertificate()}, PrivateKey: key}
	enginetest.Must(t, deliver(cert))
	// The invitation opens no other door, nothing stands for a certificate, and none of another authority is taken.
	if err := deliver(nil); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without a certificate: %v", err)
	}
	if err := deliver(foreign(t, id)); err == nil {
		t.Error("a certificate of another authority was taken")
	}
	newKey, next := newRequest(t)
	renewed, err := fleetv1connect.NewEnrolmentServiceClient(s.as(t, cert), server.URL).Renew(t.Context(), connect.NewRequest(&fleetv1.RenewRequest{CertificateRequest: next}))
	enginetest.Must(t, err)
	fresh := &tls.Certificate{Certificate: [][]byte{renewed.Msg.GetCertificate()}, PrivateKey: newKey}
	enginetest.Must(t, deliver(fresh))

	s.Do(core.RevokeToken{ID: id})
	for what, c := range map[string]*tls.Certificate{"the first": cert, "the renewed": fresh} {
		if err := deliver(c); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("%s certificate after the revocation: %v", what, err)
		}
	}
	if _, err := fleetv1connect.NewEnrolmentServiceClient(s.as(t, fresh), server.URL).Renew(t.Context(), connect.NewRequest(&fleetv1.RenewRequest{CertificateRequest: next})); connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("renewing after the revocation: %v", err)
	}
}

// foreign is a certificate that another fleet's authority made.
func foreign(t *testing.T, id uuid.UUID) *tls.Certificate {
	t.Helper()
	other := enginetest.New(t)
	authority, err := fleetca.Open(t.Context(), other.Vault, time.Hour, time.Now)
	enginetest.Must(t, err)
	key, der := newRequest(t)
	request, _, err := fleetca.ReadRequest(der)
	enginetest.Must(t, err)
	issued, err := authority.Issue(t.Context(), request, id, "us-east-7", "us-east")
	enginetest.Must(t, err)
	return &tls.Certificate{Certificate: [][]byte{issued.Certificate}, PrivateKey: key}
}

// TestAStolenCertificateOpensNothingWithoutAgentsTokens: what a proxy can have is what an agent's live token is good for.
func TestAStolenCertificateOpensNothingWithoutAgentsTokens(t *testing.T) {
	s := newSite(t, config{})
	server := s.listen(t)
	_, invitation := s.invite(t, "us-east-7")
	key, request := newRequest(t)
	joined, err := fleetv1connect.NewEnrolmentServiceClient(s.as(t, nil), server.URL).Join(t.Context(), connect.NewRequest(&fleetv1.JoinRequest{Invitation: invitation, CertificateRequest: request}))
	enginetest.Must(t, err)
	stolen := &tls.Certificate{Certificate: [][]byte{joined.Msg.GetCertificate()}, PrivateKey: key}
	for _, token := range []string{"x", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJleHQtYWRhIn0.", invitation, s.token} {
		_, err := fleetv1connect.NewFleetServiceClient(s.as(t, stolen), server.URL).IssueCredential(t.Context(), connect.NewRequest(&fleetv1.IssueCredentialRequest{Connector: "github", AccessToken: token, SealingKey: make([]byte, sealing.PublicSize)}))
		if connect.CodeOf(err) != connect.CodePermissionDenied {
			t.Errorf("%.20s…: %v", token, err)
		}
	}
}

func TestRevokingAProxyReplacesTheSealingKeysOfItsRegionAlone(t *testing.T) {
	s := newSite(t, config{})
	first := s.dial(t, s.token, nil)
	first.reach(s.seq())
	stolen, _ := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-9")
	s.Do(core.RevokeToken{ID: stolen})
	if err := first.end(); connect.CodeOf(err) != connect.CodeAborted {
		t.Fatalf("a proxy that stays: %v", err)
	}
	again := s.dial(t, s.token, first)
	again.until("a welcome", func() bool { return again.welcome != nil })
	if string(again.welcome.GetSealingKeys()[0].GetKey()) == string(first.welcome.GetSealingKeys()[0].GetKey()) {
		t.Error("the keys that the revoked proxy knows still seal sessions")
	}
	before, err := s.Vault.RegionKeys(context.Background(), "eu-west", s.Engine.State().SealingEpoch("eu-west"))
	enginetest.Must(t, err)
	if s.Engine.State().SealingEpoch("eu-west") != 0 || len(before) != 1 {
		t.Error("another region's keys were replaced")
	}
}

// TestAnOldAuthoritysCertificateIsOfNoUseOnceThatIsDropped: neither for a new connection nor over one that is open.
func TestAnOldAuthoritysCertificateIsOfNoUseOnceThatIsDropped(t *testing.T) {
	s := newSite(t, config{})
	server := s.listen(t)
	_, invitation := s.invite(t, "us-east-7")
	key, request := newRequest(t)
	joined, err := fleetv1connect.NewEnrolmentServiceClient(s.as(t, nil), server.URL).Join(t.Context(), connect.NewRequest(&fleetv1.JoinRequest{Invitation: invitation, CertificateRequest: request}))
	enginetest.Must(t, err)
	old := &tls.Certificate{Certificate: [][]byte{joined.Msg.GetCertificate()}, PrivateKey: key}
	deliver := func(c *http.Client) error {
		_, err := fleetv1connect.NewFleetServiceClient(c, server.URL).DeliverAudit(t.Context(), connect.NewRequest(&fleetv1.DeliverAuditRequest{SpoolGeneration: "g1"}))
		return err
	}
	open := s.as(t, old)
	enginetest.Must(t, deliver(open))
	stream := fleetv1connect.NewFleetServiceClient(open, server.URL).Sync(t.Context())
	enginetest.Must(t, stream.Send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Hello{Hello: &fleetv1.Hello{}}}))
	if _, err := stream.Receive(); err != nil {
		t.Fatal(err)
	}

	_, err = s.authority.Rotate(t.Context())
	enginetest.Must(t, err)
	enginetest.Must(t, deliver(open))
	newKey, next := newRequest(t)
	renewed, err := fleetv1connect.NewEnrolmentServiceClient(open, server.URL).Renew(t.Context(), connect.NewRequest(&fleetv1.RenewRequest{CertificateRequest: next}))
	enginetest.Must(t, err)
	if len(renewed.Msg.GetAuthorities()) != 2 {
		t.Errorf("the proxy is told of %d authorities", len(renewed.Msg.GetAuthorities()))
	}
	// By the old one still: the other proxies may not know the new one.
	announced := &tls.Certificate{Certificate: [][]byte{renewed.Msg.GetCertificate()}, PrivateKey: newKey}
	enginetest.Must(t, deliver(s.as(t, announced)))

	enginetest.Must(t, s.authority.Drop(t.Context()))
	if err := deliver(open); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("over the open connection: %v", err)
	}
	if err := deliver(s.as(t, old)); err == nil {
		t.Error("over a new connection the old certificate was taken")
	}
	for {
		if _, err := stream.Receive(); err != nil {
			if connect.CodeOf(err) != connect.CodeUnavailable {
				t.Errorf("the stream ended with %v", err)
			}
			break
		}
	}
	_ = stream.CloseRequest()
}

// TestARotationWaitsForLiveProxiesAlone: for those that serve and do not hold what they are to hold.
func TestARotationWaitsForLiveProxiesAlone(t *testing.T) {
	s := newSite(t, config{})
	rotation := &fleet.Rotation{Authority: s.authority, Engine: s.Engine, Roster: s.roster, Now: time.Now}
	p := s.dial(t, s.token, nil)
	p.reach(s.seq())
	_, _ = s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "never-connected")
	fingerprint, err := s.authority.Rotate(t.Context())
	enginetest.Must(t, err)
	lacking := func() []string {
		now, err := rotation.Standing(t.Context())
		enginetest.Must(t, err)
		return now.GetWaitingFor()
	}
	enginetest.Eventually(t, "the live proxy to be waited for", func() bool { l := lacking(); return len(l) == 1 && l[0] == "us-east-1" })
	if ok, err := rotation.Ready(s.authority.Wanted()); ok || err != nil {
		t.Errorf("it is ready: %v", err)
	}
	want := s.authority.Wanted()
	holds := &fleetv1.Authorities{Issuer: want.Issuer[:]}
	for _, x := range want.Trusted {
		holds.Trusted = append(holds.Trusted, x[:])
	}
	s.roster.Holds(s.Engine.State().Token(s.id), holds)
	if ok, err := rotation.Ready(want); !ok || err != nil {
		t.Errorf("it is not ready: %v, %v", lacking(), err)
	}
	cut, err := rotation.Drop(t.Context(), nil)
	if err != nil || len(cut) != 1 || cut[0] != "us-east-1" {
		t.Errorf("it cuts off %v: %v", cut, err)
	}
	if s.authority.Fingerprint() != fingerprint {
		t.Error("the new authority does not serve")
	}
}
