// Package usage remembers who used the gateway through an agent: when first, when last, and which connectors. From it follows who has
// moved and who has not.
//
// It is a projection of audit: it takes what proxies deliver, tells all control planes once a minute, and after a crash reads again what it may
// not have told. People lie in a fixed number of shards, so that a million of them are some thousand keys. Times only grow: to take a record twice changes nothing.
package usage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"

	"sallyport.dev/controlplane/internal/kv"
)

// Store is where usage lies.
type Store interface {
	Change(ctx context.Context, key string, ttl time.Duration, change func(value []byte) ([]byte, error)) (uint64, error)
	Each(ctx context.Context, prefix string, fn func(kv.Entry) error) error
	Purge(ctx context.Context, key string) error
}

// Records is the audit stream.
type Records interface {
	// Last is the sequence of the newest record.
	Last(ctx context.Context) (uint64, error)
	// Records calls fn with each record after a sequence, up to another.
	Records(ctx context.Context, after, upTo uint64, fn func(*auditv1.AuditRecord) error) error
}

// Person is what is known of one person, in seconds since 1970.
type Person struct {
	First int64 `json:"f"`
	Last  int64 `json:"l"`
	// Connectors are those of which a call was let through, with when last.
	Connectors map[string]int64 `json:"c,omitempty"`
}

// shards is how many keys there are at most. It never changes: a person's shard follows from it.
const shards = 4096

const (
	tellEvery = time.Minute
	// maxPending bounds the people of whom something waits to be told.
	maxPending = 2_000_000
	// forgetMark is how old the mark of a control plane is that is gone.
	forgetMark = time.Hour
	keyPrefix  = "usage."
	markPrefix = "usage-mark."
)

// Recorder takes what was used. It is safe for concurrent use.
type Recorder struct {
	Store   Store
	Records Records
	// Name is this control plane's.
	Name string
	Now  func() time.Time
	Log  *slog.Logger

	mu      sync.Mutex
	pending map[uuid.UUID]*Person
	telling map[uuid.UUID]*Person // what is being told now
	// lost: something did not fit, so that what was told is not all up to where the stream stands.
	lost bool

	tellOne sync.Mutex
	// told is where the stream stood a round ago: all up to it that came here was told by this round.
	told uint64
}

// Note takes records as proxies deliver them.
func (r *Recorder) Note(records []*auditv1.AuditRecord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range records {
		r.note(rec)
	}
}

func (r *Recorder) note(rec *auditv1.AuditRecord) {
	kind := rec.GetKind()
	if rec.GetPersonId() == "" || rec.GetPhase() == auditv1.Phase_PHASE_REFUSED || kind != auditv1.Kind_KIND_UNSPECIFIED && kind != auditv1.Kind_KIND_LIST {
		return
	}
	id, err := uuid.Parse(rec.GetPersonId())
	at := rec.GetAt().AsTime().Unix()
	if err != nil || at <= 0 || at > r.Now().Add(time.Hour).Unix() { // a proxy's clock may be wrong, and what is kept never goes back
		return
	}
	p := r.pending[id]
	if p == nil {
		if len(r.pending) >= maxPending {
			r.lost = true
			return
		}
		if r.pending == nil {
			r.pending = map[uuid.UUID]*Person{}
		}
		p = &Person{}
		r.pending[id] = p
	}
	p.saw(at)
	if c := rec.GetConnector(); c != "" && len(c) <= 64 && kind == auditv1.Kind_KIND_UNSPECIFIED {
		if p.Connectors == nil {
			p.Connectors = map[string]int64{}
		}
		p.Connectors[c] = max(p.Connectors[c], at)
	}
}

func (p *Person) saw(at int64) {
	if p.First == 0 || at < p.First {
		p.First = at
	}
	p.Last = max(p.Last, at)
}

// merge takes in what is known elsewhere of the same person.
func (p *Person) merge(q *Person) {
	p.saw(q.First)
	p.saw(q.Last)
	for c, at := range q.Connectors {
		if p.Connectors == nil {
			p.Connectors = map[string]int64{}
		}
		p.Connectors[c] = max(p.Connectors[c], at)
	}
}

func shardOf(id uuid.UUID) string {
	h := fnv.New32a()
	_, _ = h.Write(id[:])
	return keyPrefix + strconv.Itoa(int(h.Sum32()%shards))
}

// Run catches up with what was not told, and then tells what is noted, until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	for behind := true; ; {
		if behind {
			if err := r.catchUp(ctx); err != nil && ctx.Err() == nil {
				r.Log.WarnContext(ctx, "who used the gateway is not known to its end; it is tried again", "error", err)
			} else {
				behind = false
			}
		}
		wait := tellEvery
		if behind {
			wait = 5 * time.Second
		}
		select {
		case <-ctx.Done():
			r.tellLast(ctx)
			return
		case <-time.After(wait):
		}
		if behind {
			continue // the mark may not move
		}
		if err := r.Tell(ctx); err != nil && ctx.Err() == nil {
			r.Log.WarnContext(ctx, "who used the gateway could not be told to other control planes; it is tried again", "error", err)
		}
	}
}

// tellLast tells what is left when this control plane stops.
func (r *Recorder) tellLast(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	if err := r.Tell(ctx); err != nil {
		r.Log.WarnContext(ctx, "who used the gateway was not told at the end; the next start reads it from audit", "error", err)
	}
}

// mark is up to where on the stream a control plane told what came to it.
type mark struct {
	Sequence uint64    `json:"sequence"`
	At       time.Time `json:"at"`
}

