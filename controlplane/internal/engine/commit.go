package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/journal"
)

// commitLoop is the one goroutine that moves the state: by rounds of its own and by what others wrote.
func (e *Engine) commitLoop(ctx context.Context, followed <-chan []journal.Record) {
	for {
		select {
		case <-ctx.Done():
			return
		case records := <-followed:
			if err := e.catchUp(ctx, records); err != nil {
				e.halt(err)
			}
		case <-e.queue.wake:
			waiting := e.queue.take()
			if len(waiting) == 0 {
				continue
			}
			if err := e.halted(); err != nil {
				e.refuseAll(waiting, err)
				continue
			}
			e.queue.putBack(e.commit(ctx, waiting, followed))
		}
	}
}

// A batch costs much before its first message, and little with each more, so that after a crowded round,
// whose callers are about to come back, it pays to let them arrive: for a part of what the round took. One
// caller alone never waits.
const (
	crowded    = 8
	gatherPart = 8
	gatherMost = 3 * time.Millisecond
)

// gather takes commands into a round as they come, until there are as many as there were callers in the last
// round and behind it, or the moment is over. It returns all that the round was given, and what did not fit.
func (e *Engine) gather(ctx context.Context, r *round, waiting []*pending) (all, rest []*pending) {
	rest = e.add(r, waiting)
	if e.crowd < crowded {
		return waiting, rest
	}
	over := time.NewTimer(min(e.took/gatherPart, gatherMost))
	defer over.Stop()
	for len(rest) == 0 && len(waiting) < e.crowd && len(r.records) < journal.MaxBatch && e.halted() == nil {
		select {
		case <-e.queue.wake:
			more := e.queue.take()
			waiting, rest = append(waiting, more...), e.add(r, more)
		case <-over.C:
			return waiting, rest
		case <-ctx.Done():
			return waiting, rest
		}
	}
	return waiting, rest
}

// round is what is decided for one batch, not yet committed.
type round struct {
	prev, next *core.State
	env        core.Env
	records    []core.Record
	// batch is what is published of the records, as far as it is known: personal attributes are sealed when
	// the keys of all are there.
	batch   []journal.Message
	answers []answer
}

// errMoved: nothing was done, since another control plane is the active writer now.
var errMoved = errors.New("another control plane became the active writer")

type answer struct {
	to      *pending
	outcome Outcome
	err     error
}

// commit decides what waits, and what comes meanwhile, against an overlay and writes it as one round; when another writer was first
// it throws the overlay away, catches up and decides all again. It returns what did not fit.
func (e *Engine) commit(ctx context.Context, waiting []*pending, followed <-chan []journal.Record) (rest []*pending) {
	began := time.Now()
	for first := true; ; first = false {
		if !e.leader.Load().mine {
			// To go on beside the active writer would be a race that one of the two always loses.
			e.refuseAll(waiting, errMoved)
			return nil
		}
		r := e.begin()
		if first {
			waiting, rest = e.gather(ctx, r, waiting)
		} else {
			rest = e.add(r, waiting)
		}
		e.fence(r)
		err := e.write(ctx, r)
		switch {
		case err == nil:
			e.settle(r)
			// Whoever was answered may come back, beside those who wait already.
			e.crowd, e.took = len(waiting)+e.queue.waiting(), time.Since(began)
			return rest
		case errors.Is(err, journal.ErrConflict):
			if err := e.overtaken(ctx, r.prev.Seq(), followed); err != nil {
				e.refuseAll(waiting, err)
				return nil
			}
		case errors.Is(err, journal.ErrFateUnknown):
			e.refuseAll(waiting, fmt.Errorf("%w: %w", ErrClosed, err))
			return nil
		default:
			if e.halted() == nil {
				err = fmt.Errorf("%w: %w", ErrUnavailable, err)
			}
			for _, a := range r.answers {
				e.refuseAll([]*pending{a.to}, err)
			}
			return rest
		}
	}
}

// begin opens a round on the committed state.
func (e *Engine) begin() *round {
	prev := e.State()
	return &round{prev: prev, next: prev.Fork(), env: core.Env{Now: e.Now(), NewID: e.NewID}}
}

// add decides commands in order as long as their events fit one batch, each on what those before it became,
// and returns those that do not fit.
func (e *Engine) add(r *round, waiting []*pending) (rest []*pending) {
	for i, p := range waiting {
		if p.command == nil {
			r.answers = append(r.answers, answer{to: p})
			continue
		}
		if known, ok := e.recent.get(p.id); ok { // it was sent again, and done the first time
			r.answers = append(r.answers, answer{to: p, outcome: Outcome{Seq: known, repeated: true}})
			continue
		}
		env := r.env
		env.Actor = p.actor
		events, err := core.Decide(r.next, p.command, env)
		if err == nil && len(r.records)+len(events) > journal.MaxBatch {
			return waiting[i:]
		}
		a := answer{to: p, err: err, outcome: Outcome{Events: events}}
		for _, ev := range events {
			ev.Actor, ev.CommandId = p.actor, p.id
			if err := e.put(r, ev); err != nil {
				// The core decided what it cannot fold: nothing after it can be trusted.
				e.halt(err)
				r.answers = append(r.answers, answer{to: p, err: err})
				return waiting[i+1:]
			}
		}
		a.outcome.Seq = r.next.Seq()
		r.answers = append(r.answers, a)
	}
	return nil
}

