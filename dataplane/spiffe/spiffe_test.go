package spiffe_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"sallyport.dev/dataplane/spiffe"
	"sallyport.dev/dataplane/spiffe/spiffetest"
)

const (
	here  = "spiffe://example.org/sallyport/us-east/us-east-1"
	every = time.Second // in the time of a bubble
)

// open opens a workload's identity, and keeps it current until the test ends.
func open(t *testing.T, c spiffe.Config) *spiffe.Source {
	t.Helper()
	s, err := spiffe.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { s.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func config(f spiffetest.Files, domain string) spiffe.Config {
	return spiffe.Config{Cert: f.Cert, Key: f.Key, Bundles: []string{domain + "=" + f.Bundle}}
}

// shows returns the certificate that the source shows servers.
func shows(t *testing.T, s *spiffe.Source) *tls.Certificate {
	t.Helper()
	cert, err := s.Client(nil).GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestOnlyAnSVIDOfItsOwnTrustDomainSaysWhoSomebodyIs(t *testing.T) {
	ca, foreign := spiffetest.New(t, "example.org"), spiffetest.New(t, "evil.example")
	federated, below := spiffetest.New(t, "partner.example"), ca.Below()
	f := spiffetest.In(t.TempDir())
	f.Write(t, ca.Issue(here), ca)
	partner := spiffetest.In(t.TempDir())
	partner.WriteBundle(t, federated)
	c := config(f, "example.org")
	c.Bundles = append(c.Bundles, "partner.example="+partner.Bundle)
	s := open(t, c)
	uri := func(text string) *url.URL {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	more := func(u ...*url.URL) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.URIs = append(c.URIs, u...) }
	}
	for name, test := range map[string]struct {
		chain []*x509.Certificate
		want  string // empty: refused
	}{
		"an SVID":                                     {chain(ca.Issue(here)), here},
		"one of a federated domain":                   {chain(federated.Issue("spiffe://partner.example/a")), "spiffe://partner.example/a"},
		"one that an authority below certified":       {append(chain(below.Issue(here)), below.Root()), here},
		"the same without what is between":            {chain(below.Issue(here)), ""},
		"nothing":                                     {nil, ""},
		"a foreign trust domain":                      {chain(foreign.Issue("spiffe://evil.example/a")), ""},
		"a foreign authority's word on this domain":   {chain(foreign.Issue(here)), ""},
		"a federated authority's word on this domain": {chain(federated.Issue(here)), ""},
		"this authority's word on a federated domain": {chain(ca.Issue("spiffe://partner.example/a")), ""},
		"a foreign root in the chain":                 {append(chain(foreign.Issue(here)), foreign.Root()), ""},
		"two URIs":                                    {chain(ca.Issue(here, more(uri(here+"2")))), ""},
		"the same URI twice":                          {chain(ca.Issue(here, more(uri(here)))), ""},
		"another URI beside it":                       {chain(ca.Issue(here, more(uri("https://example.org/")))), ""},
		"no URI":                                      {chain(ca.Issue(here, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"us-east-1"} })), ""},
		"another scheme":                              {chain(ca.Issue("sallyport://proxy/0198c0de-0000-7000-8000-000000000000")), ""},
		"upper case in the domain":                    {chain(ca.Issue("spiffe://Example.org/a")), ""},
		"a port":                                      {chain(ca.Issue("spiffe://example.org:443/a")), ""},
		"a user":                                      {chain(ca.Issue("spiffe://root@example.org/a")), ""},
		"a query":                                     {chain(ca.Issue(here + "?region=eu")), ""},
		"a fragment":                                  {chain(ca.Issue(here + "#x")), ""},
		"an empty segment":                            {chain(ca.Issue("spiffe://example.org/sallyport//us-east-1")), ""},
		"dots":                                        {chain(ca.Issue("spiffe://example.org/sallyport/../us-east-1")), ""},
		"an escape":                                   {chain(ca.Issue("spiffe://example.org/sallyport%2fus-east-1")), ""},
		"the trust domain itself":                     {chain(ca.Issue("spiffe://example.org")), ""},
		"an authority as a leaf":                      {chain(ca.Issue(here, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign })), ""},
		"a leaf that may certify":                     {chain(ca.Issue(here, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })), ""},
		"a leaf that may revoke":                      {chain(ca.Issue(here, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign })), ""},
		"a leaf that may not sign":                    {chain(ca.Issue(here, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })), ""},
		"the root itself":                             {[]*x509.Certificate{ca.Root()}, ""},
		"one that has ended":                          {chain(ca.Issue(here, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })), ""},
		"one that has not begun":                      {chain(ca.Issue(here, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })), ""},
	} {
		id, err := s.Verify(test.chain)
		if got := id.String(); (err == nil) != (test.want != "") || got != test.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, test.want)
		}
	}
}

