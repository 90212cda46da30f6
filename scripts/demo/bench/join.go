package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"
)

// join exchanges an invitation for a certificate, as a proxy does.
func join(ctx context.Context, url, invitation string) (*tls.Config, error) {
	_, pin, _ := strings.Cut(invitation, ".")
	fingerprint, err := base64.RawURLEncoding.DecodeString(pin)
	if err != nil || len(fingerprint) != sha256.Size {
		return nil, errors.New("the invitation names no authority")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, //nolint:gosec // the pin below is what it trusts
		VerifyConnection: func(s tls.ConnectionState) error {
			for _, cert := range s.PeerCertificates {
				if sha256.Sum256(cert.Raw) == [sha256.Size]byte(fingerprint) {
					return s.PeerCertificates[0].CheckSignatureFrom(cert)
				}
			}
			return errors.New("this is no control plane of the fleet")
		},
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	defer client.CloseIdleConnections()
	answer, err := fleetv1connect.NewEnrolmentServiceClient(client, url).Join(ctx, connect.NewRequest(&fleetv1.JoinRequest{Invitation: invitation, CertificateRequest: request}))
	if err != nil {
		return nil, fmt.Errorf("join the fleet: %w", err)
	}
	config = config.Clone()
	config.Certificates = []tls.Certificate{{Certificate: [][]byte{answer.Msg.GetCertificate()}, PrivateKey: key}}
	return config, nil
}
