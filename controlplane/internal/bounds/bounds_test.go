package bounds

import (
	"fmt"
	"testing"
	"time"
)

var now = time.Unix(1_790_000_000, 0)

func TestOfOneNetworkAndOfAllComesNoMoreThanIsLetThrough(t *testing.T) {
	b := New(1, 5)
	allowed := func(address string, at time.Time) (n int) {
		for range 20 {
			if b.Allow(address, at) {
				n++
			}
		}
		return n
	}
	if n := allowed("2001:db8::1", now); n != 5 {
		t.Errorf("of one address: %d", n)
	}
	if n := allowed("2001:db8::ffff", now); n != 0 {
		t.Errorf("of another address of its network: %d", n)
	}
	if n := allowed("2001:db8:0:1::1", now); n != 5 {
		t.Errorf("of another network: %d", n)
	}
	if n := allowed("2001:db8::1", now.Add(3*time.Second)); n != 3 {
		t.Errorf("three seconds later: %d", n)
	}
	sum := 0
	for i := range 100 {
		sum += allowed(fmt.Sprintf("192.0.2.%d", i), now.Add(3*time.Second))
	}
	if sum > 50 {
		t.Errorf("of all: %d", sum)
	}
	for i := range 2 * maxNetworks {
		b.Allow(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), now)
	}
	if len(b.by) > maxNetworks {
		t.Errorf("%d networks are remembered", len(b.by))
	}
}

func TestTheNetworkOfAnAddress(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "::ffff:192.0.2.7": "192.0.2.7", "2001:db8:1:2:3::4": "2001:db8:1:2::/64", "fe80::1%eth0": "fe80::/64", "nonsense": "nonsense",
	} {
		if got := Network(address); got != want {
			t.Errorf("%s: %s, want %s", address, got, want)
		}
	}
}
