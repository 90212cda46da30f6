package e2e

import (
	"fmt"
	"strings"
	"testing"

	"sallyport.dev/scripts/demo/servers"
)

// TestAdminsSeeWhichConnectorsFailWhere: a proxy tells that an upstream fails, and that it does no more.
func TestAdminsSeeWhichConnectorsFailWhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newProxy(t, w.cp, "us-east", "--heartbeat", "1s")
	w.cp.enforced()
	s := w.session(p, ada)
	if err := works(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	shows := func(want string) {
		t.Helper()
		eventually(t, func() error {
			for _, args := range [][]string{{"connectors", "health"}, {"proxies"}} {
				said, err := w.cp.Run(t.Context(), args...)
				if err != nil {
					return err
				}
				if strings.Contains(string(said), "failing") != (want != "") || args[0] == "connectors" && !strings.Contains(string(said), want) {
					return fmt.Errorf("%s: %s", strings.Join(args, " "), said)
				}
				secretive(t, string(said))
			}
			return nil
		})
	}
	shows("")
	m := newMoody(t, nil)
	w.connect("moody", m.URL+servers.SessionPath, "timeout: 1s\n")
	w.cp.enforced()
	m.Close()
	for range 3 {
		s.Call(t.Context(), "moody__list_branches", payments)
	}
	shows("connector moody")
}
