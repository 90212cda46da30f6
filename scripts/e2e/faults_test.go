package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	"sallyport.dev/scripts/demo/quickstart"
)

// TestWhateverIsKilledEachCallIsRecordedOnce kills proxy and control plane, NATS within it, at random moments while agents call. After that
// each call that the upstream saw is in audit once, authorized and completed, and the proof holds.
func TestWhateverIsKilledEachCallIsRecordedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := newProxy(t, w.cp, "us-east")
	w.cp.enforced()
	b := &breaker{t: t, w: w, p: p}
	b.run([]fault{b.proxy(), b.controlPlane()}, 6)
	b.recorded()
}

// TestWhateverIsKilledOfManyEachCallIsRecordedOnce is the same with NATS and PostgreSQL apart and a network between proxy and control plane,
// any of which breaks too.
func TestWhateverIsKilledOfManyEachCallIsRecordedOnce(t *testing.T) {
	t.Parallel()
	nats, pg := newNATS(t), newDatabase(t)
	w := settle(t, newControlPlane(t, "--nats-url", nats.url(), "--nats-replicas", "1", "--postgres-url", pg.url()))
	between := newWire(t, w.cp.fleet)
	p := newProxyBehind(t, w.cp, between)
	w.cp.enforced()
	b := &breaker{t: t, w: w, p: p}
	b.run([]fault{b.proxy(), b.controlPlane(), b.kill("NATS", &nats.Process, nats.launch), b.kill("PostgreSQL", &pg.Process, pg.launch), b.network(between)}, 12)
	eventually(t, pg.answers)
	eventually(t, func() error { return indexed(w.cp) })
	b.recorded()
	// The stream has the same for who has no index.
	w.cp.flags = []string{"--nats-url", nats.url(), "--nats-replicas", "1"}
	w.cp.Kill()
	w.cp.start()
	b.recorded()
}

// TestACutLongerThanTheDeduplicationWindowLosesAndRepeatsNothing: the network loses acknowledgements of records that were stored, is then cut
// for longer than JetStream remembers what it was sent, and the proxy sends them again with what came since.
func TestACutLongerThanTheDeduplicationWindowLosesAndRepeatsNothing(t *testing.T) {
	t.Parallel()
	nats := newNATS(t)
	w := settle(t, newControlPlane(t, "--nats-url", nats.url(), "--nats-replicas", "1"))
	const window = 100 * time.Millisecond // the least that JetStream takes
	nats.remember(window)
	between := newWire(t, w.cp.fleet)
	p := newProxyBehind(t, w.cp, between)
	w.cp.enforced()
	b := &breaker{t: t, w: w, p: p, load: w.startLoad(p, 4), hits: map[string]int{}}
	b.load.more(20)
	stored := func() int {
		got, err := w.audit(&adminv1.AuditFilter{Tool: "create_branch"})
		if err != nil {
			t.Fatal(err)
		}
		return len(got)
	}
	for range 2 {
		before := stored()
		eventually(t, func() error {
			if now := stored(); now < before+10 {
				return fmt.Errorf("nothing is delivered: %d calls are stored, %d before", now, before)
			}
			return nil
		})
		// What is under way is stored, and then the proxy, which hears of nothing, waits with all that follows.
		between.setDeaf(true)
		for now := stored(); now != before; now = stored() {
			before = now
			b.load.more(10)
			pause(t.Context(), time.Second)
		}
		b.hits["acknowledgement lost"]++
		between.setCut(true)
		between.setDeaf(false)
		b.load.more(30)
		pause(t.Context(), 10*window)
		b.hits["cut"]++
		between.setCut(false)
	}
	b.load.stop()
	b.recorded()
}

// newProxyBehind starts a proxy that reaches the control plane over a wire.
func newProxyBehind(t testing.TB, c *controlPlane, between *wire) *proxy {
	t.Helper()
	far := *c
	far.fleet = between.addr
	return newProxy(t, &far, "us-east")
}

