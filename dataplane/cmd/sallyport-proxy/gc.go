package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// garbageRoom is how much garbage may lie in memory before it is collected. In a proxy that knows a million people it
// keeps memory near to what the table takes; in one that knows few it makes collections rare.
const garbageRoom = 128 << 20

// The bounds of GOGC that the room leads to: below, a large table would be gone through too often.
const leastGCPercent, mostGCPercent = 20, 800

// boundGarbage makes the room for garbage the same whatever the table's size, unless GOGC says something else.
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
