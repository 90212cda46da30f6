package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
	"sallyport.dev/controlplane/internal/engine/enginetest"
	"sallyport.dev/controlplane/internal/journal"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

// readFrom notes from where on the log is read.
type readFrom struct {
	engine.Journal
	least atomic.Uint64
}

func (r *readFrom) Follow(ctx context.Context, after uint64, fn func([]journal.Record) error) error {
	r.least.Store(min(r.least.Load(), after))
	return r.Journal.Follow(ctx, after, fn)
}

func TestAPastStateIsFoldedFromTheKeptOneBeforeItAndHoldsNobodyWhoWasErased(t *testing.T) {
	conn, dir := natstest.Embedded(t), t.TempDir()
	p := newParts(t, conn, dir, 1)
	log := &readFrom{Journal: p.journal}
	var days atomic.Int64
	c := &engine.Checkpoints{Path: filepath.Join(dir, "checkpoint"), Kept: filepath.Join(dir, "states"), Blobs: p.vault}
	e := start(t, engine.Config{
		Journal: log, Seals: p.vault, Checkpoints: c, Now: func() time.Time { return time.Now().AddDate(0, 0, int(days.Load())) },
	}, nil)
	defer e.Close()
	var err error

	do := func(c core.Command) {
		t.Helper()
		_, err := e.Do(t.Context(), actor, c)
		enginetest.Must(t, err)
	}
	kept := func(n int) (files []string) {
		t.Helper()
		eventually(t, fmt.Sprint(n, " kept states"), func() error {
			files, err = filepath.Glob(filepath.Join(c.Kept, "*.????-??-??"))
			if err == nil && len(files) != n {
				err = fmt.Errorf("%d are kept", len(files))
			}
			return err
		})
		return files
	}
	do(newUser("ann"))
	kept(1)
	first := e.State().Seq()
	do(newUser("bob"))
	days.Add(1)
	kept(2)
	second := e.State().Seq()
	do(newGroup("late"))
	ann := e.State().UserByName("okta", "ann")

	same := func(when string, least uint64) {
		t.Helper()
		for version := least; version <= e.State().Seq(); version++ {
			log.least.Store(^uint64(0))
			got, err := e.At(t.Context(), version, time.Time{})
			enginetest.Must(t, err)
			folded, err := engine.Open(t.Context(), engine.Config{Journal: p.journal, Seals: p.vault})
			enginetest.Must(t, err)
			want, err := folded.At(t.Context(), version, time.Time{})
			enginetest.Must(t, err)
			if !bytes.Equal(dump(t, got.State), dump(t, want.State)) || !got.Since.Equal(want.Since) || !got.Until.Equal(want.Until) {
				t.Errorf("%s: version %d is not what the whole log says", when, version)
			}
			from := first - 1
			if version >= second {
				from = second - 1
			}
			if when != "a file is broken" && log.least.Load() < from {
				t.Errorf("%s: for version %d the log was read from %d", when, version, log.least.Load())
			}
			got.Release()
			want.Release()
			byTime, err := e.At(t.Context(), 0, got.Since)
			enginetest.Must(t, err)
			byTime.Release()
			if byTime.State.Seq() < version {
				t.Errorf("%s: at the time of version %d it was version %d", when, version, byTime.State.Seq())
			}
		}
	}
	same("as they were written", first)
	if a, err := e.At(t.Context(), first, time.Time{}); err != nil {
		t.Fatal(err)
	} else if b, err := e.At(t.Context(), first, time.Time{}); err != nil || a != b {
		t.Errorf("two who ask for one state get %p and %p (%v)", a, b, err)
	} else {
		a.Release()
		b.Release()
	}

	do(core.EraseUser{ID: ann.ID})
	enginetest.Must(t, p.vault.DestroyKey(t.Context(), ann.ID))
	same("after an erasure", first)
	if then, err := e.At(t.Context(), second, time.Time{}); err != nil || then.State.User(ann.ID) == nil || then.State.User(ann.ID).UserName != "" || then.State.UserByName("okta", "bob") == nil {
		t.Errorf("after an erasure: %v (%v)", then, err)
	} else {
		then.Release()
	}
	if found := enginetest.OnDisk(t, c.Kept, []byte("ann")); len(found) > 0 {
		t.Errorf("her name is in %v", found)
	}

	for _, file := range kept(2) {
		data, err := os.ReadFile(file)
		enginetest.Must(t, err)
		data[len(data)-20] ^= 1
		enginetest.Must(t, os.WriteFile(file, data, 0o600))
	}
	same("a file is broken", first)
	if _, err := e.At(t.Context(), e.State().Seq()+1, time.Time{}); !errors.Is(err, engine.ErrFuture) {
		t.Errorf("a version to come: %v", err)
	}
}

