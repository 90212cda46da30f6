// Package fleetca is the fleet's own certificate authority: by it proxies know control planes, control planes know proxies, and the
// proxies of a region know each other.
//
// Its key lies in the vault, the same for every control plane. What it certifies lives for a day or less and names a proxy by the id
// under which the log knows it; whether that one is still of the fleet is for the log to say. It certifies nothing for anybody else.
package fleetca

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/vault"
)

const (
	// ControlPlaneName is the name under which every control plane is certified, whatever its address.
	ControlPlaneName = "control-plane.sallyport"
	// scheme and host begin the URI that names a proxy.
	scheme, host = "sallyport", "proxy"

	secretName   = "fleet-authority"
	authorityFor = 20 * 365 * 24 * time.Hour
	serverFor    = 24 * time.Hour
	// early is how much before now a certificate begins, for clocks that differ.
	early = 5 * time.Minute
)

// Secrets is what the authority needs of the vault.
type Secrets interface {
	GetOrMake(ctx context.Context, name, owner string, make func() vault.Secret) (vault.Secret, error)
	// Read returns a secret with the revision by which Replace replaces it. Replace fails with vault.ErrChanged where another was first.
	Read(ctx context.Context, name, owner string) (vault.Secret, uint64, error)
	Replace(ctx context.Context, name, owner string, secret vault.Secret, revision uint64) error
}

// Authority certifies. It is safe for concurrent use.
type Authority struct {
	secrets Secrets
	// lifetime is that of proxies' certificates.
	lifetime time.Duration
	now      func() time.Time
	// current is what the vault held last.
	current atomic.Pointer[authorities]

	mu     sync.Mutex
	server *tls.Certificate  // this control plane's own
	by     [sha256.Size]byte // the authority that made it
}

// Open reads the authority from the vault, and makes it where there is none. lifetime is that of proxies' certificates.
func Open(ctx context.Context, secrets Secrets, lifetime time.Duration, now func() time.Time) (*Authority, error) {
	var made error
	_, err := secrets.GetOrMake(ctx, secretName, secretName, func() vault.Secret {
		first, err := newAuthority(now())
		made = err
		return (&authorities{All: []*one{first}, Stage: Settled, Since: now()}).secret()
	})
	if err := errors.Join(err, made); err != nil {
		return nil, fmt.Errorf("opening the fleet's certificate authority: %w", err)
	}
	a := &Authority{secrets: secrets, lifetime: lifetime, now: now}
	if _, err := a.Refresh(ctx); err != nil {
		return nil, fmt.Errorf("opening the fleet's certificate authority: %w", err)
	}
	return a, nil
}

func newTemplate(name string, now time.Time, lifetime time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-early), NotAfter: now.Add(lifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}, nil
}

// Certificate is that of the authority by which control planes are certified, in DER.
func (a *Authority) Certificate() []byte { return a.current.Load().serving().cert.Raw }

// Fingerprint is the SHA-256 of that certificate, by which an invitation names it.
func (a *Authority) Fingerprint() [sha256.Size]byte { return a.current.Load().serving().fingerprint }

// PeerName is the name under which a proxy is certified for the other proxies of its region.
func PeerName(proxy, region string) string { return proxy + "." + region + ".proxy.sallyport" }

// Issue certifies a proxy for the key of a PKCS #10 request, of which nothing else counts. It asks the vault by which authority: a control plane
// that lags would hand out certificates that are of no use soon.
func (a *Authority) Issue(ctx context.Context, request *x509.CertificateRequest, id uuid.UUID, proxy, region string) (*Issued, error) {
	now, err := a.Refresh(ctx)
	if err != nil {
		return nil, fmt.Errorf("certifying a proxy: %w", err)
	}
	by := now.issuing()
	template, err := newTemplate(proxy, a.now(), a.lifetime)
	if err != nil {
		return nil, fmt.Errorf("certifying a proxy: %w", err)
	}
	template.Subject.OrganizationalUnit = []string{region}
	template.URIs = []*url.URL{{Scheme: scheme, Host: host, Path: "/" + id.String()}}
	template.DNSNames = []string{PeerName(proxy, region)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, request.PublicKey, by.key)
	if err != nil {
		return nil, fmt.Errorf("certifying a proxy: %w", err)
	}
	return &Issued{Certificate: der, Authority: by.cert.Raw, Authorities: now.certificates()}, nil
}

// Issued is a certificate in DER, with the authority that made it and all that are to be believed.
type Issued struct {
	Certificate, Authority []byte
	Authorities            [][]byte
}

// ReadRequest reads a PKCS #10 request whose sender holds the key, and returns the SHA-256 of that key.
func ReadRequest(der []byte) (*x509.CertificateRequest, [sha256.Size]byte, error) {
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, [sha256.Size]byte{}, errors.New("this is no certificate request")
	}
	if err := request.CheckSignature(); err != nil {
		return nil, [sha256.Size]byte{}, errors.New("the certificate request is not signed by its own key")
	}
	if key, ok := request.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, [sha256.Size]byte{}, errors.New("a proxy's key is of ECDSA on P-256")
	}
	return request, sha256.Sum256(request.RawSubjectPublicKeyInfo), nil
}

// ProxyOf returns the id of the proxy that a verified certificate names.
func ProxyOf(cert *x509.Certificate) (uuid.UUID, bool) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != scheme || cert.URIs[0].Host != host || len(cert.URIs[0].Path) < 2 {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(cert.URIs[0].Path[1:])
	return id, err == nil
}

// ServerTLS is how a control plane meets proxies: it shows a certificate of the authority, and checks one where one is shown. Who joins has
// none yet. No session is resumed: a resumed one would be believed by an authority that was dropped since.
func (a *Authority) ServerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			return &tls.Config{
				MinVersion: tls.VersionTLS13, ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: a.current.Load().pool, Time: a.now, NextProtos: []string{"h2", "http/1.1"},
				SessionTicketsDisabled: true, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.serverCertificate() },
			}, nil
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.serverCertificate() },
	}
}

// serverCertificate is this process's own, made anew when half of its time is over.
func (a *Authority) serverCertificate() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	by := a.current.Load().serving()
	if a.server != nil && a.by == by.fingerprint && a.server.Leaf.NotAfter.Sub(a.now()) > serverFor/2 {
		return a.server, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("certifying the control plane: %w", err)
	}
	template, err := newTemplate("Sallyport control plane", a.now(), serverFor)
	if err != nil {
		return nil, fmt.Errorf("certifying the control plane: %w", err)
	}
	template.DNSNames, template.ExtKeyUsage = []string{ControlPlaneName}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key.Public(), by.key)
	if err != nil {
		return nil, fmt.Errorf("certifying the control plane: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certifying the control plane: %w", err)
	}
	a.server, a.by = &tls.Certificate{Certificate: [][]byte{der, by.cert.Raw}, PrivateKey: key, Leaf: leaf}, by.fingerprint
	return a.server, nil
}