// indexed says whether PostgreSQL has what the stream had when it was asked.
func indexed(c *controlPlane) error {
	res, err := c.AuditIndex.GetAuditIndex(c.t.Context(), connect.NewRequest(&adminv1.GetAuditIndexRequest{}))
	if err != nil {
		return err
	}
	if m := res.Msg; !m.GetConfigured() || m.GetError() != "" || m.GetIndexed() < m.GetLast() {
		return fmt.Errorf("the index is at %d of %d: %s", m.GetIndexed(), m.GetLast(), m.GetError())
	}
	return nil
}

// fault is something that breaks, for a moment, and is mended.
type fault struct {
	name      string
	hit, mend func()
}

// breaker breaks things while agents call.
type breaker struct {
	t    *testing.T
	w    *world
	p    *proxy
	load *load
	hits map[string]int
}

func (b *breaker) kill(name string, p **quickstart.Process, launch func()) fault {
	return fault{name, func() { (*p).Kill() }, launch}
}

func (b *breaker) proxy() fault { return b.kill("proxy", &b.p.Process, b.p.launch) }

func (b *breaker) controlPlane() fault {
	return b.kill("control plane", &b.w.cp.Process, b.w.cp.launch)
}

func (b *breaker) network(between *wire) fault {
	return fault{"network", func() { between.setCut(true) }, func() { between.setCut(false) }}
}

// run breaks things at random moments, each for a random time, and returns when all is mended and calls are made again.
func (b *breaker) run(all []fault, usual int) {
	b.t.Helper()
	random := chance(b.t)
	b.load = b.w.startLoad(b.p, 4)
	b.hits = map[string]int{}
	b.load.more(20)
	for i := range faults(b.t, usual) {
		one := all[i%len(all)]
		if i >= len(all) { // each at least once
			one = all[random.IntN(len(all))]
		}
		hit := []fault{one}
		if other := all[random.IntN(len(all))]; other.name != one.name && random.IntN(3) == 0 {
			hit = append(hit, other)
		}
		for _, f := range hit {
			pause(b.t.Context(), time.Duration(random.IntN(600))*time.Millisecond)
			b.hits[f.name]++
			f.hit()
		}
		for _, n := range random.Perm(len(hit)) {
			pause(b.t.Context(), time.Duration(random.IntN(400))*time.Millisecond)
			hit[n].mend()
		}
		b.survived()
	}
	b.survived()
	for _, err := range []error{
		b.w.cp.Ready(b.t.Context(), "http://"+b.w.cp.admin+"/readyz"), b.p.Ready(b.t.Context(), "http://"+b.p.listen+"/readyz"),
	} {
		if err != nil {
			b.t.Fatal(err)
		}
	}
	b.load.more(20)
	b.load.stop()
}

// survived fails if a program ended that nobody killed. A control plane that begins while NATS is away says so and ends: whoever looks after
// it starts it again, and so does this.
func (b *breaker) survived() {
	b.t.Helper()
	if ended(b.p.Process) {
		b.t.Fatalf("the proxy ended by itself\n%s", b.p.Tail())
	}
	if !ended(b.w.cp.Process) {
		return
	}
	if _, last, _ := strings.Cut(b.w.cp.Tail(), "\n  sallyport: "); !strings.Contains(strings.ToLower(last), "nats") {
		b.t.Fatalf("the control plane ended by itself\n%s", b.w.cp.Tail())
	}
	b.hits["control plane began without NATS"]++
	b.w.cp.launch()
}

// recorded fails unless audit has what the upstream saw, and proves it.
func (b *breaker) recorded() {
	b.t.Helper()
	// A proxy that did not get through for long waits for long before it tries again.
	err := within(b.t.Context(), 3*patience, func() error {
		seen, outcomes, err := b.load.accounted()
		if err == nil {
			b.t.Logf("broken %v; of the agents' calls %d were answered and %d were not; the upstream saw %d, and audit has each once, authorized and completed: %v",
				b.hits, b.load.answered.Load(), b.load.failed.Load(), seen, outcomes)
		}
		return err
	})
	if err != nil {
		b.t.Fatalf("broken %v: %v", b.hits, err)
	}
	out, err := b.w.cp.Run(b.t.Context(), "audit", "verify", "--from", "1h")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Logf("%s", out)
}
