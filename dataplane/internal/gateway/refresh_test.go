package gateway_test

import (
	"net/http"
	"testing"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
)

// TestARefreshedTokenGoesOnWithItsSession: a session is its person's and its client's, not a token's. What was opened under the token
// before goes on, and so does what is asked under the next; the end of the sign-in ends both.
func TestARefreshedTokenGoesOnWithItsSession(t *testing.T) {
	w := newWorld(t, &options{})
	own := w.authority()
	a := w.opened(ada, "/mcp/demo", "2025-11-25").with(func(b *agent) { b.token = own.token(ada, map[string]any{"client_id": "agent"}) })
	h := a.header("", "")
	h.Set("Accept", "text/event-stream")
	stream := a.open(http.MethodGet, h, "")
	for range 2 {
		refreshed := a.with(func(b *agent) { b.token = own.token(ada, map[string]any{"client_id": "agent"}) })
		if got := refreshed.call("echo", `{"text":"on"}`); got.status != http.StatusOK || got.field("result", "isError") == true {
			t.Fatalf("under a refreshed token: %+v", got)
		}
	}
	w.set(catalogueEntry("demo", "echo", "wait", "fail", "forbidden", "unlisted", "fresh"), grantEntry(1, "demo", allow("*")))
	stream.wants("notifications/tools/list_changed")
	// A stronger sign-in is another session of the authorization server's, and the same one of MCP's.
	stepped := a.with(func(b *agent) {
		b.token = own.token(ada, map[string]any{"client_id": "agent", "sid": uuid.NewString(), "acr": "phr"})
	})
	if got := stepped.call("echo", `{"text":"on"}`); got.status != http.StatusOK {
		t.Errorf("after a stronger sign-in: %+v", got)
	}
	if got := a.with(func(b *agent) { b.token = own.token(ada, map[string]any{"client_id": "another"}) }).call("echo", `{}`); got.status != http.StatusNotFound {
		t.Errorf("another client goes on with the session: %+v", got)
	}
	sid := uuid.UUID{15: 9}
	w.set(&fleetv1.Entry{Value: &fleetv1.Entry_RevokedSession{RevokedSession: &fleetv1.RevokedSession{Id: sid[:]}}})
	stream.ends()
	if got := a.call("echo", `{}`); got.status != http.StatusUnauthorized {
		t.Errorf("after the sign-in was ended: %+v", got)
	}
}
