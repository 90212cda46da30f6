package main

import "testing"

func TestTheRoomForGarbageIsBoundedBesideASmallStateAndInProportionBesideALargeOne(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 32 << 20: 200, 64 << 20: 100, 160 << 20: 40, 8 << 30: 40} {
		if got := gcPercent(live); got != want {
			t.Errorf("with %d MiB live GOGC is %d, want %d", live>>20, got, want)
		}
	}
}
