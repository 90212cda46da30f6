// Package catalogue follows what upstreams offer: it asks each of them on a schedule, and soon where one says that its list changed, and
// says on the log in what that differs from what is pinned.
//
// What becomes of a difference is the core's to say, by the connector's settings: it is held, withheld or let through. Several control
// planes ask in turn, one for each time. The package pins nothing, and shows nobody anything.
package catalogue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/credentials"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/kv"
)

// Engine is what is needed of the engine.
type Engine interface {
	State() *core.State
	Do(ctx context.Context, actor *eventv1.Actor, c core.Command) (engine.Outcome, error)
}

// Store is what is needed of key-value, for control planes to take turns.
type Store interface {
	Create(ctx context.Context, key string, value []byte, ttl time.Duration) (uint64, error)
}

// Upstreams are asked for what they offer.
type Upstreams interface {
	Discover(ctx context.Context, c *policyv1.Connector, header, value, query string) ([]*policyv1.Tool, error)
	// Listen calls changed, which does not wait, when an upstream says that its list changed, until ctx or the upstream's stream ends.
	Listen(ctx context.Context, c *policyv1.Connector, header, value, query string, changed func()) error
}

// Credentials are what upstreams are asked with.
type Credentials interface {
	ForDiscovery(ctx context.Context, connector *core.Connector, as *core.User) (credentials.Issued, error)
}

// Trail takes audit records.
type Trail interface{ Note(r *auditv1.AuditRecord) }

// Config is what a Follower is made of. All are required.
type Config struct {
	Engine      Engine
	Store       Store
	Upstreams   Upstreams
	Credentials Credentials
	Trail       Trail
	// Name of this control plane.
	Name string
	Log  *slog.Logger
}

const (
	// everyDefault is how often an upstream is asked, where its settings do not say.
	everyDefault = 5 * time.Minute
	// everyLeast bounds it: key-value's times are whole seconds.
	everyLeast = time.Second
	// asking is how many upstreams are asked at a time.
	asking = 8
	// changedEvery is how often one is asked, at most, that says itself that its list changed.
	changedEvery = 10 * time.Second
	// listenFor is how long a stream is kept on which an upstream may say so: then a new one takes its place, with the credential of then.
	listenFor = 10 * time.Minute
)

// Follower asks upstreams. It is safe for concurrent use.
type Follower struct {
	Config
	places chan struct{}

	people chan offered

	mu  sync.Mutex
	all map[string]*following
	// next is when a connector of which each person has their own list is looked at again.
	next map[string]time.Time
}

// offered is with what an upstream can be asked what it offers one person.
type offered struct {
	connector *core.Connector
	person    uuid.UUID
	with      credentials.Issued
}

// following is how it stands with one connector.
type following struct {
	next    time.Time
	busy    bool
	problem string
	// changes is how often the upstream said that its list changed, asked up to where it was asked since, and again when it may be
	// asked anew for that. missed: that it was another control plane's turn.
	changes, asked int
	again          time.Time
	missed         bool
	// listening ends the stream on which it says so; nil: there is none.
	listening context.CancelFunc
}

// changed tells whether the upstream is to be asked since it said that its list changed.
func (f *following) changed(now time.Time) bool { return f.changes > f.asked && !now.Before(f.again) }

// turn is a connector that is asked.
type turn struct {
	*core.Connector
	// changes is up to where it is asked since it said so itself; zero: since it is time.
	changes int
}

// New returns a follower. Run makes it follow.
func New(c Config) *Follower {
	return &Follower{Config: c, places: make(chan struct{}, asking), people: make(chan offered, asking), all: map[string]*following{}, next: map[string]time.Time{}}
}

// actor is who says what upstreams offer.
var actor = &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SYSTEM, Id: "catalogue"}

// Run asks upstreams until ctx ends.
func (f *Follower) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	tick := time.NewTicker(everyLeast / 4)
	defer tick.Stop()
	for {
		for _, c := range f.due(time.Now()) {
			running.Go(func() {
				select {
				case f.places <- struct{}{}:
					defer func() { <-f.places }()
				case <-ctx.Done():
					return
				}
				f.ask(ctx, &running, c)
			})
		}
		select {
		case <-tick.C:
		case one := <-f.people:
			running.Go(func() { f.askAs(ctx, one) })
		case <-ctx.Done():
			return
		}
	}
}

// due returns the connectors that are to be asked, each of which is then busy.
func (f *Follower) due(now time.Time) (due []turn) {
	s := f.Engine.State()
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range s.Connectors() {
		id := c.Settings.GetId()
		if !c.Asked() {
			f.forget(id)
			continue
		}
		one := f.all[id]
		if one == nil {
			one = &following{}
			f.all[id] = one
		}
		if one.listening != nil && !standsFor(s, c) {
			one.listening() // as nobody's whose access ended
		}
		switch {
		case one.busy:
		case !now.Before(one.next):
			one.busy = true
			due = append(due, turn{c, 0})
		case one.changed(now):
			one.busy = true
			due = append(due, turn{c, one.changes})
		}
	}
	for id := range f.all {
		if s.Connector(id) == nil {
			f.forget(id)
		}
	}
	return due
}

