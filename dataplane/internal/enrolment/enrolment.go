// Package enrolment is who a proxy is: it joins the fleet with an invitation, and holds a certificate from then on, by which control
// planes and the other proxies of its region know it. Or a SPIFFE authority says who it is (Workload).
//
// The invitation names the fleet's certificate authority, so that a proxy trusts no other from its first word on. The key never leaves
// the proxy's folder; certificates live for hours, and each has a new key.
package enrolment

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	rand2 "math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"
)

// controlPlaneName is the name under which control planes are certified.
const controlPlaneName = "control-plane.sallyport"

const (
	identityFile = "identity.pem"
	joinKeyFile  = "join-key.pem"
	callTimeout  = 15 * time.Second
	retryFirst   = time.Second
	retryLast    = time.Minute
)

// Config is how a proxy enrols. Dir and ControlPlanes are required.
type Config struct {
	// Dir keeps the key and the certificate, for the proxy's user alone.
	Dir string
	// Invitation is what the proxy joins with, if it did not yet.
	Invitation string
	// ControlPlanes are their URLs, https.
	ControlPlanes []string
	// OnRenewed, where set, is called when there is another certificate: connections that were opened with the one before are to be replaced.
	OnRenewed func()
	// Spread bounds the random pause before a renewal that a control plane asks for, so that not all proxies come at once. Default: 5 s.
	Spread time.Duration
	Now    func() time.Time
	Log    *slog.Logger
}

// Identity is a proxy's certificate, kept current by Run. It is safe for concurrent use.
type Identity struct {
	config  Config
	current atomic.Pointer[held]
	asked   chan struct{} // a control plane wants the certificate to be renewed
}

// held is a certificate in use.
type held struct {
	cert tls.Certificate
	pool *x509.CertPool // the fleet's authorities
	says *fleetv1.Authorities
}

// Open reads the proxy's identity, or joins the fleet. It waits for a control plane as long as ctx lives.
func Open(ctx context.Context, c Config) (*Identity, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Spread == 0 {
		c.Spread = 5 * time.Second
	}
	i := &Identity{config: c, asked: make(chan struct{}, 1)}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("the data folder cannot be used: %w", err)
	}
	data, err := os.ReadFile(filepath.Join(c.Dir, identityFile))
	if err == nil {
		if err := i.read(data); err != nil {
			return nil, err
		}
		if c.Now().Before(i.current.Load().cert.Leaf.NotAfter) {
			return i, nil
		}
		err = errors.New("the proxy's certificate has expired: it was away from its control planes for too long")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && c.Invitation == "" {
		return nil, fmt.Errorf("%w; revoke the proxy, invite it again (sallyport proxies invite NAME --region REGION) and start it with --invitation-file", err)
	}
	if c.Invitation == "" {
		return nil, errors.New("a proxy needs an invitation to join the fleet: make one with sallyport proxies invite NAME --region REGION, and name its file with --invitation-file")
	}
	if err := i.join(ctx); err != nil {
		return nil, err
	}
	return i, nil
}

func (i *Identity) read(data []byte) error {
	bad := func(err error) error {
		return fmt.Errorf("the proxy's identity in %s cannot be read: %w", i.config.Dir, err)
	}
	var key *ecdsa.PrivateKey
	var certs [][]byte
	for len(data) > 0 {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		switch block.Type {
		case "EC PRIVATE KEY":
			var err error
			if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
				return bad(errors.New("its key is none"))
			}
		case "CERTIFICATE":
			certs = append(certs, block.Bytes)
		}
	}
	if key == nil || len(certs) < 2 {
		return bad(errors.New("it is not whole"))
	}
	h, err := hold(key, certs[0], certs[1:])
	if err != nil {
		return bad(err)
	}
	i.current.Store(h)
	return nil
}

// hold puts a certificate into use, if one of the authorities made it.
func hold(key *ecdsa.PrivateKey, cert []byte, authorities [][]byte) (*held, error) {
	leaf, err := x509.ParseCertificate(cert)
	if err != nil {
		return nil, fmt.Errorf("its certificate: %w", err)
	}
	h := &held{cert: tls.Certificate{PrivateKey: key, Leaf: leaf}, pool: x509.NewCertPool(), says: &fleetv1.Authorities{}}
	for _, der := range authorities {
		authority, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("its authority: %w", err)
		}
		h.pool.AddCert(authority)
		sum := sha256.Sum256(der)
		h.says.Trusted = append(h.says.Trusted, sum[:])
		if leaf.CheckSignatureFrom(authority) == nil {
			h.says.Issuer, h.cert.Certificate = sum[:], [][]byte{cert, der}
		}
	}
	if h.says.GetIssuer() == nil || !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("key, certificate and authority do not belong together")
	}
	slices.SortFunc(h.says.Trusted, bytes.Compare)
	return h, nil
}

