package fleet

import (
	"sync"
	"time"
)

// proof says at which position the log ended, and when: the log may have gone on since.
type proof struct {
	fenced uint64 // zero: nothing was proved yet
	at     time.Time
}

// pulse is the last proof, and a way to wait for the next.
type pulse struct {
	mu   sync.Mutex
	last proof
	next chan struct{}
}

func newPulse() *pulse { return &pulse{next: make(chan struct{})} }

func (p *pulse) set(last proof) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = last
	close(p.next)
	p.next = make(chan struct{})
}

// get returns the last proof and a channel that is closed at the next.
func (p *pulse) get() (proof, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, p.next
}
