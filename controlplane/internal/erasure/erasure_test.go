package erasure

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	eventv1 "sallyport.dev/proto/gen/sallyport/event/v1"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/journal"
	"sallyport.dev/controlplane/internal/kv"
)

// world is a control plane with two people in a group, one of whom is removed.
type world struct {
	*enginetest.Plane
	ann, bob *core.User
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Plane: enginetest.New(t).Start(nil)}
	w.Directory("okta")
	w.ann, w.bob = w.User("okta", "ann"), w.User("okta", "bob")
	w.Group("okta", "Engineers", w.ann, w.bob)
	profile := w.ann.Profile
	profile.DisplayName = "Ann the Great"
	w.Do(core.UpdateUser{Directory: "okta", ID: w.ann.ID, Profile: profile, Active: true})
	w.Do(core.EraseUser{ID: w.ann.ID})
	return w
}

func (w *world) worker(t *testing.T, change func(*Config)) *Worker {
	t.Helper()
	list, err := OpenList(filepath.Join(t.TempDir(), "erased"))
	enginetest.Must(t, err)
	c := Config{Engine: w.Engine, Keys: w.Vault, Log: w.Events, List: list, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&c)
	}
	return New(c)
}

// events are those on the log.
func (w *world) events(t *testing.T) (all []*eventv1.Event) {
	t.Helper()
	last, err := w.Events.Last(t.Context())
	enginetest.Must(t, err)
	done := errors.New("done")
	err = w.Events.Follow(t.Context(), 0, func(records []journal.Record) error {
		for _, r := range records {
			var ev eventv1.Event
			enginetest.Must(t, proto.Unmarshal(r.Data, &ev))
			if all = append(all, &ev); r.Seq == last {
				return done
			}
		}
		return nil
	})
	if !errors.Is(err, done) {
		t.Fatal(err)
	}
	return all
}

// sealedOf counts the events that hold somebody's attributes.
func (w *world) sealedOf(t *testing.T, id uuid.UUID) (n int) {
	t.Helper()
	for _, ev := range w.events(t) {
		if ev.GetPersonId() == id.String() && len(ev.GetSealed()) > 0 {
			n++
		}
	}
	return n
}

// state is a state's bytes.
func state(t *testing.T, s *core.State) []byte {
	t.Helper()
	var b bytes.Buffer
	enginetest.Must(t, s.Encode(&b))
	return b.Bytes()
}

func TestNothingIsLeftOfAPersonWhoIsErased(t *testing.T) {
	w := newWorld(t)
	if w.sealedOf(t, w.ann.ID) != 2 {
		t.Fatal("the test would not see it")
	}
	sealed, err := w.Vault.Seal(t.Context(), w.ann.ID, []byte("secret"))
	enginetest.Must(t, err)
	worker := w.worker(t, nil)
	enginetest.Must(t, worker.pass(t.Context()))

	if n := w.sealedOf(t, w.ann.ID); n != 0 {
		t.Errorf("%d events hold the person's attributes", n)
	}
	if w.sealedOf(t, w.bob.ID) != 1 {
		t.Error("somebody else's attributes are gone")
	}
	if _, erased, err := w.Vault.Open(t.Context(), w.ann.ID, sealed); err != nil || !erased {
		t.Errorf("the person's key opens (%v)", err)
	}
	if w.Engine.State().ErasureCount() != 0 {
		t.Error("the erasure is not finished")
	}
	if !slices.Contains(slices.Collect(worker.config.List.All()), w.ann.ID) {
		t.Error("the person is not on the list")
	}

	// Live equals rebuilt, from a checkpoint and without one.
	rebuilt, err := engine.Open(t.Context(), engine.Config{Journal: w.Events, Seals: w.Vault, Log: w.Log})
	enginetest.Must(t, err)
	if !bytes.Equal(state(t, rebuilt.State()), state(t, w.Engine.State())) {
		t.Error("what is rebuilt from the log is not what is live")
	}
	restored, err := engine.Open(t.Context(), engine.Config{Journal: w.Events, Seals: w.Vault, Log: w.Log,
		Checkpoints: &engine.Checkpoints{Path: filepath.Join(w.Dir, "checkpoint"), Blobs: w.Vault, Erased: worker.config.List.All()}})
	enginetest.Must(t, err)
	if !bytes.Equal(state(t, restored.State()), state(t, w.Engine.State())) {
		t.Error("what is rebuilt from the checkpoint is not what is live")
	}
}

