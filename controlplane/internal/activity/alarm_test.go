package activity

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// office is forty people of a directory, in the eyes of a watch whose clock is ahead, so that nobody is new.
type office struct {
	*enginetest.Plane
	t      *testing.T
	watch  *Watch
	ahead  time.Duration
	people []*core.User
	raised []Alarm
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{Plane: enginetest.New(t), t: t}
	o.watch = NewWatch(func(_ context.Context, a Alarm) { o.raised = append(o.raised, a) })
	o.Start(func(before, _ *core.State, records []core.Record) {
		later := make([]core.Record, len(records))
		for i, r := range records {
			later[i] = core.Record{Seq: r.Seq, Event: proto.CloneOf(r.Event)}
			later[i].Event.At = timestamppb.New(r.Event.GetAt().AsTime().Add(o.ahead))
		}
		o.watch.Round(before, later)
	})
	o.Directory("okta", "other")
	for i := range 40 {
		o.people = append(o.people, o.User("okta", fmt.Sprintf("p%02d@example.com", i)))
	}
	o.ahead = 2 * time.Hour
	return o
}

// by does something as an actor.
func (o *office) by(kind eventv1.ActorKind, c core.Command) {
	o.t.Helper()
	_, err := o.Engine.Do(o.t.Context(), &eventv1.Actor{Kind: kind, Id: "x"}, c)
	enginetest.Must(o.t, err)
}

const scim = eventv1.ActorKind_ACTOR_KIND_SCIM

func (o *office) deactivate(kind eventv1.ActorKind, people ...*core.User) {
	o.t.Helper()
	for _, u := range people {
		o.by(kind, core.UpdateUser{Directory: "okta", ID: u.ID, Profile: u.Profile})
	}
}

// wants counts what was done, and compares the alarms since the last time.
func (o *office) wants(what string, want ...Alarm) {
	o.t.Helper()
	o.watch.count(o.t.Context())
	same := len(o.raised) == len(want)
	for i := range want {
		if same {
			got := o.raised[i]
			got.At = time.Time{}
			same = got == want[i]
		}
	}
	if !same {
		o.t.Errorf("%s: raised %+v, want %+v", what, o.raised, want)
	}
	o.raised = nil
}

func TestADirectoryThatDeactivatesManyAtOnceRaisesAnAlarm(t *testing.T) {
	o := newOffice(t)
	o.wants("a directory that is loaded")
	o.deactivate(scim, o.people[:8]...) // 8 of 40 are 20%, and fewer than ten
	o.wants("as many as are let pass")
	o.deactivate(scim, o.people[8])
	o.wants("fewer than ten")
	o.deactivate(eventv1.ActorKind_ACTOR_KIND_SIGNAL, o.people[9])
	o.wants("one more, by a signal", Alarm{Directory: "okta", What: "deactivated", People: 10, Of: 40, Percent: 20})
	o.deactivate(scim, o.people[10:20]...)
	o.wants("within the hour after an alarm")
	o.ahead += 2 * time.Hour
	o.Do(core.NewSetDirectory(&policyv1.Directory{Id: "okta", AlarmPercent: 60}))
	for _, u := range o.people[20:31] { // removed, of twenty who are left
		o.by(scim, core.DeleteUser{Directory: "okta", ID: u.ID})
	}
	o.wants("55% of those who are left, where 60% are let pass")
	o.by(scim, core.DeleteUser{Directory: "okta", ID: o.people[31].ID})
	o.by(scim, core.DeleteUser{Directory: "okta", ID: o.people[32].ID})
	o.wants("more", Alarm{Directory: "okta", What: "deactivated", People: 13, Of: 20, Percent: 60})
}

func TestWhatIsSpreadOverHoursOrDoneByAdminsIsNoAlarm(t *testing.T) {
	o := newOffice(t)
	for i := range 4 {
		o.deactivate(scim, o.people[6*i:6*i+6]...)
		o.ahead += 61 * time.Minute
	}
	o.wants("six an hour")
	o.deactivate(eventv1.ActorKind_ACTOR_KIND_ADMIN, o.people[24:38]...)
	o.wants("by an admin")
	// The same person again and again is one.
	g := o.Group("okta", "Engineers")
	for range 15 {
		for _, op := range []core.MemberOp{core.AddMembers, core.RemoveMembers} {
			o.by(scim, core.UpdateGroup{Directory: "okta", ID: g.ID, Members: []core.MemberChange{{Op: op, Users: []uuid.UUID{o.people[39].ID}}}})
		}
	}
	o.wants("one person thirty times")
	o.ahead = 0
	var fresh []uuid.UUID
	for i := range 20 {
		fresh = append(fresh, o.User("okta", fmt.Sprintf("new%02d@example.com", i)).ID)
	}
	o.by(scim, core.UpdateGroup{Directory: "okta", ID: g.ID, Members: []core.MemberChange{{Op: core.AddMembers, Users: fresh}}})
	o.wants("people who are new")
}

func TestADirectoryThatRegroupsManyAtOnceRaisesAnAlarm(t *testing.T) {
	o := newOffice(t)
	var ids []uuid.UUID
	for _, u := range o.people {
		ids = append(ids, u.ID)
	}
	g := o.Group("okta", "Owners")
	o.by(scim, core.UpdateGroup{Directory: "okta", ID: g.ID, Members: []core.MemberChange{{Op: core.AddMembers, Users: ids[:30]}}})
	o.wants("a push of many", Alarm{Directory: "okta", What: "regrouped", People: 10, Of: 40, Percent: 20})
	o.ahead += 2 * time.Hour
	o.by(scim, core.UpdateGroup{Directory: "okta", ID: g.ID, Members: []core.MemberChange{{Op: core.ReplaceMembers, Users: nil}}})
	o.wants("a push of nobody", Alarm{Directory: "okta", What: "regrouped", People: 10, Of: 40, Percent: 20})
	o.ahead += 2 * time.Hour
	o.by(scim, core.UpdateGroup{Directory: "okta", ID: g.ID, Members: []core.MemberChange{{Op: core.AddMembers, Users: ids[:7]}}})
	o.by(scim, core.DeleteGroup{Directory: "okta", ID: g.ID})
	o.wants("the same seven twice")
	h := o.Group("okta", "Readers", o.people[10:]...)
	o.ahead += 2 * time.Hour
	o.by(scim, core.DeleteGroup{Directory: "okta", ID: h.ID})
	o.wants("a group that is gone", Alarm{Directory: "okta", What: "regrouped", People: 10, Of: 40, Percent: 20})
}

// TestAlarmsAreRememberedForAllControlPlanes, the last ones.
func TestAlarmsAreRememberedForAllControlPlanes(t *testing.T) {
	both := recorders(t, 2)
	for n := range 2 * mostAlarms {
		both[0].Alarm(Alarm{At: start, Directory: "okta", What: "regrouped", People: n})
	}
	_, err := both[0].Of(t.Context(), "okta")
	enginetest.Must(t, err)
	d, err := both[1].Of(t.Context(), "okta")
	enginetest.Must(t, err)
	if len(d.Alarms) != mostAlarms || d.Alarms[mostAlarms-1].People != 2*mostAlarms-1 || d.Requests != 0 {
		t.Errorf("remembered: %+v", d)
	}
}
