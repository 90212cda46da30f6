package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	"sallyport.dev/scripts/demo/agent"
	"sallyport.dev/scripts/demo/servers"
)

// Who works in a world. Everybody of the group "Staff" may use every tool of the connectors that a test loads.
const (
	ada = "ada@corp.test"
	bob = "bob@corp.test"
)

// world is a control plane with a directory, two people, and one upstream, "github". Tests start proxies.
type world struct {
	t        testing.TB
	cp       *controlPlane
	issuer   *issuer
	scim     *scimClient
	github   *servers.GitHub
	ada, bob string // SCIM ids
	staff    string
}

func newWorld(t testing.TB, flags ...string) *world {
	t.Helper()
	return settle(t, newControlPlane(t, flags...))
}

// settle brings people and the upstream to a control plane.
func settle(t testing.TB, cp *controlPlane) *world {
	t.Helper()
	w := &world{t: t, cp: cp, issuer: newIssuer(t), github: servers.NewGitHub()}
	w.scim = scimOf(t, w.cp, w.issuer)
	w.ada, w.bob = w.scim.user(ada), w.scim.user(bob)
	w.staff = w.scim.group("Staff", w.ada, w.bob)
	url, end, err := w.github.Start(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	w.connect("github", url, "")
	return w
}

// connect loads a connector, pins its tools and lets Staff use them all.
func (w *world) connect(id, url, more string) {
	w.t.Helper()
	w.cp.apply(fmt.Sprintf("kind: Connector\nid: %s\nurl: %s\nallowedRanges: [127.0.0.0/8]\n%s", id, url, more))
	if err := w.cp.Pin(w.t.Context(), id); err != nil {
		w.t.Fatal(err)
	}
	w.cp.apply(fmt.Sprintf("kind: Grant\ngroup: corp/Staff\nconnector: %s\nrules:\n  - allow: [\"*\"]\n", id))
}

// session connects a person's agent to a proxy.
func (w *world) session(p *proxy, person string) *agent.Session {
	w.t.Helper()
	s, err := agent.Connect(w.t.Context(), p.url(), w.issuer.token(person), agent.Options{Revision: agent.Modern})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(s.Close)
	return s
}

// payments are the arguments of the calls that tests make.
var payments = map[string]any{"owner": "acme", "repo": "payments"}

// works makes one good call.
func works(ctx context.Context, s *agent.Session) error {
	if res := s.Call(ctx, "github__list_branches", payments); !res.OK {
		return fmt.Errorf("the call fails: %s", res.Text)
	}
	return nil
}

// calls are the audit records by call id and phase.
type calls map[string]map[auditv1.Phase][]*auditv1.AuditRecord

// audit returns the records of calls that a filter finds.
func (w *world) audit(filter *adminv1.AuditFilter) (calls, error) {
	records, err := w.cp.Records(w.t.Context(), filter)
	if err != nil {
		return nil, err
	}
	out := calls{}
	for _, stored := range records {
		r := stored.GetRecord()
		if r.GetKind() != auditv1.Kind_KIND_UNSPECIFIED { // such as a credential that a proxy was given
			continue
		}
		if out[r.GetCallId()] == nil {
			out[r.GetCallId()] = map[auditv1.Phase][]*auditv1.AuditRecord{}
		}
		out[r.GetCallId()][r.GetPhase()] = append(out[r.GetCallId()][r.GetPhase()], r)
	}
	return out, nil
}

// twoPhases says whether each of the calls has one authorized and one completed record, and nothing more.
func (c calls) twoPhases(want int) error {
	if len(c) != want {
		return fmt.Errorf("%d calls are recorded, not %d", len(c), want)
	}
	for id, phases := range c {
		first, last := phases[auditv1.Phase_PHASE_AUTHORIZED], phases[auditv1.Phase_PHASE_COMPLETED]
		if len(first) != 1 || len(last) != 1 || len(phases) != 2 {
			return fmt.Errorf("call %s: %d authorized, %d completed, %d phases", id, len(first), len(last), len(phases))
		}
	}
	return nil
}

// outcomes counts how calls ended.
func (c calls) outcomes() map[auditv1.Outcome]int {
	out := map[auditv1.Outcome]int{}
	for _, phases := range c {
		for _, r := range phases[auditv1.Phase_PHASE_COMPLETED] {
			out[r.GetOutcome()]++
		}
	}
	return out
}

// secretive fails where a text holds an address of an upstream.
func secretive(t testing.TB, text string, servers ...*httptest.Server) {
	t.Helper()
	for _, s := range servers {
		if host := strings.TrimPrefix(s.URL, "http://"); strings.Contains(text, host) {
			t.Errorf("%q tells the address %s", text, host)
		}
	}
	if strings.Contains(text, "127.0.0.1") || strings.Contains(text, "dial tcp") {
		t.Errorf("%q tells an address", text)
	}
}

func mustJSON(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
