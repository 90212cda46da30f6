package limits

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"
	adminv1 "sallyport.dev/proto/gen/sallyport/admin/v1"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/controlplane/internal/kv"
	"sallyport.dev/controlplane/internal/natsconn"
	"sallyport.dev/controlplane/internal/natsconn/natstest"
)

// memory is a store for many short runs; the real one is in the tests below.
type memory struct{ values map[string][]byte }

func (m *memory) Change(_ context.Context, key string, _ time.Duration, change func([]byte) ([]byte, error)) (uint64, error) {
	value, err := change(m.values[key])
	if err == nil {
		m.values[key] = value
	}
	return 1, err
}

func (m *memory) Each(_ context.Context, _ string, fn func(kv.Entry) error) error {
	for key, value := range m.values {
		if err := fn(kv.Entry{Key: key, Value: value}); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Purge(_ context.Context, key string) error {
	delete(m.values, key)
	return nil
}

// proxy is one as the ledger sees it.
type proxy struct {
	name, instance string
	sequence       uint64
	window         string
	granted, spent uint64
}

func (p *proxy) lease(t testing.TB, l *Ledger, limit, want uint64) *fleetv1.LeaseBudgetResponse {
	t.Helper()
	p.sequence++
	res, err := l.Lease(context.Background(), p.name, &fleetv1.LeaseBudgetRequest{
		Budget: "crm", Subject: &fleetv1.BudgetSubject{Person: "ann"}, Window: durationpb.New(time.Hour), Limit: &fleetv1.Amounts{Items: limit}, LeaseWindow: p.window, Instance: p.instance,
		Spent: &fleetv1.Amounts{Items: p.spent}, Want: &fleetv1.Amounts{Items: want}, Sequence: p.sequence,
	})
	if err != nil {
		t.Fatal(err)
	}
	if res.GetWindow() != p.window {
		p.window, p.spent = res.GetWindow(), 0
	}
	p.granted = res.GetGranted().GetItems()
	return res
}

// TestWhatAllProxiesMaySpendNeverExceedsTheLimit: whichever proxies ask, spend, give back, die and start anew, and whatever the clock does within the
// window.
func TestWhatAllProxiesMaySpendNeverExceedsTheLimit(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		now := time.Unix(1_800_000_000, 0)
		l := &Ledger{Store: &memory{map[string][]byte{}}, Now: func() time.Time { return now }}
		limit := rapid.Uint64Range(1, 100).Draw(r, "limit")
		proxies := []*proxy{{name: "a", instance: "0"}, {name: "b", instance: "0"}, {name: "c", instance: "0"}}
		gone := map[string]uint64{}
		for i := range 40 {
			p := rapid.SampledFrom(proxies).Draw(r, "proxy")
			switch rapid.IntRange(0, 4).Draw(r, "what") {
			case 0: // it dies, and nobody knows what it spent
				gone[p.window] += max(p.granted, p.spent)
				*p = proxy{name: p.name, instance: fmt.Sprint(i)}
			case 1:
				p.lease(t, l, limit, 0)
			case 2:
				now = now.Add(time.Duration(rapid.IntRange(-5, 5).Draw(r, "minutes")) * time.Minute)
			default:
				want := rapid.Uint64Range(1, 30).Draw(r, "want")
				if res := p.lease(t, l, limit, want); res.RetryAfter == nil {
					if p.granted-p.spent < want {
						r.Fatalf("%s got %d beyond %d, and wanted %d", p.name, p.granted, p.spent, want)
					}
					p.spent += want
				}
			}
			for _, q := range proxies {
				sum := gone[q.window]
				for _, other := range proxies {
					if other.window == q.window {
						sum += max(other.granted, other.spent)
					}
				}
				if q.window != "" && sum > limit {
					r.Fatalf("%d may be spent of %d", sum, limit)
				}
			}
		}
	})
}

