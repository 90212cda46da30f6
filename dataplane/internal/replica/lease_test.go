package replica

import (
	"testing"
	"time"
)

func TestALeaseEndsWhenEitherClockSaysSo(t *testing.T) {
	const length = 30 * time.Minute
	for _, tc := range []struct {
		what            string
		monotonic, wall time.Duration
		over            bool
	}{
		{"both within", length - 1, length - 1, false},
		{"suspended: only the wall clock went on", time.Second, length, true},
		{"wall clock set back: only the monotonic clock went on", length, -time.Hour, true},
		{"wall clock set back a little", time.Second, -time.Minute, false},
	} {
		if got := expired(length, tc.monotonic, tc.wall); got != tc.over {
			t.Errorf("%s: over is %v", tc.what, got)
		}
	}
	if !expired(0, 0, 0) || !(lease{}).over(time.Now()) {
		t.Error("no lease is a lease that is over")
	}
}
