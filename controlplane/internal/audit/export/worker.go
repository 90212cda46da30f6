package export

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/audit"
	"sallyport.dev/controlplane/internal/audit/format"
	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/vault"
)

const (
	// holdEvery is how often the stream is told that records are still in hand, and statusEvery how often others are how it goes.
	holdEvery   = 10 * time.Second
	statusEvery = 2 * time.Second
	idleStatus  = 10 * time.Second
	// idle is how long a fetch waits while nothing is stored.
	idle = time.Second
	// maxTries is how often a record that is refused is sent, by default.
	maxTries = 5
	// noesInARow is after how many refusals that are not certain, with nothing taken between them, the receiver is taken to be ill.
	noesInARow = 20
)

// worker runs one exporter.
type worker struct {
	runner   *Runner
	exporter *core.AuditExporter
	ctx      context.Context //nolint:containedctx // the worker's own life, which cancel ends
	cancel   context.CancelFunc
	ended    chan struct{}

	batch    batch
	write    func(format.Record) []byte
	kinds    map[string]bool
	maxTries int
	sink     Sink
	delivery *audit.Delivery
	noes     int       // of this try, in a row
	took     time.Time // when the receiver last took something
	retries  chan DeadLetter

	mu      sync.Mutex
	held    map[uint64]*held
	status  Status
	dead    map[uint64]bool
	told    time.Time
	changed bool
}

// held is a record in hand.
type held struct {
	audit.Delivered
	item  Item
	tries int
	since time.Time // the first refusal
}

