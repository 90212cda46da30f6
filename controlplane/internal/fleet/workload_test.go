package fleet_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"

	"sallyport.dev/dataplane/spiffe"
	"sallyport.dev/dataplane/spiffe/spiffetest"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/fleet"
	"sallyport.dev/controlplane/internal/fleetca"
)

const usEast7 = "spiffe://example.org/sallyport/us-east/us-east-7"

// domain is a trust domain whose workloads a site knows.
type domain struct {
	ca    *spiffetest.Authority
	files spiffetest.Files
}

// trusts has a site know workloads by rules.
func (s *site) trusts(t *testing.T, rules ...string) domain {
	t.Helper()
	d := domain{spiffetest.New(t, "example.org"), spiffetest.In(t.TempDir())}
	d.files.Write(t, d.ca.Issue("spiffe://example.org/control-plane"), d.ca)
	source, err := spiffe.Open(t.Context(), spiffe.Config{Cert: d.files.Cert, Key: d.files.Key, Bundles: []string{"example.org=" + d.files.Bundle}, Every: 5 * time.Millisecond})
	enginetest.Must(t, err)
	s.workloads, err = fleet.NewWorkloads(source, rules)
	enginetest.Must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.workloads.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return d
}

// showing is a client that shows a certificate, and asks for the world of SPIFFE or another.
func showing(t *testing.T, cert tls.Certificate, world string) *http.Client {
	t.Helper()
	transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		InsecureSkipVerify: true, ServerName: world, MinVersion: tls.VersionTLS13, //nolint:gosec // it is the certificate that is shown which counts here
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func deliverBy(t *testing.T, c *http.Client, url string) error {
	t.Helper()
	_, err := fleetv1connect.NewFleetServiceClient(c, url).DeliverAudit(t.Context(), connect.NewRequest(&fleetv1.DeliverAuditRequest{SpoolGeneration: "g1"}))
	return err
}

func TestAWorkloadIsTheProxyThatTheRulesNameUntilItIsRevoked(t *testing.T) {
	s := newSite(t, config{})
	d := s.trusts(t, "spiffe://example.org/sallyport/{region}/{name}", "us-west=spiffe://example.org/ns/gateway/sa/proxy-{name}")
	server := s.listen(t)
	as := func(id string) *http.Client { return showing(t, d.ca.Issue(id), spiffe.ServerName) }
	seven := as(usEast7)
	enginetest.Must(t, deliverBy(t, seven, server.URL))
	token := s.Engine.State().ProxyToken("us-east-7")
	if token == nil || token.Region != "us-east" || token.SPIFFEID != usEast7 {
		t.Fatalf("it joined as %+v", token)
	}
	enginetest.Must(t, deliverBy(t, as(usEast7), server.URL)) // a rotated SVID
	if again := s.Engine.State().ProxyToken("us-east-7"); again.ID != token.ID {
		t.Error("a rotated SVID is another proxy")
	}
	enginetest.Must(t, deliverBy(t, as("spiffe://example.org/ns/gateway/sa/proxy-west-1"), server.URL))
	if west := s.Engine.State().ProxyToken("west-1"); west == nil || west.Region != "us-west" {
		t.Errorf("by a rule with a region it joined as %+v", west)
	}
	invited, _ := s.Token(eventv1.TokenKind_TOKEN_KIND_PROXY, "us-east-8")
	for name, id := range map[string]string{
		"another region's name":     "spiffe://example.org/sallyport/eu-west/us-east-7",
		"an invited proxy's name":   "spiffe://example.org/sallyport/us-east/us-east-8",
		"no proxy":                  "spiffe://example.org/sallyport/payments",
		"more than a proxy":         usEast7 + "/admin",
		"the control plane's":       "spiffe://example.org/control-plane",
		"a name that is none":       "spiffe://example.org/sallyport/us-east/US_7",
		"a name with a rule's form": "spiffe://example.org/sallyport/us-east/-7",
	} {
		if err := deliverBy(t, as(id), server.URL); err == nil {
			t.Errorf("%s: it was let in", name)
		}
	}
	if r := s.trail.last(t); r.GetAction() != "proxy_refused" || len(r.GetDetails()) != 1 {
		t.Errorf("recorded: %v", r)
	}
	_, request := newRequest(t)
	if _, err := fleetv1connect.NewEnrolmentServiceClient(seven, server.URL).Renew(t.Context(), connect.NewRequest(&fleetv1.RenewRequest{CertificateRequest: request})); connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Errorf("a workload that asks the fleet's authority for a certificate: %v", err)
	}

	before := s.Engine.State().SealingEpoch("us-east")
	stream := fleetv1connect.NewFleetServiceClient(seven, server.URL).Sync(t.Context())
	enginetest.Must(t, stream.Send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Hello{Hello: &fleetv1.Hello{}}}))
	_, err := stream.Receive()
	enginetest.Must(t, err)
	s.Do(core.RevokeToken{ID: token.ID})
	for ; err == nil; _, err = stream.Receive() {
	}
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("the stream of a revoked proxy ended with %v", err)
	}
	_ = stream.CloseRequest()
	for what, c := range map[string]*http.Client{"over the open connection": seven, "with an SVID that is good yet": as(usEast7)} {
		if err := deliverBy(t, c, server.URL); connect.CodeOf(err) != connect.CodeUnauthenticated || !strings.Contains(err.Error(), "readmit") {
			t.Errorf("%s after the revocation: %v", what, err)
		}
	}
	if s.Engine.State().SealingEpoch("us-east") == before {
		t.Error("the region's sealing keys are those that the revoked proxy knows")
	}
	s.Do(core.ReadmitProxy{SPIFFEID: usEast7})
	enginetest.Must(t, deliverBy(t, as(usEast7), server.URL))
	if s.Engine.State().Token(invited) == nil || s.Engine.State().ProxyToken("us-east-7").ID == token.ID {
		t.Error("it is not a new proxy, or another's token went")
	}
}

