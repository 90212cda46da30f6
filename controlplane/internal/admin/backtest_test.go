package admin_test

import (
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/proto/gen/sallyport/admin/v1/adminv1connect"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func TestABacktestReadsTheCallsSinceATime(t *testing.T) {
	s := planned(t)
	ada := s.Engine.State().UserByName("okta", "ada")
	call := func(number uint64, tool string) *auditv1.AuditRecord {
		return &auditv1.AuditRecord{
			Number: number, At: timestamppb.Now(), CallId: tool, Phase: auditv1.Phase_PHASE_AUTHORIZED, Method: "tools/call", PersonId: ada.ID.String(), Groups: []string{"okta/Engineers", "okta/Leads"},
			Connector: "github", Tool: tool, Arguments: &auditv1.Payload{Head: []byte(`{"branch":"agent/x"}`)}, Authentication: &auditv1.Authentication{},
			Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED, Reason: auditv1.Reason_REASON_RULE_ALLOWED},
		}
	}
	client := adminv1connect.NewBacktestServiceClient(http.DefaultClient, s.server.URL, s.option)
	test := func(r *adminv1.BacktestPolicyRequest) *adminv1.BacktestPolicyResponse {
		t.Helper()
		res, err := client.BacktestPolicy(t.Context(), connect.NewRequest(r))
		enginetest.Must(t, err)
		return res.Msg
	}
	hourAgo := timestamppb.New(time.Now().Add(-time.Hour))
	if r := test(&adminv1.BacktestPolicyRequest{Since: hourAgo}); r.GetCalls() != 0 {
		t.Errorf("of no calls it decided %v", r)
	}
	completed := call(3, "read")
	completed.Phase = auditv1.Phase_PHASE_COMPLETED
	_, err := s.audit.Append(t.Context(), "p1", "us-east", "g1", []*auditv1.AuditRecord{call(1, "read"), call(2, "push"), completed})
	enginetest.Must(t, err)
	if r := test(&adminv1.BacktestPolicyRequest{Since: hourAgo}); r.GetCalls() != 2 || r.GetUnchanged() != 2 || r.GetUntil() != nil {
		t.Errorf("under the policy that stands: %v", r)
	}
	stricter := grants(grantTo("okta/Leads", &policyv1.Rule{Allow: []string{"push"}, When: `has(args.branch) && args.branch == "dev"`}))
	r := test(&adminv1.BacktestPolicyRequest{Policy: stricter, Since: hourAgo})
	if c := r.GetChanges(); r.GetCalls() != 2 || r.GetUnchanged() != 1 || r.GetChanged() != 1 || len(c) != 1 || c[0].GetUserName() != "okta/ada" || c[0].GetTool() != "push" ||
		c[0].GetAfter() != adminv1.BacktestVerdict_BACKTEST_VERDICT_DENIED || c[0].GetCallId() != "push" {
		t.Errorf("under a stricter policy: %v", r)
	}
	if r := test(&adminv1.BacktestPolicyRequest{Since: hourAgo, Limit: 1}); r.GetCalls() != 1 || r.GetUntil() == nil {
		t.Errorf("of one call: %v", r)
	}
	if r := test(&adminv1.BacktestPolicyRequest{Since: timestamppb.New(time.Now().Add(time.Hour))}); r.GetCalls() != 0 {
		t.Errorf("since a time to come: %v", r)
	}
}
