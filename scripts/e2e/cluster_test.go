package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// TestTwoControlPlanesOnACluster: both take writes, one of them forwards; each serves a proxy; and when the active
// writer is killed, the other goes on with every write that was answered.
func TestTwoControlPlanesOnACluster(t *testing.T) {
	t.Parallel()
	urls := natsCluster(t)
	first := newControlPlane(t, "--nats-url", urls)
	second := join(t, first, urls)
	w := settle(t, first)
	other := w.scim.at(second)

	east := newProxy(t, first, "us-east")
	west := newProxy(t, second, "eu-west")
	first.enforced()
	atEast, atWest := w.session(east, ada), w.session(west, ada)
	for name, s := range map[string]func() error{
		"the first's proxy":  func() error { return works(t.Context(), atEast) },
		"the second's proxy": func() error { return works(t.Context(), atWest) },
	} {
		if err := s(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	var answered []string
	// Each writes what the other reads at once: its answer is its promise.
	for i := range 10 {
		from, to, login := w.scim, other, fmt.Sprintf("pair%d@corp.test", i)
		if i%2 == 1 {
			from, to = to, from
		}
		from.user(login)
		answered = append(answered, login)
		eventually(t, func() error {
			if n := len(to.find("/Users", "userName", login)); n != 1 {
				return fmt.Errorf("%s is found %d times at the other", login, n)
			}
			return nil
		})
	}

	crowd(t, w.scim, other)

	// The first started first and writes. It dies while writes are under way at both.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wrote := make(chan string, 1024)
	enough := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; ctx.Err() == nil; i++ {
			login := fmt.Sprintf("under-way%d@corp.test", i)
			if status, _, err := w.scim.send(ctx, http.MethodPost, "/Users", userBody(login)); err == nil && status == http.StatusCreated {
				wrote <- login
			} else if err != nil {
				return
			}
			if i == 30 {
				close(enough)
			}
		}
	}()
	select {
	case <-enough:
	case <-time.After(patience):
		t.Fatal("the writes do not go on")
	}
	first.Kill()
	died := time.Now()
	<-ended
	cancel()
	err := within(t.Context(), takeover, func() error {
		login := fmt.Sprintf("after%d@corp.test", time.Now().UnixNano())
		status, answer, err := other.send(t.Context(), http.MethodPost, "/Users", userBody(login))
		if err != nil || status != http.StatusCreated {
			return fmt.Errorf("%d %v: %w", status, answer, err)
		}
		answered = append(answered, login)
		return nil
	})
	if err != nil {
		t.Fatalf("the second does not take over within %s: %v", takeover, err)
	}
	t.Logf("the second wrote %s after the first was killed", time.Since(died).Round(time.Millisecond))
	close(wrote)
	for login := range wrote {
		answered = append(answered, login)
	}
	for _, login := range answered {
		if n := len(other.find("/Users", "userName", login)); n != 1 {
			t.Errorf("%s was answered and is found %d times", login, n)
		}
	}
	if err := works(t.Context(), atWest); err != nil {
		t.Errorf("the second's proxy: %v", err)
	}
	// It comes back as the second, with what was written meanwhile, and its proxy hears from it.
	first.start()
	other.deactivate(w.ada)
	second.enforced()
	for _, p := range []*proxy{east, west} {
		if status, _, body := post(t, p, w.issuer.token(ada), nil, goodCall); status == http.StatusOK {
			t.Errorf("%s lets a deactivated person through: %s", p.region, body)
		}
	}
	for _, login := range answered {
		if n := len(w.scim.find("/Users", "userName", login)); n != 1 {
			t.Errorf("at the first, started again: %s is found %d times", login, n)
		}
	}
}

// join starts a second control plane with the first's key, as an operator would.
func join(t *testing.T, first *controlPlane, urls string, flags ...string) *controlPlane {
	t.Helper()
	second := &controlPlane{t: t, dir: t.TempDir(), flags: append([]string{"--nats-url", urls}, flags...), scim: freeAddress(t), admin: freeAddress(t), fleet: freeAddress(t), signin: freeAddress(t)}
	if err := os.MkdirAll(second.data(), 0o700); err != nil {
		t.Fatal(err)
	}
	const keys = "key-encryption-key.json"
	data, err := os.ReadFile(filepath.Join(first.data(), keys))
	if err == nil {
		err = os.WriteFile(filepath.Join(second.data(), keys), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	second.as(first.TokenFile)
	second.start()
	return second
}

// crowd changes one group by hundreds of PATCHes at once, half of them at each control plane: none is lost.
func crowd(t *testing.T, planes ...*scimClient) {
	t.Helper()
	const people = 200
	ids := make([]string, people)
	all := func(do func(i int, at *scimClient) error) {
		t.Helper()
		var group sync.WaitGroup
		for i := range ids {
			group.Go(func() {
				if err := do(i, planes[i%len(planes)]); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
	}
	all(func(i int, at *scimClient) error {
		status, answer, err := at.send(t.Context(), http.MethodPost, "/Users", userBody(fmt.Sprintf("crowd%d@corp.test", i)))
		if err != nil || status != http.StatusCreated {
			return fmt.Errorf("create: %d %v: %w", status, answer, err)
		}
		ids[i], _ = answer["id"].(string)
		return nil
	})
	id := planes[0].create("/Groups", map[string]any{"schemas": []string{"urn:ietf:params:scim:schemas:core:2.0:Group"}, "displayName": "Crowd"})
	patch := func(at *scimClient, change map[string]any) error {
		status, answer, err := at.send(t.Context(), http.MethodPatch, "/Groups/"+id, patchBody(change))
		if err != nil || status != http.StatusNoContent {
			return fmt.Errorf("patch: %d %v: %w", status, answer, err)
		}
		return nil
	}
	members := func() int {
		t.Helper()
		_, answer, err := planes[0].send(t.Context(), http.MethodPatch, "/Groups/"+id+"?attributes=members", patchBody(map[string]any{"op": "replace", "path": "displayName", "value": "Crowd"}))
		if err != nil {
			t.Fatal(err)
		}
		list, _ := answer["members"].([]any)
		return len(list)
	}
	all(func(i int, at *scimClient) error {
		return patch(at, map[string]any{"op": "add", "path": "members", "value": []any{map[string]any{"value": ids[i]}}})
	})
	if n := members(); n != people {
		t.Errorf("%d were added at once, %d are members", people, n)
	}
	all(func(i int, at *scimClient) error {
		if i%4 == 0 {
			return nil // stays
		}
		return patch(at, map[string]any{"op": "remove", "path": fmt.Sprintf("members[value eq %q]", ids[i])})
	})
	if n := members(); n != people/4 {
		t.Errorf("of %d members three in four were removed at once, %d are left", people, n)
	}
}
