package policy

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"
)

// Table is a snapshot ready to be decided by. Any number of goroutines may read it while one applies
// deltas: readers take no lock, each works on one immutable state, and a delta is seen whole or not at
// all. A nil Table denies everything.
type Table struct {
	now atomic.Pointer[state]

	mu sync.Mutex // held by Apply; guards what follows, which readers never see
	// shared holds one copy of what many entries have in common.
	shared shared
	// stamp is the last number given to a state of the groups or of a connector.
	stamp  uint64
	memory memory
}

// Effect says whose verdicts a delta may have changed. It never says too little: who is not in it sees the
// same lists and gets the same verdicts as before, at the same time and with the same arguments.
type Effect struct {
	// Everybody: rules, groups, connectors, catalogues, issuers or blocks of more than one person changed.
	Everybody bool
	// People whose own entry, or a block on them, changed.
	People []uuid.UUID
	// Tokens: some that counted may count no longer, though no verdict changed.
	Tokens bool
}

// ErrDrifted: the table is not what the control plane believes. A full snapshot is needed.
var ErrDrifted = errors.New("the table drifted from the control plane's")

// Compile makes a table of a snapshot's entries.
func Compile(version uint64, entries iter.Seq[*fleetv1.Entry]) (*Table, error) {
	b := NewBuilder()
	if err := b.Put(entries); err != nil {
		return nil, err
	}
	return b.Table(version), nil
}

// Builder makes a table of a snapshot that comes in parts, so that never more than a part of it is held beside the table.
type Builder struct {
	table *Table
	edit  *edit
}

// NewBuilder begins an empty table.
func NewBuilder() *Builder {
	t := &Table{shared: newShared()}
	return &Builder{table: t, edit: t.edit(&state{})}
}

// Put adds a part. After an error the builder is of no use.
func (b *Builder) Put(entries iter.Seq[*fleetv1.Entry]) error {
	for entry := range entries {
		if err := b.edit.put(entry); err != nil {
			return fmt.Errorf("compiling a snapshot: %w", err)
		}
	}
	b.edit.effect = Effect{} // nobody asks whom it concerns: everybody
	return nil
}

// Table ends the building: that was all there is at a version.
func (b *Builder) Table(version uint64) *Table {
	b.edit.state.version = version
	b.edit.settle()
	b.table.now.Store(&b.edit.state)
	return b.table
}

// Apply makes a delta's changes, in time that depends on the delta and not on the table. After an error the
// table denies everything, refuses further deltas, and a full snapshot is needed.
func (t *Table) Apply(d *fleetv1.Delta) (Effect, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.now.Load()
	e := t.edit(before)
	if err := e.apply(d); err != nil {
		t.now.Store(&state{version: before.version, broken: true})
		return Effect{Everybody: true}, fmt.Errorf("applying the change to version %d: %w", d.GetVersion(), err)
	}
	e.settle()
	t.now.Store(&e.state)
	return e.effect, nil
}

// Put adds entries, or replaces them, in a table that is asked questions and follows no log. After an error the table denies everything.
func (t *Table) Put(entries iter.Seq[*fleetv1.Entry]) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.now.Load()
	e := t.edit(before)
	for entry := range entries {
		if err := e.put(entry); err != nil {
			t.now.Store(&state{version: before.version, broken: true})
			return fmt.Errorf("adding to a table: %w", err)
		}
	}
	e.settle()
	t.now.Store(&e.state)
	return nil
}

func (e *edit) apply(d *fleetv1.Delta) error {
	if e.state.broken || d.GetFromVersion() != e.state.version || d.GetVersion() < e.state.version {
		return fmt.Errorf("%w: it leads on from version %d, the table stands at %d", ErrDrifted, d.GetFromVersion(), e.state.version)
	}
	for _, k := range d.GetRemoved() {
		if err := e.remove(k); err != nil {
			return fmt.Errorf("%w: %w", ErrDrifted, err)
		}
	}
	for _, entry := range d.GetChanged() {
		if err := e.put(entry); err != nil {
			return err
		}
	}
	if !bytes.Equal(e.state.digest.Bytes(), d.GetDigest()) {
		return fmt.Errorf("%w: the digests differ", ErrDrifted)
	}
	e.state.version = d.GetVersion()
	return nil
}

// denyAll is the state of a table that was never filled.
var denyAll = &state{broken: true}

// state returns what is enforced now.
func (t *Table) state() *state {
	if t == nil {
		return denyAll
	}
	if s := t.now.Load(); s != nil {
		return s
	}
	return denyAll
}

// Edition is what a table held at one moment. Two that are equal lead to the same verdicts at the same time.
type Edition struct{ of *state }

// Edition is what the table holds now.
func (t *Table) Edition() Edition { return Edition{t.state()} }

// Version is the version of the log that the table enforces.
func (t *Table) Version() uint64 { return t.state().version }

// Digest is the table's digest as it is sent; nil where there is no table.
func (t *Table) Digest() []byte {
	if t == nil {
		return nil
	}
	return t.state().digest.Bytes()
}

// Issuer returns a trusted issuer by its URL.
func (t *Table) Issuer(url string) (*fleetv1.Issuer, bool) {
	i, ok := t.state().issuer(url)
	if !ok {
		return nil, false
	}
	return i.wire, true
}

// Issuers lists the trusted issuers' URLs, sorted.
func (t *Table) Issuers() []string {
	var urls []string
	s := t.state()
	s.issuers.each(func(i *issuer) bool {
		urls = append(urls, i.url)
		return true
	})
	slices.Sort(urls)
	return urls
}

// Person is what a table knows of a person.
type Person struct {
	ID        uuid.UUID
	Directory string
	Active    bool
	// Service: no person, but a service account.
	Service    bool
	Generation uint64
	// ValidAfter voids foreign tokens that were issued at or before it. Zero: none.
	ValidAfter time.Time
}

// Person returns the person of a directory whose matching attribute equals a subject. Where two have the
// same, it is neither: a token of one must not speak for the other.
func (t *Table) Person(directory, subject string) (Person, bool) {
	return t.state().subject(directory, subject).public()
}

// PersonByID returns a person.
func (t *Table) PersonByID(id uuid.UUID) (Person, bool) { return t.state().person(id).public() }

func (p *person) public() (Person, bool) {
	if p == nil {
		return Person{}, false
	}
	out := Person{ID: p.id, Directory: p.directory, Active: p.active, Service: p.service, Generation: p.generation}
	if p.validAfter != 0 {
		out.ValidAfter = time.UnixMilli(p.validAfter)
	}
	return out, true
}

// Groups returns the names of all groups that count for a person, nested ones included, sorted. The slice
// is the table's: do not change it.
func (t *Table) Groups(id uuid.UUID) []string {
	s := t.state()
	p := s.person(id)
	if p == nil {
		return nil
	}
	return s.resolve(p.members).names
}

// Connector returns a connector's settings. They are the table's: do not change them.
func (t *Table) Connector(id string) (*policyv1.Connector, bool) {
	c := t.state().connector(id)
	if c == nil || c.settings == nil {
		return nil, false
	}
	return c.settings, true
}
