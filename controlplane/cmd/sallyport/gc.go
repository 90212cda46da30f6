package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// garbageRoom is how much garbage may lie in memory beside a small state before it is collected: audit that comes in is garbage soon
// after, and would else be collected all the time.
const garbageRoom = 64 << 20

// The bounds of GOGC that the room leads to. Nearly all of a large heap is state that stays, so that more room beside it would never be
// used well.
const leastGCPercent, mostGCPercent = 40, 800

// boundGarbage makes the room for garbage by what is live, unless GOGC says something else.
func boundGarbage() {
	if os.Getenv("GOGC") == "" {
		adjustGC()
	}
}

// adjustGC sets GOGC by what is live, now and after each collection.
func adjustGC() {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetGCPercent(gcPercent(live[0].Value.Uint64()))
	// What nothing refers to is found by the next collection, which then comes here again.
	runtime.SetFinalizer(&struct{ _ [16]byte }{}, func(*struct{ _ [16]byte }) { adjustGC() })
}

func gcPercent(live uint64) int {
	return int(min(max(garbageRoom*100/max(live, 1), leastGCPercent), mostGCPercent))
}
