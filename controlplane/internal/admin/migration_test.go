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

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func TestAReportOfAMigrationComesInPartsAndEndsWithItsSummary(t *testing.T) {
	s := newSite(t)
	var first *core.User
	for i := range 601 {
		u := s.User("okta", "u"+string(rune('a'+i%26))+time.Duration(i).String())
		if first == nil {
			first = u
		}
	}
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github"}}, []core.GrantSpec{
		core.NewGrantTo(core.Grantee{Everyone: "okta"}, "github", []*policyv1.Rule{{Allow: []string{"*"}}}),
	}))
	s.usage.Note([]*auditv1.AuditRecord{{PersonId: first.ID.String(), At: timestamppb.Now(), Phase: auditv1.Phase_PHASE_AUTHORIZED, Connector: "github"}})
	client := adminv1connect.NewMigrationServiceClient(http.DefaultClient, s.server.URL, s.option)
	ask := func(req *adminv1.GetMigrationReportRequest) (messages int, people []*adminv1.MigratingPerson, summary *adminv1.MigrationSummary, err error) {
		stream, err := client.GetMigrationReport(t.Context(), connect.NewRequest(req))
		enginetest.Must(t, err)
		for stream.Receive() {
			messages++
			people = append(people, stream.Msg().GetPeople()...)
			summary = stream.Msg().GetSummary()
		}
		return messages, people, summary, stream.Err()
	}
	messages, people, summary, err := ask(&adminv1.GetMigrationReportRequest{Never: true})
	if err != nil || messages != 2 || len(people) != 600 || people[0].GetUnused()[0] != "github" {
		t.Errorf("%d messages with %d people: %v", messages, len(people), err)
	}
	if a := summary.GetAll(); a.GetPeople() != 601 || a.GetUsed() != 1 || a.GetNever() != 600 || len(summary.GetConnectors()) != 1 || summary.GetConnectors()[0].GetUsedLately() != 1 {
		t.Errorf("the summary is %v", summary)
	}
	if _, people, summary, err := ask(&adminv1.GetMigrationReportRequest{SummaryOnly: true}); err != nil || len(people) != 0 || summary.GetAll().GetPeople() != 601 {
		t.Errorf("the summary alone: %d people, %v, %v", len(people), summary, err)
	}
	for _, req := range []*adminv1.GetMigrationReportRequest{{DirectoryId: "none"}, {ConnectorId: "none"}, {Group: "okta/None"}} {
		if _, _, _, err := ask(req); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("%v: %v", req, err)
		}
	}
}
