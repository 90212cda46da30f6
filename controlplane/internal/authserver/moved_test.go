package authserver_test

import (
	"testing"
	"time"

	"sallyport.dev/controlplane/internal/authserver"
	"sallyport.dev/controlplane/internal/engine/enginetest"
)

func TestAgentsAreSentToWhereTheServerMovedAndBack(t *testing.T) {
	s := newSite(t)
	at := func(issuer string) {
		t.Helper()
		moved, err := authserver.New(authserver.Config{Engine: s.Engine, Store: s.Shared, Keys: s.Vault, Audit: s.audit, Issuer: issuer, Lease: lease, Now: s.now, Log: s.Log})
		enginetest.Must(t, err)
		for range 2 { // a second start changes nothing
			enginetest.Must(t, moved.Prepare(t.Context()))
			if got := s.Engine.State().NewestSigningKey().GetIssuer(); got != issuer {
				t.Fatalf("at %s agents are sent to %s", issuer, got)
			}
		}
	}
	keys := func(want int) {
		t.Helper()
		n := 0
		for range s.Engine.State().SigningKeys("") {
			n++
		}
		if n != want {
			t.Fatalf("there are %d keys, not %d", n, want)
		}
	}
	s.later(time.Second)
	at("https://b.example")
	keys(2)
	at(s.web.URL) // back, though the key of before still counts
	keys(3)
	at("https://c.example") // while the newest key does not sign yet: one that signs at once, and one that is newer
	keys(5)
}
