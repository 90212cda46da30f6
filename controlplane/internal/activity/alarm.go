package activity

import (
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
)

const (
	// Window is how long what a directory does is counted together.
	Window = time.Hour
	// usualPercent of a directory's active people may be deactivated, or have other groups, in that time, where it does not say.
	usualPercent = 20
	// fewPeople are no alarm, whatever their share.
	fewPeople = 10
)

// Alarm is that a directory took access away from, or regrouped, more people within Window than it is set to. That is what a
// mistake at the identity provider looks like, or somebody who took it over.
type Alarm struct {
	At        time.Time `json:"at"`
	Directory string    `json:"directory"`
	// What was done: "deactivated" or "regrouped".
	What string `json:"what"`
	// People to whom it was done when the alarm was raised, of so many who were active before, and the share that is let pass.
	People  int `json:"people"`
	Of      int `json:"of"`
	Percent int `json:"percent"`
}

// Percent is the share of a directory's people that may change at once.
func Percent(d *policyv1.Directory) int {
	if p := int(d.GetAlarmPercent()); p > 0 {
		return p
	}
	return usualPercent
}

// Watch counts what directories do to people, and raises alarms. Each control plane counts all of it, so that any of them can go on
// where another stops.
type Watch struct {
	raise func(context.Context, Alarm)

	mu     sync.Mutex
	rounds []round
	wake   chan struct{}
	// by directory and what was done; only Run touches it.
	counts map[[2]string]*count
}

// round is what was committed together, and the state before.
type round struct {
	before  *core.State
	records []core.Record
}

// count is what was done to whom, and when last.
type count struct {
	people map[uint32]time.Time
	of     int       // active people at since
	since  time.Time // of the count of active people
	quiet  time.Time // after an alarm: until when there is no other
	swept  time.Time
}

// NewWatch returns a watch, which counts while it runs.
func NewWatch(raise func(context.Context, Alarm)) *Watch {
	return &Watch{raise: raise, wake: make(chan struct{}, 1), counts: map[[2]string]*count{}}
}

// Round takes what was committed. It does not wait: whoever commits has no time.
func (w *Watch) Round(before *core.State, records []core.Record) {
	var some []core.Record
	for _, r := range records {
		switch r.Event.GetBody().(type) {
		case *eventv1.Event_UserDeactivated, *eventv1.Event_UserDeleted, *eventv1.Event_GroupMembersAdded, *eventv1.Event_GroupMembersRemoved, *eventv1.Event_GroupDeleted:
			if kind := r.Event.GetActor().GetKind(); kind == eventv1.ActorKind_ACTOR_KIND_SCIM || kind == eventv1.ActorKind_ACTOR_KIND_SIGNAL {
				some = append(some, r)
			}
		}
	}
	if len(some) == 0 {
		return
	}
	w.mu.Lock()
	w.rounds = append(w.rounds, round{before, some})
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run counts until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
		w.count(ctx)
	}
}

func (w *Watch) count(ctx context.Context) {
	w.mu.Lock()
	rounds := w.rounds
	w.rounds = nil
	w.mu.Unlock()
	for _, r := range rounds {
		for _, rec := range r.records {
			w.one(ctx, r.before, rec)
		}
	}
}

// one counts an event. Who is new, or was not active, is not counted: a directory that is loaded is no alarm.
func (w *Watch) one(ctx context.Context, before *core.State, rec core.Record) {
	at := rec.Event.GetAt().AsTime()
	switch e := rec.Event.GetBody().(type) {
	case *eventv1.Event_UserDeactivated:
		w.person(ctx, before, at, "deactivated", parsed(e.UserDeactivated.GetUserId()))
	case *eventv1.Event_UserDeleted:
		w.person(ctx, before, at, "deactivated", parsed(e.UserDeleted.GetUserId()))
	case *eventv1.Event_GroupMembersAdded:
		w.people(ctx, before, at, e.GroupMembersAdded.GetUserIds())
	case *eventv1.Event_GroupMembersRemoved:
		w.people(ctx, before, at, e.GroupMembersRemoved.GetUserIds())
	case *eventv1.Event_GroupDeleted:
		if g := before.Group(parsed(e.GroupDeleted.GetGroupId())); g != nil {
			for u := range before.Members(g, 0) {
				w.user(ctx, before, at, "regrouped", u)
			}
		}
	}
}

func parsed(id string) uuid.UUID {
	u, err := uuid.Parse(id)
	if err != nil {
		return uuid.Nil // nobody's
	}
	return u
}

func (w *Watch) people(ctx context.Context, before *core.State, at time.Time, ids []byte) {
	for ; len(ids) >= 16; ids = ids[16:] {
		w.person(ctx, before, at, "regrouped", uuid.UUID(ids[:16]))
	}
}

func (w *Watch) person(ctx context.Context, before *core.State, at time.Time, what string, id uuid.UUID) {
	if u := before.User(id); u != nil {
		w.user(ctx, before, at, what, u)
	}
}

func (w *Watch) user(ctx context.Context, before *core.State, at time.Time, what string, u *core.User) {
	if !u.Active || at.Sub(u.CreatedAt.Time()) < Window {
		return
	}
	key := [2]string{u.Directory, what}
	c := w.counts[key]
	if c == nil {
		c = &count{people: map[uint32]time.Time{}}
		w.counts[key] = c
	}
	if at.Before(c.quiet) {
		return
	}
	c.sweep(at)
	if at.Sub(c.since) >= Window {
		c.since, c.of = at, active(before, u.Directory)
	}
	c.people[u.No] = at
	percent := Percent(before.Directory(u.Directory))
	if len(c.people) < fewPeople || len(c.people)*100 <= percent*c.of {
		return
	}
	alarm := Alarm{At: at, Directory: u.Directory, What: what, People: len(c.people), Of: c.of, Percent: percent}
	*c = count{people: map[uint32]time.Time{}, quiet: at.Add(Window)}
	w.raise(ctx, alarm)
}

// sweep forgets, once a minute, what is too long ago.
func (c *count) sweep(at time.Time) {
	if at.Sub(c.swept) < time.Minute {
		return
	}
	c.swept = at
	for no, when := range c.people {
		if at.Sub(when) >= Window {
			delete(c.people, no)
		}
	}
}

func active(s *core.State, directory string) (n int) {
	for u := range s.Users(directory, 0) {
		if u.Active {
			n++
		}
	}
	return n
}
