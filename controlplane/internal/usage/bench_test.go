package usage_test

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/usage"
)

// BenchmarkAReportOfAMillionPeople: 1,000,000 people in 100 groups, each with a grant on one of ten connectors, half of whom used the gateway. An
// operation is the whole report: counts by group and connector, and each person's row.
//
//	go test ./controlplane/internal/usage -run xxx -bench Million -benchtime 3x -timeout 20m
func BenchmarkAReportOfAMillionPeople(b *testing.B) {
	const people, groups = 1_000_000, 100
	s := core.NewState()
	env := core.Env{Now: now, NewID: func() uuid.UUID { return uuid.Must(uuid.NewV7()) }}
	seq := uint64(0)
	do := func(c core.Command) {
		events, err := core.Decide(s, c, env)
		enginetest.Must(b, err)
		for _, e := range events {
			seq++
			enginetest.Must(b, s.Apply(core.Record{Seq: seq, Event: e}))
		}
	}
	do(core.StartLog{Epoch: "bench"})
	do(core.NewSetDirectory(&policyv1.Directory{Id: "okta"}))
	var connectors []*policyv1.Connector
	for n := range 10 {
		connectors = append(connectors, &policyv1.Connector{Id: fmt.Sprintf("c-%d", n), Url: fmt.Sprintf("https://mcp.example/%d", n)})
	}
	do(core.NewApplyPolicy(connectors, nil))
	store := enginetest.New(b)
	r := &usage.Recorder{Store: store.Shared, Records: nothing{}, Name: "bench", Now: func() time.Time { return now }, Log: store.Log}
	var members []uuid.UUID
	var used []*auditv1.AuditRecord
	for n := range people {
		name := fmt.Sprintf("person%d@corp.example", n)
		do(core.CreateUser{Directory: "okta", Profile: core.Profile{UserName: name, ExternalID: "00u" + name}, Active: true})
		u := s.UserByName("okta", name)
		if members = append(members, u.ID); n%2 == 0 {
			used = append(used, &auditv1.AuditRecord{At: timestamppb.New(now.Add(-time.Hour)), PersonId: u.ID.String(), Connector: fmt.Sprintf("c-%d", n%10), Phase: auditv1.Phase_PHASE_AUTHORIZED, Method: "tools/call"})
		}
		if len(members) == people/groups {
			g := n / len(members)
			do(core.CreateGroup{Directory: "okta", DisplayName: fmt.Sprintf("group%d", g), Users: members})
			for made := range s.GroupsByName("okta", fmt.Sprintf("group%d", g)) {
				do(core.NewApplyPolicy(nil, []core.GrantSpec{core.NewGrantSpec(made.ID, fmt.Sprintf("c-%d", g%10), []*policyv1.Rule{{Allow: []string{"*"}}})}))
			}
			members = members[:0:0]
		}
		if len(used) == 1000 {
			r.Note(used)
			used = used[:0]
		}
	}
	enginetest.Must(b, r.Tell(b.Context()))
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	b.ReportAllocs()
	for b.Loop() {
		report, err := r.Make(b.Context(), s)
		enginetest.Must(b, err)
		total, rows := report.Total(""), 0
		for range report.Groups("") {
			rows++
		}
		for range report.Connectors("") {
			rows++
		}
		for row := range report.Rows(usage.Which{}) {
			_, _ = fmt.Fprintln(io.Discard, row.User.UserName, row.Last)
			rows++
		}
		if total.People != people || total.Used != people/2 || rows != people+groups+10 {
			b.Fatalf("the report is of %+v and has %d rows", total, rows)
		}
		b.StopTimer()
		if now := heap(); now > before {
			b.ReportMetric(float64(now-before)/(1<<20), "MiB-held")
		}
		runtime.KeepAlive(report)
		b.StartTimer()
	}
}

// nothing is a stream without records.
type nothing struct{}

func (nothing) Last(context.Context) (uint64, error) { return 0, nil }

func (nothing) Records(context.Context, uint64, uint64, func(*auditv1.AuditRecord) error) error {
	return nil
}
