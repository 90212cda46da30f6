package admin_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
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

// TestACallIsExplainedAsItWasDecided: with the rules, the people and the time of then, whatever changed since.
func TestACallIsExplainedAsItWasDecided(t *testing.T) {
	s := planned(t)
	then := s.Engine.State().Seq()
	s.Do(core.RemoveGrant{To: core.Grantee{Group: group(t, s, "okta/Engineers")}, Connector: "github"})
	explain := func(at *adminv1.AsOf, when *timestamppb.Timestamp) *adminv1.ExplainResponse {
		t.Helper()
		res, err := s.policy().Explain(t.Context(), connect.NewRequest(&adminv1.ExplainRequest{Person: "ada", Connector: "github", Tool: "read", AsOf: at, At: when}))
		enginetest.Must(t, err)
		return res.Msg
	}
	now := explain(nil, nil)
	if now.GetDecision().GetVerdict() != auditv1.Verdict_VERDICT_DENIED || now.GetStanding() != nil {
		t.Fatalf("now: %v", now)
	}
	was := explain(&adminv1.AsOf{At: &adminv1.AsOf_Version{Version: then}}, nil)
	if was.GetDecision().GetVerdict() != auditv1.Verdict_VERDICT_ALLOWED || was.GetVersion() != then || len(was.GetGroups()) == 0 || was.GetStanding().GetUntil() == nil {
		t.Errorf("at version %d: %v", then, was)
	}
	gone := was.GetStanding().GetUntil().AsTime()
	for name, c := range map[string]struct {
		at      time.Time
		verdict auditv1.Verdict
	}{"before it was taken away": {gone.Add(-time.Nanosecond), auditv1.Verdict_VERDICT_ALLOWED}, "when it was": {gone, auditv1.Verdict_VERDICT_DENIED}} {
		if got := explain(&adminv1.AsOf{At: &adminv1.AsOf_Time{Time: timestamppb.New(c.at)}}, nil); got.GetDecision().GetVerdict() != c.verdict {
			t.Errorf("%s: %v", name, got)
		}
	}

	// A grant that has ended since: the call is made at the time that is asked about, unless it says when.
	end := time.Now().Add(time.Hour)
	out := s.Do(core.NewApplyPolicy(nil, []core.GrantSpec{core.NewGrantSpec(group(t, s, "okta/Engineers"), "github", []*policyv1.Rule{{Allow: []string{"read"}, Until: timestamppb.New(end)}})}))
	granted := &adminv1.AsOf{At: &adminv1.AsOf_Version{Version: out.Seq}}
	s.User("okta", "late")
	for name, c := range map[string]struct {
		when    *timestamppb.Timestamp
		verdict auditv1.Verdict
	}{"when it was granted": {nil, auditv1.Verdict_VERDICT_ALLOWED}, "after its end": {timestamppb.New(end.Add(time.Second)), auditv1.Verdict_VERDICT_DENIED}} {
		if got := explain(granted, c.when); got.GetDecision().GetVerdict() != c.verdict {
			t.Errorf("%s: %v", name, got)
		}
	}
	_, err := s.policy().Explain(t.Context(), connect.NewRequest(&adminv1.ExplainRequest{Person: "late", Connector: "github", Tool: "read", AsOf: granted}))
	code(t, "of who was not there", err, connect.CodeNotFound)
}

// TestTooManyQuestionsAboutThePastAreRefused, and with what to do.
func TestTooManyQuestionsAboutThePastAreRefused(t *testing.T) {
	s := planned(t)
	var held []*engine.Past
	for version := range uint64(2) {
		past, err := s.Engine.At(t.Context(), version+1, time.Time{})
		enginetest.Must(t, err)
		held = append(held, past)
	}
	then := s.Engine.State().Seq() - 1
	const asking = 17
	errs := make(chan error)
	for range asking {
		go func() {
			_, err := s.access().WhoCan(t.Context(), connect.NewRequest(&adminv1.WhoCanRequest{Connector: "github", Tool: "read", AsOf: &adminv1.AsOf{At: &adminv1.AsOf_Version{Version: then}}}))
			errs <- err
		}()
	}
	refused := <-errs
	code(t, "one too many", refused, connect.CodeResourceExhausted)
	if !strings.Contains(refused.Error(), "ask again in a moment") {
		t.Errorf("it is refused with %q", refused)
	}
	for _, past := range held {
		past.Release()
	}
	for range asking - 1 {
		enginetest.Must(t, <-errs)
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
