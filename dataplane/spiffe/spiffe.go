// Package spiffe is who a process is, and whom it meets, where a SPIFFE authority says so: an X.509-SVID, its key, and the bundles of trust
// domains, as files that an agent beside the process replaces (spiffe-helper, cert-manager's csi-driver-spiffe).
//
// What changes on disk is taken while the process runs, once it is whole: a key goes with its certificate, and a certificate with a bundle.
// Whether an id may do what it asks for is for the caller to say.
package spiffe

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// Config names the files. Cert, Key and Bundles are required.
type Config struct {
	// Cert holds the SVID and the certificates between it and its root, Key its private key, both PEM.
	Cert, Key string
	// Bundles are TRUST-DOMAIN=FILE: what certifies in each trust domain, PEM. That of the own SVID is among them.
	Bundles []string
	// OnRenewed, where set, is called when the SVID was replaced: connections that were opened with the one before are to be replaced.
	OnRenewed func()
	// Every is how often files are looked at. What changed is taken when it is seen a second time. Default: 1 second.
	Every time.Duration
	Now   func() time.Time
	Log   *slog.Logger
}

// Source is an identity and the trust domains that are known, kept current by Run. It is safe for concurrent use.
type Source struct {
	config  Config
	bundles []bundleFile
	current atomic.Pointer[held]
	renewed func()

	// Run's own: what was read last, and what was said of it.
	seen [][]byte
	said string
}

type bundleFile struct {
	domain spiffeid.TrustDomain
	path   string
}

// held is what is in use.
type held struct {
	cert    *tls.Certificate
	id      spiffeid.ID
	bundles *x509bundle.Set
}

// Open reads the files, and waits for them as long as ctx lives: the agent that writes them may start later.
func Open(ctx context.Context, c Config) (*Source, error) {
	if c.Every == 0 {
		c.Every = time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{config: c, renewed: func() {}}
	if c.Cert == "" || c.Key == "" || len(c.Bundles) == 0 {
		return nil, errors.New("a SPIFFE identity needs --spiffe-cert, --spiffe-key and --spiffe-bundle")
	}
	for _, b := range c.Bundles {
		name, path, ok := strings.Cut(b, "=")
		domain, err := spiffeid.TrustDomainFromString(name)
		if !ok || err != nil || path == "" {
			return nil, fmt.Errorf("a SPIFFE bundle is named as TRUST-DOMAIN=FILE, such as example.org=/run/spiffe/bundle.pem, not %q", b)
		}
		if slices.ContainsFunc(s.bundles, func(have bundleFile) bool { return have.domain == domain }) {
			return nil, fmt.Errorf("trust domain %s has two bundles: name one file", domain)
		}
		s.bundles = append(s.bundles, bundleFile{domain, path})
	}
	for {
		s.look(ctx)
		if s.current.Load() != nil {
			if c.OnRenewed != nil {
				s.renewed = c.OnRenewed
			}
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for the SPIFFE identity: %w", context.Cause(ctx))
		case <-time.After(c.Every):
		}
	}
}

// Run takes what changes on disk until ctx ends.
func (s *Source) Run(ctx context.Context) {
	ticker := time.NewTicker(s.config.Every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.look(ctx)
		}
	}
}

