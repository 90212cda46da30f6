package runner

import (
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// separate gives a program a process group of its own, which ends with the runner.
func separate(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// limit sets a program's limits, as soon as it runs.
func limit(pid int, l Limits) {
	set := func(what int, most uint64) {
		_ = unix.Prlimit(pid, what, &unix.Rlimit{Cur: most, Max: most}, nil) // it may have ended already
	}
	set(unix.RLIMIT_NOFILE, l.Files)
	set(unix.RLIMIT_CORE, 0)
	if l.Memory > 0 {
		set(unix.RLIMIT_DATA, l.Memory)
	}
}

func terminateGroup(c *exec.Cmd) { _ = syscall.Kill(-c.Process.Pid, syscall.SIGTERM) } // it may have ended already

func killGroup(c *exec.Cmd) { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) } // as above