// TestAKeptStateOfAnotherFoldOrLogIsNotUsed: such a file is whole and well sealed, and what it says is not what this build folds of this log.
func TestAKeptStateOfAnotherFoldOrLogIsNotUsed(t *testing.T) {
	conn, dir := natstest.Embedded(t), t.TempDir()
	p := newParts(t, conn, dir, 1)
	log := &readFrom{Journal: p.journal}
	c := &engine.Checkpoints{Path: filepath.Join(dir, "checkpoint"), Kept: filepath.Join(dir, "states"), Blobs: p.vault}
	e := start(t, engine.Config{Journal: log, Seals: p.vault, Checkpoints: c}, nil)
	defer e.Close()
	_, err := e.Do(t.Context(), actor, newUser("ann"))
	enginetest.Must(t, err)
	var files []string
	eventually(t, "a kept state", func() error {
		if files, err = filepath.Glob(filepath.Join(c.Kept, "*.????-??-??")); err == nil && len(files) != 1 {
			err = errors.New("none is there")
		}
		return err
	})
	whole, err := os.ReadFile(files[0])
	enginetest.Must(t, err)
	line, sealed, _ := bytes.Cut(whole, []byte("\n"))
	head := string(line)
	field := func(name string) string {
		_, rest, _ := strings.Cut(head, " "+name+"=")
		value, _, _ := strings.Cut(rest, " ")
		return name + "=" + value
	}
	for what, c := range map[string]struct {
		head string
		used bool
	}{
		"as it was":       {head, true},
		"of another fold": {strings.Replace(head, field("fold"), fmt.Sprint("fold=", core.FoldVersion-1), 1), false},
		"of another log":  {strings.Replace(head, field("last"), "last="+uuid.NewString(), 1), false},
	} {
		plain, err := p.vault.OpenBlob(bytes.NewReader(sealed), head)
		enginetest.Must(t, err)
		var again bytes.Buffer
		again.WriteString(c.head + "\n")
		w, err := p.vault.SealBlob(&again, c.head)
		enginetest.Must(t, err)
		_, err = io.Copy(w, plain)
		enginetest.Must(t, errors.Join(err, w.Close()))
		enginetest.Must(t, os.WriteFile(files[0], again.Bytes(), 0o600))
		// A state is shared while somebody has it: each question here is of another version.
		_, err = e.Do(t.Context(), actor, newGroup(what))
		enginetest.Must(t, err)
		log.least.Store(^uint64(0))
		if past, err := e.At(t.Context(), e.State().Seq(), time.Time{}); err != nil {
			t.Errorf("%s: %v", what, err)
		} else {
			past.Release()
		}
		if used := log.least.Load() > 0; used != c.used {
			t.Errorf("%s: it was used: %v", what, used)
		}
	}
}

// TestFewPastStatesAreInUseAtATime: whoever asks for one more waits until one is released, and where too many wait the next is refused.
func TestFewPastStatesAreInUseAtATime(t *testing.T) {
	p := newParts(t, natstest.Embedded(t), t.TempDir(), 1)
	e := start(t, engine.Config{Journal: p.journal, Seals: p.vault}, nil)
	defer e.Close()
	for i := range 30 {
		_, err := e.Do(t.Context(), actor, newGroup(fmt.Sprint("group ", i)))
		enginetest.Must(t, err)
	}
	at := func(version uint64) *engine.Past {
		t.Helper()
		past, err := e.At(t.Context(), version, time.Time{})
		enginetest.Must(t, err)
		return past
	}
	first, second := at(1), at(2)
	if again := at(2); again != second {
		t.Error("who asks for a state that is in use gets another")
	} else {
		again.Release()
	}
	type answer struct {
		past *engine.Past
		err  error
	}
	const waiting = 16
	answers := make(chan answer)
	for i := range uint64(waiting + 1) {
		go func() {
			past, err := e.At(t.Context(), 3+i, time.Time{})
			answers <- answer{past, err}
		}()
	}
	// While both are in use nobody else is answered, save who is refused.
	if refused := <-answers; !errors.Is(refused.err, engine.ErrBusy) {
		t.Fatalf("the one too many got %v (%v)", refused.past, refused.err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := e.At(ctx, 25, time.Time{}); err == nil {
		t.Error("one more got a state")
	}
	select {
	case early := <-answers:
		t.Fatalf("with two in use a third was made, or refused: %v (%v)", early.past, early.err)
	default:
	}
	first.Release()
	second.Release()
	for range waiting {
		one := <-answers
		enginetest.Must(t, one.err)
		one.past.Release()
	}
	at(25).Release()
}
