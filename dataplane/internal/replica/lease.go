package replica

import "time"

// lease is the time for which a proxy may serve, from the receipt of a heartbeat.
type lease struct {
	received time.Time // with its monotonic reading, where the clock has one
	length   time.Duration
}

// over says whether the lease has run out by either clock: the monotonic one stands still while the machine is
// suspended, the wall clock can be set back.
func (l lease) over(now time.Time) bool {
	return expired(l.length, now.Sub(l.received), now.Round(0).Sub(l.received.Round(0)))
}

func expired(length, monotonic, wall time.Duration) bool {
	return length <= 0 || monotonic >= length || wall >= length
}

// elapsed is the time since t by the clock that says more.
func elapsed(since, now time.Time) time.Duration {
	return max(now.Sub(since), now.Round(0).Sub(since.Round(0)))
}
