package fleet

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestAPersonsLoopWearsOutNothingOfOthersAndAProxysNothingOfAnother: 5,000 at once and 500 a second for all people of a proxy together.
func TestAPersonsLoopWearsOutNothingOfOthersAndAProxysNothingOfAnother(t *testing.T) {
	l, now := newLimits(), time.Now()
	proxy, other := uuid.New(), uuid.New()
	have := func(proxy, person uuid.UUID, times int) (got int) {
		for range times {
			if l.take(proxy, person, now) {
				got++
			}
		}
		return got
	}
	loops := uuid.New()
	if got := have(proxy, loops, 100_000); got != 200 {
		t.Fatalf("who loops had %d, want 200", got)
	}
	all := 0
	for range 30 {
		all += have(proxy, uuid.New(), 200)
	}
	if all != 4800 {
		t.Errorf("the others had %d, want the 4,800 that are left", all)
	}
	if got := have(other, loops, 300); got != 200 {
		t.Errorf("at another proxy who loops had %d, want 200", got)
	}
	now = now.Add(time.Second)
	if got := have(proxy, loops, 300); got != 20 {
		t.Errorf("a second later who loops had %d, want 20", got)
	}
	all = 0
	for range 5 {
		all += have(proxy, uuid.New(), 200)
	}
	if all != 480 {
		t.Errorf("a second later the others had %d, want 480", all)
	}
	// What nobody asked for in a while is not remembered.
	now = now.Add(2 * forgetLimits)
	if have(proxy, loops, 1); len(l.by) != 2 {
		t.Errorf("%d are remembered, want the proxy and its person", len(l.by))
	}
}
