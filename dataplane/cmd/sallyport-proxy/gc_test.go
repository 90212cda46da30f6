package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestTheRoomForGarbageIsTheSameWhateverIsLive(t *testing.T) {
	for live, want := range map[uint64]int{0: 800, 1 << 20: 800, 32 << 20: 400, 128 << 20: 100, 512 << 20: 25, 8 << 30: 20} {
		if got := gcPercent(live); got != want {
			t.Errorf("with %d MiB live GOGC is %d, want %d", live>>20, got, want)
		}
	}
}

// TestCollectionsAdjustTheRoom, each of them.
func TestCollectionsAdjustTheRoom(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	adjustGC()
	for _, live := range []int{320 << 20, 1} {
		held := make([]byte, live)
		deadline := time.Now().Add(20 * time.Second)
		for {
			runtime.GC()
			got := debug.SetGCPercent(100)
			debug.SetGCPercent(got)
			if live == 1 && got > 200 || live > 1 && got <= 40 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("with %d bytes live GOGC is %d", live, got)
			}
			time.Sleep(time.Millisecond) // a finalizer runs when it does
		}
		runtime.KeepAlive(held)
	}
}
