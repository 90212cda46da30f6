package engine_test

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain bounds the properties, each run of which starts servers, and runs the process that
// TestEachAcknowledgedWriteSurvivesAKill kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(victimDir); dir != "" {
		victim(dir)
		return
	}
	if err := flag.Set("rapid.checks", "15"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(m.Run())
}
