package fleet

import (
	"sync"

	"google.golang.org/protobuf/proto"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
)

var marshalOptions = proto.MarshalOptions{Deterministic: true}

// feed is what one region's proxies are sent: the rounds that a ring holds, and a snapshot for those who
// are not in it.
type feed struct {
	region string

	// ready is closed when the first digest is there.
	ready chan struct{}

	mu     sync.Mutex
	state  *core.State
	digest policy.Digest
	// early are the rounds that came before the first digest was there.
	early []func()
	// ring[i] leads from its `from` to its `to`; each begins where the one before ended.
	ring []round
	size int
	// next is closed when a round is added.
	next chan struct{}
	// snapshot is the full state at some version, kept while its version is in the ring.
	snapshot *snapshot
	building sync.Mutex
	builds   sync.WaitGroup
}

type round struct {
	from, to uint64
	// before and digest are what a table has before and after the round.
	before  []byte
	digest  []byte
	message *fleetv1.SyncResponse
}

func newFeed(region string, state *core.State, size int) *feed {
	return &feed{
		region: region, state: state, size: size, next: make(chan struct{}), ready: make(chan struct{}), snapshot: newSnapshot(state.Seq()),
	}
}

// start makes the first snapshot and, of the same, the first digest, for which it goes through everything: chunks are
// sent and rounds are committed meanwhile.
func (f *feed) start(epoch string) {
	digest := f.snapshot.encode(f.state.Entries(f.region), epoch) // nothing changes the state before ready
	f.mu.Lock()
	defer f.mu.Unlock()
	f.digest = digest
	for _, add := range f.early {
		add()
	}
	f.early = nil
	close(f.ready)
}

// publish adds a round.
func (f *feed) publish(changes []core.Change, from uint64, next *core.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.ready:
		f.add(changes, from, next)
	default:
		f.early = append(f.early, func() { f.add(changes, from, next) })
	}
}

// add adds a round. One that changes nothing for the region is sent too: it moves the version.
func (f *feed) add(changes []core.Change, from uint64, next *core.State) {
	delta, before := &fleetv1.Delta{FromVersion: from, Version: next.Seq()}, f.digest.Bytes()
	for _, c := range changes {
		if c.Old != nil {
			f.digest.Remove(c.Old)
		}
		if c.New != nil {
			f.digest.Add(c.New)
			delta.Changed = append(delta.Changed, c.New)
		} else {
			delta.Removed = append(delta.Removed, c.Key)
		}
	}
	delta.Digest = f.digest.Bytes()
	message, err := encoded(&fleetv1.SyncResponse{Message: &fleetv1.SyncResponse_Delta{Delta: delta}})
	f.state = next
	if err != nil {
		// Nothing that the core compiles fails to encode; were it to, streams go on with a snapshot.
		f.ring = nil
	} else {
		f.ring = append(f.ring, round{from: from, to: next.Seq(), before: before, digest: delta.Digest, message: message})
	}
	if len(f.ring) > 2*f.size {
		f.ring = append([]round(nil), f.ring[len(f.ring)-f.size:]...)
	}
	close(f.next)
	f.next = make(chan struct{})
}

// after returns the rounds that lead on from a version. Not ok: the version is not in the ring, and a
// snapshot is needed. With no rounds, wait is closed when there are some.
func (f *feed) after(version uint64) (rounds []round, wait <-chan struct{}, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if version == f.state.Seq() {
		return nil, f.next, true
	}
	for i := len(f.ring) - 1; i >= 0; i-- {
		if f.ring[i].from == version {
			return f.ring[i:len(f.ring):len(f.ring)], f.next, true
		}
		if f.ring[i].to <= version {
			break
		}
	}
	return nil, f.next, false
}

// digestAt is the digest that a table has at a version, or nil where the ring does not tell.
func (f *feed) digestAt(version uint64) []byte {
	<-f.ready
	f.mu.Lock()
	defer f.mu.Unlock()
	if version == f.state.Seq() {
		return f.digest.Bytes()
	}
	for i := len(f.ring) - 1; i >= 0; i-- {
		switch version {
		case f.ring[i].to:
			return f.ring[i].digest
		case f.ring[i].from:
			return f.ring[i].before
		}
	}
	return nil
}

// full returns a snapshot from which the ring leads on. It is encoded once for all who ask, and sent while it is encoded.
func (f *feed) full(epoch string) *snapshot {
	f.building.Lock()
	defer f.building.Unlock()
	if !f.snapshot.failed() {
		if _, _, ok := f.after(f.snapshot.version); ok {
			return f.snapshot
		}
	}
	f.mu.Lock()
	state := f.state
	f.mu.Unlock()
	s := newSnapshot(state.Seq())
	f.builds.Go(func() { s.encode(state.Entries(f.region), epoch) })
	f.snapshot = s
	return s
}