func newWorker(ctx context.Context, r *Runner, e *core.AuditExporter) *worker {
	w := &worker{
		runner: r, exporter: e, ended: make(chan struct{}), batch: batchOf(e.Settings), kinds: map[string]bool{}, maxTries: maxTries,
		held: map[uint64]*held{}, dead: map[uint64]bool{}, retries: make(chan DeadLetter),
		status: Status{ControlPlane: r.Name, Made: e.Made, Health: "running"}, changed: true,
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	_, w.write = formatOf(e.Settings)
	for _, kind := range e.Settings.GetKinds() {
		w.kinds[kind] = true
	}
	if n := int(e.Settings.GetMaxTries()); n > 0 {
		w.maxTries = n
	}
	return w
}

// run sends until the worker is cancelled.
func (w *worker) run() {
	defer close(w.ended)
	defer w.cancel()
	var beside sync.WaitGroup
	beside.Go(w.keep)
	beside.Go(w.watch)
	defer beside.Wait()
	defer w.cancel()
	defer w.release()
	defer func() {
		if w.sink != nil {
			if err := w.sink.Close(); err != nil {
				w.runner.Log.Warn("an audit exporter could not be closed", "exporter", w.name(), "error", err)
			}
		}
	}()
	for wait := w.runner.backoff; w.ctx.Err() == nil; {
		err := w.step()
		if err == nil {
			wait = w.runner.backoff
			continue
		}
		w.failed(err)
		wait = w.pause(wait, asked(err))
	}
}

func (w *worker) name() string { return w.exporter.Settings.GetName() }

// pause waits for about so long, and no less than was asked for, and returns how long to wait the next time.
func (w *worker) pause(wait, asked time.Duration) time.Duration {
	select {
	case <-w.ctx.Done():
	case <-time.After(max(wait/2+rand.N(wait), asked)): //nolint:gosec // no secret depends on it
	}
	return min(2*wait, w.runner.longest)
}

// step opens what is not open, and sends one batch.
func (w *worker) step() error {
	if w.delivery == nil { // also of one that is paused: it starts where it was made
		s := w.exporter.Settings
		c := audit.DeliveryConfig{Name: s.GetName(), Made: made(w.exporter), Connectors: s.GetConnectors(), Beginning: s.GetFromBeginning()}
		if s.GetSince() != nil {
			c.Since = s.GetSince().AsTime()
		}
		var err error
		if w.delivery, err = w.runner.Audit.Deliver(w.ctx, c); err != nil {
			return err
		}
	}
	if w.exporter.Settings.GetPaused() {
		w.settle("paused")
		<-w.ctx.Done()
		return nil
	}
	if w.sink == nil {
		var secret vault.Secret
		var err error
		if w.exporter.SecretID != "" {
			if secret, err = w.runner.Secrets.ExporterSecret(w.ctx, w.exporter.SecretID, w.name()); err != nil {
				return fmt.Errorf("its secret cannot be had: %w", err)
			}
		}
		if w.sink, err = w.runner.openSink(w.exporter, secret); err != nil {
			w.sink = nil
			return err
		}
	}
	batch, err := w.gather()
	if err != nil {
		w.delivery = nil // it is looked for again: somebody may have removed the consumer
		return err
	}
	if len(batch) > 0 {
		w.deliver(batch)
	}
	select {
	case d := <-w.retries:
		w.again(d)
	default:
	}
	return nil
}

// gather takes records until they are a batch, or the first has waited long enough.
func (w *worker) gather() ([]*held, error) {
	var all []*held
	bytes, until := 0, time.Time{}
	for len(all) < w.batch.records && bytes < w.batch.bytes {
		wait := idle
		if len(all) > 0 {
			if wait = time.Until(until); wait <= 0 {
				break
			}
			wait = min(wait, idle)
		}
		got, err := w.take(w.batch.records-len(all), wait)
		if err != nil && len(all)+len(got) == 0 {
			return nil, err
		}
		for _, h := range got {
			bytes += len(h.item.Line)
		}
		if len(all) == 0 && len(got) > 0 {
			until = time.Now().Add(w.batch.wait)
		}
		all = append(all, got...)
		if err != nil || w.ctx.Err() != nil || len(all) == 0 {
			break
		}
	}
	if w.ctx.Err() != nil {
		return nil, nil //nolint:nilerr // what is in hand is given back
	}
	return all, nil
}

// take fetches records and reads those that are wanted.
func (w *worker) take(most int, wait time.Duration) ([]*held, error) {
	got, err := w.delivery.Fetch(w.ctx, min(most, 1000), wait)
	if err != nil {
		return nil, err
	}
	var all []*held
	for _, d := range got {
		item, wanted, err := w.read(d.Message)
		switch {
		case errors.Is(err, audit.ErrUnreadable):
			if err := w.putAside(&held{Delivered: d, tries: 1}, err); err != nil {
				return all, err
			}
		case err != nil:
			return all, err // what is not acknowledged comes again
		case !wanted:
			_ = d.Ack() // unheard, it comes again
		default:
			h := &held{Delivered: d, item: item}
			w.hold(h)
			all = append(all, h)
		}
	}
	return all, nil
}

// read makes an item of a message.
func (w *worker) read(m audit.Message) (item Item, want bool, err error) {
	personal := w.exporter.Settings.GetPersonal()
	r, err := w.runner.Audit.Record(w.ctx, m, personal)
	if err != nil {
		return item, false, err
	}
	item.Record = format.Record{AuditRecord: r, Sequence: m.Sequence, Stored: m.Stored}
	if !wanted(w.kinds, r) {
		return item, false, nil
	}
	if id, err := uuid.Parse(r.GetPersonId()); err == nil && personal {
		if u := w.runner.State().User(id); u != nil {
			item.Person = u.UserName
		}
	}
	item.Line = w.write(item.Record)
	return item, true, nil
}

// deliver sends records until each is there, or was put aside, or the worker is cancelled.
func (w *worker) deliver(all []*held) {
	for wait, tries := w.runner.backoff, 1; ; tries++ {
		w.noes = 0
		left, err := w.send(all, tries)
		if all = left; len(all) == 0 || w.ctx.Err() != nil {
			return
		}
		if err != nil {
			w.failed(err)
		}
		wait = w.pause(wait, asked(err))
		if w.ctx.Err() != nil {
			return
		}
		// What comes meanwhile goes along: by what becomes of other records shows whether it is these that are refused.
		if len(all) < w.batch.records {
			if more, err := w.take(w.batch.records-len(all), 50*time.Millisecond); err == nil {
				all = append(all, more...)
			}
		}
	}
}

// send tries once, and returns what is left to be sent. What a receiver refuses is halved until the records are alone that it refuses.
func (w *worker) send(all []*held, tries int) ([]*held, error) {
	items := make([]Item, len(all))
	for i, h := range all {
		items[i] = h.item
	}
	err := w.sink.Send(w.ctx, items)
	if err == nil {
		w.done(all)
		return nil, nil
	}
	var refusal *Refusal
	if w.ctx.Err() != nil || !errors.As(err, &refusal) {
		return all, err
	}
	if !refusal.Certain {
		if w.noes++; w.noes > noesInARow || len(all) > 1 && tries < w.maxTries {
			return all, err
		}
	}
	if len(all) == 1 {
		return w.refused(all[0], refusal)
	}
	middle := len(all) / 2
	left, err := w.send(all[:middle:middle], tries)
	if !refusal.Certain && w.noes > noesInARow {
		return append(left, all[middle:]...), err
	}
	more, err2 := w.send(all[middle:], tries)
	if err == nil || asked(err2) > asked(err) {
		err = err2
	}
	return append(left, more...), err
}

// refused counts a record's tries, and puts it aside after the last.
func (w *worker) refused(h *held, refusal *Refusal) ([]*held, error) {
	if h.tries++; h.since.IsZero() {
		h.since = time.Now()
	}
	if h.tries < w.maxTries || !refusal.Certain && !w.took.After(h.since) {
		return []*held{h}, refusal
	}
	if err := w.putAside(h, refusal); err != nil {
		return []*held{h}, err
	}
	return nil, nil
}

// putAside keeps that a record was not sent, and goes on without it.
func (w *worker) putAside(h *held, why error) error {
	w.mu.Lock()
	full := len(w.dead) >= maxDead
	w.mu.Unlock()
	if full {
		return fmt.Errorf("%d records were put aside, and no more are: see sallyport audit exporters show %s; the last is refused: %w", maxDead, w.name(), why)
	}
	if err := w.runner.putDead(w.ctx, w.name(), DeadLetter{Sequence: h.Sequence, At: time.Now().UTC(), Tries: h.tries, Reason: why.Error()}); err != nil {
		return err
	}
	w.mu.Lock()
	w.dead[h.Sequence] = true
	delete(w.held, h.Sequence)
	w.changed = true
	w.mu.Unlock()
	w.runner.Log.WarnContext(w.ctx, "an audit record was put aside, since its receiver refuses it", "exporter", w.name(), "sequence", h.Sequence, "tries", h.tries, "error", why)
	_ = h.Ack() // unheard, it comes again, and may be put aside again
	return nil
}

// again sends a record that was put aside.
func (w *worker) again(d DeadLetter) {
	m, err := w.runner.Audit.Message(w.ctx, d.Sequence)
	var item Item
	if err == nil {
		item, _, err = w.read(m)
	}
	if err == nil {
		err = w.sink.Send(w.ctx, []Item{item})
	}
	if err == nil {
		err = w.runner.Store.Purge(w.ctx, deadKey(w.name(), d.Sequence))
	}
	if err == nil || w.ctx.Err() != nil {
		return
	}
	d.Retry, d.Tries, d.Reason = false, d.Tries+1, err.Error()
	if err := w.runner.putDead(w.ctx, w.name(), d); err != nil {
		w.failed(err)
	}
}

// done acknowledges records.
func (w *worker) done(all []*held) {
	w.noes, w.took = 0, time.Now()
	for _, h := range all {
		_ = h.Ack() // unheard, it comes again
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range all {
		delete(w.held, h.Sequence)
	}
	w.status.Sent += uint64(len(all))
	w.status.LastSent, w.changed = w.took.UTC(), true
	w.status.Health, w.status.Error, w.status.FailingSince = "running", "", time.Time{}
}

// release gives back what is in hand, for whoever goes on.
func (w *worker) release() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.held {
		_ = h.Release() // unheard, it comes again later
	}
	clear(w.held)
}

func (w *worker) hold(h *held) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held[h.Sequence] = h
}