// standsFor tells whether whoever the upstream is asked as, where it is a person, is active.
func standsFor(s *core.State, c *core.Connector) bool {
	ref := c.Settings.GetCatalogue().GetAs()
	if ref == "" {
		return true
	}
	id, _ := uuid.Parse(ref) // what is no id is nobody's
	as := s.User(id)
	return as != nil && as.Active
}

// forget ends what is known of a connector. f.mu is held.
func (f *Follower) forget(id string) {
	if one := f.all[id]; one != nil && one.listening != nil {
		one.listening()
	}
	delete(f.all, id)
}

// Changed is told that an upstream said that its list changed. It is asked anew soon, where control planes ask it, or else as soon as
// there is somebody as whom.
func (f *Follower) Changed(connector string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.all[connector]; one != nil {
		one.changes++
	} else if now := time.Now(); f.next[connector].After(now.Add(changedEvery)) {
		f.next[connector] = now.Add(changedEvery)
	}
}

// Problem says why an upstream could not be asked, when it was last tried here. Empty: it could, or was not tried.
func (f *Follower) Problem(connector string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.all[connector]; one != nil {
		return one.problem
	}
	return ""
}

// Every is how often a connector's upstream is asked.
func Every(c *policyv1.Connector) time.Duration {
	every := c.GetCatalogue().GetEvery().AsDuration()
	if every == 0 {
		every = everyDefault
	}
	return max(every, everyLeast)
}

// ask asks one upstream, unless another control plane did.
func (f *Follower) ask(ctx context.Context, running *sync.WaitGroup, c turn) {
	id, every := c.Settings.GetId(), Every(c.Settings)
	key, whole := "catalogue."+id, every
	if c.changes > 0 {
		key, whole = "catalogue-changed."+id, changedEvery
	}
	_, err := f.Store.Create(ctx, key, []byte(f.Name), whole-whole/8) // over when it is the next one's turn
	turn := err == nil
	var problem string
	if turn {
		err = f.follow(ctx, running, c.Connector)
		if problem = said(err); err != nil && ctx.Err() == nil {
			f.Log.WarnContext(ctx, "an upstream could not be followed", "connector", id, "error", err)
		}
	} else if !errors.Is(err, kv.ErrExists) && ctx.Err() == nil {
		f.Log.WarnContext(ctx, "control planes could not agree whose turn it is to ask an upstream", "connector", id, "error", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.all[id]; one != nil {
		now := time.Now()
		one.busy = false
		switch {
		case turn:
			one.next, one.problem = now.Add(every), problem
		case c.changes == 0: // whose turn it was not looks again soon: the other may be gone
			one.next = now.Add(min(every, max(every/4, everyLeast)))
		}
		if c.changes > 0 { // the other may have asked before the change, so that one looks once more
			one.again = now.Add(changedEvery)
			if done := turn || one.missed; done {
				one.asked = c.changes
			}
			one.missed = !turn && !one.missed
		}
	}
}

// Issued is told that a person was given a credential of a connector. Where no list is everybody's, the upstream is asked what it offers that
// person, as often as others are asked: a proposal, which shows admins what changed. It does not wait.
func (f *Follower) Issued(c *core.Connector, person uuid.UUID, with credentials.Issued) {
	if c.Asked() || strings.HasPrefix(c.Settings.GetUrl(), "stdio:") {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := time.Now(); now.Before(f.next[c.Settings.GetId()]) {
		return
	}
	select {
	case f.people <- offered{c, person, with}:
		f.next[c.Settings.GetId()] = time.Now().Add(Every(c.Settings))
	default: // so much is asked that another will come
	}
}

// askAs asks an upstream what it offers a person, unless another control plane did.
func (f *Follower) askAs(ctx context.Context, one offered) {
	id, every := one.connector.Settings.GetId(), Every(one.connector.Settings)
	if _, err := f.Store.Create(ctx, "catalogue."+id, []byte(f.Name), every-every/8); err != nil {
		return
	}
	if err := f.note(ctx, one.connector, one.person.String(), one.with); err != nil && ctx.Err() == nil {
		f.Log.WarnContext(ctx, "an upstream could not be followed", "connector", id, "error", err)
	}
}

// said is what admins are told of a failure: the core's words, and of others that the log says more.
func said(err error) string {
	var refused *core.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &refused):
		return refused.Message
	}
	return "the upstream did not list what it offers: the control plane's log says more"
}

// follow asks an upstream and says what it offers.
func (f *Follower) follow(ctx context.Context, running *sync.WaitGroup, c *core.Connector) error {
	var as *core.User
	if ref := c.Settings.GetCatalogue().GetAs(); ref != "" {
		id, _ := uuid.Parse(ref) // what is no id is nobody's
		if as = f.Engine.State().User(id); as == nil || !as.Active {
			return &core.Error{Code: core.FailedPrecondition, Message: "the person as whom it is asked, by catalogue.as, is gone or deactivated"}
		}
	}
	with, err := f.Credentials.ForDiscovery(ctx, c, as)
	if err != nil {
		return fmt.Errorf("with what the upstream is asked: %w", err)
	}
	f.listen(ctx, running, c, with)
	return f.note(ctx, c, "", with)
}

// listen has an upstream say when its list changes, unless it does already.
func (f *Follower) listen(ctx context.Context, running *sync.WaitGroup, c *core.Connector, with credentials.Issued) {
	id := c.Settings.GetId()
	f.mu.Lock()
	defer f.mu.Unlock()
	one := f.all[id]
	if one == nil || one.listening != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, listenFor)
	one.listening = cancel
	running.Go(func() {
		defer cancel()
		err := f.Upstreams.Listen(ctx, c.Settings, with.Header, with.Value, with.Query, func() { f.Changed(id) })
		if err != nil && ctx.Err() == nil {
			f.Log.DebugContext(ctx, "an upstream does not say when its list changes", "connector", id, "error", err)
		}
		<-ctx.Done() // one that says nothing is asked again for it when its time is over, and not each time that it is asked what it offers
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.all[id] == one {
			one.listening = nil
		}
	})
}

