package engine_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

const victimDir = "SALLYPORT_TEST_VICTIM"

// exitOn is a failer outside a test.
type exitOn struct{}

func (exitOn) Helper() {}
func (exitOn) Fatal(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(1)
}
func (exitOn) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

// victim writes until it is killed, and prints each group when it is acknowledged. A command of several
// events shows whether what was not acknowledged is whole or absent.
func victim(dir string) {
	conn, err := natsconn.Open(context.Background(), natsconn.Config{DataDir: dir})
	if err != nil {
		exitOn{}.Fatal(err)
	}
	p := newParts(exitOn{}, conn, dir, 1)
	e := start(exitOn{}, engine.Config{Journal: p.journal, Seals: p.vault, Checkpoints: &engine.Checkpoints{Path: filepath.Join(dir, "checkpoint"), Blobs: p.vault}}, nil)
	user, err := e.Do(context.Background(), actor, newUser("ann-"+strconv.FormatInt(time.Now().UnixNano(), 36)))
	if err != nil {
		exitOn{}.Fatal(err)
	}
	id := user.State.UserByName("okta", user.Events[1].GetPersonal().GetUserName()).ID
	for i := range 1 << 30 {
		for c := range 8 {
			go func() {
				name := fmt.Sprintf("group-%d-%d-%d", os.Getpid(), i, c)
				command := core.CreateGroup{Directory: "okta", DisplayName: name, Users: []uuid.UUID{id}}
				if _, err := e.Do(context.Background(), actor, command); err != nil {
					exitOn{}.Fatal(err)
				}
				fmt.Println("acknowledged", name)
			}()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestEachAcknowledgedWriteSurvivesAKill kills a process that writes, several times over the same folder.
func TestEachAcknowledgedWriteSurvivesAKill(t *testing.T) {
	dir := t.TempDir()
	acknowledged := map[string]bool{}
	for range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), victimDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := len(acknowledged)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if name, ok := strings.CutPrefix(lines.Text(), "acknowledged "); ok {
				acknowledged[name] = true
			}
			if len(acknowledged) == before+60 {
				if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		if len(acknowledged) < before+60 {
			t.Fatal("the process ended by itself")
		}
	}
	conn := natstest.Open(t, natsconn.Config{DataDir: dir})
	p := newParts(t, conn, dir, 1)
	e := start(t, engine.Config{Journal: p.journal, Seals: p.vault}, nil)
	defer e.Close()
	groups := 0
	for g := range e.State().Groups("okta", 0) {
		groups++
		delete(acknowledged, g.DisplayName)
		members := 0
		for range e.State().Members(g, 0) {
			members++
		}
		if members != 1 {
			t.Fatalf("the group %s is there by halves: %d members", g.DisplayName, members)
		}
	}
	if len(acknowledged) > 0 {
		t.Fatalf("%d acknowledged groups are lost, %d are there", len(acknowledged), groups)
	}
}
