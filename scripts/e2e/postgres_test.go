package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"sallyport.dev/scripts/demo/quickstart"
)

// database is a PostgreSQL of one's own, which can be killed and started again on the same folder and address.
type database struct {
	*quickstart.Process
	t              testing.TB
	bin, dir, addr string
	as             []string // what runs a program as who may run it: it refuses to be root's
}

func newDatabase(t testing.TB) *database {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		t.Fatal(err)
	}
	if path, err := exec.LookPath("initdb"); err == nil && len(found) == 0 {
		found = []string{path}
	}
	if len(found) == 0 {
		t.Fatal("PostgreSQL is needed: install the package postgresql, or let scripts/test do it")
	}
	dir, err := os.MkdirTemp("", "sallyport-postgres-") // others cannot look into a test's own folder
	if err != nil {
		t.Fatal(err)
	}
	d := &database{t: t, bin: filepath.Dir(slices.Max(found)), dir: dir, addr: freeAddress(t)}
	t.Cleanup(func() {
		if d.Process != nil {
			d.Kill() // nobody needs what is in it
		}
		_ = os.RemoveAll(dir) // which those may still use that its main process started
	})
	if os.Getuid() == 0 {
		d.giveAway()
	}
	args := d.program("initdb", "-D", d.data(), "-U", "sallyport", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	making := exec.CommandContext(t.Context(), args[0], args[1:]...)
	making.Dir = d.dir
	if text, err := making.CombinedOutput(); err != nil {
		t.Fatalf("making a PostgreSQL cluster: %v\n%s", err, text)
	}
	d.launch()
	eventually(t, d.answers)
	return d
}

// giveAway gives the folder to the user that runs the programs.
func (d *database) giveAway() {
	d.t.Helper()
	other, err := user.Lookup("postgres")
	if err != nil {
		if other, err = user.Lookup("nobody"); err != nil {
			d.t.Fatal(err)
		}
	}
	uid, err := strconv.Atoi(other.Uid)
	gid, err2 := strconv.Atoi(other.Gid)
	if err := errors.Join(err, err2, os.Chown(d.dir, uid, gid)); err != nil {
		d.t.Fatal(err)
	}
	d.as = []string{"setpriv", "--reuid=" + other.Uid, "--regid=" + other.Gid, "--clear-groups"}
}

func (d *database) data() string { return filepath.Join(d.dir, "data") }

func (d *database) program(name string, args ...string) []string {
	return slices.Concat(d.as, []string{filepath.Join(d.bin, name)}, args)
}

// url is how to reach it, as its superuser.
func (d *database) url() string {
	return "postgres://sallyport@" + d.addr + "/postgres?sslmode=disable"
}

// launch starts the process and does not wait for it. After a kill the old ones may have to end first, so that it may end at once.
func (d *database) launch() {
	d.t.Helper()
	host, port, err := net.SplitHostPort(d.addr)
	if err != nil {
		d.t.Fatal(err)
	}
	args := d.program("postgres", "-D", d.data(), "-h", host, "-p", port, "-k", d.dir)
	p, err := quickstart.Start(d.t.TempDir(), "postgres", args[0], args[1:]...)
	if err != nil {
		d.t.Fatal(err)
	}
	d.Process = p
}

// answers says whether it takes connections, and starts it where it has ended.
func (d *database) answers() error {
	d.t.Helper()
	if ended(d.Process) {
		d.launch()
	}
	args := d.program("pg_isready", "-q", "-d", d.url())
	if text, err := exec.CommandContext(d.t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("PostgreSQL does not answer: %w %s\n%s", err, text, d.Tail())
	}
	return nil
}

// ended says whether a process has ended.
func ended(p *quickstart.Process) bool {
	select {
	case <-p.Done():
		return true
	default:
		return false
	}
}
