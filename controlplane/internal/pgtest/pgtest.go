// Package pgtest gives tests and measurements a PostgreSQL of their own: a fresh cluster in a temporary folder, on
// loopback, that is stopped and removed when the test ends, and that can be killed and started again meanwhile.
//
// PostgreSQL refuses to run as root; then it runs as the user postgres, or else nobody. It is for tests only.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

// owner is whom the server runs as where root tests: it does not run as root.
type owner struct{ uid, gid uint32 }

// Server is a running cluster.
type Server struct {
	bin, dir string
	port     int
	as       *owner // nil: who runs the test
	cmd      *exec.Cmd
	exited   chan struct{}
}

// TB is what New needs of a test. The package is linked into a program that measures, which must not link testing.
type TB interface {
	Helper()
	Fatal(args ...any)
	Cleanup(fn func())
}

// New starts a cluster for a test.
func New(t TB) *Server {
	t.Helper()
	s, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Remove)
	return s
}

// Start makes a cluster and starts it.
func Start() (*Server, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		if path, err := exec.LookPath("initdb"); err == nil {
			found = []string{path}
		}
	}
	if len(found) == 0 {
		return nil, errors.New("PostgreSQL is needed: install the package postgresql, or let scripts/test do it")
	}
	slices.Sort(found)
	dir, err := os.MkdirTemp("", "sallyport-postgres-")
	if err != nil {
		return nil, err
	}
	s := &Server{bin: filepath.Dir(found[len(found)-1]), dir: dir}
	if err := s.make(); err != nil {
		_ = os.RemoveAll(dir)
		return nil, fmt.Errorf("making a PostgreSQL cluster: %w", err)
	}
	if err := s.Run(); err != nil {
		s.Remove()
		return nil, err
	}
	return s, nil
}

func (s *Server) make() error {
	if os.Getuid() == 0 {
		other, err := user.Lookup("postgres")
		if err != nil {
			if other, err = user.Lookup("nobody"); err != nil {
				return err
			}
		}
		uid, _ := strconv.ParseUint(other.Uid, 10, 32)
		gid, _ := strconv.ParseUint(other.Gid, 10, 32)
		s.as = &owner{uint32(uid), uint32(gid)}
		if err := os.Chown(s.dir, int(uid), int(gid)); err != nil {
			return err
		}
	}
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.port = l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	out, err := s.command("initdb", "-D", s.data(), "-U", "sallyport", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(context.Background(), filepath.Join(s.bin, name), args...)
	cmd.Dir, cmd.Env = s.dir, append(os.Environ(), "HOME="+s.dir, "LC_ALL=C")
	cmd.SysProcAttr = group(s.as)
	return cmd
}

// Run starts the cluster, after Kill too, and returns when it answers.
func (s *Server) Run() error {
	logFile, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close() //nolint:errcheck // the process has its own
	for end := time.Now().Add(time.Minute); ; {
		cmd := s.command("postgres", "-D", s.data(), "-h", "127.0.0.1", "-p", strconv.Itoa(s.port), "-k", s.dir,
			"-c", "shared_buffers=256MB", "-c", "max_wal_size=4GB", "-c", "wal_level=minimal", "-c", "max_wal_senders=0")
		cmd.Stdout, cmd.Stderr = logFile, logFile
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("starting PostgreSQL: %w", err)
		}
		exited := make(chan struct{})
		go func() { _ = cmd.Wait(); close(exited) }()
		s.cmd, s.exited = cmd, exited
		if s.answers(end) {
			return nil
		}
		// After a kill the old processes may still be about to end.
		if time.Now().After(end) {
			said, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			return fmt.Errorf("PostgreSQL did not start: %s", said[max(0, len(said)-2000):])
		}
		s.Kill()
	}
}

// answers waits until the cluster answers, and returns false if it ends before.
func (s *Server) answers(end time.Time) bool {
	for time.Now().Before(end) {
		select {
		case <-s.exited:
			return false
		case <-time.After(20 * time.Millisecond):
		}
		if s.command("pg_isready", "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(s.port)).Run() == nil {
			return true
		}
	}
	return false
}

// URL is how to reach it, as its superuser.
func (s *Server) URL() string {
	return fmt.Sprintf("postgres://sallyport@127.0.0.1:%d/postgres?sslmode=disable", s.port)
}

// Kill ends the cluster as a crash does.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	// The group: the postmaster and what it started.
	killGroup(s.cmd.Process)
	<-s.exited
	s.cmd = nil
}

// Remove ends the cluster and removes its folder.
func (s *Server) Remove() {
	s.Kill()
	_ = os.RemoveAll(s.dir)
}
