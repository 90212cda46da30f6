package activity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/controlplane/internal/engine/enginetest"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func recorders(t *testing.T, n int) []*Recorder {
	t.Helper()
	p := enginetest.New(t)
	var all []*Recorder
	for range n {
		all = append(all, NewRecorder(p.Shared, slog.New(slog.DiscardHandler)))
	}
	return all
}

// TestControlPlanesRememberTogether what each of them saw.
func TestControlPlanesRememberTogether(t *testing.T) {
	both := recorders(t, 2)
	old, fresh := uuid.New(), uuid.New()
	var group sync.WaitGroup
	for i, r := range both {
		group.Go(func() {
			for n := range 30 {
				at := start.Add(time.Duration(2*n+i) * time.Second)
				token := old
				if n >= 20 {
					token = fresh
				}
				q := Request{At: at, Directory: "okta/ü x", Token: token}
				if n%2 == 0 {
					q.Refusal = &Refusal{At: at, Method: "POST", Resource: "/Users", Status: 409, Type: "uniqueness"}
				}
				r.Note(q)
				if n%7 == 0 {
					enginetest.Must(t, r.flush(t.Context()))
				}
			}
		})
	}
	group.Wait()
	both[0].Note(Request{At: start, Refusal: &Refusal{At: start, Method: "GET", Resource: "/Users", Status: 401}})
	enginetest.Must(t, both[0].flush(t.Context()))
	for _, r := range both {
		_, err := r.Of(t.Context(), "okta/ü x")
		enginetest.Must(t, err)
	}
	for _, r := range both {
		d, err := r.Of(t.Context(), "okta/ü x")
		enginetest.Must(t, err)
		if d.Requests != 60 || d.Refused != 30 || !d.LastRequest.Equal(start.Add(59*time.Second)) || len(d.Refusals) != 30 {
			t.Errorf("remembered: %+v", d)
		}
		if !d.Tokens[old].Equal(start.Add(39*time.Second)) || !d.Tokens[fresh].Equal(start.Add(59*time.Second)) {
			t.Errorf("tokens: %v", d.Tokens)
		}
		nobody, err := r.Of(t.Context(), "")
		enginetest.Must(t, err)
		if nobody.Refused != 1 || len(nobody.Tokens) != 0 {
			t.Errorf("of nobody: %+v", nobody)
		}
	}
}

func TestOnlyTheLastRefusalsAreKept(t *testing.T) {
	r := recorders(t, 1)[0]
	for n := range 3 * mostRefusals {
		r.Note(Request{At: start, Directory: "okta", Refusal: &Refusal{Resource: fmt.Sprint(n)}})
	}
	if kept := len(r.unsaid["okta"].Refusals); kept > mostRefusals {
		t.Errorf("%d refusals are in memory", kept)
	}
	d, err := r.Of(t.Context(), "okta")
	enginetest.Must(t, err)
	if len(d.Refusals) != mostRefusals || d.Refusals[mostRefusals-1].Resource != fmt.Sprint(3*mostRefusals-1) || d.Refused != 3*mostRefusals {
		t.Errorf("%d are kept of %d", len(d.Refusals), d.Refused)
	}
}

// broken fails as long as it is told to.
type broken struct {
	Store
	is bool
}

func (b *broken) Change(ctx context.Context, key string, ttl time.Duration, change func([]byte) ([]byte, error)) (uint64, error) {
	if b.is {
		return 0, errors.New("broken")
	}
	return b.Store.Change(ctx, key, ttl, change)
}

// TestWhatCannotBeWrittenIsKept, in its order, and counted once.
func TestWhatCannotBeWrittenIsKept(t *testing.T) {
	p := enginetest.New(t)
	store := &broken{Store: p.Shared, is: true}
	r := NewRecorder(store, slog.New(slog.DiscardHandler))
	for n := range 3 {
		r.Note(Request{At: start, Directory: "okta", Refusal: &Refusal{Resource: fmt.Sprint(n)}})
		if r.flush(t.Context()) == nil {
			t.Fatal("the test breaks nothing")
		}
	}
	store.is = false
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.Run(ctx) // writes once more at its end
	other := NewRecorder(p.Shared, slog.New(slog.DiscardHandler))
	d, err := other.Of(t.Context(), "okta")
	enginetest.Must(t, err)
	if d.Requests != 3 || len(d.Refusals) != 3 || d.Refusals[0].Resource != "0" || d.Refusals[2].Resource != "2" {
		t.Errorf("remembered: %+v", d)
	}
}
