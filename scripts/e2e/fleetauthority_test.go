package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	"sallyport.dev/proto/gen/sallyport/fleet/v1/fleetv1connect"
)

// identityOf is the certificate that a proxy holds, with its key.
func identityOf(t *testing.T, p *proxy) (cert tls.Certificate) {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(p.data(), "identity.pem"))
	if err != nil {
		t.Fatal(err)
	}
	var key, certs []byte
	for rest := file; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			certs = append(certs, pem.EncodeToMemory(block)...)
		} else {
			key = pem.EncodeToMemory(block)
		}
	}
	if cert, err = tls.X509KeyPair(certs, key); err != nil {
		t.Fatal(err)
	}
	return cert
}

// TestTheFleetsAuthorityIsReplacedUnderLoad: no call is lost, no proxy joins again, and what the old authority certified is refused afterwards.
func TestTheFleetsAuthorityIsReplacedUnderLoad(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--heartbeat", "200ms")
	const resource = "http://127.0.0.1/mcp"
	one, _ := another(t, w.cp, "us-east", 1, "--resource", resource, "--heartbeat", "1s")
	two, _ := another(t, w.cp, "us-east", 2, "--resource", resource, "--heartbeat", "1s")
	w.cp.enforced()
	token := w.issuer.token(ada)
	old := identityOf(t, one)

	ctx, enough := context.WithCancel(t.Context())
	var made, lost atomic.Int64
	var load sync.WaitGroup
	for _, p := range []*proxy{one, two} {
		load.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				status, _, body := post(t, p, token, nil, fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":"github__list_branches","arguments":{"owner":"acme","repo":"payments"},%s}}`, n, meta))
				if made.Add(1); status != http.StatusOK || bytes.Contains([]byte(body), []byte(`"isError":true`)) {
					if lost.Add(1) < 5 {
						t.Errorf("a call to %s during the rotation: %d %s", p.name, status, body)
					}
				}
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
	out, err := w.cp.Run(ctx, "proxies", "rotate-ca", "--wait")
	if err != nil {
		t.Error(err)
	}
	enough()
	load.Wait()
	t.Logf("%d calls were made during the rotation, %d were lost\n%s", made.Load(), lost.Load(), out)
	if made.Load() < 100 {
		t.Errorf("only %d calls were made", made.Load())
	}
	var fresh tls.Certificate
	eventually(t, func() error {
		fresh = identityOf(t, one)
		if len(fresh.Certificate) != 2 || bytes.Equal(old.Certificate[1], fresh.Certificate[1]) {
			return fmt.Errorf("the proxy believes %d authorities, of which the first is the old one: %v", len(fresh.Certificate)-1, bytes.Equal(old.Certificate[1], fresh.Certificate[1]))
		}
		return nil
	})
	deliver := func(cert tls.Certificate) error {
		client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, //nolint:gosec // it is the certificate that is shown which counts here
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
		}}}
		defer client.CloseIdleConnections()
		_, err := fleetv1connect.NewFleetServiceClient(client, "https://"+w.cp.fleet).DeliverAudit(t.Context(), connect.NewRequest(&fleetv1.DeliverAuditRequest{SpoolGeneration: "g1"}))
		return err
	}
	if err := deliver(old); err == nil {
		t.Error("the old certificate was taken")
	}
	if err := deliver(fresh); err != nil {
		t.Errorf("the new certificate: %v", err)
	}
	// What is kept is enough to start again.
	stop(t, one.Process)
	one.start()
	eventually(t, func() error {
		if status, _, body := post(t, one, token, nil, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"github__list_branches","arguments":{"owner":"acme","repo":"payments"},`+meta+`}}`); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
}
