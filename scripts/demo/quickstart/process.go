package quickstart

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 60 * time.Second
	stopTimeout  = 15 * time.Second
)

// Process is one program that was started, with its log in a file.
type Process struct {
	name string
	Log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Start runs a program whose standard output and error go to logs/NAME.log. It gets a process group of its own, so that
// Ctrl-C at the terminal reaches the quickstart alone, which then stops all in order.
func Start(dir, name, program string, args ...string) (*Process, error) {
	logs := filepath.Join(dir, "logs")
	if err := os.MkdirAll(logs, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for logs: %w", err)
	}
	p := &Process{name: name, Log: filepath.Join(logs, name+".log"), done: make(chan struct{})}
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log of %s: %w", name, err)
	}
	// A program outlives the call that starts it: Stop ends it.
	p.cmd = exec.CommandContext(context.Background(), program, args...)
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		_ = out.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // ProcessState tells how it ended
		_ = out.Close()
	}()
	return p, nil
}

// PID is the id of the program's process.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stop asks the program to end, and ends it if it does not.
func (p *Process) Stop() error { return p.StopWithin(stopTimeout) }

// StopWithin is Stop for a program that has more to do before its end.
func (p *Process) StopWithin(timeout time.Duration) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(timeout):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not stop within %s and was killed", p.name, timeout)
	}
}

// Ready waits until a URL answers 200; a program that ended before says so with the end of its log.
func (p *Process) Ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("nothing was asked yet")
	for {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended before it was ready: %s\n%s", p.name, p.cmd.ProcessState, p.Tail())
		case <-ctx.Done():
			return fmt.Errorf("%s was not ready within %s (%w)\n%s", p.name, startTimeout, last, p.Tail())
		case <-tick.C:
			if last = probe(ctx, url); last == nil {
				return nil
			}
		}
	}
}

func probe(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 500))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %d: %s", url, resp.StatusCode, strings.TrimSpace(string(text)))
	}
	return nil
}

// Tail is the end of the log, for a person who wants to know why.
func (p *Process) Tail() string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	if len(lines) > 15 {
		lines = lines[len(lines)-15:]
	}
	return "the end of " + p.Log + ":\n  " + string(bytes.Join(lines, []byte("\n  ")))
}

// Kill ends the program at once, as a crash would, and returns when it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // one that has ended needs none
	<-p.done
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is that of a program that has ended; -1: a signal ended it.
func (p *Process) ExitCode() int { return p.cmd.ProcessState.ExitCode() }