func chain(c tls.Certificate) []*x509.Certificate { return []*x509.Certificate{c.Leaf} }

// TestWhatRotatesOnDiskIsTakenOnceItIsWhole: never a key without its certificate, nor an SVID that the bundle does not bear out; a bundle at once.
func TestWhatRotatesOnDiskIsTakenOnceItIsWhole(t *testing.T) { synctest.Test(t, rotates) }

func rotates(t *testing.T) {
	ca, next := spiffetest.New(t, "example.org"), spiffetest.New(t, "example.org")
	f := spiffetest.In(t.TempDir())
	first := ca.Issue(here)
	f.Write(t, first, ca)
	var renewed atomic.Int64
	c := config(f, "example.org")
	c.OnRenewed = func() { renewed.Add(1) }
	s := open(t, c)
	is := func(cert tls.Certificate) func() bool {
		return func() bool { return shows(t, s).Leaf.Equal(cert.Leaf) }
	}
	// settles waits until the files were looked at more often than it takes to believe them.
	settles := func() { time.Sleep(3 * every) }

	second := ca.Issue(here)
	f.WriteCert(t, second)
	settles()
	if !is(first)() {
		t.Fatal("a certificate was taken without its key")
	}
	f.WriteKey(t, second)
	settles()
	if !is(second)() || !second.PrivateKey.(*ecdsa.PrivateKey).Equal(shows(t, s).PrivateKey) {
		t.Fatal("the pair was not taken, or not whole")
	}

	third := next.Issue(here) // of an authority that the bundle does not hold yet
	f.WriteKey(t, third)
	settles()
	f.WriteCert(t, third)
	settles()
	if !is(second)() {
		t.Fatal("an SVID was taken that the bundle does not bear out")
	}
	whole, err := os.ReadFile(f.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	for _, half := range []string{"", "-----BEGIN CERTIFICATE-----\n", string(whole[:len(whole)/2]), "not PEM"} {
		if err := os.WriteFile(f.Bundle, []byte(half), 0o600); err != nil {
			t.Fatal(err)
		}
		settles()
		if _, err := s.Verify(chain(first)); err != nil {
			t.Fatalf("a bundle of %q was taken: %v", half, err)
		}
	}
	if err := os.Remove(f.Bundle); err != nil {
		t.Fatal(err)
	}
	settles()
	if _, err := s.Verify(chain(first)); err != nil {
		t.Fatalf("a bundle that is gone was taken: %v", err)
	}
	f.WriteBundle(t, ca, next)
	if settles(); !is(third)() {
		t.Fatal("the bundle and the SVID of the next authority were not taken")
	}
	if _, err := s.Verify(chain(first)); err != nil {
		t.Errorf("what the old authority certified, while the bundle has it: %v", err)
	}
	f.WriteBundle(t, next)
	settles()
	if _, err := s.Verify(chain(first)); err == nil {
		t.Error("the old authority was not dropped")
	}
	// It is dropped too where the own SVID is its: what is not trusted any more is not trusted for that one's sake.
	f.WriteBundle(t, ca)
	settles()
	if _, err := s.Verify(chain(third)); err == nil {
		t.Error("the next authority was not dropped")
	}
	if n := renewed.Load(); n != 2 {
		t.Errorf("it was renewed %d times, want 2", n)
	}
}

func TestAProcessWaitsForItsIdentityAndSaysWhatIsWrongWithHowItIsNamed(t *testing.T) {
	synctest.Test(t, waits)
}

func waits(t *testing.T) {
	ca := spiffetest.New(t, "example.org")
	f := spiffetest.In(t.TempDir())
	opened := make(chan error, 1)
	go func() {
		_, err := spiffe.Open(t.Context(), config(f, "example.org"))
		opened <- err
	}()
	select {
	case err := <-opened:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(10 * every):
	}
	f.Write(t, ca.Issue(here), ca)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("stopped"))
	empty := spiffetest.In(t.TempDir())
	for name, test := range map[string]struct {
		c    spiffe.Config
		want string
	}{
		"no files":                    {spiffe.Config{}, "--spiffe-cert"},
		"a bundle of no domain":       {spiffe.Config{Cert: f.Cert, Key: f.Key, Bundles: []string{f.Bundle}}, "TRUST-DOMAIN=FILE"},
		"a domain that is none":       {spiffe.Config{Cert: f.Cert, Key: f.Key, Bundles: []string{"Example!=" + f.Bundle}}, "TRUST-DOMAIN=FILE"},
		"two bundles of a domain":     {spiffe.Config{Cert: f.Cert, Key: f.Key, Bundles: []string{"a.b=" + f.Bundle, "a.b=" + f.Cert}}, "two bundles"},
		"stopped while there is none": {config(empty, "example.org"), "stopped"},
	} {
		if _, err := spiffe.Open(gone, test.c); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want something of %q", name, err, test.want)
		}
	}
}

