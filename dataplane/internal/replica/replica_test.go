package replica_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/uuid"
	auditv1 "sallyport.dev/proto/gen/sallyport/audit/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"
	policyv1 "sallyport.dev/proto/gen/sallyport/policy/v1"

	"sallyport.dev/dataplane/internal/replica"
	"sallyport.dev/dataplane/internal/replica/fleettest"
	"sallyport.dev/dataplane/internal/spool"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func connector(id, url string) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_Connector{Connector: &policyv1.Connector{Id: id, Url: url}}}
}

func user(n byte, active bool) *fleetv1.Entry {
	return &fleetv1.Entry{Value: &fleetv1.Entry_User{User: &fleetv1.User{
		Id: append(make([]byte, 15), n), Active: active, Directory: "okta", Subject: string('a' + rune(n)),
	}}}
}

func client(t *testing.T, url string) *replica.Client {
	t.Helper()
	c, err := replica.NewClient([]string{url}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start runs a replica until the test ends.
func start(t *testing.T, cfg replica.Config) *replica.Replica {
	t.Helper()
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = time.Second // the fake's are far more frequent
	}
	cfg.Logger = quiet
	r := replica.New(cfg)
	run(t, r)
	return r
}

func run(t *testing.T, r *replica.Replica) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

func serves(r *replica.Replica, version uint64) func() bool {
	return func() bool {
		table, err := r.Usable(time.Now())
		return err == nil && table.Version() == version
	}
}

func TestASnapshotInChunksThenChangesAreEnforcedAndAcknowledged(t *testing.T) {
	var cp fleettest.ControlPlane
	v := cp.Set(user(1, true), user(2, true), user(3, true), connector("github", "http://a"), connector("jira", "http://b"))
	welcome := make(chan *fleetv1.Welcome, 1)
	r := start(t, replica.Config{
		Client: client(t, cp.Start(t)), Build: "test",
		OnWelcome: func(w *fleetv1.Welcome) { welcome <- w },
	})
	eventually(t, "serves the snapshot", serves(r, v))
	cp.WaitAcked(t, v)
	if w := <-welcome; w.GetRegion() != "test" || len(w.GetSealingKeys()) != 1 {
		t.Errorf("the welcome says %v", w)
	}
	v = cp.Set(user(1, false))
	cp.WaitAcked(t, v)
	if !serves(r, v)() {
		t.Error("a version was acknowledged that is not enforced")
	}
	v = cp.Remove(connector("jira", ""))
	cp.WaitAcked(t, v)
	if s, d := cp.Sent("snapshot"), cp.Sent("delta"); s != 1 || d != 2 {
		t.Errorf("%d snapshots and %d changes were sent", s, d)
	}
	if h := cp.Hellos(); len(h) != 1 || h[0].GetBuild() != "test" || h[0].GetVersion() != 0 {
		t.Errorf("hellos: %v", h)
	}
}

func TestWithoutASnapshotNothingIsUsable(t *testing.T) {
	r := replica.New(replica.Config{Client: client(t, "http://127.0.0.1:1"), Logger: quiet})
	if _, err := r.Usable(time.Now()); !errors.Is(err, replica.ErrStale) {
		t.Errorf("got %v", err)
	}
	var cp fleettest.ControlPlane // a snapshot without a heartbeat is not a lease
	cp.SetSilent(true)
	r = start(t, replica.Config{Client: client(t, cp.Start(t))})
	eventually(t, "has the snapshot", func() bool { return r.Status().Version == 1 })
	if _, err := r.Usable(time.Now()); !errors.Is(err, replica.ErrStale) {
		t.Errorf("got %v", err)
	}
	cp.SetSilent(false)
	eventually(t, "serves after a heartbeat", serves(r, 1))
}

func TestARefusedProxyTriesAgain(t *testing.T) {
	var cp fleettest.ControlPlane
	cp.Revoked = true
	r := start(t, replica.Config{Client: client(t, cp.Start(t)), LastPause: 10 * time.Millisecond})
	eventually(t, "tries again", func() bool { return r.Status().Attempts >= 3 })
	if s := r.Status(); s.Connected || s.Version != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWhenTheLeaseIsOverEverythingIsRefusedUntilAHeartbeat(t *testing.T) {
	var cp fleettest.ControlPlane
	cp.Lease = 300 * time.Millisecond
	r := start(t, replica.Config{Client: client(t, cp.Start(t)), Heartbeat: 200 * time.Millisecond})
	var told atomic.Pointer[string]
	say := func(s string) { told.Store(&s) }
	say("nothing")
	r.Subscribe(func(c replica.Change) {
		if c.Table == nil {
			say("stale")
		} else {
			say("table")
		}
	})
	eventually(t, "serves", func() bool { return serves(r, 1)() && *told.Load() == "table" })
	cp.SetSilent(true)
	eventually(t, "is stale", func() bool { _, err := r.Usable(time.Now()); return errors.Is(err, replica.ErrStale) })
	eventually(t, "subscribers are told", func() bool { return *told.Load() == "stale" })
	v := cp.Set(user(1, true)) // changes alone do not renew it
	eventually(t, "has the change", func() bool { return r.Status().Version == v })
	if _, err := r.Usable(time.Now()); !errors.Is(err, replica.ErrStale) || *told.Load() != "stale" {
		t.Errorf("a change renewed the lease: %v, %s", err, *told.Load())
	}
	cp.SetSilent(false)
	eventually(t, "serves again", func() bool { return serves(r, v)() && *told.Load() == "table" })
}

// TestAProxyThatStopsGivesItsLeaseUp: it serves nobody before it says so.
func TestAProxyThatStopsGivesItsLeaseUp(t *testing.T) {
	var cp fleettest.ControlPlane
	r := replica.New(replica.Config{Client: client(t, cp.Start(t)), Heartbeat: time.Second, Logger: quiet})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	eventually(t, "serves", serves(r, 1))
	cancel()
	eventually(t, "the control plane is told", func() bool {
		return slices.ContainsFunc(cp.Acks(), (*fleetv1.Ack).GetLeaving)
	})
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if _, err := r.Usable(time.Now()); !errors.Is(err, replica.ErrStale) {
		t.Errorf("after it left: %v", err)
	}
}

func TestARefusedProxyServesNoMore(t *testing.T) {
	var cp fleettest.ControlPlane
	r := start(t, replica.Config{Client: client(t, cp.Start(t))})
	eventually(t, "serves", serves(r, 1))
	cp.Revoke()
	cp.CutStreams()
	eventually(t, "refuses", func() bool { _, err := r.Usable(time.Now()); return errors.Is(err, replica.ErrStale) })
}

func TestEitherClockEndsTheLease(t *testing.T) {
	var cp fleettest.ControlPlane
	cp.Lease = time.Minute
	r := start(t, replica.Config{Client: client(t, cp.Start(t))})
	eventually(t, "serves", serves(r, 1))
	now := time.Now()
	for _, tc := range []struct {
		what string
		now  time.Time
		ok   bool
	}{
		{"half a minute later", now.Add(30 * time.Second), true},
		{"the wall clock jumped ahead", now.Round(0).Add(61 * time.Second), false},
		{"both went on", now.Add(61 * time.Second), false},
		{"the wall clock was set back, which must not lengthen the lease", now.Round(0).Add(-time.Hour), true},
	} {
		if _, err := r.Usable(tc.now); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.what, err)
		}
	}
}

