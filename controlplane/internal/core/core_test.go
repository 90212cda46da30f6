package core

import (
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// failer is a test or a property's run.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// world is a log with its state: commands go in as the engine would put them.
type world struct {
	t     failer
	state *State
	past  []*State // some that were, for rollbacks
	log   []Record
	now   time.Time
	ids   uint64
	actor *eventv1.Actor
}

func newWorld(t failer) *world {
	w := &world{t: t, state: NewState(), now: time.Date(2026, 11, 1, 9, 0, 0, 0, time.UTC), actor: &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM}}
	w.must(StartLog{Epoch: "epoch-1"})
	w.must(NewSetDirectory(&policyv1.Directory{Id: "okta", Issuers: []*policyv1.Issuer{{Url: "https://okta.example", UserClaim: "uid"}}}))
	return w
}

func (w *world) env() Env {
	return Env{Now: w.now, Actor: w.actor, NewID: func() uuid.UUID {
		w.ids++
		var id uuid.UUID
		id[6], id[8] = 0x70, 0x80
		for i := range 6 {
			id[15-i] = byte(w.ids >> (8 * i))
		}
		return id
	}}
}

// do decides a command and folds its events, as one round.
func (w *world) do(c Command) ([]*eventv1.Event, error) {
	w.now = w.now.Add(time.Second)
	events, err := Decide(w.state, c, w.env())
	if err != nil {
		return nil, err
	}
	next := w.state.Fork()
	for _, ev := range events {
		rec := Record{Seq: next.Seq() + 1, Event: ev}
		if err := next.Apply(rec); err != nil {
			w.t.Fatalf("applying what %T became: %v", c, err)
		}
		w.log = append(w.log, rec)
	}
	w.state = next
	return events, nil
}

func (w *world) must(c Command) []*eventv1.Event {
	w.t.Helper()
	events, err := w.do(c)
	if err != nil {
		w.t.Fatalf("%T: %v", c, err)
	}
	return events
}

// refused wants a command to be refused with a code, and the state to stay as it is.
func (w *world) refused(c Command, code Code) {
	w.t.Helper()
	before := w.state.Seq()
	_, err := w.do(c)
	var refusal *Error
	if !errors.As(err, &refusal) || refusal.Code != code {
		w.t.Fatalf("%T: got %v, want a refusal %q", c, err, code)
	}
	if w.state.Seq() != before {
		w.t.Fatalf("%T: a refused command changed the state", c)
	}
}

func (w *world) user(name string) *User {
	w.t.Helper()
	w.must(CreateUser{Directory: "okta", Profile: Profile{UserName: name, ExternalID: "00u-" + name}, Active: true})
	return w.state.UserByName("okta", name)
}

func (w *world) group(name string, users ...*User) *Group {
	w.t.Helper()
	events := w.must(CreateGroup{Directory: "okta", DisplayName: name, Users: idsOf(users)})
	return w.state.Group(uuid.MustParse(events[0].GetGroupCreated().GetGroupId()))
}

func idsOf(users []*User) []uuid.UUID {
	all := make([]uuid.UUID, len(users))
	for i, u := range users {
		all[i] = u.ID
	}
	return all
}

func (w *world) memberNames(g *Group) []string {
	var names []string
	for u := range w.state.Members(w.state.Group(g.ID), 0) {
		names = append(names, u.UserName)
	}
	return names
}

// counting lists the groups that count for a user at a proxy.
func (w *world) counting(u *User) []uint32 {
	return w.state.wireUser(w.state.User(u.ID)).GetGroups()
}

func want[T any](t failer, what string, got, want T) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

func kinds(events []*eventv1.Event) []string {
	var all []string
	for _, ev := range events {
		all = append(all, fmt.Sprintf("%T", ev.GetBody())[len("*eventv1.Event_"):])
	}
	return all
}
