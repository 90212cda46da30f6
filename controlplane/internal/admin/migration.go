package admin

import (
	"context"
	"maps"
	"slices"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/usage"
)

// Usage says who used the gateway.
type Usage interface {
	Make(ctx context.Context, s *core.State) (*usage.Report, error)
}

// peopleAMessage is how many people one message of a report has.
const peopleAMessage = 500

// GetMigrationReport streams who has used the gateway, and who never did.
func (a *api) GetMigrationReport(ctx context.Context, req *connect.Request[adminv1.GetMigrationReportRequest], stream *connect.ServerStream[adminv1.GetMigrationReportResponse]) error {
	s := a.Engine.State()
	which := usage.Which{Directory: req.Msg.GetDirectoryId(), Connector: req.Msg.GetConnectorId(), Never: req.Msg.GetNever(), Idle: req.Msg.GetIdleFor().AsDuration()}
	if id := which.Directory; id != "" && s.Directory(id) == nil {
		return &core.Error{Code: core.NotFound, Field: "directory_id", Message: "there is no directory " + id}
	}
	if id := which.Connector; id != "" && s.Connector(id) == nil {
		return &core.Error{Code: core.NotFound, Field: "connector_id", Message: "there is no connector " + id}
	}
	if ref := req.Msg.GetGroup(); ref != "" {
		var err error
		if which.Group, err = s.FindGroup(ref); err != nil {
			return err
		}
	}
	report, err := a.Usage.Make(ctx, s)
	if err != nil {
		return err
	}
	res := &adminv1.GetMigrationReportResponse{}
	if !req.Msg.GetSummaryOnly() {
		for row := range report.Rows(which) {
			if res.People = append(res.People, wireMigrating(row)); len(res.People) == peopleAMessage {
				if err := stream.Send(res); err != nil {
					return err
				}
				res = &adminv1.GetMigrationReportResponse{}
			}
		}
	}
	all := wireCount("", report.Total(which.Directory))
	res.Summary = &adminv1.MigrationSummary{All: all}
	for g, c := range report.Groups(which.Directory) {
		res.Summary.Groups = append(res.Summary.Groups, wireCount(g.Directory+"/"+g.DisplayName, c))
	}
	for id, c := range report.Connectors(which.Directory) {
		res.Summary.Connectors = append(res.Summary.Connectors, wireCount(id, c))
	}
	return stream.Send(res)
}

func wireMigrating(r usage.Row) *adminv1.MigratingPerson {
	p := &adminv1.MigratingPerson{
		UserId: r.User.ID.String(), User: r.User.Directory + "/" + r.User.UserName, Email: r.User.Email, FirstUsedAt: moment(r.First), LastUsedAt: moment(r.Last), Unused: r.Unused,
	}
	for _, c := range slices.Sorted(maps.Keys(r.Used)) {
		p.Used = append(p.Used, &adminv1.ConnectorUse{ConnectorId: c, LastUsedAt: moment(r.Used[c])})
	}
	return p
}

func wireCount(name string, c usage.Count) *adminv1.MigrationCount {
	return &adminv1.MigrationCount{Name: name, People: c.People, Used: c.Used, UsedLately: c.Lately, Never: c.People - c.Used}
}
