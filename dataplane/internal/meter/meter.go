// Package meter holds calls to the limits of the policy.
//
// A call reserves what it may use at most of a share of each budget that was leased from the control plane, and settles afterwards what it
// did use. A share is asked for when the one in hand is not enough, and what is not used is given back after a while. Without the control plane
// there is what is left of the shares, and nothing else.
package meter

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/durationpb"
	fleetv1 "sallyport.dev/proto/gen/sallyport/fleet/v1"

	"sallyport.dev/dataplane/policy"
)

// Lessor leases shares of budgets: *replica.Client.
type Lessor interface {
	LeaseBudget(ctx context.Context, r *fleetv1.LeaseBudgetRequest) (*fleetv1.LeaseBudgetResponse, error)
}

// Use is what a call uses.
type Use struct{ Calls, Items, Bytes uint64 }

func (u Use) amounts() amounts { return amounts{u.Calls, u.Items, u.Bytes} }

type amounts [3]uint64

func (a amounts) wire() *fleetv1.Amounts {
	return &fleetv1.Amounts{Calls: a[0], Items: a[1], Bytes: a[2]}
}

// Spent says that a budget has not enough left.
type Spent struct {
	Budget string
	// After is when to come back.
	After time.Duration
}

func (e *Spent) Error() string {
	return fmt.Sprintf("budget %s has not enough left: come back in %s", e.Budget, e.After.Round(time.Second))
}

// Unavailable says that a share of a budget could not be asked for.
type Unavailable struct{ Budget string }

func (e *Unavailable) Error() string {
	return "what is left of budget " + e.Budget + " cannot be asked for at the moment"
}

// RetryUnavailable is when to come back where no share could be asked for.
const RetryUnavailable = 5 * time.Second

const (
	// refusedFor is how long a refusal is remembered, at most: whoever tries again at machine speed asks no control plane each time.
	refusedFor = time.Second
	// idle is how long a share is kept that nobody uses.
	idle = 10 * time.Second
	// sweepEvery is how often such shares are given back.
	sweepEvery = 5 * time.Second
	// maxAccounts bounds what is remembered.
	maxAccounts = 200_000
)

// Meter holds the shares of one proxy. It is safe for concurrent use.
type Meter struct {
	lessor   Lessor
	now      func() time.Time
	instance string

	mu       sync.Mutex
	accounts map[subject]*account
}

// subject is whose budget it is, and how long its windows are: limits of one budget over different windows are each held for themselves.
type subject struct {
	budget, person, group, tool, connector string
	window                                 time.Duration
}

// total is how much of a budget may be had.
type total struct {
	of    subject
	limit amounts
}

// totalsOf are the totals against which a call counts, each once: of several rules about the same the least holds.
func totalsOf(limits []*policy.Limit, person, connector, tool string) []total {
	var all []total
	for _, l := range limits {
		if l.Budget == "" {
			continue
		}
		s := subject{budget: l.Budget, window: l.Window}
		s.person, s.group, s.tool, s.connector = l.Subject(person, connector, tool)
		limit := amounts{l.Calls, l.Items, l.Bytes}
		i := slices.IndexFunc(all, func(t total) bool { return t.of == s })
		if i < 0 {
			all = append(all, total{s, limit})
			continue
		}
		for n := range limit {
			all[i].limit[n] = least(all[i].limit[n], limit[n])
		}
	}
	return all
}

// account is a share of one budget of one subject.
type account struct {
	of subject
	// asking is held by who asks the control plane.
	asking chan struct{}

	mu      sync.Mutex
	limit   amounts
	window  string
	granted amounts
	spent   amounts // reserved included
	open    int     // reservations
	ends    time.Time
	used    time.Time
	refused time.Time // until when no share is asked for
	retry   time.Time // when the refusal said to come back
	dirty   bool
	// sequence counts requests.
	sequence uint64
}

// New returns a meter. Run must be running for what is not used to be given back. A nil clock is time.Now.
func New(l Lessor, now func() time.Time) *Meter {
	if now == nil {
		now = time.Now
	}
	return &Meter{lessor: l, now: now, instance: uuid.NewString(), accounts: map[subject]*account{}}
}

