package engine

import (
	"sync"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// recentCommands is how many commands are remembered: a forwarded command that is sent again is found
// among them, as long as fewer came between.
const recentCommands = 65536

// recent remembers what commands became, those of other control planes included.
type recent struct {
	mu    sync.Mutex
	known map[string]*Outcome
	ring  []string
	next  int
}

func newRecent(size int) *recent {
	return &recent{known: map[string]*Outcome{}, ring: make([]string, size)}
}

func (r *recent) get(id string) (Outcome, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out, ok := r.known[id]
	if !ok {
		return Outcome{}, false
	}
	return *out, true
}

func (r *recent) put(id string, out Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.known[id]; !ok {
		r.remember(id)
	}
	r.known[id] = &Outcome{Seq: out.Seq, Events: out.Events}
}

// add is for events as they are read from the log, one by one.
func (r *recent) add(id string, seq uint64, ev *eventv1.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out, ok := r.known[id]
	if !ok {
		out = &Outcome{}
		r.known[id] = out
		r.remember(id)
	}
	if seq > out.Seq {
		out.Seq = seq
		out.Events = append(out.Events[:len(out.Events):len(out.Events)], ev)
	}
}

func (r *recent) remember(id string) {
	delete(r.known, r.ring[r.next])
	r.ring[r.next] = id
	r.next = (r.next + 1) % len(r.ring)
}