// failed says why nothing is sent.
func (w *worker) failed(err error) {
	if w.ctx.Err() != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status.Error != err.Error() {
		w.runner.Log.WarnContext(w.ctx, "audit cannot be sent at the moment; it is tried again", "exporter", w.name(), "error", err)
	}
	if w.status.FailingSince.IsZero() {
		w.status.FailingSince = time.Now().UTC()
	}
	w.status.Health, w.status.Error, w.changed = "retrying", err.Error(), true
}

func (w *worker) settle(health string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.status.Health, w.changed = health, true
}

// keep tells the stream what is still in hand, and others how it goes.
func (w *worker) keep() {
	ticker := time.NewTicker(statusEvery)
	defer ticker.Stop()
	held := time.Now()
	for {
		w.tell()
		select {
		case <-w.ctx.Done():
			return
		case <-ticker.C:
		}
		if time.Since(held) < holdEvery {
			continue
		}
		held = time.Now()
		w.mu.Lock()
		for _, h := range w.held {
			_ = h.Hold() // unheard, it comes again
		}
		w.mu.Unlock()
	}
}

func (w *worker) tell() {
	w.mu.Lock()
	if !w.changed && time.Since(w.told) < idleStatus {
		w.mu.Unlock()
		return
	}
	w.changed, w.told = false, time.Now()
	w.status.Updated = w.told.UTC()
	value, err := json.Marshal(w.status)
	w.mu.Unlock()
	if err == nil {
		err = w.runner.Store.Put(w.ctx, statusPrefix+w.name(), value)
	}
	if err != nil && w.ctx.Err() == nil {
		w.runner.Log.DebugContext(w.ctx, "it could not be told how an audit exporter does", "exporter", w.name(), "error", err)
	}
}

// watch follows what was put aside and what of it is to be sent again.
func (w *worker) watch() {
	for w.ctx.Err() == nil {
		err := w.runner.Store.Watch(w.ctx, deadPrefix(w.name()), func() {}, func(e kv.Entry) error {
			d, there := readDead(e)
			w.mu.Lock()
			if there {
				w.dead[d.Sequence] = true
			} else if d.Sequence != 0 {
				delete(w.dead, d.Sequence)
			}
			w.mu.Unlock()
			if there && d.Retry {
				select {
				case w.retries <- d:
				case <-w.ctx.Done():
				}
			}
			return nil
		})
		if err != nil && w.ctx.Err() == nil {
			w.runner.Log.DebugContext(w.ctx, "what was put aside cannot be followed; it is tried again", "exporter", w.name(), "error", err)
			w.pause(time.Second, 0)
		}
	}
}
