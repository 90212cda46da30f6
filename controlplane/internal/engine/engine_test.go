package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/journal"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

// alone is an engine in the only process that can write its log.
func alone(t *testing.T, change func(*engine.Config)) (*engine.Engine, parts) {
	t.Helper()
	p := newParts(t, natstest.Embedded(t), t.TempDir(), 1)
	c := engine.Config{Journal: p.journal, Seals: p.vault}
	if change != nil {
		change(&c)
	}
	e := start(t, c, nil)
	t.Cleanup(e.Close)
	return e, p
}

func barriers(log []core.Record) int {
	n := 0
	for _, rec := range log {
		if rec.Event.GetBarrier() != nil {
			n++
		}
	}
	return n
}

func TestPersonalAttributesAreSealedOnTheLogAndOpenInTheState(t *testing.T) {
	e, p := alone(t, nil)
	out, err := e.Do(t.Context(), actor, newUser("ann"))
	if err != nil {
		t.Fatal(err)
	}
	if u := out.State.UserByName("okta", "ANN"); u == nil || u.Email != "ann@corp.example" {
		t.Fatalf("the state has %+v", u)
	}
	var raw []byte
	over := errors.New("read")
	if err := p.journal.Follow(t.Context(), 0, func(records []journal.Record) error {
		for _, r := range records {
			raw = append(append(raw, r.Data...), r.Subject...)
		}
		if records[len(records)-1].Seq == out.Seq {
			return over
		}
		return nil
	}); !errors.Is(err, over) {
		t.Fatal(err)
	}
	for _, secret := range []string{"ann@corp", "00u-ann"} {
		if bytes.Contains(raw, []byte(secret)) {
			t.Fatalf("the log holds %q in the open", secret)
		}
	}
	if got := dump(t, rebuilt(t, p)); !bytes.Equal(got, dump(t, e.State())) {
		t.Fatal("the rebuilt state differs")
	}
	// Of an erased person nothing is left to open, and the log still folds.
	if err := p.vault.DestroyKey(t.Context(), out.State.UserByName("okta", "ann").ID); err != nil {
		t.Fatal(err)
	}
	if u := rebuilt(t, p).UserByName("okta", "ann"); u != nil {
		t.Fatalf("an erased person is known by name: %+v", u)
	}
}

func TestEventsSayWhoAndByWhichCommand(t *testing.T) {
	e, p := alone(t, nil)
	by := &eventv1.Actor{Kind: eventv1.ActorKind_ACTOR_KIND_SCIM, Id: "token-1"}
	out, err := e.Do(t.Context(), by, newGroup("Engineers"))
	if err != nil {
		t.Fatal(err)
	}
	log := logOf(t, p)
	last := log[len(log)-1].Event
	if !proto.Equal(last.GetActor(), by) || last.GetCommandId() == "" || last.GetId() != out.Events[0].GetId() {
		t.Fatalf("the log has %v", last)
	}
}

