package usage_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/usage"
)

// stored is a real audit stream.
type stored struct{ *audit.Store }

func (s stored) Records(ctx context.Context, after, upTo uint64, fn func(*auditv1.AuditRecord) error) error {
	if after >= upTo {
		return nil
	}
	return s.Read(ctx, after, func(m audit.Message) error {
		rec := &auditv1.AuditRecord{}
		if err := errors.Join(proto.Unmarshal(m.Data, rec), fn(rec)); err != nil {
			return err
		}
		if m.Sequence >= upTo {
			return audit.ErrStop
		}
		return nil
	})
}

var now = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

type site struct {
	*enginetest.Plane
	t       *testing.T
	records *audit.Store
	number  uint64
}

func newSite(t *testing.T) *site {
	t.Helper()
	p := enginetest.New(t).Start(nil)
	p.Directory("okta")
	records, err := audit.Open(t.Context(), p.Conn.Conn, audit.Config{})
	enginetest.Must(t, err)
	return &site{Plane: p, t: t, records: records}
}

func (s *site) recorder(name string) *usage.Recorder {
	return &usage.Recorder{Store: s.Shared, Records: stored{s.records}, Name: name, Now: func() time.Time { return now }, Log: s.Log}
}

// call is a record that is stored, and noted by those who took it in.
func (s *site) call(person uuid.UUID, connector string, ago time.Duration, takers ...*usage.Recorder) {
	s.t.Helper()
	s.number++
	rec := &auditv1.AuditRecord{
		Number: s.number, At: timestamppb.New(now.Add(-ago)), CallId: uuid.NewString(), PersonId: person.String(), Connector: connector,
		Phase: auditv1.Phase_PHASE_AUTHORIZED, Method: "tools/call",
	}
	_, err := s.records.Append(s.t.Context(), "proxy", "eu", "g", []*auditv1.AuditRecord{rec})
	enginetest.Must(s.t, err)
	for _, r := range takers {
		r.Note([]*auditv1.AuditRecord{rec})
	}
}

// catchUp runs a recorder until it has caught up and ends it.
func (s *site) catchUp(r *usage.Recorder) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	enginetest.Eventually(s.t, "the mark", func() bool { _, err := s.Shared.Get(ctx, "usage-mark."+r.Name); return err == nil })
	cancel()
	<-done
}

func (s *site) known(r *usage.Recorder, person uuid.UUID) usage.Person {
	s.t.Helper()
	var p usage.Person
	enginetest.Must(s.t, r.Each(s.t.Context(), func(id uuid.UUID, q *usage.Person) {
		if id != person {
			return
		}
		if p.First == 0 || q.First < p.First {
			p.First = q.First
		}
		p.Last = max(p.Last, q.Last)
		for c, at := range q.Connectors {
			if p.Connectors == nil {
				p.Connectors = map[string]int64{}
			}
			p.Connectors[c] = max(p.Connectors[c], at)
		}
	}))
	return p
}

func TestWhatIsNotedIsToldToOtherControlPlanesAndNeverGoesBack(t *testing.T) {
	s := newSite(t)
	a, b := s.recorder("a"), s.recorder("b")
	ann := uuid.New()
	s.call(ann, "github", 2*time.Hour, a)
	s.call(ann, "jira", time.Hour, a)
	if p := s.known(a, ann); p.Last != now.Add(-time.Hour).Unix() {
		t.Errorf("it does not know itself what it has not told: %+v", p)
	}
	if p := s.known(b, ann); p.Last != 0 {
		t.Errorf("another knows what was not told: %+v", p)
	}
	enginetest.Must(t, a.Tell(t.Context()))
	s.call(ann, "github", 3*time.Hour, b) // it was late
	enginetest.Must(t, b.Tell(t.Context()))
	for _, r := range []*usage.Recorder{a, b} {
		p := s.known(r, ann)
		if p.First != now.Add(-3*time.Hour).Unix() || p.Last != now.Add(-time.Hour).Unix() || p.Connectors["github"] != now.Add(-2*time.Hour).Unix() || p.Connectors["jira"] != now.Add(-time.Hour).Unix() {
			t.Errorf("known is %+v", p)
		}
	}
}

func TestWhatIsNoUseIsNotNoted(t *testing.T) {
	s := newSite(t)
	r := s.recorder("a")
	ann := uuid.New().String()
	r.Note([]*auditv1.AuditRecord{
		{PersonId: ann, At: timestamppb.New(now), Phase: auditv1.Phase_PHASE_REFUSED, Connector: "github"},
		{PersonId: ann, At: timestamppb.New(now), Kind: auditv1.Kind_KIND_SIGN_IN, Phase: auditv1.Phase_PHASE_COMPLETED},
		{PersonId: ann, At: timestamppb.New(now.Add(48 * time.Hour)), Phase: auditv1.Phase_PHASE_AUTHORIZED},
		{PersonId: ann, Phase: auditv1.Phase_PHASE_AUTHORIZED},
		{PersonId: "nobody", At: timestamppb.New(now), Phase: auditv1.Phase_PHASE_AUTHORIZED},
		{At: timestamppb.New(now), Phase: auditv1.Phase_PHASE_AUTHORIZED},
	})
	enginetest.Must(t, r.Each(t.Context(), func(id uuid.UUID, p *usage.Person) { t.Errorf("%s is known to have used it: %+v", id, p) }))
}

