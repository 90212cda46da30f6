package main_test

import (
	"os"
	"os/exec"
	"testing"
)

// TestTheCommandLineIsForLaptopsToo: device management runs sallyport migration scan on Windows too, for which some code is another. macOS has the
// code of other Unix systems.
func TestTheCommandLineIsForLaptopsToo(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles all that the command line imports")
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", os.DevNull, ".")
	build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
