package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/scripts/demo/agent"
)

// TestProxiesGoOnWhileTheControlPlaneIsAway: they serve and record by themselves, and catch up when it is back.
func TestProxiesGoOnWhileTheControlPlaneIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	east, west := newProxy(t, w.cp, "us-east"), newProxy(t, w.cp, "eu-west")
	w.cp.enforced()
	sessions := []*agent.Session{w.session(east, ada), w.session(west, ada)}
	bobs := []*agent.Session{w.session(east, bob), w.session(west, bob)}
	w.cp.Kill()
	const rounds = 20
	for range rounds {
		for _, s := range append(sessions, bobs...) {
			if err := works(t.Context(), s); err != nil {
				t.Fatalf("while the control plane is away: %v", err)
			}
		}
	}
	w.cp.start()
	w.scim.deactivate(w.bob)
	w.cp.enforced()
	for _, s := range bobs {
		if works(t.Context(), s) == nil {
			t.Error("a change made after the restart is not enforced")
		}
	}
	for _, s := range sessions {
		if err := works(t.Context(), s); err != nil {
			t.Error(err)
		}
	}
	eventually(t, func() error {
		got, err := w.audit(&adminv1.AuditFilter{Person: ada})
		if err != nil {
			return err
		}
		return got.twoPhases(2*rounds + 2)
	})
}

// TestLeaseEndsService: a proxy that heard from nobody for longer than its lease lets nobody through, and serves again
// as soon as it hears.
func TestLeaseEndsService(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--lease", "3s", "--heartbeat", "500ms")
	p := newProxy(t, w.cp, "us-east", "--heartbeat", "500ms")
	w.cp.enforced()
	s := w.session(p, ada)
	if err := works(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.cp.Kill()
	if err := works(t.Context(), s); err != nil {
		t.Fatalf("within the lease: %v", err)
	}
	before := 0
	eventually(t, func() error {
		before = w.github.Calls.Count("")
		if works(t.Context(), s) == nil {
			return fmt.Errorf("it still serves")
		}
		return nil
	})
	for range 20 {
		if works(t.Context(), s) == nil {
			t.Fatal("a call went through after the lease")
		}
	}
	if n := w.github.Calls.Count(""); n != before {
		t.Errorf("%d calls reached the upstream after the lease", n-before)
	}
	status, _, body := post(t, p, w.issuer.token(ada), nil, goodCall)
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "not current") {
		t.Errorf("after the lease a call is answered %d %s", status, body)
	}
	w.cp.start()
	eventually(t, func() error { return works(t.Context(), s) })
}
