package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
)

// TestAnotherSystemReadsAuditByItsConsumerUntilThatIsDeleted: what the command line makes opens the one consumer to a NATS client, also after
// a restart of the control plane, and nothing once it is deleted; without it nobody is let in.
func TestAnotherSystemReadsAuditByItsConsumerUntilThatIsDeleted(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	w := newWorld(t, "--nats-listen", address)
	east := newProxy(t, w.cp, "us-east")
	w.cp.enforced()
	key := filepath.Join(t.TempDir(), "siem.nk")
	out, err := w.cp.Run(t.Context(), "audit", "consumers", "create", "siem", "--subject", "sallyport.audit.*.*.github.*", "--start", "beginning", "--out", key, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var made struct {
		Durable     string `json:"durable"`
		InboxPrefix string `json:"inbox_prefix"`
		Server      string `json:"server"`
	}
	if err := json.Unmarshal(out, &made); err != nil || made.Durable == "" || made.Server != "nats://"+address {
		t.Fatalf("%v: %s", err, out)
	}
	if _, err := w.cp.Run(t.Context(), "audit", "consumers", "create", "siem"); err == nil {
		t.Error("a second of the name is made")
	}
	connect := func() (*nats.Conn, error) {
		with, err := nats.NkeyOptionFromSeed(key)
		if err != nil {
			t.Fatal(err)
		}
		return nats.Connect(made.Server, with, nats.CustomInboxPrefix(made.InboxPrefix), nats.NoReconnect())
	}
	seen := map[string]int{} // calls and phases
	take := func(want int) {
		t.Helper()
		nc, err := connect()
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		consumer, err := js.Consumer(t.Context(), "AUDIT", made.Durable)
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); len(seen) < want && time.Now().Before(deadline); {
			batch, err := consumer.Fetch(10, jetstream.FetchMaxWait(time.Second))
			if err != nil {
				t.Fatal(err)
			}
			for m := range batch.Messages() {
				r := &auditv1.AuditRecord{}
				if err := proto.Unmarshal(m.Data(), r); err != nil || r.GetConnector() != "github" {
					t.Errorf("it was given %v, %v", r, err)
				}
				if r.GetMethod() == "tools/call" {
					seen[r.GetCallId()+" "+r.GetPhase().String()]++
				}
				if err := m.DoubleAck(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(seen) != want {
			t.Fatalf("%d records of calls came, want %d", len(seen), want)
		}
	}
	call := func() {
		t.Helper()
		if err := works(t.Context(), w.session(east, ada)); err != nil {
			t.Fatal(err)
		}
	}
	call()
	take(2)
	stop(t, w.cp.Process)
	w.cp.start()
	call()
	take(4)
	for what, times := range seen {
		if times != 1 {
			t.Errorf("%s came %d times though it was acknowledged", what, times)
		}
	}
	if out, err := w.cp.Run(t.Context(), "audit", "consumers", "list"); err != nil || !strings.Contains(string(out), "sallyport.audit.*.*.github.*") {
		t.Errorf("%v: %s", err, out)
	}
	held, err := connect()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if nc, err := nats.Connect(made.Server, nats.NoReconnect()); !errors.Is(err, nats.ErrAuthorization) {
		nc.Close()
		t.Errorf("without a key: %v", err)
	}
	w.cp.must("audit", "consumers", "delete", "siem")
	eventually(t, func() error {
		if !held.IsClosed() {
			return errors.New("its connection is still open")
		}
		return nil
	})
	if nc, err := connect(); !errors.Is(err, nats.ErrAuthorization) {
		nc.Close()
		t.Errorf("after it was deleted: %v", err)
	}
	eventually(t, func() error {
		for _, action := range []string{"audit_consumer_created", "audit_consumer_deleted"} {
			found, err := w.cp.Records(t.Context(), &adminv1.AuditFilter{Action: action})
			if err != nil || len(found) != 1 {
				return fmt.Errorf("%s is recorded %d times (%w)", action, len(found), err)
			}
		}
		return nil
	})
}

// TestATailGoesOnOverARestartAndShowsEachRecordOnce kills the control plane under the command line that follows it.
func TestATailGoesOnOverARestartAndShowsEachRecordOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	east := newProxy(t, w.cp, "us-east")
	w.cp.enforced()
	s := w.session(east, ada)
	if err := works(t.Context(), s); err != nil { // of before it follows
		t.Fatal(err)
	}
	var first calls
	eventually(t, func() (err error) {
		if first, err = w.audit(&adminv1.AuditFilter{Connector: "github"}); err == nil {
			err = first.twoPhases(1)
		}
		return err
	})
	ctx, end := context.WithCancel(t.Context())
	tail := exec.CommandContext(ctx, w.cp.Program, "--server", w.cp.URL, "--token-file", w.cp.TokenFile, "audit", "tail", "--connector", "github", "--format", "json")
	out, err := tail.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tail.Start(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	shown := map[string]int{}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var r struct {
				CallID string `json:"call_id"`
				Phase  string `json:"phase"`
				Method string `json:"method"`
			}
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
				t.Errorf("%q: %v", lines.Text(), err)
			}
			if r.Method == "tools/call" {
				mu.Lock()
				shown[r.CallID+" "+r.Phase]++
				mu.Unlock()
			}
		}
	})
	defer func() {
		end()
		reading.Wait()
		_ = tail.Wait() // it was killed
	}()
	many := func() int { mu.Lock(); defer mu.Unlock(); return len(shown) }
	// It follows from when it was heard: calls are made until one shows.
	eventually(t, func() error {
		if err := works(t.Context(), s); err != nil {
			return err
		}
		if many() == 0 {
			return errors.New("nothing shows")
		}
		return nil
	})
	for range 3 {
		for range 3 {
			if err := works(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		w.cp.Kill()
		for range 3 { // while it is away
			if err := works(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		w.cp.start()
	}
	eventually(t, func() error {
		all, err := w.audit(&adminv1.AuditFilter{Connector: "github"})
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		began, missing := false, 0
		for _, id := range slices.Sorted(maps.Keys(all)) { // by time
			for phase := range all[id] {
				key := id + " " + strings.ToLower(strings.TrimPrefix(phase.String(), "PHASE_"))
				began = began || shown[key] > 0
				if began && shown[key] == 0 {
					missing++
				}
			}
		}
		if missing > 0 || len(all) < 20 {
			return fmt.Errorf("of %d calls %d records do not show", len(all), missing)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	for what, times := range shown {
		if times != 1 {
			t.Errorf("%s was shown %d times", what, times)
		}
	}
	t.Logf("3 kills, %d records shown, each once", len(shown))
}