func TestAfterAReconnectOnlyWhatCameSinceIsSent(t *testing.T) {
	var cp fleettest.ControlPlane
	cp.Set(user(1, true), user(2, true))
	r := start(t, replica.Config{Client: client(t, cp.Start(t))})
	v := cp.Set(user(3, true))
	cp.WaitAcked(t, v)
	cp.CutStreams()
	eventually(t, "connects again", func() bool { return len(cp.Hellos()) == 2 })
	if h := cp.Hellos()[1]; h.GetVersion() != v || h.GetEpoch() == "" || len(h.GetDigest()) == 0 {
		t.Errorf("the second hello: %v", h)
	}
	v = cp.Set(user(4, true))
	cp.WaitAcked(t, v)
	if s := cp.Sent("snapshot"); s != 1 {
		t.Errorf("%d snapshots were sent", s)
	}
	eventually(t, "serves", serves(r, v))
}

func TestADifferentDigestIsNotEnforcedAndLeadsToAFullSnapshot(t *testing.T) {
	var cp fleettest.ControlPlane
	r := start(t, replica.Config{Client: client(t, cp.Start(t))})
	cp.WaitAcked(t, 1)
	cp.CorruptNextChange()
	v := cp.Set(user(1, true))
	cp.WaitAcked(t, v)
	eventually(t, "serves", serves(r, v))
	acks := cp.Acks()
	if !slices.ContainsFunc(acks, func(a *fleetv1.Ack) bool { return a.GetResync() && a.GetVersion() == 1 }) {
		t.Errorf("no resync among %v", acks)
	}
	if s := r.Status(); s.Resyncs != 1 || cp.Sent("snapshot") != 2 || s.Attempts != 1 {
		t.Errorf("%+v, %d snapshots", s, cp.Sent("snapshot"))
	}
}