func TestWhatACrashedControlPlaneDidNotTellIsReadFromAudit(t *testing.T) {
	s := newSite(t)
	ann, bob, cat := uuid.New(), uuid.New(), uuid.New()
	s.call(ann, "github", time.Hour) // before there was anybody to note it
	a := s.recorder("a")
	s.catchUp(a)
	if s.known(a, ann).Last == 0 {
		t.Error("what audit had from before is not known")
	}
	s.call(bob, "github", time.Hour, a) // told
	enginetest.Must(t, a.Tell(t.Context()))
	enginetest.Must(t, a.Tell(t.Context()))
	s.call(cat, "github", time.Hour, a) // never told: a is gone
	b := s.recorder("b")
	if s.known(b, cat).Last != 0 {
		t.Fatal("it was told after all")
	}
	s.catchUp(b)
	for name, id := range map[string]uuid.UUID{"ann": ann, "bob": bob, "cat": cat} {
		if s.known(b, id).Last != now.Add(-time.Hour).Unix() {
			t.Errorf("%s is not known to have used the gateway", name)
		}
	}
}

func TestWhatIsTakenWhileATellIsUnderWayIsWithinTheNextMark(t *testing.T) {
	s := newSite(t)
	a := s.recorder("a")
	s.catchUp(a)
	cat := uuid.New()
	s.call(cat, "github", time.Hour) // stored, and not noted yet
	enginetest.Must(t, a.Tell(t.Context()))
	b := s.recorder("b") // a crashed just now
	s.catchUp(b)
	if s.known(b, cat).Last == 0 {
		t.Error("the mark went beyond what was noted")
	}
}

func TestAnErasedPersonIsForgotten(t *testing.T) {
	s := newSite(t)
	a := s.recorder("a")
	ann, bob := uuid.New(), uuid.New()
	s.call(ann, "github", time.Hour, a)
	s.call(bob, "github", time.Hour, a)
	enginetest.Must(t, a.Tell(t.Context()))
	s.call(ann, "github", time.Hour, a)
	enginetest.Must(t, a.Forget(t.Context(), ann))
	enginetest.Must(t, a.Forget(t.Context(), ann))
	enginetest.Must(t, a.Tell(t.Context()))
	if s.known(a, ann).Last != 0 || s.known(a, bob).Last == 0 {
		t.Error("the wrong ones are known")
	}
}

func TestAReportSaysWhoMovedByGroupAndConnector(t *testing.T) {
	s := newSite(t)
	r := s.recorder("a")
	users := map[string]*core.User{}
	for _, name := range []string{"ann", "bob", "cat", "dan", "eve"} {
		users[name] = s.User("okta", name)
	}
	interns := s.Group("okta", "Interns", users["cat"])
	made := s.Do(core.CreateGroup{Directory: "okta", DisplayName: "Sales", Users: []uuid.UUID{users["ann"].ID, users["bob"].ID, users["eve"].ID}, Groups: []uuid.UUID{interns.ID}})
	sales := made.State.Group(uuid.MustParse(made.Events[0].GetGroupCreated().GetGroupId()))
	s.Do(core.UpdateUser{Directory: "okta", ID: users["eve"].ID, Profile: users["eve"].Profile})
	allow := []*policyv1.Rule{{Allow: []string{"*"}}}
	s.Do(core.NewApplyPolicy([]*policyv1.Connector{{Id: "github", Url: "https://mcp.example/github"}, {Id: "jira", Url: "https://mcp.example/jira"}}, []core.GrantSpec{
		core.NewGrantSpec(sales.ID, "github", allow), core.NewGrantTo(core.Grantee{Person: users["dan"].ID}, "jira", allow),
	}))
	s.call(users["ann"].ID, "github", time.Hour, r)
	s.call(users["bob"].ID, "jira", 40*24*time.Hour, r)
	s.call(users["eve"].ID, "github", time.Hour, r)
	report, err := r.Make(t.Context(), s.Engine.State())
	enginetest.Must(t, err)

	if c := report.Total(""); c != (usage.Count{People: 4, Used: 2, Lately: 1}) {
		t.Errorf("all: %+v", c)
	}
	groups := map[string]usage.Count{}
	for g, c := range report.Groups("") {
		groups[g.DisplayName] = c
	}
	if len(groups) != 1 || groups["Sales"] != (usage.Count{People: 3, Used: 2, Lately: 1}) {
		t.Errorf("groups: %+v", groups)
	}
	connectors := map[string]usage.Count{}
	for id, c := range report.Connectors("") {
		connectors[id] = c
	}
	if len(connectors) != 2 || connectors["github"] != (usage.Count{People: 3, Used: 1, Lately: 1}) || connectors["jira"] != (usage.Count{People: 1}) {
		t.Errorf("connectors: %+v", connectors)
	}
	for _, c := range []struct {
		name  string
		which usage.Which
		want  []string
	}{
		{"all", usage.Which{}, []string{"ann", "bob", "cat", "dan"}},
		{"never", usage.Which{Never: true}, []string{"cat", "dan"}},
		{"idle", usage.Which{Idle: 30 * 24 * time.Hour}, []string{"bob"}},
		{"a group", usage.Which{Group: sales}, []string{"ann", "bob", "cat"}},
		{"a group, never", usage.Which{Group: sales, Never: true}, []string{"cat"}},
		{"a connector, never", usage.Which{Connector: "github", Never: true}, []string{"bob", "cat"}},
		{"a directory", usage.Which{Directory: "okta", Connector: "jira"}, []string{"dan"}},
	} {
		var got []string
		for row := range report.Rows(c.which) {
			got = append(got, row.User.UserName)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	for row := range report.Rows(usage.Which{}) {
		said := fmt.Sprint(row.User.UserName, len(row.Used), row.Unused, !row.Last.IsZero())
		if !slices.Contains([]string{"ann1 [] true", "bob1 [github] true", "cat0 [github] false", "dan0 [jira] false"}, said) {
			t.Errorf("a row says %s", said)
		}
	}
}