// look reads the files, and takes what they hold if it is whole and was the same at the look before: whoever writes them may be in the middle.
func (s *Source) look(ctx context.Context) {
	files, err := s.read()
	if err == nil {
		stable := slices.EqualFunc(files, s.seen, bytes.Equal)
		if s.seen = files; !stable {
			return
		}
		err = s.take(files)
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != s.said && text != "" {
		s.config.Log.WarnContext(ctx, "the SPIFFE identity on disk is not taken; trying again", "error", err)
	}
	s.said = text
}

// read returns certificate, key and each bundle.
func (s *Source) read() ([][]byte, error) {
	paths := []string{s.config.Cert, s.config.Key}
	for _, b := range s.bundles {
		paths = append(paths, b.path)
	}
	files := make([][]byte, len(paths))
	for i, path := range paths {
		var err error
		if files[i], err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// take puts into use what was read. Bundles are taken for themselves, so that what is no longer trusted is not trusted for the sake of an SVID
// that is late; an SVID is taken with its key, once the bundles bear it out.
func (s *Source) take(files [][]byte) error {
	next, before := held{bundles: x509bundle.NewSet()}, s.current.Load()
	if before != nil {
		next.cert, next.id = before.cert, before.id
	}
	for i, b := range s.bundles {
		bundle, err := x509bundle.Parse(b.domain, files[2+i])
		if err != nil || bundle.Empty() {
			return fmt.Errorf("the bundle of %s in %s cannot be read: %w", b.domain, b.path, errors.Join(err, errEmpty(bundle)))
		}
		next.bundles.Add(bundle)
	}
	cert, id, err := s.identity(files[0], files[1], next.bundles)
	renewed := err == nil && (next.cert == nil || !bytes.Equal(cert.Leaf.Raw, next.cert.Leaf.Raw))
	if renewed {
		next.cert, next.id = cert, id
	}
	if next.cert != nil {
		s.current.Store(&next)
	}
	if renewed {
		s.config.Log.Info("the SPIFFE identity on disk is taken", "spiffe_id", id.String(), "good_until", cert.Leaf.NotAfter)
		s.renewed()
	}
	return err
}

func errEmpty(b *x509bundle.Bundle) error {
	if b != nil && b.Empty() {
		return errors.New("it holds no certificate")
	}
	return nil
}

func (s *Source) identity(certPEM, keyPEM []byte, bundles *x509bundle.Set) (*tls.Certificate, spiffeid.ID, error) {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, spiffeid.ID{}, errors.New("certificate and key do not belong together, or are not whole")
	}
	var chain []*x509.Certificate
	for _, der := range cert.Certificate {
		one, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, spiffeid.ID{}, fmt.Errorf("reading the SVID's chain: %w", err)
		}
		chain = append(chain, one)
	}
	id, err := verify(chain, bundles, s.config.Now())
	return &cert, id, err
}

// ID is who the process is.
func (s *Source) ID() spiffeid.ID { return s.current.Load().id }

// Verify says whom a chain of certificates is of, leaf first, as of now: an X.509-SVID of a trust domain that is known. The other side of the
// connection proved that it holds the key.
func (s *Source) Verify(chain []*x509.Certificate) (spiffeid.ID, error) {
	return verify(chain, s.current.Load().bundles, s.config.Now())
}

// verify holds a chain to the X.509-SVID standard: one URI, which is a SPIFFE id with a path; a leaf that signs, and certifies nobody; a root of
// the id's own trust domain, and of no other.
func verify(chain []*x509.Certificate, bundles *x509bundle.Set, now time.Time) (spiffeid.ID, error) {
	id, _, err := x509svid.Verify(chain, bundles, x509svid.WithTime(now))
	switch {
	case err != nil:
		return spiffeid.ID{}, err
	case id.Path() == "":
		return spiffeid.ID{}, errors.New("the SPIFFE id is of a trust domain, not of a workload")
	case chain[0].KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return spiffeid.ID{}, errors.New("the SVID's key is not for signatures")
	}
	return id, nil
}

// ServerName is what a client asks for that is to be met by SPIFFE identities, where a listener knows others beside them.
const ServerName = "spiffe.sallyport"

// Client is how the process meets a server whose id accept takes.
func (s *Source) Client(accept func(spiffeid.ID) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: ServerName,
		InsecureSkipVerify:   true, //nolint:gosec // VerifyConnection does it, by what is believed when the connection is made
		VerifyConnection:     s.accept(accept),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return s.current.Load().cert, nil },
	}
}

// Server is how the process meets clients whose ids accept takes. No session is resumed: a resumed one would be believed by a bundle that is gone.
func (s *Source) Server(accept func(spiffeid.ID) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true, NextProtos: []string{"h2", "http/1.1"},
		VerifyConnection: s.accept(accept),
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.current.Load().cert, nil },
	}
}

func (s *Source) accept(accept func(spiffeid.ID) error) func(tls.ConnectionState) error {
	return func(c tls.ConnectionState) error {
		id, err := s.Verify(c.PeerCertificates)
		if err != nil {
			return err
		}
		return accept(id)
	}
}
