// Package spiffetest is a SPIFFE authority for tests: it certifies whatever it is asked to, and writes files as the agents beside workloads do.
package spiffetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority certifies the workloads of a trust domain.
type Authority struct {
	t      testing.TB
	Domain string
	cert   *x509.Certificate
	key    crypto.Signer
}

func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return must(t, key, err)
}

func template(t testing.TB) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	return &x509.Certificate{SerialNumber: must(t, serial, err), BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
}

// New makes the authority of a trust domain.
func New(t testing.TB, domain string) *Authority {
	t.Helper()
	root := template(t)
	root.Subject, root.IsCA, root.KeyUsage = pkix.Name{CommonName: "root of " + domain}, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	root.URIs = []*url.URL{{Scheme: "spiffe", Host: domain}}
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	cert, err2 := x509.ParseCertificate(must(t, der, err))
	return &Authority{t: t, Domain: domain, cert: must(t, cert, err2), key: key}
}

// Below makes an authority that this one certifies.
func (a *Authority) Below() *Authority {
	a.t.Helper()
	made := a.Issue("spiffe://"+a.Domain, func(c *x509.Certificate) {
		c.Subject, c.IsCA, c.KeyUsage, c.ExtKeyUsage = pkix.Name{CommonName: "below"}, true, x509.KeyUsageCertSign, nil
	})
	return &Authority{t: a.t, Domain: a.Domain, cert: made.Leaf, key: made.PrivateKey.(crypto.Signer)}
}

// Issue certifies an id; change makes of the SVID what it should not be, or what it should.
func (a *Authority) Issue(id string, change ...func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	leaf := template(a.t)
	uri, err := url.Parse(id)
	leaf.URIs = []*url.URL{must(a.t, uri, err)}
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, c := range change {
		c(leaf)
	}
	key := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, key.Public(), a.key)
	parsed, err2 := x509.ParseCertificate(must(a.t, der, err))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: must(a.t, parsed, err2)}
}

// Root is the authority's own certificate.
func (a *Authority) Root() *x509.Certificate { return a.cert }

// Files are where an agent puts a workload's identity.
type Files struct{ Cert, Key, Bundle string }

// In names files in a folder.
func In(dir string) Files {
	return Files{filepath.Join(dir, "svid.pem"), filepath.Join(dir, "svid_key.pem"), filepath.Join(dir, "bundle.pem")}
}

// Write replaces all files, one after the other and not at once, as spiffe-helper does.
func (f Files) Write(t testing.TB, svid tls.Certificate, bundle ...*Authority) {
	t.Helper()
	f.WriteCert(t, svid)
	f.WriteKey(t, svid)
	f.WriteBundle(t, bundle...)
}

// WriteCert replaces the SVID alone.
func (f Files) WriteCert(t testing.TB, svid tls.Certificate) {
	t.Helper()
	write(t, f.Cert, "CERTIFICATE", svid.Certificate...)
}

// WriteKey replaces the key alone.
func (f Files) WriteKey(t testing.TB, svid tls.Certificate) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(svid.PrivateKey)
	write(t, f.Key, "PRIVATE KEY", must(t, der, err))
}

// WriteBundle replaces the bundle alone.
func (f Files) WriteBundle(t testing.TB, bundle ...*Authority) {
	t.Helper()
	var all [][]byte
	for _, a := range bundle {
		all = append(all, a.cert.Raw)
	}
	write(t, f.Bundle, "CERTIFICATE", all...)
}

func write(t testing.TB, path, kind string, all ...[]byte) {
	t.Helper()
	var data []byte
	for _, der := range all {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
