package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine"
)

func TestWhoFollowsSeesEachEventOnceAndTheStateBeforeIt(t *testing.T) {
	e, p := alone(t, nil)
	e.Checkpoints = &engine.Checkpoints{Path: filepath.Join(t.TempDir(), "checkpoint"), Blobs: p.vault}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	do := func(from, to int) {
		var all sync.WaitGroup
		for i := from; i < to; i++ {
			all.Go(func() {
				if _, err := e.Do(ctx, actor, newUser(fmt.Sprint("user-", i))); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	do(0, 20)
	if err := e.Checkpoint(e.State().Seq()); err != nil {
		t.Fatal(err)
	}
	kept := e.State().Seq()
	do(20, 30)
	var final atomic.Uint64
	var following sync.WaitGroup
	over := errors.New("over")
	for _, after := range []uint64{0, 7, kept - 1, kept, kept + 3, e.State().Seq(), e.State().Seq() + 5} {
		following.Go(func() {
			seen := after
			err := e.Follow(ctx, after, func(before *core.State, records []core.Record) error {
				was := core.NewState()
				if records[0].Seq > 1 {
					past, err := e.At(ctx, records[0].Seq-1, time.Time{})
					if err != nil {
						return err
					}
					defer past.Release()
					was = past.State
				}
				if !bytes.Equal(dump(t, before), dump(t, was)) {
					return fmt.Errorf("the state before %d is another", records[0].Seq)
				}
				for _, rec := range records {
					if rec.Seq != seen+1 {
						return fmt.Errorf("event %d came after %d", rec.Seq, seen)
					}
					seen = rec.Seq
				}
				if end := final.Load(); end != 0 && seen >= end {
					return over
				}
				return nil
			})
			if !errors.Is(err, over) {
				t.Errorf("after %d: %v at %d", after, err, seen)
			}
		})
	}
	do(30, 60)
	final.Store(e.State().Seq() + 2) // a user is two events
	do(60, 61)
	following.Wait()
}
