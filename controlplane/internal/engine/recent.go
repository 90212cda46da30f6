package engine

import (
	"sync"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"
)

// recentCommands is how many commands are remembered: a forwarded command that is sent again is found
// among them, as long as fewer came between. At the pace of a replicated log that is more than a minute.
const recentCommands = 1 << 17

// recent remembers where the last event of each command is on the log, those of other control planes
// included. Commands that became no events are not among them: to decide those again changes nothing.
type recent struct {
	mu    sync.Mutex
	known map[string]uint64
	ring  []string
	next  int
}

func newRecent(size int) *recent {
	return &recent{known: map[string]uint64{}, ring: make([]string, size)}
}

func (r *recent) get(id string) (uint64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	last, ok := r.known[id]
	return last, ok
}

// add takes events in the order of the log.
func (r *recent) add(id string, seq uint64) {
	if id == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.known[id]; !ok {
		delete(r.known, r.ring[r.next])
		r.ring[r.next] = id
		r.next = (r.next + 1) % len(r.ring)
	}
	r.known[id] = seq
}

// awaited collects from the log the events of commands whose callers wait here while another control
// plane carries them out: an answer on the wire is only a position, whatever the command became.
type awaited struct {
	mu     sync.Mutex
	events map[string][]*eventv1.Event
}

// begin collects from now on, which is before the command is sent.
func (a *awaited) begin(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.events == nil {
		a.events = map[string][]*eventv1.Event{}
	}
	a.events[id] = nil
}

func (a *awaited) add(ev *eventv1.Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if all, ok := a.events[ev.GetCommandId()]; ok {
		a.events[ev.GetCommandId()] = append(all, ev)
	}
}

func (a *awaited) of(id string) []*eventv1.Event {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.events[id]
}

func (a *awaited) end(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.events, id)
}
