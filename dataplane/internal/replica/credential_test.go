package replica_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/internal/replica"
	"sallyport.dev/dataplane/internal/replica/fleettest"
)

// TestAPersonsChangeDropsTheirCredentialsAtOnce: one that was withdrawn or renewed shows in the person's entry, which is pushed.
func TestAPersonsChangeDropsTheirCredentialsAtOnce(t *testing.T) {
	var cp fleettest.ControlPlane
	entry := func(n byte, credentials uint64) *fleetv1.Entry {
		e := user(n, true)
		e.GetUser().Credentials = credentials
		return e
	}
	id := func(n byte) uuid.UUID { return uuid.Must(uuid.FromBytes(user(n, true).GetUser().GetId())) }
	version := cp.Set(connector("github", "http://a"), entry(1, 1), entry(2, 1))
	r := replica.New(replica.Config{Client: client(t, cp.Start(t)), Logger: quiet})
	creds := r.Credentials()
	defer creds.Close()
	run(t, r)
	eventually(t, "serves", serves(r, version))
	get := func() {
		t.Helper()
		for _, person := range []uuid.UUID{id(1), id(2)} {
			if _, err := creds.Get(t.Context(), replica.Ask{Connector: "github", Token: person.String(), Person: person}); err != nil {
				t.Error(err)
			}
		}
	}
	get()
	get()
	if n := cp.Issued(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	cp.WaitAcked(t, cp.Set(entry(1, 2)))
	get()
	if n := cp.Issued(); n != 3 {
		t.Errorf("asked %d times after one person's changed", n)
	}
}

func TestAnAnswerThatIsNotSealedToItsQuestionIsNotUsed(t *testing.T) {
	for name, change := range map[string]func(*fleetv1.IssueCredentialResponse){
		"for another header":   func(m *fleetv1.IssueCredentialResponse) { m.HeaderName = "X-Echo" },
		"for another identity": func(m *fleetv1.IssueCredentialResponse) { m.Identity = "bob" },
		"changed":              func(m *fleetv1.IssueCredentialResponse) { m.Sealed[len(m.Sealed)-1] ^= 1 },
		"in the clear":         func(m *fleetv1.IssueCredentialResponse) { m.Sealed, m.HeaderValue = nil, "v" }, //nolint:staticcheck // as a control plane from before the seal answered
	} {
		cp := fleettest.ControlPlane{Credential: func(*fleetv1.IssueCredentialRequest) (*fleettest.Issued, error) {
			return &fleettest.Issued{Header: "X-Key", Value: "v", Identity: "ada", Lifetime: time.Minute, Change: change}, nil
		}}
		r := replica.New(replica.Config{Client: client(t, cp.Start(t)), Logger: quiet})
		creds := r.Credentials()
		if h, err := creds.Get(t.Context(), replica.Ask{Connector: "github", Token: "t"}); !errors.Is(err, replica.ErrCredentialUnavailable) {
			t.Errorf("%s: %v, %v", name, h, err)
		}
		creds.Close()
	}
}

// TestAProxysClockMayDifferFromItsControlPlanes: a credential is kept as long as it is said to live, and no longer, whatever the proxy thinks that the time is.
func TestAProxysClockMayDifferFromItsControlPlanes(t *testing.T) {
	for _, off := range []time.Duration{-3 * time.Hour, 3 * time.Hour} {
		at := time.Now().Add(off)
		cp := fleettest.ControlPlane{Credential: func(*fleetv1.IssueCredentialRequest) (*fleettest.Issued, error) {
			return &fleettest.Issued{Header: "X-Key", Value: "v", Lifetime: 30 * time.Second}, nil
		}}
		r := replica.New(replica.Config{Client: client(t, cp.Start(t)), Logger: quiet, Now: func() time.Time { return at }})
		creds := r.Credentials()
		for range 3 {
			if _, err := creds.Get(t.Context(), replica.Ask{Connector: "github", Token: "t"}); err != nil {
				t.Fatal(err)
			}
		}
		if n := cp.Issued(); n != 1 {
			t.Errorf("%s off: asked %d times", off, n)
		}
		at = at.Add(26 * time.Second)
		if _, err := creds.Get(t.Context(), replica.Ask{Connector: "github", Token: "t"}); err != nil || cp.Issued() != 2 {
			t.Errorf("%s off: asked %d times once it is nearly over, %v", off, cp.Issued(), err)
		}
		creds.Close()
	}
}