// keep writes an identity so that a crash leaves the one before or the new one.
func (i *Identity) keep(key *ecdsa.PrivateKey, cert []byte, authorities [][]byte) error {
	h, err := hold(key, cert, authorities)
	if err != nil {
		return fmt.Errorf("the control plane gave a certificate that is of no use: %w", err)
	}
	data, err := keyPEM(key)
	if err != nil {
		return err
	}
	for _, der := range append([][]byte{cert}, authorities...) {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := write(filepath.Join(i.config.Dir, identityFile), data); err != nil {
		return fmt.Errorf("keeping the proxy's identity: %w", err)
	}
	i.current.Store(h)
	return nil
}

// Holds is what the proxy holds of the fleet's authorities.
func (i *Identity) Holds() *fleetv1.Authorities { return i.current.Load().says }

// Want has the certificate renewed if the proxy does not hold what a control plane says that it is to hold.
func (i *Identity) Want(wanted *fleetv1.Authorities) {
	if wanted == nil || proto.Equal(wanted, i.Holds()) {
		return
	}
	select {
	case i.asked <- struct{}{}:
	default:
	}
}

func keyPEM(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("writing a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func write(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".identity-*") // it is made with 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// request makes a PKCS #10 request. Who the proxy is, the control plane says.
func request(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return der, nil
}

// joinKey is the key that the proxy joins with. It is kept before it is used: an invitation whose answer was lost opens again for the same key alone.
func (i *Identity) joinKey() (*ecdsa.PrivateKey, error) {
	path := filepath.Join(i.config.Dir, joinKeyFile)
	data, err := os.ReadFile(path)
	if err == nil {
		if block, _ := pem.Decode(data); block != nil {
			if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
				return key, nil
			}
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	if data, err = keyPEM(key); err != nil {
		return nil, err
	}
	return key, write(path, data)
}

// join exchanges the invitation, at whichever control plane answers.
func (i *Identity) join(ctx context.Context) error {
	_, pin, ok := strings.Cut(i.config.Invitation, ".")
	fingerprint, err := base64.RawURLEncoding.DecodeString(pin)
	if !ok || err != nil || len(fingerprint) != sha256.Size {
		return errors.New("the invitation is not whole: it is one line, as sallyport proxies invite printed it")
	}
	key, err := i.joinKey()
	if err != nil {
		return err
	}
	der, err := request(key)
	if err != nil {
		return err
	}
	for pause := retryFirst; ; pause = min(2*pause, retryLast) {
		for _, url := range i.config.ControlPlanes {
			client := &http.Client{Timeout: callTimeout, Transport: &http.Transport{TLSClientConfig: pinned([sha256.Size]byte(fingerprint)), Proxy: http.ProxyFromEnvironment}}
			answer, err := fleetv1connect.NewEnrolmentServiceClient(client, url).Join(ctx, connect.NewRequest(&fleetv1.JoinRequest{
				Invitation: i.config.Invitation, CertificateRequest: der,
			}))
			client.CloseIdleConnections()
			if err == nil {
				// What the answer names beside it is believed since a control plane of the pinned authority said it.
				if !slices.ContainsFunc(answer.Msg.GetAuthorities(), func(der []byte) bool { return sha256.Sum256(der) == [sha256.Size]byte(fingerprint) }) {
					return errors.New("the control plane is of another fleet than the invitation")
				}
				if err := i.keep(key, answer.Msg.GetCertificate(), answer.Msg.GetAuthorities()); err != nil {
					return err
				}
				i.config.Log.Info("joined the fleet", "proxy", answer.Msg.GetProxy(), "region", answer.Msg.GetRegion())
				return os.Remove(filepath.Join(i.config.Dir, joinKeyFile))
			}
			switch connect.CodeOf(err) {
			case connect.CodeUnauthenticated, connect.CodePermissionDenied, connect.CodeInvalidArgument:
				return fmt.Errorf("joining the fleet: %w", err)
			}
			i.config.Log.Warn("a control plane does not let the proxy join yet; trying again", "control_plane", url, "error", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("joining the fleet: %w", context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

// pinned trusts the one authority that has a fingerprint, and in its word control planes alone.
func pinned(fingerprint [sha256.Size]byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: controlPlaneName,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, from an authority that is known by its fingerprint alone
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, ca := range s.PeerCertificates {
				if sha256.Sum256(ca.Raw) != fingerprint {
					continue
				}
				pool := x509.NewCertPool()
				pool.AddCert(ca)
				_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, DNSName: controlPlaneName})
				return err
			}
			return errors.New("what answers is no control plane of the fleet that the invitation is of")
		},
	}
}

// ForControlPlanes is how the proxy meets control planes.
func (i *Identity) ForControlPlanes() *tls.Config { return i.meets(controlPlaneName) }

// meets is how the proxy meets who is certified under a name, by the authorities that it believes at the time.
func (i *Identity) meets(name string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: name,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection does it, by what is believed when the connection is made
		VerifyConnection: func(s tls.ConnectionState) error {
			options := x509.VerifyOptions{Roots: i.current.Load().pool, DNSName: name, Intermediates: x509.NewCertPool()}
			for _, cert := range s.PeerCertificates[1:] {
				options.Intermediates.AddCert(cert)
			}
			_, err := s.PeerCertificates[0].Verify(options)
			return err
		},
		// Shown whichever authorities the other names: of two that are believed it may know one alone as yet.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &i.current.Load().cert, nil },
	}
}

// peerName is the name under which a proxy of this one's region is certified.
func (i *Identity) peerName(proxy string) string {
	return proxy + "." + strings.Join(i.current.Load().cert.Leaf.Subject.OrganizationalUnit, "") + ".proxy.sallyport"
}

// ForPeer is how the proxy meets another of its region.
func (i *Identity) ForPeer(p *fleetv1.Peer) *tls.Config { return i.meets(i.peerName(p.GetProxy())) }

// Peers takes the proxies of the region, of which the certificates say enough.
func (i *Identity) Peers([]*fleetv1.Peer) {}

// FromPeers is how other proxies of the region meet this one. A proxy that was revoked may have a certificate for hours yet: it gains nothing
// here that agents do not have, whose tokens are looked at, and what proxies tell each other is sealed with keys that it has not.
func (i *Identity) FromPeers() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			now := i.current.Load()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: now.pool, NextProtos: []string{"h2", "http/1.1"}, SessionTicketsDisabled: true,
				GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &now.cert, nil },
				VerifyConnection: func(s tls.ConnectionState) error {
					from := s.PeerCertificates[0]
					if from.VerifyHostname(i.peerName(from.Subject.CommonName)) != nil {
						return errors.New("no proxy of this region")
					}
					return nil
				},
			}, nil
		},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &i.current.Load().cert, nil },
	}
}