// TestTheTwoWaysToKnowAProxyNeverMix: what one authority certifies is nothing in the other's world.
func TestTheTwoWaysToKnowAProxyNeverMix(t *testing.T) {
	s := newSite(t, config{})
	d := s.trusts(t, "spiffe://example.org/sallyport/{region}/{name}")
	server := s.listen(t)
	id, invitation := s.invite(t, "us-east-9")
	key, request := newRequest(t)
	joined, err := fleetv1connect.NewEnrolmentServiceClient(s.as(t, nil), server.URL).Join(t.Context(), connect.NewRequest(&fleetv1.JoinRequest{Invitation: invitation, CertificateRequest: request}))
	enginetest.Must(t, err)
	own := tls.Certificate{Certificate: [][]byte{joined.Msg.GetCertificate()}, PrivateKey: key}
	enginetest.Must(t, deliverBy(t, showing(t, own, fleetca.ControlPlaneName), server.URL))
	enginetest.Must(t, deliverBy(t, showing(t, d.ca.Issue(usEast7), spiffe.ServerName), server.URL))
	foreign := spiffetest.New(t, "example.org")
	proxyURI := "sallyport://proxy/" + id.String()
	for name, c := range map[string]*http.Client{
		"the fleet's certificate, for a SPIFFE id":                  showing(t, own, spiffe.ServerName),
		"an SVID, for the fleet's":                                  showing(t, d.ca.Issue(usEast7), fleetca.ControlPlaneName),
		"an SVID, for no world":                                     showing(t, d.ca.Issue(usEast7), ""),
		"a joined proxy's name, of the trust domain":                showing(t, d.ca.Issue(proxyURI), spiffe.ServerName),
		"a joined proxy's name, of the trust domain, for the fleet": showing(t, d.ca.Issue(proxyURI), fleetca.ControlPlaneName),
		"an SVID of another authority":                              showing(t, foreign.Issue(usEast7), spiffe.ServerName),
		"nothing":                                                   {Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: spiffe.ServerName, MinVersion: tls.VersionTLS13}}}, //nolint:gosec // as above
		"two ids":                                                   showing(t, d.ca.Issue(usEast7, func(c *x509.Certificate) { c.URIs = append(c.URIs, c.URIs[0]) }), spiffe.ServerName),
		"an authority as a leaf":                                    showing(t, d.ca.Issue(usEast7, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign }), spiffe.ServerName),
		"an SVID that has ended":                                    showing(t, d.ca.Issue(usEast7, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), spiffe.ServerName),
	} {
		if err := deliverBy(t, c, server.URL); err == nil {
			t.Errorf("%s: it was let in", name)
		}
		c.CloseIdleConnections()
	}
}

