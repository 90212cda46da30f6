package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/policy"

	"sallyport.dev/controlplane/internal/core"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

// TestRoundsDoNotWaitForARegionsFirstDigest: those that are committed while it is made are in the feed afterwards.
func TestRoundsDoNotWaitForARegionsFirstDigest(t *testing.T) {
	publisher := NewPublisher(core.NewState(), 0)
	p := enginetest.New(t).Start(publisher.Publish)
	p.Directory("okta")
	p.User("okta", "ada")
	began := p.Engine.State()
	f := newFeed("us-east", began, publisher.ring)
	publisher.mu.Lock()
	publisher.feeds["us-east"] = f // as Publisher.feed does before it goes through everything
	publisher.mu.Unlock()
	p.User("okta", "bob")
	p.User("okta", "eve")
	f.start(began.Epoch())
	p.User("okta", "zoe")
	state := p.Engine.State()
	var want policy.Digest
	for e := range state.Entries("us-east") {
		want.Add(e)
	}
	enginetest.Eventually(t, "the last round is there", func() bool { return bytes.Equal(f.digestAt(state.Seq()), want.Bytes()) })
	rounds, _, ok := f.after(began.Seq())
	if !ok || len(rounds) == 0 || rounds[len(rounds)-1].to != state.Seq() {
		t.Errorf("the rounds since do not lead on: %v, %d of them", ok, len(rounds))
	}
}

// TestASnapshotIsSentWhileItIsEncoded, whole and in order, to each who asks.
func TestASnapshotIsSentWhileItIsEncoded(t *testing.T) {
	s := newSnapshot(7)
	const people = 40
	entry := func(i int) *fleetv1.Entry {
		return &fleetv1.Entry{Value: &fleetv1.Entry_User{User: &fleetv1.User{Id: make([]byte, 16), Subject: fmt.Sprint(i), Directory: string(make([]byte, chunkBytes/4))}}}
	}
	got := make(chan int)
	digest := make(chan policy.Digest, 1)
	go func() {
		digest <- s.encode(func(yield func(*fleetv1.Entry) bool) {
			for i := range people {
				if i > people/2 {
					<-got // what was sent so far was received while this is encoded
				}
				if !yield(entry(i)) {
					return
				}
			}
		}, "epoch")
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for reader := range 2 {
		seen := 0
		for i := 0; ; i++ {
			message, err := s.chunk(ctx, i)
			enginetest.Must(t, err)
			if message == nil {
				break
			}
			data, err := proto.Marshal(message)
			enginetest.Must(t, err)
			var read fleetv1.SyncResponse
			enginetest.Must(t, proto.Unmarshal(data, &read))
			for _, e := range read.GetChunk().GetEntries() {
				if e.GetUser().GetSubject() != fmt.Sprint(seen) || read.GetChunk().GetVersion() != 7 {
					t.Fatalf("reader %d: %s came as number %d", reader, e.GetUser().GetSubject(), seen)
				}
				seen++
			}
			if reader == 0 && i == 0 {
				close(got)
			}
		}
		if seen != people {
			t.Errorf("reader %d got %d of %d", reader, seen, people)
		}
	}
	var want policy.Digest
	for i := range people {
		want.Add(entry(i))
	}
	if got := <-digest; got != want {
		t.Error("the digest is not that of the entries")
	}
	gone, end := context.WithCancel(t.Context())
	end()
	if _, err := newSnapshot(8).chunk(gone, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("a reader who is gone got %v", err)
	}
}