// Reservation is what a call holds until it is settled. Its zero value, and nil, hold nothing.
type Reservation struct {
	meter *Meter
	parts []part
	// ResultItems and ResultBytes are how large its result may be. Zero: however large.
	ResultItems, ResultBytes uint64
	// Sizes: what the result comes to has a say.
	Sizes bool
}

type part struct {
	account  *account
	window   string
	reserved amounts
}

// Reserve takes what a call may use at most from the shares of all budgets against which it counts. An error is a *Spent, an *Unavailable, or of
// the context; then nothing is reserved.
func (m *Meter) Reserve(ctx context.Context, limits []*policy.Limit, person, connector, tool string, calls uint64) (*Reservation, error) {
	out := &Reservation{meter: m}
	for _, l := range limits {
		out.ResultItems, out.ResultBytes = least(out.ResultItems, l.ResultItems), least(out.ResultBytes, l.ResultBytes)
		out.Sizes = out.Sizes || l.Sized()
	}
	for _, t := range totalsOf(limits, person, connector, tool) {
		a, err := m.account(t.of)
		if err == nil {
			// Where no rule says how large a result may be, it must be possible that there is one.
			// A result that another rule lets be larger than all of this budget is not waited for.
			want := amounts{calls, least(max(1, out.ResultItems), t.limit[1]), least(max(1, out.ResultBytes), t.limit[2])}
			var p part
			if p, err = m.reserve(ctx, a, t.limit, want); err == nil && p.account != nil {
				out.parts = append(out.parts, p)
			}
		}
		if err != nil {
			out.Settle(Use{})
			return nil, err
		}
	}
	return out, nil
}

func least(a, b uint64) uint64 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

func (m *Meter) account(s subject) (*account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.accounts[s]
	if a == nil {
		if len(m.accounts) >= maxAccounts {
			return nil, &Unavailable{s.budget}
		}
		a = &account{of: s, asking: make(chan struct{}, 1)}
		m.accounts[s] = a
	}
	a.mu.Lock()
	a.open++ // it is not forgotten meanwhile
	a.mu.Unlock()
	return a, nil
}

func (m *Meter) reserve(ctx context.Context, a *account, limit, want amounts) (part, error) {
	drop := func(err error) (part, error) {
		a.mu.Lock()
		a.open--
		a.mu.Unlock()
		return part{}, err
	}
	for i := range want {
		if limit[i] == 0 {
			want[i] = 0
		}
	}
	if want == (amounts{}) {
		return drop(nil)
	}
	for {
		a.mu.Lock()
		a.limit = limit
		now := m.now()
		if a.window != "" && over(now, a.ends) {
			a.window, a.granted, a.spent, a.dirty = "", amounts{}, amounts{}, false
		}
		if a.fits(want) {
			for i := range want {
				a.spent[i] += want[i]
			}
			a.used, a.dirty = now, true
			p := part{a, a.window, want}
			a.mu.Unlock()
			return p, nil
		}
		if !over(now, a.refused) {
			after := a.retry.Sub(now)
			a.mu.Unlock()
			return drop(&Spent{a.of.budget, max(after, time.Second)})
		}
		a.mu.Unlock()
		select {
		case a.asking <- struct{}{}:
		case <-ctx.Done():
			return drop(context.Cause(ctx))
		}
		err := m.lease(ctx, a, want)
		<-a.asking
		if err != nil {
			return drop(err)
		}
	}
}

// fits tells whether so much is left. a.mu is held.
func (a *account) fits(want amounts) bool {
	if a.window == "" {
		return false
	}
	for i := range want {
		if a.limit[i] > 0 && a.spent[i]+want[i] > a.granted[i] {
			return false
		}
	}
	return true
}

// over tells whether a moment is past, by whichever clock says so: a machine that slept counts no time of its own.
func over(now, at time.Time) bool {
	return !now.Before(at) || !now.Round(0).Before(at.Round(0))
}