func open(t *testing.T, nc *natsconn.Conn) *kv.Store {
	t.Helper()
	s, err := kv.Open(t.Context(), nc.Conn, kv.Config{Bucket: "LIMITS"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAnyControlPlaneGrantsFromOneBudget: two at once, and one that starts later, over a real store.
func TestAnyControlPlaneGrantsFromOneBudget(t *testing.T) {
	nc := natstest.Embedded(t)
	ledgers := []*Ledger{{open(t, nc), time.Now}, {open(t, nc), time.Now}}
	var wg sync.WaitGroup
	spent := make([]uint64, 6)
	for i := range spent {
		wg.Go(func() {
			p := &proxy{name: fmt.Sprint("proxy", i), instance: "0"}
			for p.lease(t, ledgers[i%2], 500, 3).RetryAfter == nil {
				for p.spent+3 <= p.granted {
					p.spent += 3
				}
			}
			spent[i] = p.spent
		})
	}
	wg.Wait()
	sum := uint64(0)
	for _, n := range spent {
		sum += n
	}
	if sum > 500 || sum < 480 { // what is left is less than each needs
		t.Errorf("spent were %d of 500: %v", sum, spent)
	}
	later := &Ledger{open(t, nc), time.Now}
	if res := (&proxy{name: "new", instance: "0"}).lease(t, later, 500, 30); res.RetryAfter == nil {
		t.Error("a control plane that starts later knows nothing of what was spent")
	}
	var uses []*adminv1.BudgetUse
	if err := later.Show(t.Context(), "crm", "", func(u *adminv1.BudgetUse) { uses = append(uses, u) }); err != nil {
		t.Fatal(err)
	}
	if len(uses) != 1 || uses[0].GetSubject().GetPerson() != "ann" || uses[0].GetUsed().GetItems()+uses[0].GetHeld().GetItems() > 500 || uses[0].GetProxies() < 6 {
		t.Errorf("shown is %v", uses)
	}
	if n, err := later.Reset(t.Context(), "crm", "bob"); n != 0 || err != nil {
		t.Errorf("of somebody else %d windows were ended: %v", n, err)
	}
	if n, err := later.Reset(t.Context(), "crm", "ann"); n != 1 || err != nil {
		t.Errorf("%d windows were ended: %v", n, err)
	}
	if res := (&proxy{name: "new", instance: "1"}).lease(t, ledgers[0], 500, 30); res.RetryAfter != nil {
		t.Error("after a reset there is nothing")
	}
}

func TestAWindowEndsOnceAndAClockThatJumpsOpensNoneEarlyTwice(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := &Ledger{Store: &memory{map[string][]byte{}}, Now: func() time.Time { return now }}
	p := &proxy{name: "a", instance: "0"}
	p.lease(t, l, 10, 10)
	first := p.window
	p.spent = 10
	now = now.Add(time.Hour - time.Millisecond)
	if res := p.lease(t, l, 10, 1); res.RetryAfter == nil || res.GetRetryAfter().AsDuration() != time.Millisecond {
		t.Errorf("just before the edge: %v", res)
	}
	now = now.Add(time.Millisecond)
	if res := p.lease(t, l, 10, 10); res.RetryAfter != nil || p.window == first {
		t.Errorf("at the edge: %v", res)
	}
	p.spent = 10
	now = now.Add(-100 * 24 * time.Hour) // back by far: nobody waits for longer than a window
	if res := p.lease(t, l, 10, 1); res.RetryAfter == nil || res.GetRetryAfter().AsDuration() > time.Hour {
		t.Errorf("after the clock went back: %v", res)
	}
	now = now.Add(time.Hour)
	if res := p.lease(t, l, 10, 1); res.RetryAfter != nil {
		t.Errorf("a window after the clock went back: %v", res)
	}
}

func TestWhoWaitsIsToldWhenOthersMayGiveBack(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	l := &Ledger{Store: &memory{map[string][]byte{}}, Now: func() time.Time { return now }}
	a, b := &proxy{name: "a", instance: "0"}, &proxy{name: "b", instance: "0"}
	a.lease(t, l, 10, 8)
	if res := b.lease(t, l, 10, 5); res.GetRetryAfter().AsDuration() != returned {
		t.Errorf("while another holds it: %v", res)
	}
	a.lease(t, l, 10, 0)
	if res := b.lease(t, l, 10, 5); res.RetryAfter != nil {
		t.Errorf("after it was given back: %v", res)
	}
}

func TestARequestThatWasOvertakenChangesNothing(t *testing.T) {
	l := &Ledger{Store: &memory{map[string][]byte{}}, Now: time.Now}
	p := &proxy{name: "a", instance: "0"}
	p.lease(t, l, 10, 5)
	_, err := l.Lease(t.Context(), "a", &fleetv1.LeaseBudgetRequest{
		Budget: "crm", Subject: &fleetv1.BudgetSubject{Person: "ann"}, Window: durationpb.New(time.Hour), Limit: &fleetv1.Amounts{Items: 10}, LeaseWindow: p.window, Instance: "0", Sequence: 1,
	})
	if !errors.Is(err, errOvertaken) {
		t.Errorf("got %v", err)
	}
}

// TestAProxyThatLiesGivesOthersNoMoreThanTheLimit: what it says of what it spent, of the limit and of the window can cost others a share, and
// gives nobody more.
func TestAProxyThatLiesGivesOthersNoMoreThanTheLimit(t *testing.T) {
	for name, lie := range map[string]struct {
		window       time.Duration
		limit, spent uint64
	}{
		"of what it spent": {time.Hour, 10, math.MaxUint64 - 5},
		"of the limit":     {time.Hour, math.MaxUint64, 0},
		"of the window":    {time.Second, 10, 0},
	} {
		now := time.Unix(1_800_000_000, 0)
		l := &Ledger{Store: &memory{map[string][]byte{}}, Now: func() time.Time { return now }}
		honest := &proxy{name: "honest", instance: "0"}
		if honest.lease(t, l, 10, 8); honest.granted < 8 {
			t.Fatalf("granted %d", honest.granted)
		}
		honest.spent = 8
		window := honest.window
		if _, err := l.Lease(t.Context(), "liar", &fleetv1.LeaseBudgetRequest{
			Budget: "crm", Subject: &fleetv1.BudgetSubject{Person: "ann"}, Window: durationpb.New(lie.window), Limit: &fleetv1.Amounts{Items: lie.limit}, LeaseWindow: window, Instance: "0",
			Spent: &fleetv1.Amounts{Items: lie.spent}, Want: &fleetv1.Amounts{Items: 1}, Sequence: 1,
		}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * time.Second)
		if res := honest.lease(t, l, 10, 5); res.RetryAfter == nil || honest.window != window {
			t.Errorf("%s: after 8 of 10 were spent 5 more are granted, or the window ended: %v", name, res)
		}
	}
}
