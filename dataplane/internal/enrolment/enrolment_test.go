package enrolment_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"

	"sallyport.dev/dataplane/internal/enrolment"
)

// authority is a fleet's, by hand.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func must[T any](t *testing.T, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a := &authority{t: t, key: must(t, key, err)}
	template := a.template("fleet", time.Hour)
	template.IsCA, template.KeyUsage = true, x509.KeyUsageCertSign
	a.cert = template
	a.cert = a.sign(template, key.Public())
	return a
}

func (a *authority) template(name string, lifetime time.Duration) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	return &x509.Certificate{
		SerialNumber: must(a.t, serial, err), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
}

func (a *authority) sign(template *x509.Certificate, key any) *x509.Certificate {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	cert, err2 := x509.ParseCertificate(must(a.t, der, err))
	return must(a.t, cert, err2)
}

// proxy certifies a proxy.
func (a *authority) proxy(name, region string, lifetime time.Duration, key any) *x509.Certificate {
	template := a.template(name, lifetime)
	template.Subject.OrganizationalUnit, template.DNSNames = []string{region}, []string{name + "." + region + ".proxy.sallyport"}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	return a.sign(template, key)
}

// invitation is one of the fleet's.
func (a *authority) invitation() string {
	sum := sha256.Sum256(a.cert.Raw)
	return "sallyport_proxy_secret." + base64.RawURLEncoding.EncodeToString(sum[:])
}

// plane is a control plane that only enrols.
type plane struct {
	t   *testing.T
	url string

	mu sync.Mutex
	// serves made the certificate that it shows, issues makes those of proxies, and believed are what proxies are told to believe.
	serves, issues *authority
	believed       []*authority
	name, region   string
	lifetime       time.Duration
	// lose has answers of joins be lost, refuse is what comes in their place, and other certifies another key than was asked for.
	lose, other bool
	refuse      error
	keys        [][]byte // of each request
}

func newPlane(t *testing.T, a *authority) *plane {
	t.Helper()
	p := &plane{t: t, serves: a, issues: a, believed: []*authority{a}, name: "us-east-1", region: "us-east", lifetime: time.Hour}
	mux := http.NewServeMux()
	mux.Handle(fleetv1connect.NewEnrolmentServiceHandler(p))
	server := httptest.NewUnstartedServer(mux)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		template := p.serves.template("control plane", time.Hour)
		template.DNSNames = []string{"control-plane.sallyport"}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		return &tls.Certificate{Certificate: [][]byte{p.serves.sign(template, key.Public()).Raw, p.serves.cert.Raw}, PrivateKey: key}, nil
	}}
	server.StartTLS()
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// set changes how it behaves.
func (p *plane) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *plane) asked() [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.keys
}

// certify is the certificate for a request and what is to be believed.
func (p *plane) certify(der []byte) (cert []byte, believed [][]byte, err error) {
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	p.keys = append(p.keys, request.RawSubjectPublicKeyInfo)
	key := request.PublicKey
	if p.other {
		key = p.issues.key.Public()
	}
	for _, a := range p.believed {
		believed = append(believed, a.cert.Raw)
	}
	return p.issues.proxy(p.name, p.region, p.lifetime, key).Raw, believed, nil
}

func (p *plane) Join(_ context.Context, req *connect.Request[fleetv1.JoinRequest]) (*connect.Response[fleetv1.JoinResponse], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	cert, believed, err := p.certify(req.Msg.GetCertificateRequest())
	switch {
	case err != nil:
		return nil, err
	case p.refuse != nil:
		return nil, p.refuse
	case p.lose:
		p.lose = false
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("lost"))
	}
	return connect.NewResponse(&fleetv1.JoinResponse{Proxy: p.name, Region: p.region, Certificate: cert, Authorities: believed}), nil
}

func (p *plane) Renew(_ context.Context, req *connect.Request[fleetv1.RenewRequest]) (*connect.Response[fleetv1.RenewResponse], error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	cert, believed, err := p.certify(req.Msg.GetCertificateRequest())
	if err := errors.Join(err, p.refuse); err != nil {
		return nil, err
	}
	return connect.NewResponse(&fleetv1.RenewResponse{Certificate: cert, Authorities: believed}), nil
}

func (p *plane) config(dir string) enrolment.Config {
	return enrolment.Config{Dir: dir, Invitation: p.believed[0].invitation(), ControlPlanes: []string{p.url}, Spread: time.Nanosecond}
}

func open(t *testing.T, c enrolment.Config) *enrolment.Identity {
	t.Helper()
	i, err := enrolment.Open(t.Context(), c)
	return must(t, i, err)
}

// run keeps an identity current until the test ends.
func run(t *testing.T, i *enrolment.Identity) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { i.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
}