// TestEachSideOfAConnectionHasTheIdThatTheOtherExpects, and one without an SVID has none.
func TestEachSideOfAConnectionHasTheIdThatTheOtherExpects(t *testing.T) {
	ca, foreign := spiffetest.New(t, "example.org"), spiffetest.New(t, "example.org")
	source := func(id string, by *spiffetest.Authority) *spiffe.Source {
		f := spiffetest.In(t.TempDir())
		f.Write(t, by.Issue(id), by)
		return open(t, config(f, "example.org"))
	}
	const cp = "spiffe://example.org/control-plane"
	server := source(cp, ca)
	only := func(want string) func(spiffeid.ID) error {
		return func(id spiffeid.ID) error {
			if id.String() != want {
				return errors.New("another id")
			}
			return nil
		}
	}
	plain, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := tls.NewListener(plain, server.Server(only(here)))
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = conn.Write([]byte("in"))
				_ = conn.Close()
			}()
		}
	}()
	meets := func(c *tls.Config) error {
		conn, err := (&tls.Dialer{Config: c}).DialContext(t.Context(), "tcp", listener.Addr().String())
		if err != nil {
			return err
		}
		_, err = conn.Read(make([]byte, 2))
		_ = conn.Close()
		return err
	}
	if err := meets(source(here, ca).Client(only(cp))); err != nil {
		t.Errorf("who is expected: %v", err)
	}
	stranger := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13} //nolint:gosec // it does not look
	for name, c := range map[string]*tls.Config{
		"another id":                    source(here+"2", ca).Client(only(cp)),
		"another authority":             source(here, foreign).Client(func(spiffeid.ID) error { return nil }),
		"no certificate":                stranger,
		"a server with another id":      source(here, ca).Client(only(here)),
		"a server that is not believed": source(here, foreign).Client(only(cp)),
	} {
		if meets(c) == nil {
			t.Errorf("%s: they met", name)
		}
	}
}
