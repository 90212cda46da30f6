package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/dataplane/spiffe/spiffetest"
)

// workload is a process with a SPIFFE id, and where its agent puts it.
type workload struct {
	id    string
	files spiffetest.Files
}

func (w workload) flags() []string {
	return []string{"--spiffe-cert", w.files.Cert, "--spiffe-key", w.files.Key, "--spiffe-bundle", "example.org=" + w.files.Bundle}
}

// TestSVIDsRotateUnderLoadAndARevokedOneStaysOut: a control plane and two proxies that know each other by SPIFFE ids alone, whose SVIDs are good for
// seconds and whose trust domain gets another root meanwhile. No call is lost.
func TestSVIDsRotateUnderLoadAndARevokedOneStaysOut(t *testing.T) {
	t.Parallel()
	first, second := spiffetest.New(t, "example.org"), spiffetest.New(t, "example.org")
	here := func(id string) workload { return workload{"spiffe://example.org/" + id, spiffetest.In(t.TempDir())} }
	all := []workload{here("sallyport/control-plane"), here("sallyport/us-east/us-east-1"), here("sallyport/us-east/us-east-2")}
	// rotate gives everybody an SVID as an agent does: the files one after the other.
	rotate := func(by *spiffetest.Authority, bundle ...*spiffetest.Authority) {
		for _, w := range all {
			w.files.Write(t, by.Issue(w.id, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(20 * time.Second) }), bundle...)
		}
	}
	rotate(first, first)
	w := newWorld(t, append(all[0].flags(), "--heartbeat", "200ms", "--spiffe-proxies", "spiffe://example.org/sallyport/{region}/{name}")...)
	var proxies []*proxy
	for i, id := range all[1:] {
		peers := freeAddress(t)
		p := &proxy{t: t, name: fmt.Sprintf("us-east-%d", i+1), region: "us-east", listen: freeAddress(t), dir: t.TempDir(), fleet: "https://" + w.cp.fleet}
		p.flags = append(id.flags(), "--spiffe-control-plane", all[0].id, "--resource", "http://127.0.0.1/mcp", "--heartbeat", "1s", "--peer-listen", peers, "--peer-url", "https://"+peers)
		p.start()
		proxies = append(proxies, p)
	}
	one, two := proxies[0], proxies[1]
	w.cp.enforced()
	token := w.issuer.token(ada)

	ctx, enough := context.WithCancel(t.Context())
	var made, lost atomic.Int64
	var load sync.WaitGroup
	for _, p := range proxies {
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
	// shown is the certificate that a listener of the system shows who asks for its SPIFFE id.
	shown := func(address string) *x509.Certificate {
		dialer := &tls.Dialer{Config: &tls.Config{ServerName: "spiffe.sallyport", InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}} //nolint:gosec // it is looked at alone
		conn, err := dialer.DialContext(t.Context(), "tcp", address)
		if err != nil {
			return nil
		}
		cert := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
		_ = conn.Close()
		return cert
	}
	addresses := []string{w.cp.fleet}
	for _, p := range proxies {
		for i, f := range p.flags {
			if f == "--peer-listen" {
				addresses = append(addresses, p.flags[i+1])
			}
		}
	}
	// taken waits until everybody shows what an authority certified, and no longer what they had before.
	before := make([]*x509.Certificate, len(addresses))
	taken := func(by *spiffetest.Authority) {
		t.Helper()
		for i, address := range addresses {
			eventually(t, func() error {
				now := shown(address)
				if now == nil || now.Equal(before[i]) || now.CheckSignatureFrom(by.Root()) != nil {
					return fmt.Errorf("%s shows another SVID", address)
				}
				before[i] = now
				return nil
			})
		}
		w.cp.enforced()
	}
	taken(first)
	began := before[1].NotAfter
	for range 3 {
		rotate(first, first)
		taken(first)
	}
	for _, x := range all { // the next root is believed before it certifies anybody
		x.files.WriteBundle(t, first, second)
	}
	eventually(t, func() error {
		rotate(first, first, second)
		taken(first)
		rotate(second, first, second)
		taken(second)
		rotate(second, second)
		taken(second)
		if time.Now().Before(began.Add(2 * time.Second)) {
			rotate(second, second)
			taken(second)
			return errors.New("the first SVID is good yet")
		}
		return nil
	})
	enough()
	load.Wait()
	t.Logf("%d calls were made while SVIDs and the root were replaced, %d were lost", made.Load(), lost.Load())
	if made.Load() < 100 {
		t.Errorf("only %d calls were made", made.Load())
	}

	// A session's calls go to its home, from proxy to proxy by their SPIFFE ids.
	session := map[string]string{"MCP-Protocol-Version": "", "Mcp-Method": "", "Mcp-Name": ""}
	status, header, body := post(t, one, token, session, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}`)
	if status != http.StatusOK || header.Get("Mcp-Session-Id") == "" {
		t.Fatalf("%d %s", status, body)
	}
	session["Mcp-Session-Id"], session["MCP-Protocol-Version"] = header.Get("Mcp-Session-Id"), "2025-11-25"
	eventually(t, func() error {
		if status, _, body := post(t, two, token, session, `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"github__list_branches","arguments":{"owner":"acme","repo":"home"}}}`); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, body)
		}
		records, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Person: ada})
		if err != nil {
			return err
		}
		for _, r := range records {
			if r.GetRecord().GetProxy() == one.name && strings.Contains(r.GetRecord().GetArguments().String(), "home") {
				return nil
			}
		}
		return errors.New("no call was made at the session's home")
	})

	// Revoked, it stays out whatever SVID it has; readmitted, it serves again.
	w.cp.must("proxies", "revoke", two.name)
	rotate(second, second)
	eventually(t, func() error {
		if status, _, body := post(t, two, w.issuer.token(ada), nil, goodCall); status == http.StatusOK {
			return fmt.Errorf("the revoked proxy answers %s", body)
		}
		return nil
	})
	out, err := w.cp.Run(t.Context(), "proxies")
	if err != nil || !bytes.Contains(out, []byte("barred")) || !bytes.Contains(out, []byte(all[2].id)) {
		t.Errorf("admins are shown %s: %v", out, err)
	}
	if err := works(t.Context(), w.session(one, ada)); err != nil {
		t.Error(err)
	}
	w.cp.must("proxies", "readmit", all[2].id)
	eventually(t, func() error {
		if status, _, body := post(t, two, w.issuer.token(ada), nil, goodCall); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
}
