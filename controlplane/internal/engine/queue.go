package engine

import (
	"slices"
	"sync"

	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
)

// pending is a command, or with none a fence, and in the end its answer.
type pending struct {
	id      string
	actor   *eventv1.Actor
	command core.Command

	// Set before done is closed.
	outcome Outcome
	err     error
	done    chan struct{}
}

func (p *pending) finish(out Outcome, err error) {
	p.outcome, p.err = out, err
	close(p.done)
}

// queue holds what waits for the next round: commands that take access away before all others.
type queue struct {
	mu     sync.Mutex
	urgent []*pending
	normal []*pending
	flying map[string]*pending // by id, until answered: a command that is sent again joins the first
	isOver bool
	wake   chan struct{}
}

// push adds a command and returns the one to wait for, which is an earlier one of the same id where there is one.
func (q *queue) push(p *pending) *pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	if first := q.flying[p.id]; first != nil {
		return first
	}
	if q.isOver {
		p.finish(Outcome{}, ErrClosed)
		return p
	}
	if q.flying == nil {
		q.flying = map[string]*pending{}
	}
	q.flying[p.id] = p
	if p.command != nil && core.IsSecurity(p.command) {
		q.urgent = append(q.urgent, p)
	} else {
		q.normal = append(q.normal, p)
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return p
}

// take returns all that waits, most urgent first.
func (q *queue) take() []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := slices.Concat(q.urgent, q.normal)
	q.urgent, q.normal = nil, nil
	return all
}

// waiting is how many commands wait.
func (q *queue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.urgent) + len(q.normal)
}

// putBack returns what did not fit a round to the head of the queue.
func (q *queue) putBack(rest []*pending) {
	if len(rest) == 0 {
		return
	}
	q.mu.Lock()
	q.normal = append(slices.Clone(rest), q.normal...)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// answered forgets commands that have their answer.
func (q *queue) answered(all []*pending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range all {
		delete(q.flying, p.id)
	}
}

// close answers all that still waits.
func (q *queue) close() {
	rest := q.take()
	q.mu.Lock()
	q.isOver = true
	q.mu.Unlock()
	for _, p := range rest {
		p.finish(Outcome{}, ErrClosed)
	}
}