// failing fails at its nth call, before or after it did what it is asked.
type failing struct {
	*world
	calls, at int
	after     bool
}

var errBroken = errors.New("broken")

func (f *failing) step(do func() error) error {
	f.calls++
	if f.calls == f.at && !f.after {
		return errBroken
	}
	err := do()
	if f.calls == f.at {
		return errBroken
	}
	return err
}

func (f *failing) DestroyKey(ctx context.Context, id uuid.UUID) error {
	return f.step(func() error { return f.Vault.DestroyKey(ctx, id) })
}

func (f *failing) Erase(ctx context.Context, subject string, before uint64, holds func([]byte) bool) (n int, err error) {
	err = f.step(func() error { n, err = f.Events.Erase(ctx, subject, before, holds); return err })
	return n, err
}

func (f *failing) Checkpoint(at uint64) error {
	return f.step(func() error { return f.Engine.Checkpoint(at) })
}
func (f *failing) State() *core.State { return f.Engine.State() }
func (f *failing) Leading() bool      { return f.Engine.Leading() }

func (f *failing) Do(ctx context.Context, a *eventv1.Actor, c core.Command) (out engine.Outcome, err error) {
	err = f.step(func() error { out, err = f.Engine.Do(ctx, a, c); return err })
	return out, err
}

// TestAnErasureThatIsCutOffIsFinishedLater, wherever it was cut off, by another control plane too.
func TestAnErasureThatIsCutOffIsFinishedLater(t *testing.T) {
	for at := 1; at <= 4; at++ {
		for _, after := range []bool{false, true} {
			w := newWorld(t)
			f := &failing{world: w, at: at, after: after}
			first := w.worker(t, func(c *Config) { c.Engine, c.Keys, c.Log = f, f, f })
			if err := first.pass(t.Context()); !errors.Is(err, errBroken) {
				t.Fatalf("step %d: got %v", at, err)
			}
			enginetest.Must(t, w.worker(t, nil).pass(t.Context()))
			if w.sealedOf(t, w.ann.ID) != 0 || w.Engine.State().ErasureCount() != 0 {
				t.Errorf("cut off at step %d, after=%v: it is not finished", at, after)
			}
		}
	}
}

func TestOnlyWhoWritesTheLogErases(t *testing.T) {
	w := newWorld(t)
	worker := w.worker(t, func(c *Config) { c.Engine = following{w.Engine} })
	enginetest.Must(t, worker.pass(t.Context()))
	if w.sealedOf(t, w.ann.ID) == 0 {
		t.Error("a control plane that does not write the log erased")
	}
	if !slices.Contains(slices.Collect(worker.config.List.All()), w.ann.ID) {
		t.Error("its list lacks the person")
	}
}

type following struct{ *engine.Engine }

func (following) Leading() bool { return false }

// TestWhoIsOnTheListIsRemovedAgain, as after the restoration of a backup.
func TestWhoIsOnTheListIsRemovedAgain(t *testing.T) {
	w := newWorld(t)
	worker := w.worker(t, nil)
	enginetest.Must(t, worker.config.List.Add(slices.Values([]uuid.UUID{w.bob.ID, uuid.New()})))
	enginetest.Must(t, worker.Restore(t.Context()))
	enginetest.Must(t, worker.pass(t.Context()))
	if w.Engine.State().User(w.bob.ID) != nil || w.sealedOf(t, w.bob.ID) != 0 {
		t.Error("somebody who was erased before is there")
	}
}