// TestAConnectionIsOverWithItsSVIDAndWithItsBundle, streams too; the proxy that shows another goes on.
func TestAConnectionIsOverWithItsSVIDAndWithItsBundle(t *testing.T) {
	s := newSite(t, config{})
	d := s.trusts(t, "spiffe://example.org/sallyport/{region}/{name}")
	server := s.listen(t)
	ends := func(what string, c *http.Client, end func()) {
		t.Helper()
		enginetest.Must(t, deliverBy(t, c, server.URL))
		stream := fleetv1connect.NewFleetServiceClient(c, server.URL).Sync(t.Context())
		enginetest.Must(t, stream.Send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Hello{Hello: &fleetv1.Hello{}}}))
		_, err := stream.Receive()
		enginetest.Must(t, err)
		end()
		for ; err == nil; _, err = stream.Receive() {
		}
		if connect.CodeOf(err) != connect.CodeUnavailable {
			t.Errorf("%s: the stream ended with %v", what, err)
		}
		_ = stream.CloseRequest()
		if err := deliverBy(t, c, server.URL); connect.CodeOf(err) != connect.CodeUnavailable {
			t.Errorf("%s: over the open connection: %v", what, err)
		}
	}
	brief := d.ca.Issue(usEast7, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(2 * time.Second) })
	ends("the SVID's end", showing(t, brief, spiffe.ServerName), func() {})
	next := spiffetest.New(t, "example.org")
	ends("the bundle's", showing(t, d.ca.Issue(usEast7), spiffe.ServerName), func() {
		d.files.Write(t, next.Issue("spiffe://example.org/control-plane"), next)
	})
	enginetest.Must(t, deliverBy(t, showing(t, next.Issue(usEast7), spiffe.ServerName), server.URL))
}

func TestRulesThatDoNotSayWhichProxyAnIdIsAreRefused(t *testing.T) {
	for _, rule := range []string{
		"", "spiffe://example.org/proxy", "spiffe://example.org/{name}", "us-east=spiffe://example.org/{region}/{name}", "=spiffe://example.org/{name}", "spiffe://example.org/{region}{name}",
		"spiffe://{name}/{region}", "us=spiffe://{name}/proxy", "https://example.org/{region}/{name}", "spiffe://example.org/{region}/{name}/", "spiffe://example.org/{region}/{name}/{name}", "spiffe://Example.org/{region}/{name}", "us_east!=spiffe://example.org/a b/{name}",
	} {
		if _, err := fleet.NewWorkloads(nil, []string{rule}); err == nil {
			t.Errorf("%q was taken", rule)
		}
	}
	if _, err := fleet.NewWorkloads(nil, nil); err == nil {
		t.Error("no rule was taken")
	}
}

// TestARotationOfTheFleetsAuthorityWaitsForNoWorkload: it has nothing of it.
func TestARotationOfTheFleetsAuthorityWaitsForNoWorkload(t *testing.T) {
	s := newSite(t, config{})
	d := s.trusts(t, "spiffe://example.org/sallyport/{region}/{name}")
	server := s.listen(t)
	rotation := &fleet.Rotation{Authority: s.authority, Engine: s.Engine, Roster: s.roster, Now: time.Now}
	stream := fleetv1connect.NewFleetServiceClient(showing(t, d.ca.Issue(usEast7), spiffe.ServerName), server.URL).Sync(t.Context())
	enginetest.Must(t, stream.Send(&fleetv1.SyncRequest{Message: &fleetv1.SyncRequest_Hello{Hello: &fleetv1.Hello{Mark: 1, PeerUrl: "https://127.0.0.1:1"}}}))
	var live bool
	for !live {
		m, err := stream.Receive()
		enginetest.Must(t, err)
		if beat := m.GetHeartbeat(); beat != nil {
			live = true
			if beat.GetAuthorities() != nil {
				t.Error("a workload is told of the fleet's authorities")
			}
		}
	}
	_, err := s.authority.Rotate(t.Context())
	enginetest.Must(t, err)
	if ok, err := rotation.Ready(s.authority.Wanted()); !ok || err != nil {
		t.Errorf("it is not ready: %v", err)
	}
	if cut, err := rotation.Drop(t.Context(), nil); err != nil || len(cut) != 0 {
		t.Errorf("it cuts off %v: %v", cut, err)
	}
	workload, joined := s.Engine.State().ProxyToken("us-east-7"), s.Engine.State().Token(s.id)
	if peers, _ := s.roster.Peers(s.Engine.State(), workload, time.Now()); len(peers.GetPeers()) != 1 || peers.GetPeers()[0].GetSpiffeId() != usEast7 {
		t.Errorf("workloads are told of %v", peers)
	}
	if peers, _ := s.roster.Peers(s.Engine.State(), joined, time.Now()); len(peers.GetPeers()) != 0 {
		t.Errorf("proxies that joined by invitation are told of %v", peers)
	}
	_ = stream.CloseRequest()
}