// shows is the certificate that an identity shows now.
func shows(t *testing.T, i *enrolment.Identity) *x509.Certificate {
	t.Helper()
	cert, err := i.ForControlPlanes().GetClientCertificate(nil)
	return must(t, cert, err).Leaf
}

func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waiting for %s", what)
		}
	}
}

func TestAProxyJoinsOnceAndIsWhoItIsFromItsFolderAlone(t *testing.T) {
	a := newAuthority(t)
	p := newPlane(t, a)
	p.lose = true // the first answer
	dir := t.TempDir()
	i := open(t, p.config(dir))
	if keys := p.asked(); len(keys) != 2 || !bytes.Equal(keys[0], keys[1]) {
		t.Errorf("after an answer that was lost it asked %d times, or with another key", len(keys))
	}
	if cert := shows(t, i); cert.CheckSignatureFrom(a.cert) != nil || cert.Subject.CommonName != "us-east-1" {
		t.Errorf("it shows %v", cert.Subject)
	}
	if sum := sha256.Sum256(a.cert.Raw); !bytes.Equal(i.Holds().GetIssuer(), sum[:]) || len(i.Holds().GetTrusted()) != 1 {
		t.Errorf("it holds %v", i.Holds())
	}
	entries, err := os.ReadDir(dir)
	for _, e := range must(t, entries, err) {
		info, err := e.Info()
		if must(t, info, err).Mode().Perm() != 0o600 || e.Name() != "identity.pem" {
			t.Errorf("the folder holds %s with %v", e.Name(), info.Mode())
		}
	}
	again := open(t, enrolment.Config{Dir: dir, ControlPlanes: []string{"https://127.0.0.1:1"}}) // nobody is asked
	if !shows(t, again).Equal(shows(t, i)) {
		t.Error("from its folder it is somebody else")
	}
}

// TestAProxyTrustsNoOtherThanTheAuthorityThatItsInvitationNames: another never hears the invitation.
func TestAProxyTrustsNoOtherThanTheAuthorityThatItsInvitationNames(t *testing.T) {
	a, evil := newAuthority(t), newAuthority(t)
	impostor := newPlane(t, evil)
	c := impostor.config(t.TempDir())
	c.Invitation = a.invitation()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := enrolment.Open(ctx, c); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ended with %v", err)
	}
	if len(impostor.asked()) != 0 {
		t.Error("an impostor was told the invitation")
	}
	// Nor does one that the named authority certified for something else.
	p := newPlane(t, a)
	p.set(func() { p.believed = []*authority{evil} }) // an answer that does not name the authority of the invitation
	p.issues = evil
	c.ControlPlanes = []string{p.url}
	if _, err := enrolment.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), "another fleet") {
		t.Errorf("an answer of another fleet: %v", err)
	}
}

func TestWhatIsWrongWithAnIdentityIsSaidWithWhatToDo(t *testing.T) {
	a := newAuthority(t)
	p := newPlane(t, a)
	good := t.TempDir()
	open(t, p.config(good))
	whole, err := os.ReadFile(filepath.Join(good, "identity.pem"))
	must(t, whole, err)
	expired := t.TempDir()
	p.set(func() { p.lifetime = -time.Second })
	_, err = enrolment.Open(t.Context(), p.config(expired))
	must(t, 0, err)
	otherKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, 0, err)
	der, err := x509.MarshalECPrivateKey(otherKey)
	_, rest := pem.Decode(whole)
	stolen := append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: must(t, der, err)}), rest...)
	in := func(data []byte) string {
		dir := t.TempDir()
		must(t, 0, os.WriteFile(filepath.Join(dir, "identity.pem"), data, 0o600))
		return dir
	}
	for name, test := range map[string]struct {
		c    enrolment.Config
		want string
	}{
		"no invitation":              {enrolment.Config{Dir: t.TempDir()}, "sallyport proxies invite"},
		"half an invitation":         {enrolment.Config{Dir: t.TempDir(), Invitation: "sallyport_proxy_secret"}, "not whole"},
		"an expired certificate":     {enrolment.Config{Dir: expired}, "invite it again"},
		"half a file":                {enrolment.Config{Dir: in(whole[:len(whole)/2])}, "cannot be read"},
		"an empty file":              {enrolment.Config{Dir: in(nil)}, "cannot be read"},
		"another key":                {enrolment.Config{Dir: in(stolen)}, "do not belong together"},
		"a file in the folder's way": {enrolment.Config{Dir: filepath.Join(good, "identity.pem")}, "data folder"},
	} {
		if _, err := enrolment.Open(t.Context(), test.c); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want something of %q", name, err, test.want)
		}
	}
	p.set(func() {
		p.refuse = connect.NewError(connect.CodePermissionDenied, errors.New("the invitation was used already"))
	})
	if _, err := enrolment.Open(t.Context(), p.config(t.TempDir())); err == nil || !strings.Contains(err.Error(), "used already") {
		t.Errorf("a refused invitation: %v", err)
	}
}

