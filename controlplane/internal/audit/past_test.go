package audit

import (
	"testing"
	"time"
)

// TestAClockThatJumpsAheadMakesNothingOld, neither that of a control plane nor the stream's, until it went on for a day.
func TestAClockThatJumpsAheadMakesNothingOld(t *testing.T) {
	const day = 24 * time.Hour
	now := time.Now()
	// Each stores ten records and a checkpoint at so many days from now, which is what the stream's clock says.
	run := func(t *testing.T, days ...int) *proved {
		p := newProved(t)
		for _, d := range days {
			p.clocks.clock = func() time.Time { return now.Add(time.Duration(d) * day) }
			p.store(t, "p1", 10)
		}
		p.clocks.clock = nil
		return p
	}
	steady := func(from, to int) (days []int) {
		for d := from; d <= to; d++ {
			days = append(days, d)
		}
		return days
	}
	const keep = 10 * day
	for name, c := range map[string]struct {
		days  []int
		ahead time.Duration // of the control plane that asks
		first uint64        // that is left: no more than a day too early
	}{
		"nothing jumped":                              {steady(-15, 0), 0, 61},
		"nothing is a day old":                        {[]int{0, 0}, 0, 1},
		"this control plane's jumped":                 {steady(-15, 0), 400 * day, 61},
		"another's jumped, and it signed":             {append(steady(-15, 0), 400, 400), 0, 61},
		"all jumped 400 days":                         {append(steady(-415, -400), 0, 0), 0, 71},
		"all jumped, and this one again":              {append(steady(-415, -400), 0, 0), 400 * day, 71},
		"all jumped two days ago, and nobody minded":  {append(steady(-415, -402), -2, -1, 0), 0, 141},
		"all jumped, and none was there for ten days": {append(steady(-8, -5), 3650), 3650 * day, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := run(t, c.days...)
			p.clocks.clock = func() time.Time { return time.Now().Add(c.ahead) }
			at, err := p.Confirmed(within(t))
			if err != nil {
				t.Fatal(err)
			}
			p.removed(t, at.Add(-keep))
			if first := p.first(t); first != c.first {
				t.Errorf("by %v the stream begins at %d, not %d", at, first, c.first)
			}
		})
	}
}
