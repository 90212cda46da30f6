package fleet

import "sync"

// pulse is the position at which the log was last proved to end, and a way to wait for the next proof.
type pulse struct {
	mu     sync.Mutex
	fenced uint64
	next   chan struct{}
}

func newPulse() *pulse { return &pulse{next: make(chan struct{})} }

func (p *pulse) set(fenced uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fenced = fenced
	close(p.next)
	p.next = make(chan struct{})
}

// get returns the last proof, zero for none, and a channel that is closed at the next.
func (p *pulse) get() (uint64, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fenced, p.next
}
