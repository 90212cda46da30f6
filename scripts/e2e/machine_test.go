package e2e

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	"sallyport.dev/scripts/demo/agent"
)

// machine is a service account with a key, as an admin makes it on the command line.
type machine struct {
	w       *world
	name    string
	id, key string // the account's id, and the file of its key
}

func (w *world) machine(name string) *machine {
	w.t.Helper()
	m := &machine{w: w, name: name}
	var made struct{ ID string }
	m.read(&made, "service-accounts", "create", name)
	m.id = made.ID
	m.key, _ = m.addKey("key.json")
	return m
}

func (m *machine) read(out any, args ...string) {
	m.w.t.Helper()
	data, err := m.w.cp.Run(m.w.t.Context(), append(args, "-o", "json")...)
	if err == nil {
		err = json.Unmarshal(data, out)
	}
	if err != nil {
		m.w.t.Fatal(err)
	}
}

func (m *machine) addKey(file string) (path, id string) {
	m.w.t.Helper()
	path = filepath.Join(m.w.t.TempDir(), file)
	var added struct {
		KeyID string `json:"keyId"`
	}
	m.read(&added, "service-accounts", "keys", "generate", m.name, "--out", path, "--expires", "30d")
	return path, added.KeyID
}

// token is what the account's agent gets by a key.
func (m *machine) token(key string) (string, error) {
	out, err := m.w.cp.Run(m.w.t.Context(), "service-accounts", "token", m.id, "--key", key, "--issuer", "http://"+m.w.cp.signin)
	return strings.TrimSpace(string(out)), err
}

func (m *machine) session(p *proxy, key string) *agent.Session {
	m.w.t.Helper()
	token, err := m.token(key)
	if err != nil {
		m.w.t.Fatal(err)
	}
	s, err := agent.Connect(m.w.t.Context(), p.url(), token, agent.Options{Revision: agent.Modern})
	if err != nil {
		m.w.t.Fatal(err)
	}
	m.w.t.Cleanup(s.Close)
	return s
}

// watching begins a call that lasts for minutes, and returns what becomes of it.
func watching(t *testing.T, s *agent.Session) <-chan agent.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	done := make(chan agent.Result, 1)
	go func() {
		done <- s.Call(ctx, "github__watch_workflow_run", map[string]any{"owner": "acme", "repo": "payments", "run_id": 7, "seconds": 600})
	}()
	select {
	case <-s.Progress():
	case res := <-done:
		t.Fatalf("the call is over before it began: %s", res.Text)
	case <-ctx.Done():
		t.Fatal("the call makes no progress")
	}
	return done
}

func cut(t *testing.T, done <-chan agent.Result, why string) {
	t.Helper()
	select {
	case res := <-done:
		if res.OK {
			t.Errorf("%s: the call in flight succeeds", why)
		}
	case <-time.After(patience):
		t.Errorf("%s: the call in flight goes on", why)
	}
}

func TestAMachineCallsByItsKeyUntilItIsTakenAway(t *testing.T) {
	w := newWorld(t, "--resource", audience)
	m := w.machine("nightly")
	p := newProxy(t, w.cp, "eu-west", "--resource", audience)
	w.cp.enforced()
	s := m.session(p, m.key)
	if res := s.Call(t.Context(), "github__list_branches", payments); res.OK {
		t.Fatal("without a grant it may call")
	}
	// Grants to it and to a group that it is in decide; one to people does not.
	w.cp.apply("kind: Grant\nserviceAccount: nightly\nconnector: github\nrules:\n  - allow: [list_branches]\n")
	w.cp.must("service-accounts", "groups", "create", "watchers")
	w.cp.must("service-accounts", "groups", "add", "watchers", "nightly")
	w.cp.apply("kind: Grant\ngroup: service/watchers\nconnector: github\nrules:\n  - allow: [watch_workflow_run]\n")
	w.cp.enforced()
	eventually(t, func() error { return works(t.Context(), s) })
	if res := s.Call(t.Context(), "github__merge_pull_request", map[string]any{"owner": "acme", "repo": "payments", "pull_number": 1}); res.OK {
		t.Error("what is granted to Staff alone is done for a machine")
	}
	w.cp.must("access", "explain", "service/nightly", "github", "list_branches", "--args", mustJSON(t, payments))

	// Keys overlap: the second is good before the first goes, and the first takes along what is in flight.
	second, _ := m.addKey("second.json")
	done := watching(t, s)
	var listed accountList
	m.read(&listed, "service-accounts", "list")
	w.cp.must("service-accounts", "keys", "remove", "nightly", "--", listed.Accounts[0].Keys[0].ID)
	cut(t, done, "its key is removed")
	if _, err := m.token(m.key); err == nil || !strings.Contains(err.Error(), "invalid_client") {
		t.Errorf("the removed key gets a token: %v", err)
	}
	s = m.session(p, second)
	if err := works(t.Context(), s); err != nil {
		t.Error(err)
	}
	done = watching(t, s)
	w.cp.must("service-accounts", "disable", "nightly")
	cut(t, done, "it is disabled")
	if _, err := m.token(second); err == nil {
		t.Error("a disabled account gets a token")
	}
	w.cp.must("service-accounts", "enable", "nightly")
	w.cp.enforced()
	s = m.session(p, second)
	done = watching(t, s)
	w.cp.must("service-accounts", "delete", "nightly")
	cut(t, done, "it is deleted")

	records, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Person: m.id})
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	for _, r := range records {
		if r.GetRecord().GetPhase() == auditv1.Phase_PHASE_AUTHORIZED {
			calls++
			if a := r.GetRecord().GetActor(); a.GetKind() != auditv1.ActorKind_ACTOR_KIND_SERVICE_ACCOUNT || a.GetId() != m.id {
				t.Errorf("the record of a machine's call names as actor %v", a)
			}
		}
	}
	if calls < 4 {
		t.Errorf("%d calls of the machine are recorded", calls)
	}
}

// accountList is what the command line says of accounts.
type accountList struct {
	Accounts []struct {
		Keys []struct {
			ID string `json:"id"`
		} `json:"keys"`
	} `json:"accounts"`
}