// Run renews the certificate when half of its time is over, or a control plane wants it, until ctx ends.
func (i *Identity) Run(ctx context.Context) {
	pause := retryFirst
	leaf := i.current.Load().cert.Leaf
	due := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	for {
		wait := due.Sub(i.config.Now())
		if wait <= 0 {
			if err := i.renew(ctx); err != nil {
				if ctx.Err() != nil {
					return
				}
				i.config.Log.WarnContext(ctx, "the proxy's certificate could not be renewed; trying again", "good_until", leaf.NotAfter, "error", err)
				wait, pause = pause, min(2*pause, retryLast)
			} else {
				// Of what is left of it: a certificate begins before it was made, for clocks that differ.
				pause, leaf = retryFirst, i.current.Load().cert.Leaf
				due = i.config.Now().Add(leaf.NotAfter.Sub(i.config.Now()) / 2)
				if i.config.OnRenewed != nil {
					i.config.OnRenewed()
				}
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		case <-i.asked:
			if soon := i.config.Now().Add(rand2.N(i.config.Spread)); soon.Before(due) {
				due = soon
			}
		}
	}
}

func (i *Identity) renew(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	der, err := request(key)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: callTimeout, Transport: &http.Transport{TLSClientConfig: i.ForControlPlanes(), Proxy: http.ProxyFromEnvironment}}
	defer client.CloseIdleConnections()
	var failed error
	for _, url := range i.config.ControlPlanes {
		answer, err := fleetv1connect.NewEnrolmentServiceClient(client, url).Renew(ctx, connect.NewRequest(&fleetv1.RenewRequest{CertificateRequest: der}))
		if err == nil {
			return i.keep(key, answer.Msg.GetCertificate(), answer.Msg.GetAuthorities())
		}
		failed = errors.Join(failed, err)
	}
	return failed
}