// lease asks for a share, unless one came meanwhile that is enough. Whoever calls it holds a.asking.
func (m *Meter) lease(ctx context.Context, a *account, want amounts) error {
	a.mu.Lock()
	if a.fits(want) || !over(m.now(), a.refused) {
		a.mu.Unlock()
		return nil
	}
	r := m.request(a)
	r.Want = want.wire()
	a.mu.Unlock()
	asked := m.now()
	res, err := m.lessor.LeaseBudget(ctx, r)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &Unavailable{a.of.budget}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.take(res, asked)
	if after := res.GetRetryAfter().AsDuration(); res.GetRetryAfter() != nil && !a.fits(want) {
		now := m.now()
		a.retry, a.refused = now.Add(after), now.Add(min(after, refusedFor))
	}
	return nil // where others took it meanwhile, or the window is another, it is asked for again
}

// request says how the share stands. a.mu is held.
func (m *Meter) request(a *account) *fleetv1.LeaseBudgetRequest {
	a.sequence++
	return &fleetv1.LeaseBudgetRequest{
		Budget: a.of.budget, Subject: &fleetv1.BudgetSubject{Person: a.of.person, Group: a.of.group, Tool: a.of.tool, Connector: a.of.connector},
		Window: durationpb.New(a.of.window), Limit: a.limit.wire(), LeaseWindow: a.window, Instance: m.instance, Spent: a.spent.wire(), Sequence: a.sequence,
	}
}

// take is what the control plane says of the share. The window is counted from when it was asked for. a.mu is held.
func (a *account) take(res *fleetv1.LeaseBudgetResponse, asked time.Time) {
	if res.GetWindow() != a.window { // what was spent was of another
		a.window, a.spent = res.GetWindow(), amounts{}
	}
	g := res.GetGranted()
	a.granted = amounts{g.GetCalls(), g.GetItems(), g.GetBytes()}
	a.ends = asked.Add(res.GetEndsIn().AsDuration())
	a.dirty = false
}

// Settle puts what was used in place of what was reserved. A result may be larger than what was reserved where no rule says how large it may
// be: then the share is overdrawn, and nothing more is had of it before the window ends.
func (r *Reservation) Settle(u Use) {
	if r == nil {
		return
	}
	used := u.amounts()
	for _, p := range r.parts {
		a := p.account
		a.mu.Lock()
		a.open--
		if a.window == p.window {
			for i := range a.spent {
				if p.reserved[i] > 0 {
					a.spent[i] = a.spent[i] - min(a.spent[i], p.reserved[i]) + used[i]
				}
			}
			a.dirty = true
		}
		a.mu.Unlock()
	}
	r.parts = nil
}

// Run gives back what is not used, until ctx ends; then all of it.
func (m *Meter) Run(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), sweepEvery)
			m.Sweep(last, 0)
			cancel()
			return
		case <-tick.C:
			m.Sweep(ctx, idle)
		}
	}
}

// Sweep gives back shares that nobody used for a time, and forgets those whose window is over.
func (m *Meter) Sweep(ctx context.Context, unused time.Duration) {
	now := m.now()
	var back []*account
	m.mu.Lock()
	for s, a := range m.accounts {
		a.mu.Lock()
		switch {
		case a.open > 0:
		case a.window == "" || over(now, a.ends):
			if over(now, a.refused) {
				delete(m.accounts, s)
			}
		case a.dirty || a.spent != a.granted:
			if now.Sub(a.used) >= unused {
				back = append(back, a)
			}
		}
		a.mu.Unlock()
	}
	m.mu.Unlock()
	for _, a := range back {
		select {
		case a.asking <- struct{}{}:
		default:
			continue // it is asked for more
		}
		m.giveBack(ctx, a)
		<-a.asking
		if ctx.Err() != nil {
			return
		}
	}
}

// giveBack says what was spent, and takes what is granted for it. While the answer is awaited nothing more is had of the share.
func (m *Meter) giveBack(ctx context.Context, a *account) {
	a.mu.Lock()
	if a.open > 0 || a.window == "" {
		a.mu.Unlock()
		return
	}
	r := m.request(a)
	kept := a.granted
	a.granted = a.spent
	a.mu.Unlock()
	asked := m.now()
	res, err := m.lessor.LeaseBudget(ctx, r)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err == nil:
		a.take(res, asked)
	case a.window == r.GetLeaseWindow():
		// The control plane is away, and what is left of the share counts until it is back. It may have taken the share back all the
		// same: by so much, and no more, the limit may then be exceeded.
		a.granted = kept
	}
}
