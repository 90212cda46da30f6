package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestAControlPlaneThatStoodStillGivesNothingForWhoIsGone: a proxy's control plane stands still, as its machine may, while another deactivates a
// person. The proxy, which hears of nothing, decides the person's call and asks for the upstream's credential. What it gets once that control plane
// goes on is none: it proves where the log ends before it answers.
func TestAControlPlaneThatStoodStillGivesNothingForWhoIsGone(t *testing.T) {
	t.Parallel()
	urls := natsCluster(t)
	first := newControlPlane(t, "--nats-url", urls)
	second := join(t, first, urls)
	w := settle(t, first)
	const key = "lagging-key-5c1f"
	var calls atomic.Int64 // of tools, with the key
	url := whoami(t, func(_ string, next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil || r.Header.Get("X-Key") != key {
				http.Error(rw, "no such key", http.StatusUnauthorized)
				return
			}
			if bytes.Contains(body, []byte("tools/call")) {
				calls.Add(1)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			next.ServeHTTP(rw, r)
		})
	})
	tools, secret := filepath.Join(t.TempDir(), "tools"), filepath.Join(t.TempDir(), "key")
	for file, text := range map[string]string{tools: whoamiTools, secret: key} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	first.apply(fmt.Sprintf("kind: Connector\nid: keyed\nurl: %s\nallowedRanges: [127.0.0.0/8]\nauth: {type: header, header: X-Key}\n", url))
	first.must("catalogue", "approve", "keyed", "--file", tools)
	first.apply("kind: Grant\ngroup: corp/Staff\nconnector: keyed\nrules:\n  - allow: [\"*\"]\n")
	first.must("secrets", "set", "--connector", "keyed", "--value-file", secret)
	p := newProxy(t, second, "us-east")
	first.enforced()

	tokens := map[string]string{ada: w.issuer.token(ada), bob: w.issuer.token(bob)}
	call := func(person string) (int, string) {
		status, _, body := post(t, p, tokens[person], map[string]string{"Mcp-Name": "keyed__whoami"}, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"keyed__whoami","arguments":{},`+meta+`}}`)
		return status, body
	}
	signal := func(s syscall.Signal) {
		if err := syscall.Kill(second.PID(), s); err != nil {
			t.Error(err)
		}
	}
	signal(syscall.SIGSTOP)
	defer signal(syscall.SIGCONT) // whatever happens, it can be stopped in order
	answered := make(chan string, 1)
	go func() {
		status, body := call(ada)
		answered <- fmt.Sprint(status, " ", body)
	}()
	w.scim.deactivate(w.ada)
	select {
	case body := <-answered:
		t.Fatalf("the call did not wait for its credential: %s", body)
	default:
	}
	signal(syscall.SIGCONT)
	if body := <-answered; strings.Contains(body, "you are") || calls.Load() != 0 {
		t.Errorf("who is gone was served: %s", body)
	}
	first.enforced()
	// The way is good: another's call goes it.
	if status, body := call(bob); status != http.StatusOK || !strings.Contains(body, "you are") || calls.Load() != 1 {
		t.Errorf("another's call: %d %s", status, body)
	}
}
