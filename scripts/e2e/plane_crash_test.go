package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// write is one SCIM request, and what the directory knows about its fate.
type write struct {
	path, name string
	members    int
	status     int // zero: no answer came
	id         string
}

// TestControlPlaneKilledDuringWritesKeepsWhatItAnswered kills the control plane while a directory writes at it from
// several connections. What was answered is there afterwards; what was not is there whole, or not at all.
func TestControlPlaneKilledDuringWritesKeepsWhatItAnswered(t *testing.T) {
	t.Parallel()
	cp := newControlPlane(t)
	scim := scimOf(t, cp, newIssuer(t))
	const members = 5
	var people []string
	for i := range members {
		people = append(people, scim.user(fmt.Sprintf("member%d@corp.test", i)))
	}
	for round := range 3 {
		writes := writeUntilKilled(t, cp, scim, round, people)
		cp.start()
		answered, lost := 0, 0
		for _, w := range writes {
			attribute := "userName"
			if w.path == "/Groups" {
				attribute = "displayName"
			}
			found := scim.find(w.path, attribute, w.name)
			if w.status == http.StatusCreated {
				answered++
				if len(found) != 1 || found[0]["id"] != w.id {
					t.Fatalf("round %d: %s %s was answered with id %s and is now %v", round, w.path, w.name, w.id, found)
				}
			} else {
				lost++
			}
			switch {
			case len(found) > 1:
				t.Fatalf("round %d: %s is there %d times", round, w.name, len(found))
			case len(found) == 1 && w.path == "/Groups":
				id, _ := found[0]["id"].(string)
				_, group, err := scim.send(t.Context(), http.MethodGet, "/Groups/"+id, nil)
				if list, _ := group["members"].([]any); err != nil || len(list) != w.members {
					t.Fatalf("round %d: group %s has %d of %d members (%v)", round, w.name, len(list), w.members, err)
				}
			}
		}
		if answered == 0 {
			t.Fatalf("round %d: nothing was answered before the kill: the test shows nothing", round)
		}
		t.Logf("round %d: %d writes were answered, %d were not", round, answered, lost)
	}
}

// writeUntilKilled writes from several connections, kills the control plane in the middle and returns all that was sent.
func writeUntilKilled(t *testing.T, cp *controlPlane, scim *scimClient, round int, people []string) []write {
	const writers = 8
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var (
		mu   sync.Mutex // guards all
		all  []write
		wg   sync.WaitGroup
		some = make(chan struct{}, 1<<16)
	)
	for n := range writers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				w := write{path: "/Users", name: fmt.Sprintf("r%d-w%d-%d@corp.test", round, n, i)}
				body := userBody(w.name)
				if (i+n)%2 == 0 {
					w = write{path: "/Groups", name: fmt.Sprintf("Group r%d-w%d-%d", round, n, i), members: len(people)}
					body = groupBody(w.name, people...)
				}
				status, answer, err := scim.send(ctx, http.MethodPost, w.path, body)
				if err == nil {
					w.status = status
					w.id, _ = answer["id"].(string)
				}
				mu.Lock()
				all = append(all, w)
				mu.Unlock()
				if err != nil {
					return
				}
				some <- struct{}{}
			}
		})
	}
	for range 40 + 17*round {
		select {
		case <-some:
		case <-time.After(patience):
			t.Error("the writes do not go on")
		}
	}
	cp.Kill()
	cancel()
	wg.Wait()
	return all
}