// catchUp reads again what some control plane may have taken and not told: after the earliest mark, or from the beginning where there is none.
func (r *Recorder) catchUp(ctx context.Context) error {
	end, err := r.Records.Last(ctx)
	if err != nil {
		return err
	}
	from, some := end, false
	var gone []string
	err = r.Store.Each(ctx, markPrefix, func(e kv.Entry) error {
		var m mark
		if err := json.Unmarshal(e.Value, &m); err != nil {
			return fmt.Errorf("reading how far a control plane told who used the gateway: %w", err)
		}
		from, some = min(from, m.Sequence), true
		if r.Now().Sub(m.At) > forgetMark {
			gone = append(gone, e.Key)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !some {
		from = 0
	}
	if from < end {
		batch := make([]*auditv1.AuditRecord, 0, 1000)
		err = r.Records.Records(ctx, from, end, func(rec *auditv1.AuditRecord) error {
			if batch = append(batch, rec); len(batch) == cap(batch) {
				r.Note(batch)
				batch = batch[:0]
			}
			return nil
		})
		if err != nil {
			return err
		}
		r.Note(batch)
	}
	r.tellOne.Lock()
	r.told = end
	r.tellOne.Unlock()
	if err := r.Tell(ctx); err != nil {
		return err
	}
	for _, key := range gone {
		if err := r.Store.Purge(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// Tell tells what was noted, and then how far that is.
func (r *Recorder) Tell(ctx context.Context) error {
	r.tellOne.Lock()
	defer r.tellOne.Unlock()
	end, err := r.Records.Last(ctx)
	if err != nil {
		return err
	}
	r.mu.Lock()
	now, lost := r.pending, r.lost
	r.pending, r.lost, r.telling = nil, false, now
	r.mu.Unlock()
	byShard := map[string][]uuid.UUID{}
	for id := range now {
		byShard[shardOf(id)] = append(byShard[shardOf(id)], id)
	}
	for key, ids := range byShard {
		_, err := r.Store.Change(ctx, key, 0, func(value []byte) ([]byte, error) {
			kept, err := people(value)
			if err != nil {
				return nil, err
			}
			for _, id := range ids {
				if kept[id] == nil {
					kept[id] = &Person{}
				}
				kept[id].merge(now[id])
			}
			return json.Marshal(kept)
		})
		if err != nil {
			r.back(now, lost)
			return fmt.Errorf("telling who used the gateway: %w", err)
		}
	}
	r.mu.Lock()
	r.telling = nil
	r.mu.Unlock()
	if lost {
		return errors.New("more people used the gateway at once than are kept in memory: the next start reads them from audit")
	}
	m, err := json.Marshal(mark{r.told, r.Now()})
	if err != nil {
		return err
	}
	if _, err = r.Store.Change(ctx, markPrefix+r.Name, 0, func([]byte) ([]byte, error) { return m, nil }); err != nil {
		return err
	}
	// What was stored before this round began is noted by now, or will be before the next one.
	r.told = end
	return nil
}

// back puts what could not be told to what waits.
func (r *Recorder) back(now map[uuid.UUID]*Person, lost bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.telling, r.lost = nil, r.lost || lost
	for id, p := range now {
		if r.pending == nil {
			r.pending = map[uuid.UUID]*Person{}
		}
		if r.pending[id] == nil {
			r.pending[id] = p
		} else {
			r.pending[id].merge(p)
		}
	}
}

func people(value []byte) (map[uuid.UUID]*Person, error) {
	kept := map[uuid.UUID]*Person{}
	if len(value) == 0 {
		return kept, nil
	}
	if err := json.Unmarshal(value, &kept); err != nil {
		return nil, fmt.Errorf("reading who used the gateway: %w", err)
	}
	return kept, nil
}

// Each calls fn with each person who ever used the gateway, as all control planes told, and this one knows. It may call again with the
// same person, who is then to be merged.
func (r *Recorder) Each(ctx context.Context, fn func(uuid.UUID, *Person)) error {
	own := map[uuid.UUID]*Person{}
	r.mu.Lock()
	for _, from := range []map[uuid.UUID]*Person{r.telling, r.pending} {
		for id, p := range from {
			if own[id] == nil {
				own[id] = &Person{}
			}
			own[id].merge(p)
		}
	}
	r.mu.Unlock()
	for id, p := range own {
		fn(id, p)
	}
	return r.Store.Each(ctx, keyPrefix, func(e kv.Entry) error {
		kept, err := people(e.Value)
		if err != nil {
			return err
		}
		for id, p := range maps.All(kept) {
			if p != nil {
				fn(id, p)
			}
		}
		return nil
	})
}

// Forget forgets a person who was erased.
func (r *Recorder) Forget(ctx context.Context, person uuid.UUID) error {
	nothing := errors.New("nothing is known")
	r.tellOne.Lock() // what is told now may have the person, and where it cannot be told it waits again
	defer r.tellOne.Unlock()
	r.mu.Lock()
	delete(r.pending, person)
	r.mu.Unlock()
	_, err := r.Store.Change(ctx, shardOf(person), 0, func(value []byte) ([]byte, error) {
		if !strings.Contains(string(value), person.String()) {
			return nil, nothing
		}
		kept, err := people(value)
		if err != nil {
			return nil, err
		}
		delete(kept, person)
		return json.Marshal(kept)
	})
	if errors.Is(err, nothing) {
		return nil
	}
	return err
}
