//go:build !linux

package runner

import (
	"os/exec"
	"syscall"
)

// separate gives a program a process group of its own.
func separate(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// limit does nothing: limits of another process can be set on Linux alone.
func limit(int, Limits) {}

func terminateGroup(c *exec.Cmd) { _ = syscall.Kill(-c.Process.Pid, syscall.SIGTERM) } // it may have ended already

func killGroup(c *exec.Cmd) { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) } // as above