func TestACertificateIsRenewedAtHalfOfItsTimeWithANewKeyAndOneOfNoUseIsNotTaken(t *testing.T) {
	a := newAuthority(t)
	p := newPlane(t, a)
	p.lifetime = time.Second // it began a minute ago: it is due
	dir := t.TempDir()
	renewed := make(chan struct{}, 100)
	c := p.config(dir)
	c.OnRenewed = func() { renewed <- struct{}{} }
	i := open(t, c)
	first := shows(t, i)
	p.set(func() { p.lifetime = time.Hour })
	run(t, i)
	<-renewed
	second := shows(t, i)
	if second.Equal(first) || bytes.Equal(second.RawSubjectPublicKeyInfo, first.RawSubjectPublicKeyInfo) || !second.NotAfter.After(first.NotAfter) {
		t.Error("the certificate, its key or its end are as before")
	}
	// A control plane that wants it renewed gets a certificate of no use: what is there before stays, in memory and on disk.
	onDisk := func() []byte {
		data, err := os.ReadFile(filepath.Join(dir, "identity.pem"))
		return must(t, data, err)
	}
	before := onDisk()
	p.set(func() { p.other = true })
	asked := len(p.asked())
	i.Want(&fleetv1.Authorities{Issuer: []byte("another")})
	eventually(t, "the renewal to be tried", func() bool { return len(p.asked()) > asked+1 })
	if !shows(t, i).Equal(second) || !bytes.Equal(onDisk(), before) {
		t.Error("a certificate for another key was taken")
	}
	p.set(func() { p.other = false })
	<-renewed
	if shows(t, i).Equal(second) {
		t.Error("it was not renewed once it could be")
	}
	i.Want(i.Holds()) // as it is: nothing to do
	asked = len(p.asked())
	i.Want(nil)
	if len(p.asked()) != asked {
		t.Error("it was renewed for nothing")
	}
}

// TestProxiesMeetWhileTheirAuthorityIsReplaced: whatever stages the two are at, as long as they are next to each other; and never those whom the
// dropped one certified, those of another region, or who has nothing of the fleet.
func TestProxiesMeetWhileTheirAuthorityIsReplaced(t *testing.T) {
	old, next, other := newAuthority(t), newAuthority(t), newAuthority(t)
	// at opens a proxy at a stage of the replacement.
	at := func(name, region string, issues *authority, believed ...*authority) *enrolment.Identity {
		p := newPlane(t, believed[0])
		p.name, p.region, p.issues, p.believed = name, region, issues, believed
		return open(t, p.config(t.TempDir()))
	}
	stages := map[string]func(name string) *enrolment.Identity{
		"settled":   func(n string) *enrolment.Identity { return at(n, "us-east", old, old) },
		"announced": func(n string) *enrolment.Identity { return at(n, "us-east", old, old, next) },
		"issuing":   func(n string) *enrolment.Identity { return at(n, "us-east", next, old, next) },
		"dropped":   func(n string) *enrolment.Identity { return at(n, "us-east", next, next) },
	}
	order := []string{"settled", "announced", "issuing", "dropped"}
	for x, from := range order {
		for y, to := range order {
			caller, called := stages[from]("us-east-1"), stages[to]("us-east-2")
			want := max(x-y, y-x) <= 1
			if err := meet(t, caller.ForPeer(&fleetv1.Peer{Proxy: "us-east-2"}), called.FromPeers()); (err == nil) != want {
				t.Errorf("a proxy that is at %q and one at %q: %v", from, to, err)
			}
		}
	}
	called := stages["announced"]("us-east-2").FromPeers()
	here := stages["announced"]("us-east-1")
	for name, c := range map[string]*tls.Config{
		"another region's":              at("eu-west-1", "eu-west", old, old).ForPeer(&fleetv1.Peer{Proxy: "us-east-2"}),
		"where another was expected":    here.ForPeer(&fleetv1.Peer{Proxy: "us-east-3"}),
		"as if it were a control plane": here.ForControlPlanes(),
		"with no certificate":           {InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}, //nolint:gosec // it does not look
		"of another fleet":              at("us-east-1", "us-east", other, other).ForPeer(&fleetv1.Peer{Proxy: "us-east-2"}),
	} {
		if meet(t, c, called) == nil {
			t.Errorf("%s: they met", name)
		}
	}
}

// meet makes a request between two sides.
func meet(t *testing.T, client, server *tls.Config) error {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in") }))
	s.TLS, s.Config.ErrorLog = server, log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	transport := &http.Transport{TLSClientConfig: client}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	res, err := (&http.Client{Transport: transport}).Do(must(t, req, err))
	if err != nil {
		return err
	}
	return res.Body.Close()
}