// TestACheckpointWithSomebodyErasedIsDestroyed: also one that comes back from a backup of the file.
func TestACheckpointWithSomebodyErasedIsDestroyed(t *testing.T) {
	w := &world{Plane: enginetest.New(t).Start(nil)}
	w.Directory("okta")
	ann := w.User("okta", "ann")
	path := filepath.Join(w.Dir, "checkpoint")
	enginetest.Must(t, w.Engine.Checkpoint(w.Engine.State().Seq()))
	old, err := os.ReadFile(path)
	enginetest.Must(t, err)
	w.Do(core.EraseUser{ID: ann.ID})
	worker := w.worker(t, nil)
	enginetest.Must(t, worker.pass(t.Context()))
	if now, err := os.ReadFile(path); err != nil || bytes.Equal(now, old) {
		t.Fatalf("the checkpoint is older than the removal (%v)", err)
	}
	for _, name := range []string{"restored", "restored.new"} {
		path := filepath.Join(w.Dir, name)
		enginetest.Must(t, os.WriteFile(path, old, 0o600))
		again, err := engine.Open(t.Context(), engine.Config{Journal: w.Events, Seals: w.Vault, Log: w.Log,
			Checkpoints: &engine.Checkpoints{Path: filepath.Join(w.Dir, "restored"), Blobs: w.Vault, Erased: worker.config.List.All()}})
		enginetest.Must(t, err)
		if again.State().User(ann.ID) != nil || !bytes.Equal(state(t, again.State()), state(t, w.Engine.State())) {
			t.Error("the old checkpoint was used")
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there (%v)", name, err)
		}
	}
}

func TestTheListSurvivesCrashesAndSaysWhatIsWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "erased")
	list, err := OpenList(path)
	enginetest.Must(t, err)
	a, b, c := uuid.New(), uuid.New(), uuid.New()
	enginetest.Must(t, list.Add(slices.Values([]uuid.UUID{a, b})))
	enginetest.Must(t, list.Add(slices.Values([]uuid.UUID{a, b})))
	data, err := os.ReadFile(path)
	enginetest.Must(t, err)
	if strings.Count(string(data), "\n") != 3 {
		t.Errorf("the file is %s", data)
	}
	enginetest.Must(t, os.WriteFile(path, append(data, c.String()[:20]...), 0o600)) // cut off
	list, err = OpenList(path)
	enginetest.Must(t, err)
	enginetest.Must(t, list.Add(slices.Values([]uuid.UUID{c})))
	list, err = OpenList(path)
	enginetest.Must(t, err)
	if got := slices.Collect(list.All()); len(got) != 3 || !slices.Contains(got, c) {
		t.Errorf("the list is %v", got)
	}
	enginetest.Must(t, os.WriteFile(path, []byte("# head\nann@example.com\n"), 0o600))
	if _, err := OpenList(path); err == nil || !strings.Contains(err.Error(), "line 2") || strings.Contains(err.Error(), "ann") {
		t.Errorf("got %v", err)
	}
}

// TestTheBytesAreOverwritten: what was sealed, and the key under which it was, are in no file of the data folder any more.
func TestTheBytesAreOverwritten(t *testing.T) {
	w := newWorld(t)
	secrets, err := kv.Open(t.Context(), w.Conn.Conn, kv.Config{Bucket: "VAULT"})
	enginetest.Must(t, err)
	key, err := secrets.Get(t.Context(), "person."+w.ann.ID.String())
	enginetest.Must(t, err)
	gone := [][]byte{key.Value}
	for _, ev := range w.events(t) {
		if ev.GetPersonId() == w.ann.ID.String() && len(ev.GetSealed()) > 0 {
			gone = append(gone, ev.GetSealed())
		}
	}
	for _, bytes := range gone {
		if len(enginetest.OnDisk(t, w.Dir, bytes)) == 0 {
			t.Fatal("the test would not see it")
		}
	}
	enginetest.Must(t, w.worker(t, nil).pass(t.Context()))
	for i, bytes := range gone {
		if files := enginetest.OnDisk(t, w.Dir, bytes); len(files) > 0 {
			t.Errorf("%d of %d is still in %v", i+1, len(gone), files)
		}
	}
}
