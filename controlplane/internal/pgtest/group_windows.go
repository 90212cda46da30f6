package pgtest

import (
	"os"
	"syscall"
)

// The command line is built for Windows, where nobody tests with a server.

func group(*owner) *syscall.SysProcAttr { return nil }

func killGroup(p *os.Process) { _ = p.Kill() }