func TestALowerVersionOfTheSameLogIsRefused(t *testing.T) {
	var cp fleettest.ControlPlane
	cp.Set(user(1, true))
	v := cp.Set(user(1, false))
	r := start(t, replica.Config{Client: client(t, cp.Start(t)), LastPause: 20 * time.Millisecond})
	cp.WaitAcked(t, v)
	cp.Rollback(v - 1)
	eventually(t, "is refused", func() bool { return r.Status().Refused >= 2 })
	if s := r.Status(); s.Version != v {
		t.Errorf("went back to %d", s.Version)
	}
}

func TestAnotherLogReplacesWhatIsEnforced(t *testing.T) {
	var cp fleettest.ControlPlane
	cp.Set(user(1, true))
	v := cp.Set(user(2, true))
	r := start(t, replica.Config{Client: client(t, cp.Start(t))})
	cp.WaitAcked(t, v)
	cp.NewEpoch()
	eventually(t, "serves the new log", func() bool { return serves(r, 1)() && r.Status().Epoch == "epoch-1" })
	cp.WaitAcked(t, cp.Set(user(3, true)))
}

func TestSubscribersSeeEachVersionWhenItIsVisibleAndBeforeItIsAcknowledged(t *testing.T) {
	var cp fleettest.ControlPlane
	r := start(t, replica.Config{Client: client(t, cp.Start(t)), AckEvery: time.Millisecond})
	eventually(t, "serves", serves(r, 1))
	var mu sync.Mutex
	var seen []uint64
	gate := make(chan struct{})
	cancel := r.Subscribe(func(c replica.Change) {
		table := c.Table
		if v := table.Version(); v == 2 {
			<-gate
		}
		if !serves(r, table.Version())() {
			t.Errorf("told of %d before it was visible", table.Version())
		}
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, table.Version())
	})
	v := cp.Set(user(1, false))
	eventually(t, "is visible", serves(r, v))
	for _, a := range cp.Acks() {
		if a.GetVersion() == v {
			t.Error("acknowledged while a subscriber was still at it")
		}
	}
	close(gate)
	cp.WaitAcked(t, v)
	cancel()
	cp.WaitAcked(t, cp.Set(user(2, true)))
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(seen, []uint64{1, 2}) {
		t.Errorf("saw %v", seen)
	}
}

func TestTheFirstChangeAfterAQuietTimeIsAcknowledgedAtOnceAndManyTogether(t *testing.T) {
	var cp fleettest.ControlPlane
	const every = 2 * time.Second
	start(t, replica.Config{Client: client(t, cp.Start(t)), AckEvery: every})
	cp.WaitAcked(t, 1)
	time.Sleep(every + every/10) // a quiet time is what this is about
	before := time.Now()
	cp.WaitAcked(t, cp.Set(user(1, true)))
	if took := time.Since(before); took > every/2 {
		t.Errorf("the first took %v, as if it had waited for its turn", took)
	}
	n := len(cp.Acks())
	var v uint64
	for i := range 50 {
		v = cp.Set(user(byte(i), true))
	}
	cp.WaitAcked(t, v)
	if more := len(cp.Acks()) - n; more > 2 {
		t.Errorf("%d acknowledgements for 50 changes in a moment", more)
	}
}