// put adds an event to a round and to its overlay.
func (e *Engine) put(r *round, ev *eventv1.Event) error {
	rec := core.Record{Seq: r.next.Seq() + 1, Event: ev}
	if err := r.next.Apply(rec); err != nil {
		return err
	}
	m := journal.Message{Subject: core.Subject(ev)}
	if ev.GetPersonal() == nil {
		var err error
		if m.Data, err = proto.Marshal(stripped(ev)); err != nil {
			return fmt.Errorf("encoding an event: %w", err)
		}
	}
	r.records, r.batch = append(r.records, rec), append(r.batch, m)
	return nil
}

// fence gives a round without events one that proves where the log ends, where another could have
// written: what was decided to nothing, or refused, is true only there.
func (e *Engine) fence(r *round) {
	if len(r.records) > 0 || e.Peers == nil || e.halted() != nil {
		return
	}
	if err := e.put(r, core.Barrier(r.env)); err != nil {
		e.halt(err)
	}
}

// write makes a round durable, or says why it is not.
func (e *Engine) write(ctx context.Context, r *round) error {
	if err := e.halted(); err != nil {
		return err
	}
	if len(r.records) == 0 {
		return nil
	}
	if err := e.ensureKeys(ctx, r.records); err != nil {
		return err
	}
	for i, rec := range r.records {
		if r.batch[i].Data != nil {
			continue
		}
		data, err := e.sealed(ctx, rec.Event)
		if err != nil {
			return err
		}
		r.batch[i].Data = data
	}
	defer e.stall.watch(e.Store)()
	ctx, done := lingering(ctx)
	defer done()
	_, err := e.Journal.Append(ctx, r.prev.Seq(), r.batch)
	if errors.Is(err, journal.ErrMisplaced) {
		e.halt(err)
	}
	return err
}

// lingerFor is how long a round that is under way when the engine is closed may take to learn its fate.
const lingerFor = 5 * time.Second

// lingering is a context that ends a while after another.
func lingering(ctx context.Context) (context.Context, func()) {
	longer, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(lingerFor, func() { cancel(context.Cause(ctx)) })
	})
	return longer, func() { stop(); cancel(nil) }
}

// ensureKeys makes the keys of a round's new people as one write, before the round.
func (e *Engine) ensureKeys(ctx context.Context, records []core.Record) error {
	var people []uuid.UUID
	for _, rec := range records {
		created := rec.Event.GetUserCreated()
		if created == nil {
			continue
		}
		id, err := uuid.Parse(created.GetUserId())
		if err != nil {
			return fmt.Errorf("reading a person's id: %w", err)
		}
		people = append(people, id)
	}
	if len(people) == 0 {
		return nil
	}
	if err := e.Seals.EnsureKeys(ctx, people); err != nil {
		return fmt.Errorf("making people's keys: %w", err)
	}
	return nil
}

// sealed is an event as it lies on the log: its personal attributes only sealed.
func (e *Engine) sealed(ctx context.Context, ev *eventv1.Event) ([]byte, error) {
	published := stripped(ev)
	person, err := uuid.Parse(ev.GetPersonId())
	if err != nil {
		return nil, fmt.Errorf("reading a person's id: %w", err)
	}
	plain, err := proto.Marshal(ev.GetPersonal())
	if err != nil {
		return nil, fmt.Errorf("encoding personal attributes: %w", err)
	}
	if published.Sealed, err = e.Seals.Seal(ctx, person, plain); err != nil {
		return nil, fmt.Errorf("sealing personal attributes: %w", err)
	}
	data, err := proto.Marshal(published)
	if err != nil {
		return nil, fmt.Errorf("encoding an event: %w", err)
	}
	return data, nil
}

// stripped is an event without what must not leave the process.
func stripped(ev *eventv1.Event) *eventv1.Event {
	return &eventv1.Event{
		Id: ev.GetId(), At: ev.GetAt(), Actor: ev.GetActor(), CommandId: ev.GetCommandId(), PersonId: ev.GetPersonId(),
		Sealed: ev.GetSealed(), Body: ev.GetBody(),
	}
}

// settle makes a durable round the state, then lets its answers go.
func (e *Engine) settle(r *round) {
	if len(r.records) > 0 {
		e.advance(r.prev, r.next, r.records)
	}
	if e.Peers != nil {
		for _, rec := range r.records {
			e.recent.add(rec.Event.GetCommandId(), rec.Seq)
		}
	}
	done := make([]*pending, len(r.answers))
	for i, a := range r.answers {
		done[i] = a.to
	}
	e.queue.answered(done)
	for _, a := range r.answers {
		if a.outcome.Seq == 0 {
			a.outcome.Seq = r.next.Seq()
		}
		a.outcome.State = r.next
		a.to.finish(a.outcome, a.err)
	}
}

