package audit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// OwnPrefix begins the names under which control planes write records of their own. No proxy can have such a name.
const OwnPrefix = "_"

// ErrStopped: the recorder does not run any more.
var ErrStopped = errors.New("this control plane stops and takes no more audit records")

const (
	// maxWaiting bounds the records that wait for their place on the stream.
	maxWaiting = 50_000
	// maxOwn bounds the bytes of one.
	maxOwn = 256 << 10
)

// Recorder writes a control plane's own records: sign-ins, credentials, reviews, reading of audit. They are numbered,
// stored and chained as a proxy's are. Records that come at the same time share a batch.
type Recorder struct {
	store      *Store
	name       string
	generation string
	region     string
	// groups are the names of the groups that a person is in now; nil: they are not known.
	groups func(person string) []string

	mu      sync.Mutex
	stopped bool
	wake    chan struct{}
	waiting []*auditv1.AuditRecord // numbered, not known to be stored
	last    uint64                 // number given
	stored  uint64                 // number up to which all are stored
	changed chan struct{}          // closed when stored or stopped changes
}

// NewRecorder returns the recorder of a control plane in a region, which asks for the names of the groups that a person is in; nil: nobody is
// asked. Run must be running for records to be stored.
func NewRecorder(s *Store, controlPlane, region string, groups func(person string) []string) *Recorder {
	return &Recorder{
		store: s, name: OwnPrefix + controlPlane, generation: uuid.NewString(), region: region, groups: groups,
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
	}
}

// Record stores a record and returns when it is durable: before that, what it tells of must have no effect. It sets what
// the record lacks of time, call id, phase and the groups of who did it. After an error the record may still be stored, once, as long as the
// control plane lives.
func (r *Recorder) Record(ctx context.Context, rec *auditv1.AuditRecord) error {
	number, err := r.add(rec)
	if err != nil {
		return err
	}
	for {
		r.mu.Lock()
		stored, stopped, changed := r.stored, r.stopped, r.changed
		r.mu.Unlock()
		if stored >= number {
			return nil
		}
		if stopped {
			return ErrStopped
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("an audit record could not be stored in time: %w", context.Cause(ctx))
		}
	}
}

// Note stores a record that tells of what happened already, and does not wait. It is stored as long as the control plane
// lives; one that stops in order stores it first.
func (r *Recorder) Note(rec *auditv1.AuditRecord) {
	if _, err := r.add(rec); err != nil {
		r.store.log.Error("an audit record was not kept", "kind", rec.GetKind(), "action", rec.GetAction(), "error", err)
	}
}

func (r *Recorder) add(rec *auditv1.AuditRecord) (uint64, error) {
	if rec.GetAt() == nil {
		rec.At = timestamppb.Now()
	}
	if rec.GetCallId() == "" {
		rec.CallId = uuid.Must(uuid.NewV7()).String()
	}
	if rec.GetPhase() == auditv1.Phase_PHASE_UNSPECIFIED {
		rec.Phase = auditv1.Phase_PHASE_COMPLETED
	}
	if r.groups != nil && len(rec.GetGroups()) == 0 {
		if who := doer(rec); who != "" {
			rec.Groups = r.groups(who)
		}
	}
	if size := proto.Size(rec); size > maxOwn {
		return 0, fmt.Errorf("an audit record of %d bytes is too large: at most %d", size, maxOwn)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return 0, ErrStopped
	}
	if len(r.waiting) >= maxWaiting {
		return 0, errors.New("too many audit records wait to be stored: is the stream there?")
	}
	r.last++
	rec.Number = r.last
	r.waiting = append(r.waiting, rec)
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return r.last, nil
}

// doer is the person who did what a record tells of; where that is nobody in particular, whom it is about.
func doer(r *auditv1.AuditRecord) string {
	switch r.GetActor().GetKind() {
	case auditv1.ActorKind_ACTOR_KIND_PERSON, auditv1.ActorKind_ACTOR_KIND_ADMIN, auditv1.ActorKind_ACTOR_KIND_SERVICE_ACCOUNT:
		return r.GetActor().GetId()
	}
	return r.GetPersonId()
}

// Run stores what is recorded until ctx ends, and then what still waits, for a moment.
func (r *Recorder) Run(ctx context.Context) {
	for {
		select {
		case <-r.wake:
			r.drain(ctx)
		case <-ctx.Done():
			grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
			r.drain(grace)
			cancel()
			r.mu.Lock()
			r.stopped = true
			close(r.changed)
			r.changed = make(chan struct{})
			left := len(r.waiting)
			r.mu.Unlock()
			if left > 0 {
				r.store.log.Error("audit records of this control plane were not stored before it stopped", "records", left)
			}
			return
		}
	}
}

// drain stores all that waits.
func (r *Recorder) drain(ctx context.Context) {
	pause := 50 * time.Millisecond
	for ctx.Err() == nil {
		r.mu.Lock()
		n := min(len(r.waiting), batchRecords)
		batch := r.waiting[:n:n]
		r.mu.Unlock()
		if n == 0 {
			return
		}
		// Append makes the records its own, and a try may fail: it gets copies.
		acknowledged, err := r.store.Append(ctx, r.name, r.region, r.generation, clones(batch))
		if err != nil {
			if ctx.Err() == nil {
				r.store.log.Warn("audit records of this control plane cannot be stored now; it is tried again", "error", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, 2*time.Second)
			continue
		}
		pause = 50 * time.Millisecond
		r.mu.Lock()
		for len(r.waiting) > 0 && r.waiting[0].GetNumber() <= acknowledged {
			r.waiting[0] = nil
			r.waiting = r.waiting[1:]
		}
		r.stored = acknowledged
		close(r.changed)
		r.changed = make(chan struct{})
		r.mu.Unlock()
	}
}

func clones(records []*auditv1.AuditRecord) []*auditv1.AuditRecord {
	all := make([]*auditv1.AuditRecord, len(records))
	for i, rec := range records {
		all[i] = proto.CloneOf(rec)
	}
	return all
}
