package policy

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Table is a snapshot ready to be decided by. Any number of goroutines may read it while one applies
// deltas: a delta is seen whole or not at all. A nil Table denies everything.
//
// Readers share one lock, which is held for a lookup and never over I/O: a reader waits only while a delta
// is applied, which takes time in proportion to the delta.
type Table struct {
	mu      sync.RWMutex
	version uint64
	digest  Digest
	broken  bool // a delta failed half-way: nothing is decided by the table any more

	users    map[uuid.UUID]*person
	subjects map[subjectKey]*person
	texts    map[string]string
	groups   map[uint32]*group
	grants   map[grantKey]*grant
	offers   map[string]*offer
	blocks   map[string]*block
	issuers  map[string]*issuer

	// What blocks say, by target.
	blocked blocks
	// sets is what each distinct set of direct groups comes to under the rules of now.
	sets atomic.Pointer[setCache]

	effect Effect // of the delta that is being applied
}

type subjectKey struct{ directory, subject string }

// Effect says whose verdicts a delta may have changed.
type Effect struct {
	// Everybody: rules, groups, connectors, catalogues, blocks or issuers changed.
	Everybody bool
	// People whose own entry changed.
	People []uuid.UUID
}

// ErrDrifted: the table is not what the control plane believes. A full snapshot is needed.
var ErrDrifted = errors.New("the table drifted from the control plane's")

// Compile makes a table of a snapshot's entries.
func Compile(version uint64, entries iter.Seq[*fleetv1.Entry]) (*Table, error) {
	t := &Table{
		version: version, users: map[uuid.UUID]*person{}, subjects: map[subjectKey]*person{}, texts: map[string]string{},
		groups: map[uint32]*group{}, grants: map[grantKey]*grant{}, offers: map[string]*offer{}, blocks: map[string]*block{}, issuers: map[string]*issuer{},
	}
	t.sets.Store(newSetCache())
	for e := range entries {
		if err := t.put(e); err != nil {
			return nil, fmt.Errorf("compiling a snapshot: %w", err)
		}
	}
	t.effect = Effect{}
	return t, nil
}

// Apply makes a delta's changes. After an error the table decides nothing any more, and a full snapshot is needed.
func (t *Table) Apply(d *fleetv1.Delta) (Effect, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.effect = Effect{}
	err := t.apply(d)
	if err != nil {
		t.broken = true
		return Effect{Everybody: true}, fmt.Errorf("applying the change to version %d: %w", d.GetVersion(), err)
	}
	return t.effect, nil
}

func (t *Table) apply(d *fleetv1.Delta) error {
	if t.broken || d.GetFromVersion() != t.version || d.GetVersion() < t.version {
		return fmt.Errorf("%w: it leads on from version %d, the table stands at %d", ErrDrifted, d.GetFromVersion(), t.version)
	}
	for _, k := range d.GetRemoved() {
		if err := t.remove(k); err != nil {
			return fmt.Errorf("%w: %w", ErrDrifted, err)
		}
	}
	for _, e := range d.GetChanged() {
		if err := t.put(e); err != nil {
			return err
		}
	}
	if !bytes.Equal(t.digest.Bytes(), d.GetDigest()) {
		return fmt.Errorf("%w: the digests differ", ErrDrifted)
	}
	t.version = d.GetVersion()
	return nil
}