// note asks an upstream what it offers, to everybody or a person, and says so on the log.
func (f *Follower) note(ctx context.Context, c *core.Connector, person string, with credentials.Issued) error {
	tools, err := f.Upstreams.Discover(ctx, c.Settings, with.Header, with.Value, with.Query)
	if err != nil {
		return err
	}
	out, err := f.Engine.Do(ctx, actor, core.NewNoteOffer(c.Settings.GetId(), tools, person))
	if err != nil {
		return fmt.Errorf("noting what the upstream offers: %w", err)
	}
	record(f.Trail, out, c.Settings.GetId(), person)
	return nil
}

// record says in audit what was noted of an upstream: which tools are offered otherwise than they are pinned, and what in that looks like
// hidden instructions.
func record(trail Trail, out engine.Outcome, connector, person string) {
	if len(out.Events) == 0 {
		return
	}
	c := out.State.Connector(connector)
	if c == nil || c.Offer == nil {
		return
	}
	if c.Offer.Unsettled {
		trail.Note(&auditv1.AuditRecord{
			Kind: auditv1.Kind_KIND_HEALTH, Action: "catalogue_unsettled", Target: "connector/" + connector, Connector: connector, Version: out.Seq, PersonId: person,
			Actor: &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_SYSTEM, Id: "catalogue"}, Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
			Error: core.Unsettled(c),
		})
		return
	}
	r := &auditv1.AuditRecord{
		Kind: auditv1.Kind_KIND_HEALTH, Action: "catalogue_offered", Target: "connector/" + connector, Connector: connector, Version: out.Seq,
		Actor: &auditv1.Actor{Kind: auditv1.ActorKind_ACTOR_KIND_SYSTEM, Id: "catalogue"}, Decision: &auditv1.Decision{Verdict: auditv1.Verdict_VERDICT_ALLOWED},
	}
	if person != "" {
		r.PersonId = person
	}
	detail := func(key, value string) {
		if len(r.GetDetails()) < maxDetails {
			r.Details = append(r.Details, &auditv1.Detail{Key: key, Value: value})
		}
	}
	findings := 0
	for _, d := range core.Differences(c.Tools, c.Offer.Tools) {
		word := "changed"
		switch {
		case d.Offered == nil:
			word = "removed"
		case d.Pinned == nil:
			word = "added"
		}
		detail(word, core.Visible(d.Label()))
		if d.Offered == nil {
			continue
		}
		for _, one := range core.NewFindings(d.Pinned, d.Offered) {
			findings++
			detail("finding", core.Visible(d.Label())+one.Path+": "+one.Kind+": "+one.Excerpt)
		}
	}
	for _, ev := range out.Events {
		if pinned := ev.GetCataloguePinned(); pinned != nil {
			detail("let_through", strconv.Itoa(len(pinned.GetTools()))+" definitions are pinned")
		}
	}
	if findings > 0 {
		r.Error = fmt.Sprintf("%d places in what the upstream offers look like hidden instructions", findings)
	}
	trail.Note(r)
}

// maxDetails bounds a record.
const maxDetails = 100