func TestManyCallersShareRoundsAndEachGetsItsOwnAnswer(t *testing.T) {
	var mu sync.Mutex
	rounds, last := 0, uint64(0)
	p := newParts(t, natstest.Embedded(t), t.TempDir(), 1)
	e := start(t, engine.Config{Journal: p.journal, Seals: p.vault}, func(prev, next *core.State, records []core.Record) {
		mu.Lock()
		defer mu.Unlock()
		rounds++
		if last != 0 && prev.Seq() != last || records[0].Seq <= prev.Seq() || records[len(records)-1].Seq != next.Seq() {
			t.Errorf("a round from %d to %d with records %d to %d came after %d", prev.Seq(), next.Seq(), records[0].Seq, records[len(records)-1].Seq, last)
		}
		last = next.Seq()
	})
	defer e.Close()
	const callers = 1500
	var running sync.WaitGroup
	for i := range callers {
		running.Go(func() {
			name := fmt.Sprintf("user-%d", i/2) // each name twice: one of two is refused
			out, err := e.Do(t.Context(), actor, newUser(name))
			var refusal *core.Error
			switch {
			case err == nil:
				if got := out.Events[1].GetPersonal().GetUserName(); got != name || out.State.UserByName("okta", name) == nil {
					t.Errorf("%s got the answer of %s", name, got)
				}
			case !errors.As(err, &refusal) || refusal.Code != core.AlreadyExists:
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	running.Wait()
	if n := e.State().UserCount("okta"); n != callers/2 {
		t.Fatalf("%d users, want %d", n, callers/2)
	}
	if rounds > callers/10 {
		t.Errorf("%d commands took %d rounds: they do not share them", callers, rounds)
	}
	if barriers(logOf(t, p)) != 0 {
		t.Error("the only writer wrote a barrier")
	}
	if !bytes.Equal(dump(t, rebuilt(t, p)), dump(t, e.State())) {
		t.Error("the rebuilt state differs")
	}
}

func TestWhereOthersCanWriteAFenceIsAWriteAndIsShared(t *testing.T) {
	h := newHub()
	h.believe("a", "a")
	e, p := alone(t, func(c *engine.Config) { c.Peers = peer{h, "a"} })
	before := barriers(logOf(t, p))
	if _, err := e.Do(t.Context(), actor, core.RetireConnector{ID: "none"}); err == nil {
		t.Fatal("what is not there was retired")
	}
	if n := barriers(logOf(t, p)); n != before+1 {
		t.Fatalf("a refusal left with %d barriers, want %d", n, before+1)
	}
	var running sync.WaitGroup
	for range 100 {
		running.Go(func() {
			if s, err := e.Fence(t.Context()); err != nil || s.Seq() == 0 {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if n := barriers(logOf(t, p)) - before - 1; n < 1 || n > 50 {
		t.Fatalf("100 fences took %d barriers", n)
	}
}

func TestAForwardedCommandWhoseAnswersAreLostIsDoneOnce(t *testing.T) {
	h := newHub()
	conn, dir := natstest.Embedded(t), t.TempDir()
	h.believe("writer", "writer")
	h.believe("other", "writer")
	a, b := newParts(t, conn, dir, 1), newParts(t, conn, dir, 1)
	writer := start(t, engine.Config{Journal: a.journal, Seals: a.vault, Peers: peer{h, "writer"}}, nil)
	other := start(t, engine.Config{Journal: b.journal, Seals: b.vault, Peers: peer{h, "other"}, TryWithin: 30 * time.Millisecond}, nil)
	defer other.Close()
	lost := 0
	h.mu.Lock()
	h.lose = func(answer bool) bool { lost++; return answer && lost <= 6 }
	h.mu.Unlock()
	out, err := other.Do(t.Context(), actor, newGroup("Engineers"))
	if err != nil {
		t.Fatal(err)
	}
	if lost < 6 || other.State().GroupCount("okta") != 1 || len(out.Events) != 1 || out.State.Seq() < out.Seq {
		t.Fatalf("%d groups after %d tries, answered %v", other.State().GroupCount("okta"), lost, out)
	}
	var refusal *core.Error
	if _, err := other.Do(t.Context(), actor, core.UpdateUser{Directory: "okta", ID: uuid.New()}); !errors.As(err, &refusal) || refusal.Code != core.NotFound {
		t.Fatalf("a forwarded refusal came as %v", err)
	}
	// The writer is closed, and another begins at a checkpoint of its own: it knows what was done before.
	writer.Close()
	if s, err := other.WaitFor(t.Context(), out.Seq); err != nil || s.GroupCount("okta") != 1 {
		t.Fatal(err)
	}
}

func TestACheckpointIsUsedOnlyForTheLogThatItIsOf(t *testing.T) {
	conn, dir := natstest.Embedded(t), t.TempDir()
	p := newParts(t, conn, dir, 1)
	c := &engine.Checkpoints{Path: filepath.Join(dir, "checkpoint"), Blobs: p.vault}
	config := engine.Config{Journal: p.journal, Seals: p.vault, Checkpoints: c}
	e := start(t, config, nil)
	if _, err := e.Do(t.Context(), actor, newUser("ann")); err != nil {
		t.Fatal(err)
	}
	e.Close()
	want := dump(t, e.State())
	good, err := os.ReadFile(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(good, []byte("ann@corp")) {
		t.Fatal("the checkpoint holds personal attributes in the open")
	}
	reopen := func(contents []byte) (*engine.Engine, error) {
		if err := os.WriteFile(c.Path, contents, 0o600); err != nil {
			t.Fatal(err)
		}
		return engine.Open(t.Context(), config)
	}
	flipped := bytes.Clone(good)
	flipped[len(flipped)-20] ^= 1
	for name, contents := range map[string][]byte{
		"as written": good, "a bit flipped": flipped, "cut": good[:len(good)/2], "empty": nil,
		"another fold":  bytes.Replace(good, []byte("fold=1"), []byte("fold=9"), 1),
		"another place": bytes.Replace(good, []byte("seq=4"), []byte("seq=3"), 1),
	} {
		e, err := reopen(contents)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(dump(t, e.State()), want) {
			t.Fatalf("%s: the state differs", name)
		}
	}
	// The same folder with another log: what proxies saw is not there any more.
	other := newParts(t, natstest.Embedded(t), dir, 1)
	for range 2 {
		config.Journal = other.journal
		if _, err := reopen(good); err == nil || !strings.Contains(err.Error(), "rolled back or replaced") {
			t.Fatalf("got %v, want a refusal", err)
		}
		config.Checkpoints = nil // now the other log is longer than the checkpoint
		e := start(t, config, nil)
		for i := range 5 {
			if _, err := e.Do(t.Context(), actor, newGroup(fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
		e.Close()
		config.Checkpoints = c
	}
}

func TestAnUnknownEventHaltsTheEngine(t *testing.T) {
	p := newParts(t, natstest.Embedded(t), t.TempDir(), 1)
	h := newHub()
	h.believe("a", "a")
	e := start(t, engine.Config{Journal: p.journal, Seals: p.vault, Peers: peer{h, "a"}}, nil)
	defer e.Close()
	data, err := proto.Marshal(&eventv1.Event{Id: "x"}) // of a type that this build does not know
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.journal.Append(t.Context(), e.State().Seq(), []journal.Message{{Subject: "sallyport.event.new.1", Data: data}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "readiness to go red", func() error {
		if err := e.Healthy(); err == nil || !strings.Contains(err.Error(), "does not know the event") {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	if _, err := e.Do(t.Context(), actor, newGroup("g")); err == nil {
		t.Fatal("a halted engine commits")
	}
}

// hiding is a vault that does not answer for a while.
type hiding struct {
	engine.Seals
	away atomic.Bool
	asks atomic.Int32
}

func (h *hiding) Open(ctx context.Context, person uuid.UUID, sealed []byte) ([]byte, bool, error) {
	if h.away.Load() {
		h.asks.Add(1)
		return nil, false, context.DeadlineExceeded
	}
	return h.Seals.Open(ctx, person, sealed)
}

func TestAVaultThatDoesNotAnswerForAWhileHaltsNoFollower(t *testing.T) {
	conn, dir := natstest.Embedded(t), t.TempDir()
	h := newHub()
	h.believe("a", "a")
	h.believe("b", "a")
	at := func(id string, seals func(engine.Seals) engine.Seals) *engine.Engine {
		p := newParts(t, conn, dir, 1)
		e := start(t, engine.Config{Journal: p.journal, Seals: seals(p.vault), Peers: peer{h, id}}, nil)
		t.Cleanup(e.Close)
		return e
	}
	a := at("a", func(s engine.Seals) engine.Seals { return s })
	vault := &hiding{}
	b := at("b", func(s engine.Seals) engine.Seals { vault.Seals = s; return vault })
	vault.away.Store(true)
	out, err := a.Do(t.Context(), actor, newUser("ann"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the follower to say what it lacks", func() error {
		if err := b.Healthy(); !errors.Is(err, engine.ErrUnavailable) || !strings.Contains(err.Error(), "opening a person's attributes") {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	if seq := b.State().Seq(); vault.asks.Load() < 2 || seq >= out.Seq {
		t.Fatalf("asked %d times, it stands at %d of %d", vault.asks.Load(), seq, out.Seq)
	}
	vault.away.Store(false)
	if s, err := b.WaitFor(t.Context(), out.Seq); err != nil || s.UserByName("okta", "ann") == nil {
		t.Fatalf("the follower does not go on: %v", err)
	}
	eventually(t, "readiness", b.Healthy)
	if _, err := b.Do(t.Context(), actor, newUser("bob")); err != nil {
		t.Fatal(err)
	}
}

func TestAFullDiskRefusesAtOnceAndIsSurvived(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=32m"); err != nil {
		t.Skipf("cannot mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	conn := natstest.Open(t, natsconn.Config{DataDir: disk})
	p := newParts(t, conn, t.TempDir(), 1)
	e := start(t, engine.Config{Journal: p.journal, Seals: p.vault, Store: conn.Healthy}, nil)
	defer e.Close()
	if _, err := e.Do(t.Context(), actor, newGroup("before")); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(disk, "ballast")
	fill(t, ballast)
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for i := range 20 {
		waiting.Go(func() { // they wait in the round that is stuck, and are answered when it is known
			if _, err := e.Do(ctx, actor, newGroup(fmt.Sprintf("during-%d-%s", i, strings.Repeat("x", 200)))); err != nil && !errors.Is(err, engine.ErrUnavailable) {
				t.Error(err)
			}
		})
	}
	eventually(t, "commands to be refused with the reason", func() error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := e.Do(ctx, actor, core.CreateGroup{Directory: "okta", DisplayName: strings.Repeat("y", 200)})
		if !errors.Is(err, engine.ErrUnavailable) || !strings.Contains(err.Error(), "is full") || e.Healthy() == nil {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	eventually(t, "commands to be carried out again", func() error {
		_, err := e.Do(ctx, actor, newGroup("after"))
		return err
	})
	waiting.Wait()
	cancel()
	if !bytes.Equal(dump(t, rebuilt(t, p)), dump(t, e.State())) {
		t.Error("the rebuilt state differs")
	}
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}