// Version is the version of the log that the table enforces.
func (t *Table) Version() uint64 {
	if t == nil {
		return 0
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.version
}

// Digest is the table's digest as it is sent.
func (t *Table) Digest() []byte {
	if t == nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.digest.Bytes()
}

// Issuer returns a trusted issuer by its URL.
func (t *Table) Issuer(url string) (*fleetv1.Issuer, bool) {
	if t == nil {
		return nil, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	i := t.issuers[url]
	if i == nil || t.broken {
		return nil, false
	}
	return i.wire, true
}

// Issuers lists the trusted issuers' URLs, sorted.
func (t *Table) Issuers() []string {
	if t == nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return sortedKeys(t.issuers)
}

// Person returns the person of a directory whose matching attribute equals a subject.
func (t *Table) Person(directory, subject string) (Person, bool) {
	if t == nil || subject == "" {
		return Person{}, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.subjects[subjectKey{directory, subject}].public(t.broken)
}

// PersonByID returns a person.
func (t *Table) PersonByID(id uuid.UUID) (Person, bool) {
	if t == nil {
		return Person{}, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.users[id].public(t.broken)
}

func (p *person) public(broken bool) (Person, bool) {
	if p == nil || broken {
		return Person{}, false
	}
	out := Person{ID: p.id, Directory: p.directory, Active: p.active, Generation: p.generation}
	if p.validAfter != 0 {
		out.ValidAfter = time.UnixMilli(p.validAfter)
	}
	return out, true
}

// Connector returns a connector's settings.
func (t *Table) Connector(id string) (*policyv1.Connector, bool) {
	if t == nil {
		return nil, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	o := t.offers[id]
	if o == nil || o.connector == nil || t.broken {
		return nil, false
	}
	return o.connector.settings, true
}

func (t *Table) rulesChanged() {
	t.effect.Everybody = true
	t.sets.Store(newSetCache())
}

// blocks is what blocks there are, by what they block.
type blocks struct {
	people     map[string][]*block
	clients    map[string][]*block
	connectors map[string][]*block
	tools      map[toolKey][]*block
	regions    map[string][]*block
}

type toolKey struct{ connector, tool string }

func (t *Table) blocksChanged() {
	t.effect.Everybody = true
	b := blocks{people: map[string][]*block{}, clients: map[string][]*block{}, connectors: map[string][]*block{}, tools: map[toolKey][]*block{}, regions: map[string][]*block{}}
	for _, one := range t.blocks {
		switch target := one.wire.GetTarget().(type) {
		case *policyv1.Block_PersonId:
			key := strings.ToLower(target.PersonId)
			b.people[key] = append(b.people[key], one)
		case *policyv1.Block_ClientId:
			b.clients[target.ClientId] = append(b.clients[target.ClientId], one)
		case *policyv1.Block_Connector:
			b.connectors[target.Connector] = append(b.connectors[target.Connector], one)
		case *policyv1.Block_Tool:
			key := toolKey{target.Tool.GetConnector(), target.Tool.GetTool()}
			b.tools[key] = append(b.tools[key], one)
		case *policyv1.Block_Region:
			b.regions[target.Region] = append(b.regions[target.Region], one)
		}
	}
	t.blocked = b
}

func (b *block) stands(now time.Time) bool {
	return b.wire.GetUntil() == nil || now.Before(b.wire.GetUntil().AsTime())
}

func anyStands(all []*block, now time.Time) bool {
	for _, b := range all {
		if b.stands(now) {
			return true
		}
	}
	return false
}

// stand tells whether a block stands against a request. A request without a tool is about the whole connector.
func (b *blocks) stand(r *Request, person *person) bool {
	if len(b.regions) > 0 && anyStands(b.regions[r.Region], r.Now) ||
		len(b.connectors) > 0 && anyStands(b.connectors[r.Connector], r.Now) ||
		len(b.clients) > 0 && anyStands(b.clients[r.Client], r.Now) ||
		len(b.tools) > 0 && anyStands(b.tools[toolKey{r.Connector, r.Tool}], r.Now) {
		return true
	}
	return len(b.people) > 0 && anyStands(b.people[person.id.String()], r.Now)
}

// NextBoundary is the next time after now at which time alone changes a verdict: a block's end. Not ok:
// there is none.
func (t *Table) NextBoundary(now time.Time) (at time.Time, ok bool) {
	if t == nil {
		return time.Time{}, false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, b := range t.blocks {
		if b.wire.GetUntil() == nil || !b.stands(now) {
			continue
		}
		if end := b.wire.GetUntil().AsTime(); !ok || end.Before(at) {
			at, ok = end, true
		}
	}
	return at, ok
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
