package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
)

// another starts one more proxy of a region, which the region's others can reach.
func another(t testing.TB, c *controlPlane, region string, number int, flags ...string) (p *proxy, peers string) {
	t.Helper()
	peers = freeAddress(t)
	flags = append(flags, "--peer-listen", peers, "--peer-url", "https://"+peers)
	p = &proxy{t: t, name: fmt.Sprintf("%s-%d", region, number), region: region, listen: freeAddress(t), dir: t.TempDir(), fleet: "https://" + c.fleet, flags: flags}
	p.invitation = filepath.Join(p.dir, "invitation")
	if err := c.Invite(t.Context(), p.invitation, p.name, region); err != nil {
		t.Fatal(err)
	}
	p.start()
	return p, peers
}

// TestProxiesKnowEachOtherByTheFleetsCertificates: a call that belongs to another proxy's session goes there, over a connection that nobody else opens.
func TestProxiesKnowEachOtherByTheFleetsCertificates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--heartbeat", "200ms")
	const resource = "http://127.0.0.1/mcp"
	one, peers := another(t, w.cp, "us-east", 1, "--resource", resource, "--heartbeat", "1s")
	two, _ := another(t, w.cp, "us-east", 2, "--resource", resource, "--heartbeat", "1s")
	w.cp.enforced()
	token := w.issuer.token(ada)
	session := map[string]string{"MCP-Protocol-Version": "", "Mcp-Method": "", "Mcp-Name": ""}
	status, header, body := post(t, one, token, session, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"e2e","version":"1"}}}`)
	if status != http.StatusOK || header.Get("Mcp-Session-Id") == "" {
		t.Fatalf("%d %s", status, body)
	}
	session["Mcp-Session-Id"], session["MCP-Protocol-Version"] = header.Get("Mcp-Session-Id"), "2025-11-25"
	post(t, one, token, session, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	// The second proxy learns of the first with a heartbeat; from then on the session's calls are made and recorded at its home.
	eventually(t, func() error {
		if status, _, body := post(t, two, token, session, `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"github__list_branches","arguments":{"owner":"acme","repo":"payments"}}}`); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, body)
		}
		records, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Person: ada})
		if err != nil {
			return err
		}
		for _, r := range records {
			if r.GetRecord().GetProxy() == one.name && r.GetRecord().GetTool() == "list_branches" {
				return nil
			}
		}
		return errors.New("no call was made at the session's home")
	})
	// Who has no certificate of the fleet is not let in.
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}}} //nolint:gosec // it is the stranger who does not look
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+peers+"/healthz", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := stranger.Do(req); err == nil {
		_ = res.Body.Close()
		t.Errorf("a stranger was answered %d", res.StatusCode)
	}
}

func TestAProxyNeedsItsInvitationOnceAndIsGoneWhenItIsRevoked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--heartbeat", "200ms")
	p := newProxy(t, w.cp, "us-east", "--heartbeat", "1s")
	used, err := os.ReadFile(p.invitation)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Stop(), os.Remove(p.invitation)); err != nil {
		t.Fatal(err)
	}
	p.start()
	w.cp.enforced()
	if err := works(t.Context(), w.session(p, ada)); err != nil {
		t.Fatal(err)
	}

	// Another who found the invitation comes too late.
	thief := &proxy{t: t, name: p.name, region: p.region, listen: freeAddress(t), dir: t.TempDir(), fleet: p.fleet}
	thief.invitation = filepath.Join(thief.dir, "invitation")
	if err := os.WriteFile(thief.invitation, used, 0o600); err != nil {
		t.Fatal(err)
	}
	thief.launch()
	select {
	case <-thief.Done():
		if thief.ExitCode() == 0 {
			t.Error("who came with a used invitation ended as if all were well")
		}
	case <-time.After(patience):
		t.Error("who came with a used invitation did not end")
	}

	w.cp.must("proxies", "revoke", p.name)
	eventually(t, func() error {
		status, _, body := post(t, p, w.issuer.token(ada), nil, goodCall)
		if status == http.StatusOK {
			return fmt.Errorf("the revoked proxy answers %s", body)
		}
		return nil
	})
}

// TestAProxyRenewsItsCertificateAndServesOn lets several certificates of a proxy run out.
func TestAProxyRenewsItsCertificateAndServesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--certificate-ttl", "10s")
	p := newProxy(t, w.cp, "us-east")
	s := w.session(p, ada)
	certificate := func() *x509.Certificate {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(p.data(), "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, _ := os.ReadFile(file) // a folder has none
			for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
				if cert, err := x509.ParseCertificate(block.Bytes); err == nil && !cert.IsCA {
					return cert
				}
			}
		}
		t.Fatal("the proxy has no certificate")
		return nil
	}
	first, last := certificate(), certificate()
	renewals := 0
	eventually(t, func() error {
		if now := certificate(); now.SerialNumber.Cmp(last.SerialNumber) != 0 {
			last = now
			renewals++
		}
		if time.Now().Before(first.NotAfter.Add(3*time.Second)) || renewals < 2 {
			return fmt.Errorf("%d renewals", renewals)
		}
		return nil
	})
	if renewals > 20 {
		t.Errorf("%d renewals within two certificates' time", renewals)
	}
	if bytes.Equal(first.RawSubjectPublicKeyInfo, last.RawSubjectPublicKeyInfo) {
		t.Error("the key was not renewed")
	}
	w.cp.enforced()
	if err := works(t.Context(), s); err != nil {
		t.Error(err)
	}
	if err := errors.Join(p.Stop(), os.Remove(p.invitation)); err != nil {
		t.Fatal(err)
	}
	p.start()
	if err := works(t.Context(), w.session(p, ada)); err != nil {
		t.Errorf("after a start with a renewed certificate: %v", err)
	}
}
