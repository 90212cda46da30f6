package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
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

	// A session of the first's, whose calls at the second go from proxy to proxy.
	session := map[string]string{"MCP-Protocol-Version": "", "Mcp-Method": "", "Mcp-Name": ""}
	_, header, _ := post(t, one, token, session, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}`)
	session["Mcp-Session-Id"], session["MCP-Protocol-Version"] = header.Get("Mcp-Session-Id"), "2025-11-25"
	post(t, one, token, session, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	forwarded := func(repo string) (int, string) {
		status, _, body := post(t, two, token, session, `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"github__list_branches","arguments":{"owner":"acme","repo":"`+repo+`"}}}`)
		return status, body
	}
	// homes counts where calls with an argument were made.
	homes := func(repo string) (at map[string]int, err error) {
		records, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Person: ada})
		at = map[string]int{}
		for _, r := range records {
			if r := r.GetRecord(); r.GetPhase() == auditv1.Phase_PHASE_AUTHORIZED && strings.Contains(r.GetArguments().String(), repo) {
				at[r.GetProxy()]++
			}
		}
		return at, err
	}
	eventually(t, func() error {
		if status, body := forwarded("before"); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, body)
		}
		at, err := homes("before")
		if err == nil && at[one.name] == 0 {
			err = errors.New("the second does not know the first yet")
		}
		return err
	})

	ctx, enough := context.WithCancel(t.Context())
	var made, lost, sent atomic.Int64
	var load sync.WaitGroup
	load.Go(func() {
		for ctx.Err() == nil {
			sent.Add(1)
			if status, body := forwarded("meanwhile"); status != http.StatusOK || !strings.Contains(body, "repository acme/meanwhile") { // the upstream's answer
				t.Errorf("a call that is sent on, during the rotation: %d %s", status, body)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
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
	eventually(t, func() error {
		at, err := homes("meanwhile")
		if err == nil && (len(at) != 1 || at[one.name] != int(sent.Load())) {
			err = fmt.Errorf("of %d calls of the session these were made at %s, its home: %v", sent.Load(), one.name, at)
		}
		return err
	})
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