func (e *Engine) refuseAll(all []*pending, err error) {
	e.queue.answered(all)
	for _, p := range all {
		p.finish(Outcome{}, err)
	}
}

// overtaken folds what another writer wrote at and after a position.
func (e *Engine) overtaken(ctx context.Context, position uint64, followed <-chan []journal.Record) error {
	if e.Peers == nil {
		err := errors.New("something else wrote to the log that this process embeds: nothing but a control plane may write it")
		e.halt(err)
		return err
	}
	hurry := time.NewTicker(hurryAfter)
	defer hurry.Stop()
	for e.State().Seq() <= position {
		if !e.leader.Load().mine {
			return errMoved // whoever writes now has the end of the log; here it comes in its own time
		}
		select {
		case <-ctx.Done():
			return ErrClosed
		case <-hurry.C:
			e.Journal.Hurry()
		case records := <-followed:
			if err := e.catchUp(ctx, records); err != nil {
				e.halt(err)
				return err
			}
		}
	}
	return nil
}

const (
	// openWithin bounds one try to open what is sealed: what was read in it need not be read in the next.
	openWithin = 5 * time.Second
	// firstPause and lastPause are the least and the most between two tries.
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// catchUp folds what another wrote. Where it cannot be opened now, since the vault does not answer, it tries until it can: meanwhile
// nothing is decided here, and readiness says why.
func (e *Engine) catchUp(ctx context.Context, records []journal.Record) error {
	try := func() (*unopened, error) {
		ctx, cancel := context.WithTimeout(ctx, openWithin)
		defer cancel()
		var sealed *unopened
		err := e.fold(ctx, records)
		errors.As(err, &sealed)
		return sealed, err
	}
	sealed, err := try()
	if sealed == nil {
		return err
	}
	e.Log.WarnContext(ctx, "what another control plane wrote cannot be opened now; it is tried again", "error", err)
	var why atomic.Pointer[unopened]
	defer e.stall.watch(func(context.Context) error { return why.Load() })()
	for pause := firstPause; sealed != nil; pause = min(2*pause, lastPause) {
		why.Store(sealed)
		select {
		case <-ctx.Done():
			return nil // the engine closes
		case <-time.After(pause):
		}
		sealed, err = try()
	}
	return err
}

// unopened is why a person's attributes could not be opened: it may be otherwise a moment later.
type unopened struct{ error }

func (u *unopened) Unwrap() error { return u.error }

// fold applies what was read from the log, save what the state holds already.
func (e *Engine) fold(ctx context.Context, records []journal.Record) error {
	prev := e.State()
	for len(records) > 0 && records[0].Seq <= prev.Seq() {
		records = records[1:]
	}
	if len(records) == 0 {
		return nil
	}
	events, err := e.decodeAll(ctx, records)
	if err != nil {
		return err
	}
	next := prev.Fork()
	folded := make([]core.Record, 0, len(records))
	for i, rec := range records {
		r := core.Record{Seq: rec.Seq, Event: events[i]}
		if err := next.Apply(r); err != nil {
			return err
		}
		folded = append(folded, r)
		if e.Peers != nil {
			e.recent.add(r.Event.GetCommandId(), rec.Seq)
			e.awaited.add(r.Event)
		}
	}
	e.advance(prev, next, folded)
	return nil
}

// opensAtOnce is how many people's keys may be asked for at a time: those that are new here have to come
// from the vault, which may be far.
const opensAtOnce = 128

// decodeAll reads records, in their order.
func (e *Engine) decodeAll(ctx context.Context, records []journal.Record) ([]*eventv1.Event, error) {
	events := make([]*eventv1.Event, len(records))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(opensAtOnce)
	for i, rec := range records {
		events[i] = &eventv1.Event{}
		if err := proto.Unmarshal(rec.Data, events[i]); err != nil {
			return nil, errors.Join(fmt.Errorf("reading event %d: %w", rec.Seq, err), work.Wait())
		}
		if len(events[i].GetSealed()) == 0 {
			continue
		}
		work.Go(func() error {
			if err := e.openPersonal(ctx, events[i]); err != nil {
				return fmt.Errorf("reading event %d: %w", rec.Seq, err)
			}
			return nil
		})
	}
	return events, work.Wait()
}

// openPersonal opens an event's personal attributes. Of an erased person there are none.
func (e *Engine) openPersonal(ctx context.Context, ev *eventv1.Event) error {
	person, err := uuid.Parse(ev.GetPersonId())
	if err != nil {
		return fmt.Errorf("reading a person's id: %w", err)
	}
	plain, erased, err := e.Seals.Open(ctx, person, ev.GetSealed())
	ev.Sealed = nil
	if err != nil {
		return &unopened{fmt.Errorf("opening a person's attributes: %w", err)}
	}
	if erased {
		return nil
	}
	ev.Personal = &eventv1.Personal{}
	if err := proto.Unmarshal(plain, ev.Personal); err != nil {
		return fmt.Errorf("reading a person's attributes: %w", err)
	}
	return nil
}
