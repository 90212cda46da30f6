// Package catalogue follows what upstreams offer: it asks each of them on a schedule, and says on the log in what that differs from what
// is pinned.
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
				f.ask(ctx, c)
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
func (f *Follower) due(now time.Time) (due []*core.Connector) {
	s := f.Engine.State()
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range s.Connectors() {
		id := c.Settings.GetId()
		if !c.Asked() {
			delete(f.all, id)
			continue
		}
		one := f.all[id]
		if one == nil {
			one = &following{}
			f.all[id] = one
		}
		if one.busy || now.Before(one.next) {
			continue
		}
		one.busy = true
		due = append(due, c)
	}
	for id := range f.all {
		if s.Connector(id) == nil {
			delete(f.all, id)
		}
	}
	return due
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
func (f *Follower) ask(ctx context.Context, c *core.Connector) {
	id, every := c.Settings.GetId(), Every(c.Settings)
	_, err := f.Store.Create(ctx, "catalogue."+id, []byte(f.Name), every-every/8) // over when it is the next one's turn
	turn := err == nil
	var problem string
	if turn {
		err = f.follow(ctx, c)
		if problem = said(err); err != nil && ctx.Err() == nil {
			f.Log.WarnContext(ctx, "an upstream could not be followed", "connector", id, "error", err)
		}
	} else if !errors.Is(err, kv.ErrExists) && ctx.Err() == nil {
		f.Log.WarnContext(ctx, "control planes could not agree whose turn it is to ask an upstream", "connector", id, "error", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if one := f.all[id]; one != nil {
		// Whose turn it was not looks again soon: the other may be gone.
		one.busy, one.next = false, time.Now().Add(min(every, max(every/4, everyLeast)))
		if turn {
			one.next, one.problem = time.Now().Add(every), problem
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
func (f *Follower) follow(ctx context.Context, c *core.Connector) error {
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
	return f.note(ctx, c, "", with)
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
