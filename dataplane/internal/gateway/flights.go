package gateway

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/identity"
	"sallyport.dev/dataplane/internal/mcp"
	"sallyport.dev/dataplane/policy"
)

// Why something that was open was cut.
var (
	errRevoked   = errors.New("access was taken away")
	errCancelled = errors.New("the agent cancelled the call")
	errSession   = errors.New("the session was ended")
)

var everybody = policy.Effect{Everybody: true}

// flight is what is open: a call in flight, or a stream.
type flight struct {
	person  uuid.UUID
	client  string
	region  string
	from    *policy.Origin
	session string
	request string // the raw id of the request
	caller  identity.Caller
	cancel  context.CancelCauseFunc

	// Neighbours among the person's own; the flights'.
	entered    bool
	prev, next *flight

	// Of a call: what was asked. It is asked again at each change.
	call *policy.Request
	// Of a stream: the endpoint, what its list of tools came to, and where to say that it changed.
	connector string
	listed    [len(lists)]uint64
	changed   chan struct{}
	dirty     atomic.Uint32 // a bit for each list that changed
}

// lists are those that a stream tells changes of: which kinds are in it, and what is said.
var lists = [...]struct {
	kinds  []policyv1.Kind
	notice string
}{
	{[]policyv1.Kind{policyv1.Kind_KIND_TOOL}, mcp.NotifyToolsChanged},
	{[]policyv1.Kind{policyv1.Kind_KIND_PROMPT}, mcp.NotifyPromptsChanged},
	{[]policyv1.Kind{policyv1.Kind_KIND_RESOURCE, policyv1.Kind_KIND_RESOURCE_TEMPLATE}, mcp.NotifyResourcesChanged},
}

// flights are all that is open at this proxy, by person. A call registers before it is decided, so that no
// change falls between its verdict and its flight.
type flights struct {
	// most bounds what is open, mostOwn what is open of one person.
	most, mostOwn int

	mu    sync.Mutex
	all   map[uuid.UUID]own
	count int
	seed  maphash.Seed
}

// own are the flights of one person: a list, since each call enters and leaves.
type own struct {
	first *flight
	count int
}

func newFlights(most, mostOwn int) *flights {
	return &flights{most: most, mostOwn: mostOwn, all: map[uuid.UUID]own{}, seed: maphash.MakeSeed()}
}

// enter registers what is open. False: there is too much already.
func (fs *flights) enter(f *flight) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	of := fs.all[f.person]
	if fs.count >= fs.most || of.count >= fs.mostOwn {
		return false
	}
	fs.count++
	of.count++
	f.entered, f.next = true, of.first
	if f.next != nil {
		f.next.prev = f
	}
	of.first = f
	fs.all[f.person] = of
	return true
}

func (fs *flights) leave(f *flight) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if !f.entered {
		return
	}
	of := fs.all[f.person]
	fs.count--
	of.count--
	if f.next != nil {
		f.next.prev = f.prev
	}
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		of.first = f.next
	}
	f.entered, f.prev, f.next = false, nil, nil
	if of.count == 0 {
		delete(fs.all, f.person)
		return
	}
	fs.all[f.person] = of
}

func (fs *flights) open() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.count
}

// decide decides again what a change may have touched, and cuts what is no longer allowed before it returns.
func (fs *flights) decide(t *policy.Table, effect policy.Effect, now time.Time) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if effect.Tokens { // not a verdict changed, but whose token counts
		for _, of := range fs.all {
			for f := of.first; f != nil; f = f.next {
				if !f.caller.Counts(t) {
					f.cancel(errRevoked)
				}
			}
		}
	}
	if effect.Everybody {
		for _, of := range fs.all {
			fs.decideAll(of.first, t, now)
		}
		return
	}
	for _, person := range effect.People {
		fs.decideAll(fs.all[person].first, t, now)
	}
}

func (fs *flights) decideAll(first *flight, t *policy.Table, now time.Time) {
	for f := first; f != nil; f = f.next {
		if !f.allowed(t, now) {
			f.cancel(errRevoked)
			continue
		}
		if f.changed == nil {
			continue
		}
		listed := fs.fingerprints(t, f, now)
		for i := range listed {
			if listed[i] != f.listed[i] {
				f.dirty.Or(1 << i)
			}
		}
		if listed != f.listed {
			f.listed = listed
			select {
			case f.changed <- struct{}{}:
			default: // it was told, and did not look yet
			}
		}
	}
}

// allowed makes the verdict on what is open as of now.
func (f *flight) allowed(t *policy.Table, now time.Time) bool {
	if !f.caller.Counts(t) {
		return false
	}
	if f.call != nil {
		r := *f.call
		r.Now = now
		return t.Decide(r).Allowed
	}
	if f.connector != "" {
		_, offered := t.Connector(f.connector)
		return offered
	}
	return true
}

// fingerprints are what a stream's lists come to.
func (fs *flights) fingerprints(t *policy.Table, f *flight, now time.Time) (all [len(lists)]uint64) {
	for i, l := range lists {
		var h maphash.Hash
		h.SetSeed(fs.seed)
		for _, kind := range l.kinds {
			offered := t.Offers(kind, policy.Request{Person: f.person, Client: f.client, Connector: f.connector, Region: f.region, From: f.from, Now: now})
			for _, one := range offered {
				_, _ = h.WriteString(one.Connector)
				_ = h.WriteByte(0)
				_, _ = h.Write(one.Definition)
				_ = h.WriteByte(0)
			}
		}
		all[i] = h.Sum64()
	}
	return all
}

// change has a call in flight be decided again as another request from now on.
func (fs *flights) change(f *flight, r policy.Request) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.call = &r
}

// cancelled cancels the call that a client's notification names: its own, of its own session.
func (fs *flights) cancelled(person uuid.UUID, session string, request []byte) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for f := fs.all[person].first; f != nil; f = f.next {
		if f.call != nil && session != "" && f.session == session && f.request == string(request) {
			f.cancel(errCancelled)
		}
	}
}

// endSession cuts the streams and calls of a session.
func (fs *flights) endSession(session string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, of := range fs.all {
		for f := of.first; f != nil; f = f.next {
			if f.session == session {
				f.cancel(errSession)
			}
		}
	}
}
