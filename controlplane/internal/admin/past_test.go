package admin_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func whoAt(t *testing.T, s *site, tool string, at *adminv1.AsOf) *adminv1.WhoCanResponse {
	t.Helper()
	res, err := s.access().WhoCan(t.Context(), connect.NewRequest(&adminv1.WhoCanRequest{Connector: "github", Tool: tool, AsOf: at}))
	enginetest.Must(t, err)
	return res.Msg
}

func TestAccessIsToldAsItWas(t *testing.T) {
	s := planned(t)
	then := s.Engine.State().Seq()
	s.Do(core.RemoveGrant{To: core.Grantee{Group: group(t, s, "okta/Engineers")}, Connector: "github"})
	if got := whoAt(t, s, "read", nil); got.GetAlways() != 0 || got.GetStanding() != nil {
		t.Fatalf("now: %v", got)
	}
	past := whoAt(t, s, "read", &adminv1.AsOf{At: &adminv1.AsOf_Version{Version: then}})
	if past.GetVersion() != then || past.GetAlways() != 2 || past.GetPeople()[0].GetUserName() != "okta/ada" {
		t.Errorf("as of version %d: %v", then, past)
	}
	exported := func(at *adminv1.AsOf) *adminv1.ExportPolicyResponse {
		res, err := adminv1connect.NewExportServiceClient(http.DefaultClient, s.server.URL, s.option).ExportPolicy(t.Context(), connect.NewRequest(&adminv1.ExportPolicyRequest{AsOf: at}))
		enginetest.Must(t, err)
		return res.Msg
	}
	on := func(e *adminv1.ExportPolicyResponse) (all []string) {
		for _, g := range e.GetGrants() {
			all = append(all, g.GetGroup()+" on "+g.GetConnector())
		}
		return all
	}
	was := exported(&adminv1.AsOf{At: &adminv1.AsOf_Version{Version: then}})
	if gone := "okta/Engineers on github"; !slices.Contains(on(was), gone) || slices.Contains(on(exported(nil)), gone) || was.GetVersion() != then || was.GetStanding() == nil {
		t.Errorf("the policy at version %d: %v", then, was)
	}
	until := past.GetStanding().GetUntil().AsTime()
	for name, c := range map[string]struct {
		at     time.Time
		always uint32
	}{"before it was taken away": {until.Add(-time.Nanosecond), 2}, "when it was": {until, 0}} {
		if got := whoAt(t, s, "read", &adminv1.AsOf{At: &adminv1.AsOf_Time{Time: timestamppb.New(c.at)}}); got.GetAlways() != c.always {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, at := range map[string]*adminv1.AsOf{
		"a version to come": {At: &adminv1.AsOf_Version{Version: then + 1000}}, "a time to come": {At: &adminv1.AsOf_Time{Time: timestamppb.New(time.Now().Add(time.Hour))}},
	} {
		_, err := s.access().WhoCan(t.Context(), connect.NewRequest(&adminv1.WhoCanRequest{Connector: "github", Tool: "read", AsOf: at}))
		code(t, name, err, connect.CodeInvalidArgument)
	}
}

func group(t *testing.T, s *site, name string) [16]byte {
	t.Helper()
	g, err := s.Engine.State().FindGroup(name)
	enginetest.Must(t, err)
	return g.ID
}

func TestARollbackSaysWhatItDoesAndDoesIt(t *testing.T) {
	s := planned(t)
	then := s.Engine.State().Seq()
	_, err := s.policy().Apply(t.Context(), connect.NewRequest(grants(grantTo("okta/Engineers", &policyv1.Rule{Allow: []string{"*"}}))))
	enginetest.Must(t, err)
	before := s.Engine.State()
	rollback := func(dry bool) *adminv1.RollbackPolicyResponse {
		t.Helper()
		res, err := s.plans().RollbackPolicy(t.Context(), connect.NewRequest(&adminv1.RollbackPolicyRequest{Version: then, DryRun: dry}))
		enginetest.Must(t, err)
		return res.Msg
	}
	for _, dry := range []bool{true, false} {
		res := rollback(dry)
		if len(res.GetChanges()) != 1 || res.GetChanges()[0].GetName() != "okta/Engineers → github" || res.GetChanges()[0].GetAction() != adminv1.AppliedAction_APPLIED_ACTION_UPDATED || res.GetPeople() != 2 {
			t.Errorf("dry %v: %v", dry, res)
		}
		if dry != (s.Engine.State() == before) {
			t.Errorf("dry %v: the state is %d after %d", dry, s.Engine.State().Seq(), before.Seq())
		}
	}
	if got := fmt.Sprint(whoAt(t, s, "push", nil).GetAlways(), whoAt(t, s, "push", nil).GetSometimes()); got != "0 1" {
		t.Errorf("after the rollback %s may push always and sometimes", got)
	}
}
