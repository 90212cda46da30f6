package fleet_test

import (
	"testing"
	"time"

	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/fleet"
)

func TestAuditIsToldHowProxiesAndConnectorsAre(t *testing.T) {
	s := newSite(t, config{})
	told, later := &noted{}, time.Duration(0)
	h := &fleet.Health{Roster: s.roster, State: s.Engine.State, Leading: func() bool { return true }, Trail: told, Now: func() time.Time { return time.Now().Add(later) }}
	h.Look()
	if len(told.records) != 0 {
		t.Fatalf("before anything changed there is %v", told.records)
	}
	want := func(action, target string, as int) {
		t.Helper()
		enginetest.Eventually(t, action, func() bool { h.Look(); return len(told.records) == as })
		if r := told.last(t); r.GetAction() != action || r.GetTarget() != target || r.GetActor().GetId() != "us-east-1" {
			t.Fatalf("told %v, want %s of %s", r, action, target)
		}
	}
	p := s.dial(t, s.token, nil)
	p.reach(s.seq())
	want("proxy_connected", "proxy/us-east-1", 1)
	trouble := func(all ...*fleetv1.Trouble) {
		p.say(&fleetv1.Ack{Version: p.version, Troubles: &fleetv1.Troubles{Troubles: all}})
	}
	trouble(&fleetv1.Trouble{Connector: "github", Reason: "it does not answer"})
	want("connector_failing", "connector/github", 2)
	if r := told.last(t); r.GetConnector() != "github" || r.GetError() != "it does not answer" || r.GetDetails()[0].GetValue() != "us-east" {
		t.Errorf("told %v", r)
	}
	trouble(&fleetv1.Trouble{Connector: "github", Reason: "it does not answer", LeftAlone: true})
	want("connector_left_alone", "connector/github", 3)
	trouble()
	want("connector_recovered", "connector/github", 4)
	p.cancel()
	want("proxy_disconnected", "proxy/us-east-1", 5)
	later = time.Hour
	want("proxy_stopped", "proxy/us-east-1", 6)
	h.Look()
	if len(told.records) != 6 {
		t.Fatalf("told again: %v", told.last(t))
	}
}
