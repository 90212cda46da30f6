package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// TestBehindLoadBalancersAddressesAreThoseOfAgents, for conditions, audit and the limits of registrations, where an admin named
// them; where not, nobody's word is taken.
func TestBehindLoadBalancersAddressesAreThoseOfAgents(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--load-balancer", "127.0.0.0/8")
	behind := newProxy(t, w.cp, "us-east", "--load-balancer", "127.0.0.1", "--load-balancer-header", "Forwarded")
	before := newProxy(t, w.cp, "eu-west")
	w.cp.apply("kind: Grant\ngroup: corp/Staff\nconnector: github\nrules:\n  - allow: [list_branches]\n    when: cidr(\"198.51.100.0/24\").containsIP(request.address)\n")
	w.cp.enforced()
	token := w.issuer.token(ada)
	for _, c := range []struct {
		name, header, value string
		at                  *proxy
		address             string
	}{
		{"a good agent", "Forwarded", "for=198.51.100.7:4711;proto=https", behind, "198.51.100.7"},
		{"over IPv6", "Forwarded", `for="[2001:db8::7]:4711"`, behind, "2001:db8::7"},
		{"an agent that writes the header itself", "Forwarded", "for=198.51.100.7, for=203.0.113.9", behind, "203.0.113.9"},
		{"an agent that writes the other header", "X-Forwarded-For", "198.51.100.7", behind, "127.0.0.1"},
		{"an agent that writes garbage", "Forwarded", "for=198.51.100.7;for", behind, "198.51.100.7"},
		{"where nobody is believed", "Forwarded", "for=198.51.100.7", before, "127.0.0.1"},
		{"where nobody is believed, by the other header", "X-Forwarded-For", "198.51.100.7", before, "127.0.0.1"},
	} {
		status, _, body := post(t, c.at, token, map[string]string{c.header: c.value}, goodCall)
		allowed := status == http.StatusOK && !strings.Contains(body, `"error"`) && !strings.Contains(body, `"isError":true`)
		if want := strings.HasPrefix(c.address, "198.51.100."); allowed != want {
			t.Errorf("%s: allowed is %t: %d %s", c.name, allowed, status, body)
		}
		phase := auditv1.Phase_PHASE_COMPLETED
		if !allowed {
			phase = auditv1.Phase_PHASE_REFUSED
		}
		eventually(t, func() error { // the newest record of the proxy
			records, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Proxy: c.at.name})
			if err != nil || len(records) == 0 {
				return errors.Join(err, errors.New("there is no record"))
			}
			r := records[0].GetRecord()
			if r.GetPhase() != phase || r.GetClient().GetAddress() != c.address {
				return fmt.Errorf("%s: the last record is %s from %q, want %q", c.name, r.GetPhase(), r.GetClient().GetAddress(), c.address)
			}
			return nil
		})
	}

	register := func(cp *controlPlane, address string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+cp.signin+"/oauth/register", strings.NewReader(`{"client_name":"x","redirect_uris":["http://127.0.0.1/cb"]}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("X-Forwarded-For", address)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	// Registrations of one address are 30 a minute.
	limited := func(cp *controlPlane, address func(i int) string) bool {
		t.Helper()
		for i := range 50 {
			if register(cp, address(i)) == http.StatusTooManyRequests {
				return true
			}
		}
		return false
	}
	if !limited(w.cp, func(i int) string { return fmt.Sprintf("192.0.2.%d, 198.51.100.9", i) }) {
		t.Error("an agent that makes addresses up is not held")
	}
	if status := register(w.cp, "198.51.100.10"); status != http.StatusCreated {
		t.Errorf("another is held with it: %d", status)
	}
	if !limited(newControlPlane(t), func(i int) string { return fmt.Sprintf("198.51.100.%d", i) }) {
		t.Error("an address is believed though no load balancer was named")
	}
}
