package replica

import (
	"sync"
	"time"
)

// lease is the time for which a proxy may serve. It begins when the proxy sent what the control plane had read when it
// gave the lease, not when the heartbeat came: that may have been on its way for long.
type lease struct {
	began  time.Time // with its monotonic reading, where the clock has one
	length time.Duration
}

// over says whether the lease has run out by either clock: the monotonic one stands still while the machine is
// suspended, the wall clock can be set back.
func (l lease) over(now time.Time) bool {
	return expired(l.length, now.Sub(l.began), now.Round(0).Sub(l.began.Round(0)))
}

func expired(length, monotonic, wall time.Duration) bool {
	return length <= 0 || monotonic >= length || wall >= length
}

// marks remembers when the messages of a stream were sent, by their numbers.
type marks struct {
	mu    sync.Mutex
	first uint64
	sent  []time.Time // of first and those that follow
}

// maxMarks bounds the messages that no heartbeat has answered yet. Earlier ones are forgotten.
const maxMarks = 1024

// next returns the number of a message that is sent now.
func (m *marks) next(now time.Time) uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.first == 0 {
		m.first = 1
	}
	if len(m.sent) == maxMarks {
		m.first, m.sent = m.first+1, m.sent[1:]
	}
	m.sent = append(m.sent, now)
	return m.first + uint64(len(m.sent)) - 1
}

// when returns when a message was sent, and forgets those before it.
func (m *marks) when(mark uint64) (time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mark < m.first || mark-m.first >= uint64(len(m.sent)) {
		return time.Time{}, false
	}
	m.sent, m.first = m.sent[mark-m.first:], mark
	return m.sent[0], true
}

// elapsed is the time since t by the clock that says more.
func elapsed(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}