func TestAControlPlaneThatFallsSilentIsLeftForAnother(t *testing.T) {
	var silent, other fleettest.ControlPlane
	silent.SetSilent(true)
	c, err := replica.NewClient([]string{silent.Start(t), other.Start(t)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, replica.Config{Client: c, Heartbeat: 60 * time.Millisecond})
	eventually(t, "serves from the other", serves(r, 1))
	if len(silent.Hellos()) == 0 || len(other.Hellos()) == 0 {
		t.Error("not both were tried")
	}
}

func TestCredentialsAreKeptUntilTheirConnectorChanges(t *testing.T) {
	var cp fleettest.ControlPlane
	cp.Set(connector("github", "http://a"), connector("jira", "http://b"))
	r := replica.New(replica.Config{Client: client(t, cp.Start(t)), Logger: quiet})
	creds := r.Credentials()
	defer creds.Close()
	run(t, r)
	eventually(t, "serves", serves(r, 2))
	get := func(connector, token string) {
		t.Helper()
		h, err := creds.Get(t.Context(), replica.Ask{Connector: connector, Resource: "https://r", Token: token})
		if err != nil || h.Name != "Authorization" || h.Value() != "Bearer upstream-"+connector {
			t.Errorf("%v %v", h, err)
		}
	}
	for range 3 {
		get("github", "t1")
		get("jira", "t1")
	}
	if n := cp.Issued(); n != 2 {
		t.Errorf("asked %d times", n)
	}
	get("github", "t2") // another agent's token
	if n := cp.Issued(); n != 3 {
		t.Errorf("asked %d times for two tokens", n)
	}
	cp.WaitAcked(t, cp.Set(connector("github", "http://c")))
	get("github", "t1")
	get("jira", "t1")
	if n := cp.Issued(); n != 4 {
		t.Errorf("asked %d times after the connector changed", n)
	}
	creds.Forget("jira", uuid.Nil)
	get("jira", "t1")
	if n := cp.Issued(); n != 5 {
		t.Errorf("asked %d times after the upstream refused one", n)
	}
}

func TestCredentialsOutliveTheControlPlaneButNotTheirTime(t *testing.T) {
	var cp fleettest.ControlPlane
	var clock atomic.Int64
	base := time.Now()
	now := func() time.Time { return base.Add(time.Duration(clock.Load())) }
	var answer atomic.Pointer[error]
	cp.Credential = func(*fleetv1.IssueCredentialRequest) (*fleettest.Issued, error) {
		if err := answer.Load(); err != nil {
			return nil, *err
		}
		return &fleettest.Issued{Header: "X-Key", Value: "v", Lifetime: 30 * time.Minute}, nil
	}
	r := replica.New(replica.Config{Client: client(t, cp.Start(t)), Logger: quiet, Now: now})
	creds := r.Credentials()
	defer creds.Close()
	if _, err := creds.Get(t.Context(), replica.Ask{Connector: "github", Token: "t"}); err != nil {
		t.Fatal(err)
	}
	away := error(connect.NewError(connect.CodeUnavailable, errors.New("away")))
	answer.Store(&away)
	clock.Store(int64(20 * time.Minute))
	if _, err := creds.Get(t.Context(), replica.Ask{Connector: "github", Token: "t"}); err != nil {
		t.Errorf("while the control plane is away: %v", err)
	}
	eventually(t, "was asked again beside the call", func() bool { return cp.Issued() == 2 })
	clock.Store(int64(30 * time.Minute))
	if _, err := creds.Get(t.Context(), replica.Ask{Connector: "github", Token: "t"}); !errors.Is(err, replica.ErrCredentialUnavailable) {
		t.Errorf("after it expired: %v", err)
	}
	denied := error(connect.NewError(connect.CodePermissionDenied, errors.New("no tool of this connector")))
	answer.Store(&denied)
	if _, err := creds.Get(t.Context(), replica.Ask{Connector: "github", Token: "t"}); !errors.Is(err, replica.ErrCredentialDenied) {
		t.Errorf("denied: %v", err)
	}
}

func TestManyCallsAskForACredentialOnce(t *testing.T) {
	var cp fleettest.ControlPlane
	gate := make(chan struct{})
	cp.Credential = func(*fleetv1.IssueCredentialRequest) (*fleettest.Issued, error) {
		<-gate
		return &fleettest.Issued{Header: "X-Key", Value: "v", Lifetime: time.Minute}, nil
	}
	creds := replica.New(replica.Config{Client: client(t, cp.Start(t)), Logger: quiet}).Credentials()
	defer creds.Close()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if _, err := creds.Get(t.Context(), replica.Ask{Connector: "github", Token: "t"}); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, "asks", func() bool { return cp.Issued() == 1 })
	close(gate)
	wg.Wait()
	if n := cp.Issued(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

func TestTheSpoolIsDeliveredThroughTheClient(t *testing.T) {
	var cp fleettest.ControlPlane
	cp.FailAudit(errors.New("away"))
	s, err := spool.Open(spool.Config{Dir: t.TempDir(), Proxy: "p", Region: "test", Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Deliver(ctx, client(t, cp.Start(t)).DeliverAudit) }()
	for range 3 {
		if err := s.Append(&auditv1.AuditRecord{Phase: auditv1.Phase_PHASE_REFUSED}); err != nil {
			t.Fatal(err)
		}
	}
	cp.FailAudit(nil)
	cp.WaitAudit(t, func(all []*auditv1.AuditRecord) bool { return len(all) == 3 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Deliver: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func BenchmarkUsable(b *testing.B) {
	var cp fleettest.ControlPlane
	c, err := replica.NewClient([]string{cp.Start(b)}, nil)
	if err != nil {
		b.Fatal(err)
	}
	r := replica.New(replica.Config{Client: c, Logger: quiet})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	for !serves(r, 1)() {
		time.Sleep(time.Millisecond)
	}
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Usable(now); err != nil {
			b.Fatal(err)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		b.Errorf("Run: %v", err)
	}
}
